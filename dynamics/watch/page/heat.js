// Maps in colours: layers by steps, layers by heads.

function channels(colour) {
  if (colour.startsWith("#")) return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return colour
    .match(/[\d.]+/g)
    .slice(0, 3)
    .map(Number);
}

function coloursOf(scale) {
  const stops = scale.map(([at, colour]) => [at, channels(colour)]);
  return (share) => {
    const i = Math.max(
      1,
      stops.findIndex(([at]) => at >= share),
    );
    const [[from, first], [to, second]] = [stops[i - 1], stops[i]];
    const t = (Math.min(Math.max(share, 0), 1) - from) / (to - from);
    return first.map((c, k) => Math.round(c + (second[k] - c) * t));
  };
}

// The range and colours of a quantity over all maps: around zero where its values take both signs.
function mapScale(quantity, values) {
  let [low, high] = extent(values.filter((value) => Number.isFinite(value)));
  const {signed, unit, title} = drawn.words[quantity];
  const most = Math.max(Math.abs(low), Math.abs(high));
  const isSigned = signed && low < -drawn.scales.negative * most;
  if (isSigned) [low, high] = [-most, most];
  const stops = isSigned ? drawn.scales.signed : drawn.scales.magnitude;
  const colours = coloursOf(stops);
  return {
    low,
    high,
    stops,
    label: unit || title,
    colour: (value) => colours(high > low ? (value - low) / (high - low) : 0.5),
  };
}

function scaleBar(scale) {
  const bar = element("span", {className: "bar"});
  bar.style.background = `linear-gradient(90deg, ${scale.stops.map(([at, colour]) => `${colour} ${100 * at}%`).join(", ")})`;
  return element("div", {className: "scale"}, number(scale.low), bar, number(scale.high), ` ${scale.label}`);
}

// One map: `value(row, column)` of rows from the bottom up; `names` say what rows and columns are; `cursor` is one
// of the columns, or lies after one.
function heatMap({title, look, rowNames, columnNames, names, value, scale, cursor = null}) {
  const canvas = element("canvas", {width: columnNames.length, height: rowNames.length});
  const pixels = new ImageData(columnNames.length, rowNames.length);
  rowNames.forEach((_, row) =>
    columnNames.forEach((__, column) => {
      const known = value(row, column);
      if (!Number.isFinite(known)) return;
      pixels.data.set([...scale.colour(known), 255], 4 * ((rowNames.length - 1 - row) * columnNames.length + column));
    }),
  );
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const ends = (list) => (list.length > 1 ? [list[0], list[list.length - 1]] : [list[0]]);
  canvas.setAttribute("role", "img");
  canvas.setAttribute(
    "aria-label",
    `${title}: ${names[0]} ${ends(rowNames).join(" to ")} by ${names[1]} ${ends(columnNames).join(" to ")}. Arrow keys read the cells.`,
  );
  canvas.tabIndex = 0;
  const readout = element("output");
  const place = {row: 0, column: 0};
  const show = (row, column) => {
    Object.assign(place, {
      row: Math.min(Math.max(row, 0), rowNames.length - 1),
      column: Math.min(Math.max(column, 0), columnNames.length - 1),
    });
    readout.textContent = `${names[0]} ${rowNames[place.row]}, ${names[1]} ${columnNames[place.column]}: ${number(value(place.row, place.column))}`;
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    show(
      rowNames.length - 1 - Math.floor(((event.clientY - box.top) / box.height) * rowNames.length),
      Math.floor(((event.clientX - box.left) / box.width) * columnNames.length),
    );
  });
  canvas.addEventListener("keydown", (event) => {
    const move = {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!move) return;
    event.preventDefault();
    show(place.row + move[0], place.column + move[1]);
  });
  const line = element("div", {className: "line"});
  const moveCursor = (at) => {
    const column = columnNames.findLastIndex((name) => name <= at);
    line.hidden = column < 0;
    line.style.left = `calc(${(100 * (column + 0.5)) / columnNames.length}% - 1px)`;
  };
  const picture = element("div", {className: "picture"}, canvas);
  if (cursor !== null) {
    moveCursor(cursor);
    picture.append(line);
  }
  const upEnds = ends(rowNames)
    .reverse()
    .map((name) => element("span", {textContent: `${names[0]} ${name}`}));
  const acrossEnds = ends(columnNames).map((name) => element("span", {textContent: `${names[1]} ${name}`}));
  const map = element(
    "div",
    {className: "map"},
    element("div", {className: "ends up"}, ...upEnds),
    picture,
    element("div"),
    element("div", {className: "ends"}, ...acrossEnds),
  );
  return Object.assign(element("figure", {}, element("figcaption", {}, sample(look), ` ${title}`), map, readout), {
    moveCursor,
  });
}
