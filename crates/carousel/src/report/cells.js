// Hover a unit and the text takes its colours. Only what is on the screen is ever drawn.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const viewer = at("viewer"), list = at("units"), scroll = at("scroll"), text = at("text"), line = at("line");
viewer.hidden = false;

// --- numbers ---
const unpack = async (packed) => {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};
const codesOf = (signal) => {
  signal.codes ??= unpack(signal.data).then((codes) => {
    for (let i = 1; i < codes.length; i++) codes[i] = (codes[i] + codes[i - 1]) & 255;
    return (signal.ready = codes);
  });
  return signal.codes;
};
let likely = null;
if (data.likely) unpack(data.likely).then((bytes) => { likely = bytes; draw(); });

// --- the text in rows of cells ---
const FONT = 13, ROW = 20, SMALL = 11, TAB = 4;
const mono = `ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace`;
const wide = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}]/u;
let cell = 8, columns = 80, rows = [], placed = [], laidOut = 0;
const layOut = () => {
  const pen = text.getContext("2d");
  pen.font = `${FONT}px ${mono}`;
  cell = pen.measureText("0".repeat(40)).width / 40;
  laidOut = scroll.clientWidth;
  columns = Math.max(20, Math.floor((laidOut - 24) / cell));
  rows = [];
  placed = new Array(data.tokens.length);
  let row = [], column = 0;
  const close = () => { rows.push(row); row = []; column = 0; };
  data.tokens.forEach((token, index) => {
    let first = true;
    for (const character of token) {
      const width = character === "\t" ? TAB : wide.test(character) ? 2 : 1;
      if (column + width > columns) close();
      if (first) placed[index] = [rows.length, column];
      first = false;
      row.push({ index, column, width, character });
      column += width;
      if (character === "\n") close();
    }
    if (first) placed[index] = [rows.length, column];
  });
  if (row.length) close();
};

// --- where a signal is highest, and lowest ---
const PASSAGE = 80, PASSAGES = 5;
const passages = (codes, sign) => {
  const sums = new Float64Array(Math.max(0, codes.length - PASSAGE + 1)), chosen = [];
  let sum = 0;
  for (let i = 0; i < codes.length; i++) {
    sum += codes[i] - (i >= PASSAGE ? codes[i - PASSAGE] : 0);
    if (i >= PASSAGE - 1) sums[i - PASSAGE + 1] = sum * sign;
  }
  while (chosen.length < PASSAGES) {
    let from = -1, most = -Infinity;
    for (let i = 0; i < sums.length; i++) if (sums[i] > most) [from, most] = [i, sums[i]];
    if (from < 0) break;
    chosen.push(from);
    // What overlaps it is out.
    sums.fill(-Infinity, Math.max(0, from - PASSAGE + 1), from + PASSAGE);
  }
  return chosen;
};

// --- what is chosen ---
let unit = data.units[0], name = unit?.best, cursor = 0;
const signalOf = (unit, name) => unit.signals.find((signal) => signal.name === name) ?? unit.signals[0];
const isGate = (signal) => signal.low === 0;
const valueOf = (signal, code) => signal.low + ((signal.high - signal.low) * code) / 255;
const css = (variable) => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
let ink, soft, positive, negative;
const colours = () => {
  [ink, soft] = [css("--ink"), css("--soft")];
  [positive, negative] = [css("--positive"), css("--negative")].map((rgb) => rgb.split(/\s+/).join(","));
};
const shade = (signal, code) => {
  const share = isGate(signal) ? code / 255 : (code - 127.5) / 127.5;
  const strength = Math.abs(share) * 0.8;
  return strength < 0.03 ? null : `rgba(${share < 0 ? negative : positive},${strength.toFixed(2)})`;
};
const rowHeight = () => ROW + (at("expect").checked && likely ? data.each * (SMALL + 2) + 4 : 0);
const visible = { "\n": "⏎", "\t": "→", " ": "␣" };
const named = (token) => [...token].map((c) => visible[c] ?? c).join("") || "∅";

