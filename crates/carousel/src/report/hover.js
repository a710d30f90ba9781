// Shows the values under the pointer, a finger, or the arrow keys.
for (const plot of document.querySelectorAll(".plot")) {
  const { last, share, reading, curves, x = "step" } = plot.dataset;
  const all = JSON.parse(curves);
  const grid = all.reduce((longest, curve) => (curve.points.length > longest.length ? curve.points : longest), []);
  const line = plot.appendChild(document.createElement("div"));
  const tip = plot.appendChild(document.createElement("div"));
  line.className = "cursor";
  tip.className = "tip";

  const show = (value) => {
    if (share) return `${(value * 100).toFixed(0)} %`;
    const also = { perplexity: Math.exp(value) }[reading] ?? value / Math.LN2;
    const plain = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5;
    return (plain || !value ? value.toFixed(3) : value.toExponential(1)) + (reading ? ` · ${also.toFixed(2)} ${reading}` : "");
  };
  const nearest = (points, step) =>
    points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
  const row = (text, dim) => {
    const element = tip.appendChild(document.createElement(dim ? "p" : "div"));
    element.textContent = text;
  };

  let at = grid.length - 1;
  const hide = () => { line.hidden = tip.hidden = true; };
  const draw = () => {
    const step = grid[at][0];
    tip.replaceChildren();
    const count = step.toLocaleString("en");
    row(x === "tokens back" ? `${count} ${x}` : `${x} ${count}`, true);
    for (const curve of all) {
      if (!curve.points.length) continue;
      const [where, value] = nearest(curve.points, step);
      const note = where === step ? "" : ` at ${where.toLocaleString("en")}`;
      row(`${all.length > 1 ? `${curve.name} ` : ""}${show(value)}${note}`);
    }
    line.hidden = tip.hidden = false;
    // Beside the line where there is room, and never outside the chart.
    const room = plot.clientWidth - tip.offsetWidth;
    const center = (step / Math.max(last, 1)) * plot.clientWidth;
    line.style.left = `${center}px`;
    const right = center + 10;
    tip.style.left = `${Math.max(0, right <= room ? right : Math.min(center - 10 - tip.offsetWidth, room))}px`;
  };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    at = grid.indexOf(nearest(grid, ((event.clientX - box.left) / box.width) * last));
    draw();
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), grid.length - 1);
    draw();
  });
  hide();
}
