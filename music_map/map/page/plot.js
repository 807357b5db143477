// The map itself: points drawn by regl-scatterplot, the islands on a canvas below them, names and marks on one above.
"use strict";

// Okabe and Ito's palette, told apart with any colour vision; blue and yellow a little lighter or darker where the
// ground asks for it.
const PALETTE = {
  dark: ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#2381cf", "#d55e00", "#cc79a7"],
  light: ["#bd7d00", "#2b8fc9", "#00855f", "#978700", "#0072b2", "#d55e00", "#c0608f"],
};
const GREY = { dark: "#66717f", light: "#a3a199" }, DIM = { dark: "#39424f", light: "#cfccc3" };
const VIRIDIS = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];
const MARKED_AT_MOST = 400;
// How much closer than the whole map the names of smaller groups appear, and those of songs.
const FINER_FROM = 2, SONGS_FROM = 6;
// Pixels between a text and the border; where a text may go, in halves of its width and of its height.
const EDGE = 4, PLACES = [[0, 0], [0, -2], [0, 2], [0.5, 0], [-0.5, 0], [0, -3.5], [0, 3.5]];

// What regl-scatterplot wants of a scale of D3's, which it keeps in step with the view.
function linearScale(domain) {
  let range = [0, 1];
  const scale = (x) => range[0] + ((x - domain[0]) / (domain[1] - domain[0])) * (range[1] - range[0]);
  scale.domain = (next) => (next ? ((domain = next), scale) : domain);
  scale.range = (next) => (next ? ((range = next), scale) : range);
  scale.invert = (y) => domain[0] + ((y - range[0]) / (range[1] - range[0])) * (domain[1] - domain[0]);
  return scale;
}

