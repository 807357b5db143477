// The map itself: points drawn by regl-scatterplot, names and marks on a canvas above them.
"use strict";

// Okabe and Ito's palette, told apart with any colour vision; blue and yellow a little lighter or darker where the
// ground asks for it.
const PALETTE = {
  dark: ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#2381cf", "#d55e00", "#cc79a7"],
  light: ["#e69f00", "#56b4e9", "#009e73", "#b5a300", "#0072b2", "#d55e00", "#cc79a7"],
};
const GREY = { dark: "#66717f", light: "#a3a199" }, DIM = { dark: "#39424f", light: "#cfccc3" };
const VIRIDIS = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];
const MARKED_AT_MOST = 400;

// What regl-scatterplot wants of a scale of D3's, which it keeps in step with the view.
function linearScale(domain) {
  let range = [0, 1];
  const scale = (x) => range[0] + ((x - domain[0]) / (domain[1] - domain[0])) * (range[1] - range[0]);
  scale.domain = (next) => (next ? ((domain = next), scale) : domain);
  scale.range = (next) => (next ? ((range = next), scale) : range);
  scale.invert = (y) => domain[0] + ((y - range[0]) / (range[1] - range[0])) * (domain[1] - domain[0]);
  return scale;
}

function makePlot({ arrays, meta }, names, { canvas, marks, theme }) {
  const { position, listeners, clusters } = arrays, count = listeners.length;
  const x = new Float32Array(count), y = new Float32Array(count), w = new Float32Array(count);
  let loudest = 1;
  for (let i = 0; i < count; i++) loudest = Math.max(loudest, listeners[i]);
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < count; i++) {
    x[i] = position[2 * i]; y[i] = position[2 * i + 1];
    w[i] = Math.log1p(listeners[i]) / Math.log1p(loudest);
    left = Math.min(left, x[i]); right = Math.max(right, x[i]); low = Math.min(low, y[i]); high = Math.max(high, y[i]);
  }
  const byPopularity = Uint32Array.from(x.keys()).sort((a, b) => listeners[a] - listeners[b]);
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const home = () => {
    const aspect = canvas.clientWidth / Math.max(1, canvas.clientHeight);
    const distance = Math.max((high - low) / 2, (right - left) / 2 / aspect, 1e-3) * 1.06;
    return { target: [(left + right) / 2, (low + high) / 2], distance };
  };

  const xScale = linearScale([-1, 1]), yScale = linearScale([-1, 1]);
  const smallest = Math.max(1.6, 18 / count ** 0.18), start = home();
  const plot = createScatterplot({
    canvas, xScale, yScale, syncEvents: true,
    cameraTarget: start.target, cameraDistance: start.distance,
    pointSize: Array.from({ length: 16 }, (_, step) => smallest * (1 + 2.2 * (step / 15) ** 1.5)), sizeBy: "valueW",
    colorBy: "valueZ", opacityBy: "valueZ", pointColorHover: "#ffffff", pointOutlineWidth: 0, pointSizeSelected: 0,
    actionKeyMap: { lasso: "shift" }, deselectOnEscape: false, lassoLineWidth: 2, lassoMinDelay: 8, lassoMinDist: 3,
  });

  const state = { marks: { playlist: [], weights: [], recommended: [], query: null, song: null, near: [] }, labels: true, theme };
  let pending = false;
  const redraw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; drawMarks(); });
  };
  const at = (i) => [xScale(x[i]), yScale(y[i])];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Points by category. `group`: category of each song. `colours`, `opacity`: of each category, and a last one for songs
  // that are dimmed.
  let drawing = Promise.resolve(), drawn = false;
  function paint(group, colours, opacity) {
    drawing = drawing.then(async () => {
      plot.set({ pointColor: colours, opacity, pointColorActive: css("--accent"), pointColorHover: css("--mark"),
        lassoColor: css("--accent"), backgroundColor: css("--ground") });
      const options = { zDataType: "categorical", wDataType: "continuous" };
      if (drawn) options.spatialIndex = plot.get("spatialIndex");
      await plot.draw({ x, y, z: group, w }, options);
      if (!drawn) plot.set({ pointOrder: Array.from(byPopularity) });
      drawn = true;
      redraw();
    });
    return drawing;
  }

  function drawMarks() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (marks.width !== Math.round(width * ratio) || marks.height !== Math.round(height * ratio)) {
      marks.width = Math.round(width * ratio); marks.height = Math.round(height * ratio);
    }
    const pen = marks.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const mark = css("--mark"), onMark = css("--on-mark"), halo = css("--halo"), accent = css("--accent");
    const taken = [];
    const { playlist, weights, recommended, query, song, near } = state.marks;
    const ring = (p, radius, colour, thick = 1.6) => {
      pen.lineWidth = thick + 2; pen.strokeStyle = halo;
      pen.beginPath(); pen.arc(p[0], p[1], radius, 0, 7); pen.stroke();
      pen.lineWidth = thick; pen.strokeStyle = colour;
      pen.beginPath(); pen.arc(p[0], p[1], radius, 0, 7); pen.stroke();
    };
    const write = (text, px, py, size, weight, colour) => {
      pen.font = `${weight} ${size}px system-ui, sans-serif`;
      const wide = pen.measureText(text).width / 2 + 4, tall = size * 0.75;
      const box = [px - wide, py - tall, px + wide, py + tall];
      if (box[2] < 0 || box[0] > width || box[3] < 0 || box[1] > height) return;
      if (taken.some((b) => b[0] < box[2] && b[2] > box[0] && b[1] < box[3] && b[3] > box[1])) return;
      taken.push(box);
      pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineJoin = "round";
      pen.lineWidth = 4; pen.strokeStyle = halo; pen.strokeText(text, px, py);
      pen.fillStyle = colour; pen.fillText(text, px, py);
    };

    if (query) {
      const q = [xScale(query[0]), yScale(query[1])];
      const most = Math.max(...weights, 1e-9);
      playlist.slice(0, MARKED_AT_MOST).forEach((i, n) => {
        const p = at(i);
        pen.globalAlpha = 0.15 + 0.5 * (weights[n] / most); pen.lineWidth = 1.3; pen.strokeStyle = mark;
        pen.beginPath(); pen.moveTo(...p); pen.lineTo(...q); pen.stroke();
      });
      pen.setLineDash([3, 4]); pen.globalAlpha = 0.75; pen.strokeStyle = accent; pen.lineWidth = 1.3;
      for (const i of recommended) { pen.beginPath(); pen.moveTo(...q); pen.lineTo(...at(i)); pen.stroke(); }
      pen.setLineDash([]); pen.globalAlpha = 1;
      playlist.slice(0, MARKED_AT_MOST).forEach((i) => {  // squares: what the playlist has
        const p = at(i), r = playlist.length > 60 ? 3 : 4.5;
        pen.fillStyle = mark; pen.strokeStyle = onMark; pen.lineWidth = 1.5;
        pen.beginPath(); pen.rect(p[0] - r, p[1] - r, 2 * r, 2 * r); pen.fill(); pen.stroke();
        taken.push([p[0] - r, p[1] - r, p[0] + r, p[1] + r]);
      });
      [...recommended.entries()].reverse().forEach(([n, i]) => {  // numbered discs: what it recommends
        const p = at(i), r = recommended.length > 40 ? 5 : 9;
        pen.fillStyle = mark; pen.strokeStyle = onMark; pen.lineWidth = 1.5;
        pen.beginPath(); pen.arc(p[0], p[1], r, 0, 7); pen.fill(); pen.stroke();
        if (r > 5) {
          pen.fillStyle = onMark; pen.font = "650 10px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
          pen.fillText(String(n + 1), p[0], p[1] + 0.5);
        }
        taken.push([p[0] - r, p[1] - r, p[0] + r, p[1] + r]);
      });
      pen.beginPath();  // a star: the query
      for (let k = 0; k < 10; k++) {
        const r = k % 2 ? 6 : 14, a = (k * Math.PI) / 5 - Math.PI / 2;
        pen.lineTo(q[0] + r * Math.cos(a), q[1] + r * Math.sin(a));
      }
      pen.closePath(); pen.fillStyle = accent; pen.strokeStyle = mark; pen.lineWidth = 2; pen.lineJoin = "round"; pen.fill(); pen.stroke();
      taken.push([q[0] - 14, q[1] - 14, q[0] + 14, q[1] + 14]);
    }
    for (const i of near) ring(at(i), 6, mark, 1.2);
    if (song !== null) {
      const p = at(song);
      ring(p, 9, mark, 2.2); ring(p, 14, accent, 2);
      write(names.title(song), p[0], p[1] - 26, 13, 650, mark);
    }
    if (state.labels) {
      const close = plot.get("cameraDistance") < home().distance / 6;
      if (close && drawn) {
        const seen = plot.get("pointsInView");
        if (seen.length < 3000) {
          seen.sort((a, b) => listeners[b] - listeners[a]).slice(0, 24)
            .forEach((i) => write(names.title(i), xScale(x[i]), yScale(y[i]) - 13, 11.5, 500, css("--text")));
        }
      }
      for (const c of meta.clusters) {
        const [px, py] = at(c.centre);
        write(c.name, px, py, Math.min(16, 11.5 + (4 * c.size * meta.clusters.length) / count / 2), 650, css("--text"));
      }
    }
  }

  plot.subscribe("view", redraw);
  plot.subscribe("draw", redraw);
  new ResizeObserver(redraw).observe(canvas);

  function fly(target, distance) {
    return plot.zoomToLocation(target, distance, { transition: !still(), transitionDuration: 450 });
  }

  return {
    plot, state, paint, redraw, home, x, y, byPopularity,
    screen: at,
    goHome: () => fly(home().target, home().distance),
    zoom: (factor) => fly(plot.get("cameraTarget").slice(0, 2), Math.min(home().distance * 4, Math.max(1e-4, plot.get("cameraDistance") * factor))),
    pan(dx, dy) {
      const [tx, ty] = plot.get("cameraTarget"), step = 0.25 * plot.get("cameraDistance");
      return fly([tx + dx * step, ty + dy * step], plot.get("cameraDistance"));
    },
    middle: () => [xScale.invert(canvas.clientWidth / 2), yScale.invert(canvas.clientHeight / 2)],
    // Shows songs with room about them; `closest` keeps a single song's surroundings in sight.
    show(songs, closest = 0.12) {
      let [a, b, c, d] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const i of songs) { a = Math.min(a, x[i]); b = Math.max(b, x[i]); c = Math.min(c, y[i]); d = Math.max(d, y[i]); }
      const aspect = canvas.clientWidth / Math.max(1, canvas.clientHeight);
      const distance = Math.max((d - c) / 2, (b - a) / 2 / aspect, closest * home().distance) * 1.25;
      return fly([(a + b) / 2, (c + d) / 2], Math.min(distance, home().distance));
    },
    inView(i) {
      const [px, py] = at(i);
      return px > 30 && py > 30 && px < canvas.clientWidth - 30 && py < canvas.clientHeight - 30;
    },
  };
}
