// Learning curves: the values at the step below the pointer, or at that of the slider.
for (const figure of document.querySelectorAll("figure.plot")) {
  const lines = JSON.parse(figure.dataset.lines), svg = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const slider = figure.querySelector("input"), output = figure.querySelector("output");
  const place = new Map(lines.flatMap((line) => line.points.map((p) => [p[0], p[2]])));
  const steps = [...place.keys()].sort((a, b) => a - b), number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
  const dots = lines.map((line) => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("r", 4.5);
    dot.style.fill = `var(--series-${line.series})`;
    cursor.append(dot);
    return dot;
  });
  const show = (at) => {
    const step = steps[at], x = place.get(step);
    const told = lines.map((line, n) => {
      const point = line.points.find((p) => p[0] === step);
      dots[n].style.display = point ? "" : "none";
      if (!point) return null;
      dots[n].setAttribute("cx", point[2]);
      dots[n].setAttribute("cy", point[3]);
      return lines.length > 1 ? `${line.name} ${number.format(point[1])}` : number.format(point[1]);
    }).filter((text) => text !== null);
    cursor.querySelector("path").setAttribute("transform", `translate(${x} 0)`);
    cursor.removeAttribute("hidden");
    slider.value = at;
    output.textContent = `step ${number.format(step)}: ${told.join(", ")}`;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = 0;
    steps.forEach((step, at) => { if (Math.abs(place.get(step) - x) < Math.abs(place.get(steps[best]) - x)) best = at; });
    show(best);
  });
  svg.addEventListener("pointerleave", () => cursor.setAttribute("hidden", ""));
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.addEventListener("focus", () => show(Number(slider.value)));
  slider.addEventListener("blur", () => cursor.setAttribute("hidden", ""));
  show(steps.length - 1);
  cursor.setAttribute("hidden", "");
}