function makePlot({ arrays, meta }, names, { canvas, ground, marks, covering, theme }) {
  const { position, listeners } = arrays, count = listeners.length;
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

  const state = {
    marks: { playlist: [], weights: [], recommended: [], stars: [], song: null, near: [] }, labels: true, written: [], theme,
  };
  const covers = [];  // rectangles of the canvas that something else covers
  let pending = false;
  const redraw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; moveGround(); drawMarks(); });
  };
  const at = (i) => [xScale(x[i]), yScale(y[i])];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let inks = null;  // colours of the theme, and widths of texts, which take long to ask for
  const widths = new Map();

  let groundAt = null, settling, lastMove = 0;  // the view that the contours were drawn for: scale, place of the map's origin

  // Points by category. `group`: category of each song. `colours`, `opacity`: of each category, and a last one for songs
  // that are dimmed.
  let drawing = Promise.resolve(), drawn = false;
  function paint(group, colours, opacity) {
    inks = groundAt = null;
    drawing = drawing.then(async () => {
      plot.set({ pointColor: colours, opacity, pointColorActive: css("--accent"), pointColorHover: css("--mark"),
        lassoColor: css("--accent"), backgroundColor: css("--ground") });
      const options = { zDataType: "categorical", wDataType: "continuous" };
      if (drawn) options.spatialIndex = plot.get("spatialIndex");
      await plot.draw({ x, y, z: group, w }, options);
      if (!drawn) { plot.set({ pointOrder: Array.from(byPopularity) }); setTimeout(findContours, 50); }
      drawn = true;
      redraw();
    });
    return drawing;
  }

  // A canvas of the size of the map, cleared.
  function penOf(layer) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (layer.width !== Math.round(width * ratio) || layer.height !== Math.round(height * ratio)) {
      layer.width = Math.round(width * ratio); layer.height = Math.round(height * ratio);
    }
    const pen = layer.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    inks ||= Object.fromEntries(["mark", "on-mark", "halo", "accent", "text", "soft", "land", "shore"].map((n) => [n, css(`--${n}`)]));
    return { pen, ratio, width, height };
  }

  // Contours in the map's units.
  let contours = [];
  function findContours() {
    contours = contoursOf(x, y).map((rings) => {
      const path = new Path2D();
      for (const ring of rings) {
        path.moveTo(ring[0], ring[1]);
        for (let k = 2; k < ring.length; k += 2) path.lineTo(ring[k], ring[k + 1]);
        path.closePath();
      }
      return path;
    });
    drawGround();
  }

  const viewNow = () => [xScale(1) - xScale(0), xScale(0), yScale(0)];
  function drawGround() {
    clearTimeout(settling);
    const { pen, ratio } = penOf(ground), [scale, left, top] = groundAt = viewNow();
    ground.style.transform = "";
    pen.setTransform(ratio * scale, 0, 0, -ratio * scale, ratio * left, ratio * top);
    pen.fillStyle = inks.land; pen.strokeStyle = inks.shore; pen.lineWidth = 1 / scale;
    for (const path of contours) { pen.fill(path); pen.stroke(path); }
  }

  // While the map moves the picture of the contours is moved; they are drawn anew when it stands, since drawing them
  // takes as long as everything else of a frame.
  function moveGround() {
    if (!groundAt || !inks || ground.width !== Math.round(canvas.clientWidth * (window.devicePixelRatio || 1))) { drawGround(); return; }
    const now = viewNow(), factor = now[0] / groundAt[0];
    if (now.every((v, n) => v === groundAt[n])) return;
    ground.style.transform = `matrix(${factor}, 0, 0, ${factor}, ${now[1] - factor * groundAt[1]}, ${now[2] - factor * groundAt[2]})`;
    clearTimeout(settling);
    // Where a frame takes long, the next one is not the end of the movement.
    const gap = performance.now() - lastMove;
    settling = setTimeout(drawGround, Math.max(150, gap < 2_000 ? 3 * gap : 0));
    lastMove = performance.now();
  }

  function measured(pen, text) {
    const key = pen.font + text;
    let wide = widths.get(key);
    if (wide === undefined) {
      if (widths.size > 5_000) widths.clear();
      widths.set(key, wide = pen.measureText(text).width);
    }
    return wide;
  }

  // A text as near to (px, py) as it fits: inside the canvas, beside what covers it, on no other text or mark. Returns
  // whether there was room.
  function write(pen, taken, text, px, py, size, weight, colour, places = PLACES) {
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (px < 0 || px > width || py < 0 || py > height) return false;
    pen.font = `${weight} ${size}px system-ui, sans-serif`;
    const most = Math.min(width - 2 * EDGE - 8, 340);
    while (text.length > 4 && measured(pen, text) > most) text = `${text.slice(0, Math.max(3, Math.floor(text.length * 0.9) - 1)).trimEnd()}…`;
    const wide = measured(pen, text) / 2 + 4, tall = size * 0.75;
    const hit = (box, list) => list.find((b) => b[0] < box[2] && b[2] > box[0] && b[1] < box[3] && b[3] > box[1]);
    for (const [dx, dy] of places) {
      let cx = Math.min(width - wide - EDGE, Math.max(wide + EDGE, px + dx * wide));
      const cy = Math.min(height - tall - EDGE, Math.max(tall + EDGE, py + dy * tall));
      let box = [cx - wide, cy - tall, cx + wide, cy + tall];
      const cover = hit(box, covers);
      if (cover) {
        cx = (cover[0] + cover[2]) / 2 < width / 2 ? cover[2] + wide + EDGE : cover[0] - wide - EDGE;
        box = [cx - wide, cy - tall, cx + wide, cy + tall];
      }
      if (box[0] < 0 || box[2] > width || hit(box, taken) || hit(box, covers)) continue;
      taken.push(box);
      state.written.push({ text, box });
      pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineJoin = "round";
      pen.lineWidth = 4; pen.strokeStyle = inks.halo; pen.strokeText(text, cx, cy);
      pen.fillStyle = colour; pen.fillText(text, cx, cy);
      return true;
    }
    return false;
  }

  function drawMarks() {
    const { pen } = penOf(marks), { mark, halo, accent } = inks, onMark = inks["on-mark"];
    const taken = [], { playlist, weights, recommended, stars, song, near } = state.marks;
    state.written = [];
    const ring = (p, radius, colour, thick = 1.6) => {
      pen.lineWidth = thick + 2; pen.strokeStyle = halo;
      pen.beginPath(); pen.arc(p[0], p[1], radius, 0, 7); pen.stroke();
      pen.lineWidth = thick; pen.strokeStyle = colour;
      pen.beginPath(); pen.arc(p[0], p[1], radius, 0, 7); pen.stroke();
    };

    if (stars.length || recommended.length || playlist.length) {
      const places = stars.map(([a, b]) => [xScale(a), yScale(b)]);
      const nearest = (p) => places.reduce((best, q) => (Math.hypot(q[0] - p[0], q[1] - p[1]) < Math.hypot(best[0] - p[0], best[1] - p[1]) ? q : best));
      const most = Math.max(...weights, 1e-9);
      if (places.length) playlist.slice(0, MARKED_AT_MOST).forEach((i, n) => {
        const p = at(i);
        pen.globalAlpha = 0.15 + 0.5 * (weights[n] / most); pen.lineWidth = 1.3; pen.strokeStyle = mark;
        pen.beginPath(); pen.moveTo(...p); pen.lineTo(...nearest(p)); pen.stroke();
      });
      pen.setLineDash([3, 4]); pen.globalAlpha = 0.75; pen.strokeStyle = accent; pen.lineWidth = 1.3;
      if (places.length) for (const i of recommended) { const p = at(i); pen.beginPath(); pen.moveTo(...nearest(p)); pen.lineTo(...p); pen.stroke(); }
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
      for (const q of places) {  // a star: a query
        pen.beginPath();
        for (let k = 0; k < 10; k++) {
          const r = k % 2 ? 6 : 14, a = (k * Math.PI) / 5 - Math.PI / 2;
          pen.lineTo(q[0] + r * Math.cos(a), q[1] + r * Math.sin(a));
        }
        pen.closePath(); pen.fillStyle = accent; pen.strokeStyle = mark; pen.lineWidth = 2; pen.lineJoin = "round"; pen.fill(); pen.stroke();
        taken.push([q[0] - 14, q[1] - 14, q[0] + 14, q[1] + 14]);
      }
    }
    for (const i of near) ring(at(i), 6, mark, 1.2);
    if (song !== null) {
      const p = at(song);
      ring(p, 9, mark, 2.2); ring(p, 14, accent, 2);
      taken.push([p[0] - 15, p[1] - 15, p[0] + 15, p[1] + 15]);
      write(pen, taken, names.title(song), p[0], p[1] - 26, 13, 650, mark);
    }
    if (!state.labels) return;
    // Names of clusters; closer, of the smaller groups; closer still, of songs too.
    const closer = home().distance / plot.get("cameraDistance"), fine = closer > FINER_FROM && meta.finer.length > 0;
    for (const c of fine ? meta.finer : meta.clusters) {
      const [px, py] = at(c.centre);
      const size = fine ? 12.5 : Math.min(16, 11.5 + (4 * c.size * meta.clusters.length) / count / 2);
      write(pen, taken, c.name, px, py, size, 650, inks.text);
    }
    if (closer > SONGS_FROM && drawn) {
      const seen = plot.get("pointsInView");
      if (seen.length < 3000) {
        seen.sort((a, b) => listeners[b] - listeners[a]).slice(0, 24)
          .forEach((i) => write(pen, taken, names.title(i), xScale(x[i]), yScale(y[i]) - 13, 11.5, 500, inks.soft, PLACES.slice(0, 1)));
      }
    }
  }

  // Where labels may not be: below what lies on the canvas.
  function lookForCovers() {
    const own = canvas.getBoundingClientRect();
    covers.length = 0;
    for (const node of covering) {
      const box = node.getBoundingClientRect();
      if (box.width && box.height) covers.push([box.left - own.left - 3, box.top - own.top - 3, box.right - own.left + 3, box.bottom - own.top + 3]);
    }
    redraw();
  }

  plot.subscribe("view", redraw);
  plot.subscribe("draw", redraw);
  const watch = new ResizeObserver(lookForCovers);
  for (const node of [canvas, ...covering]) watch.observe(node);

  let flight = Promise.resolve();
  function fly(target, distance) {
    flight = plot.zoomToLocation(target, distance, { transition: !still(), transitionDuration: 450 });
    return flight;
  }

  // Not plot.set({cameraTarget}): the scales, and with them the marks, would stay behind.
  const jump = (target, distance) => plot.zoomToLocation(target, distance);

  return {
    plot, state, paint, redraw, lookForCovers, home, x, y, byPopularity,
    screen: at,
    goHome: () => fly(home().target, home().distance),
    zoom: (factor) => fly(plot.get("cameraTarget").slice(0, 2), Math.min(home().distance * 4, Math.max(1e-4, plot.get("cameraDistance") * factor))),
    pan(dx, dy) {
      const [tx, ty] = plot.get("cameraTarget"), step = 0.25 * plot.get("cameraDistance");
      return fly([tx + dx * step, ty + dy * step], plot.get("cameraDistance"));
    },
    // By pixels, without a transition.
    move(px, py) {
      const [tx, ty] = plot.get("cameraTarget"), scale = xScale(1) - xScale(0);
      jump([tx - px / scale, ty + py / scale], plot.get("cameraDistance"));
    },
    // The view's middle, and how much closer it is than the whole map: the same on any screen.
    where: () => [...plot.get("cameraTarget").slice(0, 2), home().distance / plot.get("cameraDistance")],
    // After the movement under way, which would go on.
    lookAt: ([tx, ty, closer]) => flight.then(() => jump([tx, ty], home().distance / closer)),
    // Distance times `factor`; what is at the pixel stays there.
    pinch(factor, px, py) {
      const [tx, ty] = plot.get("cameraTarget"), now = plot.get("cameraDistance");
      const next = Math.min(home().distance * 4, Math.max(1e-4, now * factor)), share = 1 - next / now;
      jump([tx + share * (xScale.invert(px) - tx), ty + share * (yScale.invert(py) - ty)], next);
    },
    nearest(px, py, reach) {
      let best = null, least = reach * reach;
      for (let i = 0; i < count; i++) {
        const away = (xScale(x[i]) - px) ** 2 + (yScale(y[i]) - py) ** 2;
        if (away < least) { least = away; best = i; }
      }
      return best;
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
