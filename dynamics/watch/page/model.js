"use strict";
// What the page knows: the rows of the list, and the records of the runs that are drawn. Nothing here is drawn.

const holder = document.getElementById("data");
const EMBEDDED = holder ? JSON.parse(holder.textContent) : null; // of a page that is one file

const rows = new Map(); // of the list, by the key of the run
const drawn = {
  keys: [],
  version: 0,
  runs: new Map(),
  heads: new Map(),
  headsVersion: 0,
  words: {},
  scales: {},
  history: [],
  series: null,
};
let loads = 0; // how often runs were asked for

async function ask(what, keys, since) {
  if (EMBEDDED) {
    const all = EMBEDDED[what];
    const runs = Object.fromEntries(
      keys.filter((key) => Object.hasOwn(all.runs, key)).map((key) => [key, all.runs[key]]),
    );
    const arms = (all.arms ?? []).map((arm) => ({...arm, members: arm.members.filter(([run]) => keys.includes(run))}));
    const place = (arm) => keys.indexOf(arm.members[0][0]);
    return {...all, runs, arms: arms.filter((arm) => arm.members.length).sort((a, b) => place(a) - place(b))};
  }
  const query = new URLSearchParams([...keys.map((key) => ["run", key]), ["since", since]]);
  const answer = await fetch(`api/${what}?${query}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function merge(known, news) {
  for (const [key, run] of Object.entries(news)) {
    const before = known.get(key);
    const parts = run.whole || !before ? new Map() : before.parts;
    for (const [name, groups] of Object.entries(run.parts)) parts.set(name, groups);
    known.set(key, {...run, parts});
  }
}

// Load the runs with these keys; of runs that are there already, only what is new. False where others were asked for
// meanwhile.
async function load(keys) {
  const isSame = keys.length === drawn.keys.length && keys.every((key, i) => key === drawn.keys[i]);
  loads += 1;
  const mine = loads;
  const answer = await ask("view", keys, isSame ? drawn.version : 0);
  if (mine !== loads) return false;
  if (!isSame) Object.assign(drawn, {keys, runs: new Map(), heads: new Map(), headsVersion: 0});
  merge(drawn.runs, answer.runs);
  const {version, arms, words, scales, history} = answer;
  Object.assign(drawn, {version, words, scales, history, series: seriesOf(arms, drawn.runs)});
  return true;
}

async function loadHeads() {
  if (drawn.headsVersion >= drawn.version) return;
  const {keys} = drawn;
  const answer = await ask("heads", keys, drawn.headsVersion);
  if (keys !== drawn.keys) return;
  merge(drawn.heads, answer.runs);
  drawn.headsVersion = answer.version;
}

// A series is what is drawn as one: of an arm, one run with one seed. `cells` has for each quantity the group of
// every place (a step, or what the arm is followed along), `curves` the points of every learning curve.
function seriesOf(arms, runs) {
  const series = new Map();
  const owners = new Map();
  for (const arm of arms) {
    for (const [run, subject, condition, seed, at] of arm.members) {
      const id = JSON.stringify([arm.name, run, seed]);
      if (!series.has(id)) series.set(id, {id, arm, run, seed, look: arm.look, cells: new Map(), curves: new Map()});
      owners.set(JSON.stringify([run, subject, condition]), {one: series.get(id), at});
    }
  }
  for (const [key, {parts}] of runs) {
    for (const group of [...parts.values()].flat()) {
      const owner = owners.get(JSON.stringify([key, group.subject, group.condition]));
      if (!owner || group.site === "cost") continue;
      const quantity = `${group.site}/${group.metric}`;
      const kept = group.steps ? owner.one.curves : owner.one.cells;
      if (group.steps) {
        if (!kept.has(quantity)) kept.set(quantity, []);
        group.steps.forEach((step, i) => kept.get(quantity).push({x: step, y: group.values[i]}));
      } else {
        if (!kept.has(quantity)) kept.set(quantity, new Map());
        kept.get(quantity).set(owner.at ?? group.step, group);
      }
    }
  }
  for (const one of series.values()) {
    const alike = [...series.values()].filter((other) => other.arm === one.arm);
    const runsDiffer = alike.some((other) => other.run !== one.run);
    const seedsDiffer = alike.some((other) => other.run === one.run && other.seed !== one.seed);
    one.label = [one.arm.name, runsDiffer && one.run, seedsDiffer && `seed ${one.seed}`].filter(Boolean).join(", ");
    for (const points of one.curves.values()) points.sort((a, b) => a.x - b.x);
    const groups = [...one.cells.values()].flatMap((places) => [...places.values()]);
    one.depth = extent([0, ...groups.flatMap((group) => group.layers)])[1]; // 0 of a run without geometry yet
  }
  return [...series.values()];
}

// The least and the greatest of numbers, of which there may be more than a call takes arguments.
function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

// The step at which a run begins: 0, or of a fork that of its parent's state.
function beginOf(run) {
  return Number(run.settings["fork.step"] ?? 0);
}

function ascending(numbers) {
  return [...new Set(numbers)].sort((a, b) => a - b);
}

// Places at which anything of these series is measured.
function placesOf(series) {
  return ascending(series.flatMap((one) => [...one.cells.values()].flatMap((places) => [...places.keys()])));
}

// The last place of a series at or before one: runs need not be measured at the same steps.
function placeAtOrBefore(places, place) {
  let found = null;
  for (const candidate of places.keys())
    if (candidate <= place && (found === null || candidate > found)) found = candidate;
  return found;
}

// The mean over the chosen layers at a place. As in the report, a layer that has a value at no place is left out, and
// any other gap leaves a gap in the mean.
function meanOver(places, place, isChosen) {
  const group = places.get(place);
  const hasValues = (layer) =>
    [...places.values()].some((other) => (other.values[other.layers.indexOf(layer)] ?? null) !== null);
  const values = group.values.filter(
    (value, i) =>
      (group.layers[i] < 0 || isChosen(group.layers[i])) && (value !== null || hasValues(group.layers[i])),
  );
  return values.length && !values.includes(null) ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// As `number` of the report: three significant digits, at most four decimals.
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const rounded = Number(value.toPrecision(3));
  const size = Math.abs(rounded);
  if (size >= 100 || size === 0) return rounded.toFixed(0).replace("-", "−");
  const text =
    size < 5e-4
      ? value.toExponential(1).replace(/e-(\d)$/, "e-0$1")
      : value.toFixed(Math.min(4, 2 - Math.floor(Math.log10(size))));
  return text.replace(/^-/, "−");
}

// As `compact` of the report: from 1000 on no digit is lost.
function compact(value) {
  const shortened = (part, digits) => `${Number(part.toPrecision(digits))}`;
  if (Math.abs(value) < 1e3) return shortened(value, 4);
  const [size, letter] = Math.abs(value) >= 1e6 ? [1e6, "M"] : [1e3, "k"];
  const [short, whole] = [shortened(value / size, 4), shortened(value, 10)];
  return Number(short) === value / size && short.length < whole.length ? short + letter : whole;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function quantityTitle(key) {
  const {title, site} = drawn.words[key];
  return `${capital(title)} (${site})`;
}