// --- drawing ---
const sharp = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
};
// Walks over what is on the screen; the same walk draws the canvas and the SVG.
const walk = (first, count, codes, signal, rectangle, letter, small) => {
  const height = rowHeight(), each = data.each;
  for (let r = first; r < Math.min(rows.length, first + count); r++) {
    const y = (r - first) * height;
    for (const { index, column, width, character } of rows[r]) {
      const x = 12 + column * cell;
      const colour = index < codes?.length && shade(signal, codes[index]);
      if (colour) rectangle(x, y + 1, width * cell, ROW - 2, colour);
      if (index === cursor) rectangle(x, y + ROW - 3, width * cell, 2, ink);
      if (!/\s/.test(character)) letter(x, y + 14.5, character);
      if (height > ROW) {
        for (let k = 0; k < each; k++) {
          const place = (index * each + k) * 3;
          const next = named(data.vocabulary[likely[place] + (likely[place + 1] << 8)] ?? "");
          const share = likely[place + 2] / 255;
          if (share > 0.01) small(x, y + ROW + 9 + k * (SMALL + 2), [...next][0], 0.25 + 0.75 * share);
        }
      }
    }
  }
};
let waiting = false;
const draw = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
};
const paint = () => {
  if (!unit) return;
  const signal = signalOf(unit, name), codes = signal.ready;
  if (!codes) codesOf(signal).then(draw);
  const height = rowHeight(), shown = scroll.clientHeight;
  at("space").style.height = `${rows.length * height + 8}px`;
  const pen = sharp(text, scroll.clientWidth, shown);
  const first = Math.floor(scroll.scrollTop / height);
  pen.translate(0, first * height - scroll.scrollTop + 4);
  pen.textBaseline = "alphabetic";
  walk(first, Math.ceil(shown / height) + 1, codes, signal,
    (x, y, w, h, colour) => { pen.fillStyle = colour; pen.fillRect(x, y, w, h); },
    (x, y, character) => { pen.font = `${FONT}px ${mono}`; pen.fillStyle = ink; pen.fillText(character, x, y); },
    (x, y, character, alpha) => {
      pen.font = `${SMALL}px ${mono}`;
      pen.globalAlpha = alpha;
      pen.fillStyle = soft;
      pen.fillText(character, x, y);
      pen.globalAlpha = 1;
    });
  paintLine(codes, signal, first, Math.ceil(shown / height));
  paintPeaks(codes, signal);
  paintHere(signal);
};
let peaksOf = null;
const paintPeaks = (codes, signal) => {
  if (!codes || peaksOf === signal) return;
  peaksOf = signal;
  signal.peaks ??= [["highest at", passages(codes, 1)], ["lowest at", passages(codes, -1)]];
  at("peaks").replaceChildren(...signal.peaks.flatMap(([label, places]) => {
    const button = (from) => {
      const own = document.createElement("button");
      own.textContent = (from + 1).toLocaleString("en");
      own.title = data.tokens.slice(from, from + PASSAGE).join("");
      own.addEventListener("click", () => moveTo(from, true));
      return own;
    };
    const group = document.createElement("span");
    group.append(`${label} `, ...places.map(button));
    return places.length ? [group] : [];
  }));
};
// The unit over the whole text: for every pixel the range of its values.
const paintLine = (codes, signal, first, count) => {
  const width = line.clientWidth, height = 52, pen = sharp(line, width, height);
  const total = data.tokens.length, y = (code) => height - 3 - (code / 255) * (height - 6);
  if (codes) {
    pen.fillStyle = `rgb(${positive})`;
    for (let x = 0; x < width; x++) {
      const from = Math.floor((x * total) / width), to = Math.max(from + 1, Math.floor(((x + 1) * total) / width));
      let low = 255, high = 0;
      if (from >= codes.length) break;
      for (let i = from; i < Math.min(to, codes.length); i++) { low = Math.min(low, codes[i]); high = Math.max(high, codes[i]); }
      pen.fillRect(x, y(high), 1, Math.max(1, y(low) - y(high)));
    }
  }
  const start = rows[first]?.[0]?.index ?? 0;
  const end = rows[Math.min(rows.length - 1, first + count)]?.[0]?.index ?? total;
  pen.fillStyle = soft;
  pen.globalAlpha = 0.22;
  pen.fillRect((start / total) * width, 0, Math.max(3, ((end - start) / total) * width), height);
  pen.globalAlpha = 1;
  pen.fillStyle = ink;
  pen.fillRect((cursor / total) * width, 0, 1, height);
  line.setAttribute("aria-valuenow", cursor);
  line.setAttribute("aria-valuemax", total - 1);
};
const paintHere = (signal) => {
  // Of signals that are not a unit's best a large page has the beginning only.
  const kept = signal.ready?.length ?? data.tokens.length;
  const until = kept < data.tokens.length ? `  (the first ${kept.toLocaleString("en")})` : "";
  at("shown").textContent = `${signal.name}_l${unit.layer}[${unit.unit}]  ${unit.note}${until}`;
  at("low").textContent = signal.low.toFixed(2);
  at("high").textContent = signal.high.toFixed(2);
  document.querySelector(".ramp").classList.toggle("gate", isGate(signal));
  const here = at("here");
  here.replaceChildren();
  const add = (label, value) => {
    const span = here.appendChild(document.createElement("span"));
    span.append(`${label} `);
    span.appendChild(document.createElement("b")).textContent = value;
  };
  add(`character ${(cursor + 1).toLocaleString("en")}`, named(data.tokens[cursor] ?? ""));
  for (const own of unit.signals) {
    if (own.ready) add(own.name, cursor < own.ready.length ? valueOf(own, own.ready[cursor]).toFixed(2) : "–");
    else codesOf(own).then(draw);
  }
  if (likely) {
    const next = [];
    for (let k = 0; k < data.each; k++) {
      const place = (cursor * data.each + k) * 3;
      const token = data.vocabulary[likely[place] + (likely[place + 1] << 8)] ?? "";
      // What is written from the right keeps to itself.
      next.push(`\u2068${named(token)}\u2069 ${Math.round((likely[place + 2] / 255) * 100)} %`);
    }
    here.appendChild(document.createElement("br"));
    add("next", next.join("   "));
  }
};

