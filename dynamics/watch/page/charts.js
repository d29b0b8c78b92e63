// Charts of lines, in SVG. All text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = {left: 54, right: 10, top: 8, bottom: 34};
const HEIGHT = 210;
const DASHES = {solid: "", dash: "7 4", dot: "2 3", dashdot: "8 3 2 3", longdash: "13 4"};
const MARKS = {
  circle: (r) => `m${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  square: (r) => `m${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  diamond: (r) => `m0 ${-1.3 * r}l${1.3 * r} ${1.3 * r}l${-1.3 * r} ${1.3 * r}l${-1.3 * r} ${-1.3 * r}z`,
  "triangle-up": (r) => `m0 ${-1.3 * r}l${1.2 * r} ${2.2 * r}h${-2.4 * r}z`,
  cross: (r) =>
    `m${-r / 2} ${-1.2 * r}h${r}v${0.7 * r}h${0.7 * r}v${r}h${-0.7 * r}v${0.7 * r}h${-r}v${-0.7 * r}h${-0.7 * r}v${-r}h${0.7 * r}z`,
  x: (r) => `m${-r} ${-r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`,
};

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function shape(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Paint with the colour of a look; without a look, not at all.
function painted(node, property, look) {
  node.style[property] = look ? `light-dark(${look.colour}, ${look.dark})` : "none";
  return node;
}

function niceStep(span, most) {
  const power = 10 ** Math.floor(Math.log10(span / most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= most);
}

// Where values lie between two pixels, and what stands at the axis. `kind` is linear, whole (no ticks between whole
// numbers), log (positive values), or steps (logarithmic from 1 on, with a place for 0).
function axis(values, from, to, kind = "linear", most = 5) {
  let [low, high] = extent(values);
  const warp = {log: Math.log10, steps: (v) => Math.log1p(Math.max(v, 0))}[kind] ?? ((v) => v);
  let ticks = [];
  if (kind === "steps") {
    for (let tick = 1; tick <= high; tick *= 10) ticks.push(tick);
    ticks = [...(low <= 0 ? [0] : []), ...ticks.filter((tick) => tick >= low)];
    if (ticks.length < 3) ticks = ascending([low, high, ...ticks]);
  } else if (kind === "log") {
    const factors = Math.log10(high / low) > 2 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      ticks.push(
        ...factors.map((factor) => factor * 10 ** power).filter((tick) => tick >= low / 1.05 && tick <= high * 1.05),
      );
    }
  } else {
    if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high), 1e-9)) {
      const pad = Math.max(Math.abs(high) * 0.1, 1e-6);
      [low, high] = [low - pad, high + pad];
    }
    const step = Math.max(niceStep(high - low, most), kind === "whole" ? 1 : 0);
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1)
      ticks.push(Number((i * step).toPrecision(12)));
  }
  const [start, end] = [warp(low), warp(high)];
  const span = end - start || 1;
  return {at: (value) => from + ((warp(value) - start) / span) * (to - from), ticks};
}

function pathOf(points) {
  let path = "";
  let isDown = false;
  for (const {px, py} of points) {
    if (py === null) isDown = false;
    else {
      path += `${isDown ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
      isDown = true;
    }
  }
  return path;
}

function marksOf(points, symbol, radius) {
  return points
    .filter(({py}) => py !== null)
    .map(({px, py}) => `M${px.toFixed(1)} ${py.toFixed(1)}${MARKS[symbol](radius)}`)
    .join("");
}

// One chart. `lines` are {label, look, points: [{x, y, low, high, why}], isFaint, isMarks, isPlain}; `cursor` is an x,
// `forks` are those at which a fork begins.
function lineChart({title, soft = "", width, x, y, lines, cursor = null, forks = [], bands = false}) {
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, HEIGHT - MARGIN.bottom];
  const all = lines.flatMap((line) => line.points);
  const heights = all.flatMap((p) => (bands ? [p.y, p.low, p.high] : [p.y])).filter((v) => Number.isFinite(v));
  const [lowest, highest] = extent(all.map((p) => p.y).filter((v) => Number.isFinite(v)));
  const isLog = y.wide && extent(heights)[0] > 0 && highest > drawn.scales.span * lowest;
  const across = axis(
    all.map((p) => p.x),
    left + 4,
    right - 6,
    x.kind,
    Math.max(3, Math.floor(width / 80)),
  );
  const up = axis(heights, bottom - 4, top + 4, isLog ? "log" : "linear");
  const picture = shape("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", tabindex: "0"});
  for (const tick of up.ticks) {
    picture.append(shape("line", {class: "rule", x1: left, x2: right, y1: up.at(tick), y2: up.at(tick)}));
    picture.append(
      shape("text", {x: left - 5, y: up.at(tick) + 4, "text-anchor": "end"}, compact(tick).replace("-", "−")),
    );
  }
  for (const tick of across.ticks) {
    picture.append(
      shape("line", {class: "axis", x1: across.at(tick), x2: across.at(tick), y1: bottom, y2: bottom + 4}),
    );
    picture.append(shape("text", {x: across.at(tick), y: bottom + 15, "text-anchor": "middle"}, compact(tick)));
  }
  picture.append(shape("path", {class: "axis", d: `M${left} ${top}V${bottom}H${right}`}));
  picture.append(shape("text", {x: (left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle"}, x.label));
  const middle = (top + bottom) / 2;
  picture.append(
    shape("text", {x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})`}, y.label),
  );
  for (const place of forks) {
    const upright = shape("line", {class: "fork", x1: across.at(place), x2: across.at(place), y1: top, y2: bottom});
    upright.append(shape("title", {}, `a fork begins at ${compact(place)}`));
    picture.append(upright);
  }
  const pointer = shape("line", {class: "cursor", y1: top, y2: bottom});
  const moveCursor = (place) => ["x1", "x2"].forEach((end) => pointer.setAttribute(end, across.at(place)));
  if (cursor !== null) {
    moveCursor(cursor);
    picture.append(pointer);
  }
  const spots = [];
  for (const line of lines) {
    const points = line.points.map((p) => ({
      ...p,
      line,
      px: across.at(p.x),
      py: Number.isFinite(p.y) ? up.at(p.y) : null,
    }));
    spots.push(...points.filter(({py}) => py !== null));
    const bounded = points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high) && p.py !== null);
    if (bands && bounded.length > 1) {
      const edge = [
        ...bounded.map((p) => ({px: p.px, py: up.at(p.high)})),
        ...bounded.reverse().map((p) => ({px: p.px, py: up.at(p.low)})),
      ];
      picture.append(painted(shape("path", {class: "band", d: `${pathOf(edge)}Z`}), "fill", line.look));
    }
    if (!line.isMarks) {
      const attributes = {
        class: line.isFaint ? "line faint" : "line",
        d: pathOf(points),
        "stroke-dasharray": DASHES[line.look.dash] || "",
      };
      picture.append(painted(shape("path", attributes), "stroke", line.look));
    }
    if (line.isMarks || (!line.isPlain && points.length <= 60)) {
      const attributes = {
        d: marksOf(points, line.look.symbol, line.isMarks ? 3.6 : 2.8),
        "stroke-width": line.look.symbol === "x" ? 1.8 : 0,
      };
      const marks = painted(shape("path", attributes), "fill", line.look.symbol === "x" ? null : line.look);
      picture.append(painted(marks, "stroke", line.look));
    }
  }
  picture.setAttribute("aria-label", describe(title, x.label, lines));
  const readout = element("output");
  readPoints(picture, spots, readout, x.label, `${title} over ${x.label}`);
  const caption = element("figcaption", {textContent: title});
  if (soft) caption.append(" ", element("span", {className: "soft", textContent: soft}));
  return Object.assign(element("figure", {}, caption, picture, readout), {moveCursor});
}