// --- choosing ---
const layers = [...new Set(data.units.map((unit) => unit.layer))].sort((a, b) => a - b);
at("layer").append(new Option("all", ""), ...layers.map((layer) => new Option(layer, layer)));
const names = [...new Set(data.units.flatMap((unit) => unit.signals.map((signal) => signal.name)))];
at("signal").append(new Option("best", ""), ...names.map((name) => new Option(name, name)));
const choose = (chosen) => {
  unit = chosen;
  name = at("signal").value || unit.best;
  for (const item of list.children) item.classList.toggle("on", item.unit === unit);
  draw();
};
const fill = () => {
  const layer = at("layer").value;
  list.replaceChildren();
  for (const own of data.units) {
    if (layer !== "" && own.layer !== Number(layer)) continue;
    const item = list.appendChild(document.createElement("li"));
    item.unit = own;
    item.appendChild(document.createElement("b")).textContent = `${at("signal").value || own.best}_l${own.layer}[${own.unit}]`;
    item.appendChild(document.createElement("span")).textContent = item.title = own.note;
    item.addEventListener("pointerenter", () => choose(own));
    item.addEventListener("click", () => choose(own));
  }
  const shown = [...list.children].some((item) => item.unit === unit) ? unit : list.children[0]?.unit;
  if (shown) choose(shown);
};
at("layer").addEventListener("change", fill);
at("signal").addEventListener("change", fill);
at("expect").addEventListener("change", () => { reveal(cursor); draw(); });
list.addEventListener("keydown", (event) => {
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  const items = [...list.children], place = items.findIndex((item) => item.unit === unit) + move;
  if (items[place]) { choose(items[place].unit); items[place].scrollIntoView({ block: "nearest" }); }
});

// --- moving through time ---
const reveal = (index) => {
  const [row] = placed[index] ?? [0], height = rowHeight();
  scroll.scrollTop = Math.max(0, row * height - scroll.clientHeight / 3);
};
const moveTo = (index, show) => {
  cursor = Math.min(Math.max(index, 0), data.tokens.length - 1);
  if (show) reveal(cursor);
  draw();
};
const keys = (event) => {
  const move = { ArrowRight: 1, ArrowLeft: -1, PageDown: 500, PageUp: -500 }[event.key];
  if (!move) return;
  event.preventDefault();
  moveTo(cursor + move, true);
};
const scrub = (event) => {
  const box = line.getBoundingClientRect();
  moveTo(Math.floor(((event.clientX - box.left) / box.width) * data.tokens.length), true);
};
line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); scrub(event); });
line.addEventListener("pointermove", (event) => { if (event.buttons) scrub(event); });
line.addEventListener("keydown", keys);
scroll.addEventListener("keydown", keys);
scroll.addEventListener("scroll", draw, { passive: true });
text.addEventListener("pointermove", (event) => {
  const box = text.getBoundingClientRect(), height = rowHeight();
  const row = rows[Math.floor((event.clientY - box.top + scroll.scrollTop - 4) / height)];
  const column = (event.clientX - box.left - 12) / cell;
  const found = row?.find((own) => column >= own.column && column < own.column + own.width);
  if (found) moveTo(found.index, false);
});

// --- saving what is on the screen ---
at("save").addEventListener("click", async () => {
  const signal = signalOf(unit, name), codes = await codesOf(signal);
  const height = rowHeight(), first = Math.floor(scroll.scrollTop / height);
  const count = Math.min(rows.length - first, Math.ceil(scroll.clientHeight / height));
  const safe = (character) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[character] ?? character;
  const parts = [];
  walk(first, count, codes, signal,
    (x, y, w, h, colour) => parts.push(`<rect x="${x.toFixed(1)}" y="${y}" width="${w.toFixed(1)}" height="${h}" fill="${colour}"/>`),
    (x, y, character) => parts.push(`<text x="${x.toFixed(1)}" y="${y}">${safe(character)}</text>`),
    (x, y, character, alpha) => parts.push(`<text x="${x.toFixed(1)}" y="${y}" font-size="${SMALL}" opacity="${alpha.toFixed(2)}">${safe(character)}</text>`));
  const size = `width="${scroll.clientWidth}" height="${count * height}"`;
  const namespace = Object.assign(document.createElement("div"), { innerHTML: "<svg/>" }).firstChild.namespaceURI;
  const svg = `<svg xmlns="${namespace}" ${size} font-family="monospace" font-size="${FONT}" fill="${ink}">` +
    `<rect ${size} fill="${css("--card")}"/>${parts.join("")}</svg>`;
  const link = document.createElement("a");
  link.download = `${signal.name}_l${unit.layer}_${unit.unit}.svg`;
  link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  link.click();
  URL.revokeObjectURL(link.href);
});

// Rows depend on the width alone.
const again = () => {
  colours();
  if (scroll.clientWidth !== laidOut) layOut();
  draw();
};
new ResizeObserver(again).observe(scroll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
colours();
layOut();
fill();