function describe(title, label, lines) {
  const ends = lines.slice(0, 8).map((line) => {
    const points = line.points.filter((p) => Number.isFinite(p.y));
    if (!points.length) return `${line.label}: no value`;
    const [first, last] = [points[0], points[points.length - 1]];
    return `${line.label}: ${number(first.y)} at ${label} ${compact(first.x)} to ${number(last.y)} at ${compact(last.x)}`;
  });
  return `${title}, over ${label}. ${ends.join("; ")}${lines.length > 8 ? `; and ${lines.length - 8} more` : ""}. Arrow keys read the points.`;
}

// The point that was read last, and in which chart: a chart that is drawn again goes on from there.
const reading = {chart: "", line: "", x: 0};

// Read the nearest point under the pointer; with arrow keys, the points one by one (left, right) and line by line.
function readPoints(picture, spots, readout, label, chart) {
  let picked = -1;
  const ring = shape("circle", {class: "picked", r: 6, visibility: "hidden"});
  picture.append(ring);
  function pick(i) {
    if (i < 0 || i >= spots.length) return;
    picked = i;
    const {line, x, y, low, high, px, py, why} = spots[i];
    const interval = Number.isFinite(low) && Number.isFinite(high) ? ` [${number(low)}, ${number(high)}]` : "";
    readout.textContent = `${line.label}, ${label} ${compact(x)}: ${number(y)}${interval}${why ? ` (${why})` : ""}`;
    ring.setAttribute("cx", px);
    ring.setAttribute("cy", py);
    ring.setAttribute("visibility", "visible");
    Object.assign(reading, {chart, line: line.label, x});
  }
  if (chart === reading.chart)
    pick(spots.findIndex((spot) => spot.line.label === reading.line && spot.x === reading.x));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const ratio = picture.viewBox.baseVal.width / box.width;
    const [px, py] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    let best = Infinity;
    let nearest = -1;
    spots.forEach((spot, i) => {
      const distance = (spot.px - px) ** 2 + (spot.py - py) ** 2;
      if (distance < best) [best, nearest] = [distance, i];
    });
    pick(nearest);
  });
  picture.addEventListener("keydown", (event) => {
    const line = spots[picked]?.line;
    const others = {
      ArrowUp: () => spots.findLastIndex((s, i) => i < picked && s.line !== line),
      ArrowDown: () => spots.findIndex((s, i) => i > picked && s.line !== line),
    };
    const next = {ArrowRight: () => picked + 1, ArrowLeft: () => picked - 1, ...others}[event.key];
    if (!next) return;
    event.preventDefault();
    pick(next());
  });
}

// The line and mark of a look, for the legend.
function sample(look) {
  const line = painted(
    shape("path", {class: "line", d: "M1 7H43", "stroke-dasharray": DASHES[look.dash] || ""}),
    "stroke",
    look,
  );
  const mark = shape("path", {d: `M22 7${MARKS[look.symbol](3.6)}`, "stroke-width": look.symbol === "x" ? 1.8 : 0});
  painted(painted(mark, "fill", look.symbol === "x" ? null : look), "stroke", look);
  return shape("svg", {class: "sample", viewBox: "0 0 44 14", "aria-hidden": "true"}, line, mark);
}
