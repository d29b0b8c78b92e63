// The second view: chosen runs overlaid, with one step for all of it.

const DISTINCT = 28; // looks that can be told apart: of more series, so many are drawn until the reader chooses
const PANELS = 8; // quantities that are drawn where none belongs to the core
const BANDS_UNTIL = 3; // series whose intervals are drawn where the reader has not chosen

// What the reader has chosen, kept in the address: `place` null follows the newest step; others null are defaults.
const choice = {runs: [], place: null, layers: null, off: null, show: null, log: true, bands: null, map: null, heads: null};

const byId = (id) => document.getElementById(id);

function seriesOn() {
  return drawn.series.filter((one, i) => (choice.off ? !choice.off.has(one.id) : i < DISTINCT));
}

function depth() {
  return extent(drawn.series.map((one) => one.depth))[1];
}

// Layer 0, the embeddings, is out by default: on characters it is an artefact of duplicates that eats every scale.
function isLayerOn(layer) {
  return choice.layers ? choice.layers.has(layer) : layer > 0;
}

function currentPlace(places) {
  if (choice.place === null) return places[places.length - 1] ?? 0;
  return places.filter((place) => place <= choice.place).pop() ?? places[0] ?? 0;
}

function alongName() {
  return [...new Set(drawn.series.map((one) => one.arm.along))].join(" or ");
}

function geometryQuantities() {
  const known = new Set(drawn.series.flatMap((one) => [...one.cells.keys()]));
  const order = ([key, {core, site}]) => [core ?? 1000, site, key];
  return Object.entries(drawn.words).filter(([key]) => known.has(key)).sort((a, b) => {
    const [one, other] = [order(a), order(b)];
    return one[0] - other[0] || one[1].localeCompare(other[1]) || one[2].localeCompare(other[2]);
  }).map(([key]) => key);
}

function shownQuantities() {
  const all = geometryQuantities();
  if (choice.show) return all.filter((key) => choice.show.has(key));
  const core = all.filter((key) => drawn.words[key].core !== null);
  return core.length ? core : all.slice(0, PANELS);
}

function widthIn(grid) {
  const [column] = getComputedStyle(grid).gridTemplateColumns.split(" ");
  return Math.max(260, Math.round(parseFloat(column) || 320));
}

function fill(id, figures) {
  byId(id).replaceChildren(...figures);
  byId(`${id}-section`).hidden = figures.length === 0;
}

function unitOf(quantity) {
  const {unit, title} = drawn.words[quantity];
  return unit || title;
}

// Learning curves

function drawCurves(series, place) {
  const known = new Set(series.flatMap((one) => [...one.curves.keys()]));
  const metrics = [...new Set([...known].map((key) => key.slice(key.indexOf("/") + 1)))];
  const isQuality = (metric) => [...known].some((key) => key.endsWith(`/${metric}`) && drawn.words[key].core !== null);
  const shown = metrics.filter((metric) => isQuality(metric) || metric === "loss" || choice.show?.has(metric));
  const order = (metric) => (isQuality(metric) ? 0 : 1);
  const width = widthIn(byId("curves"));
  fill("curves", shown.sort((a, b) => order(a) - order(b)).map((metric) => {
    const drawnLines = ["train", "validation", "test"].flatMap((site) => series.filter((one) => one.curves.has(`${site}/${metric}`)).map((one) => ({
      label: `${one.label}, ${drawn.words[`${site}/${metric}`].site}`, look: one.look, points: one.curves.get(`${site}/${metric}`),
      isMarks: site !== "train", isFaint: site === "train", isPlain: true,
    })));
    const key = [...known].find((name) => name.endsWith(`/${metric}`));
    const {title, unit} = drawn.words[key];
    return lineChart({title: `${title[0].toUpperCase()}${title.slice(1)}`, soft: isQuality(metric) ? unit : "", width, x: {label: "step", kind: choice.log ? "steps" : "linear"}, y: {label: unitOf(key), wide: true}, lines: drawnLines, cursor: place});
  }));
}

// Layer profiles at the chosen step

function profilePoints(group, one, isShare) {
  return group.layers.map((layer, i) => ({
    layer, x: isShare ? layer / one.depth : layer, y: group.values[i], low: group.low?.[i], high: group.high?.[i], why: group.why?.[i],
  })).filter((p) => p.layer >= 0 && isLayerOn(p.layer)).sort((a, b) => a.x - b.x);
}

function drawProfiles(series, place) {
  const isShare = new Set(series.map((one) => one.depth)).size > 1;
  const width = widthIn(byId("profiles"));
  const bands = choice.bands ?? series.length <= BANDS_UNTIL;
  fill("profiles", shownQuantities().flatMap((quantity) => {
    const shown = series.filter((one) => one.cells.has(quantity)).flatMap((one) => {
      const at = placeAtOrBefore(one.cells.get(quantity), place);
      if (at === null) return [];
      return [{label: one.label, look: one.look, points: profilePoints(one.cells.get(quantity).get(at), one, isShare)}];
    });
    if (!shown.some((line) => line.points.length)) return [];
    const label = isShare ? "depth (share of the layers)" : "layer";
    return [lineChart({title: quantityTitle(quantity), width, x: {label, kind: isShare ? "linear" : "whole"}, y: {label: unitOf(quantity), wide: drawn.words[quantity].wide}, lines: shown, bands})];
  }));
}

// Over all steps: of one series its layers, of several their means

function drawPaths(series, place) {
  const width = widthIn(byId("paths"));
  const isSingle = series.length === 1;
  const colours = coloursOf(drawn.scales.depth);
  byId("paths-note").textContent = isSingle ? "A line for each chosen layer, from light (first) to dark (last)." : "Means over the chosen layers.";
  fill("paths", shownQuantities().flatMap((quantity) => {
    const shown = series.filter((one) => one.cells.has(quantity)).flatMap((one) => {
      const places = one.cells.get(quantity);
      const xs = ascending(places.keys());
      if (!isSingle) return [{label: one.label, look: one.look, points: xs.map((x) => ({x, y: meanOver(places.get(x), isLayerOn)}))}];
      const layers = ascending([...places.values()].flatMap((group) => group.layers)).filter((layer) => layer < 0 || isLayerOn(layer));
      return layers.map((layer) => {
        const colour = layer < 0 ? one.look.colour : `rgb(${colours(layer / Math.max(one.depth, 1)).join(",")})`;
        const points = xs.map((x) => {
          const group = places.get(x);
          const i = group.layers.indexOf(layer);
          return {x, y: group.values[i], why: group.why?.[i]};
        });
        return {label: layer < 0 ? one.label : `layer ${layer}`, look: {...one.look, colour}, points};
      });
    });
    if (!shown.some((line) => line.points.length > 1)) return [];
    const kind = choice.log && alongName() === "step" ? "steps" : "linear";
    return [lineChart({title: quantityTitle(quantity), width, x: {label: alongName(), kind}, y: {label: unitOf(quantity), wide: drawn.words[quantity].wide}, lines: shown, cursor: place})];
  }));
}

// Maps of layers and steps, and of layers and heads

function options(select, keys, wanted) {
  const value = keys.includes(wanted) ? wanted : keys[0];
  select.replaceChildren(...keys.map((key) => element("option", {value: key, textContent: quantityTitle(key), selected: key === value})));
  return value;
}

function drawMaps(series, place) {
  const layered = geometryQuantities().filter((key) => series.some((one) => [...(one.cells.get(key)?.values() ?? [])].some((group) => group.layers.length > 1)));
  const quantity = options(byId("map-quantity"), layered, choice.map);
  const shown = series.filter((one) => one.cells.has(quantity));
  fill("maps", []);
  byId("maps-section").hidden = shown.length === 0;
  if (!shown.length) return;
  const tables = shown.map((one) => {
    const places = one.cells.get(quantity);
    const columns = ascending(places.keys());
    const layers = ascending([...places.values()].flatMap((group) => group.layers)).filter(isLayerOn);
    const values = columns.map((at) => new Map(places.get(at).layers.map((layer, i) => [layer, places.get(at).values[i]])));
    return {one, columns, layers, value: (row, column) => values[column].get(layers[row])};
  }).filter(({layers, columns}) => layers.length && columns.length);
  const scale = mapScale(quantity, tables.flatMap(({columns, layers, value}) => columns.flatMap((_, c) => layers.map((__, r) => value(r, c)))));
  byId("map-scale").replaceChildren(scaleBar(scale));
  byId("maps").replaceChildren(...tables.map(({one, columns, layers, value}) => heatMap({
    title: one.label, look: one.look, rowNames: layers, columnNames: columns, names: ["layer", alongName()], value, scale,
    cursor: columns.findLastIndex((at) => at <= place),
  })));
}

async function drawHeads(series, place) {
  if (!byId("heads-open").open) return;
  await loadHeads();
  const tables = new Map(); // of each series and quantity, the places with their groups
  for (const one of series) {
    const members = new Map(one.arm.members.filter(([run, , , seed]) => run === one.run && seed === one.seed).map(([, subject, condition, , at]) => [JSON.stringify([subject, condition]), at]));
    for (const group of [...(drawn.heads.get(one.run)?.parts.values() ?? [])].flat()) {
      const member = JSON.stringify([group.subject, group.condition]);
      if (!members.has(member)) continue;
      const key = `${group.site}/${group.metric}`;
      if (!tables.has(key)) tables.set(key, new Map());
      const places = tables.get(key);
      if (!places.has(one)) places.set(one, new Map());
      places.get(one).set(members.get(member) ?? group.step, group);
    }
  }
  const keys = geometryQuantities().filter((key) => tables.has(key));
  const quantity = options(byId("heads-quantity"), keys, choice.heads);
  if (!quantity) {
    byId("heads").replaceChildren(element("p", {textContent: "These runs have no values of single heads."}));
    return;
  }
  const scale = mapScale(quantity, [...tables.get(quantity).values()].flatMap((places) => [...places.values()].flatMap((group) => group.values)));
  byId("heads-scale").replaceChildren(scaleBar(scale));
  byId("heads").replaceChildren(...[...tables.get(quantity)].flatMap(([one, places]) => {
    const at = placeAtOrBefore(places, place);
    if (at === null) return [];
    const group = places.get(at);
    const [layers, heads] = [ascending(group.layers), ascending(group.heads)];
    const cells = new Map(group.values.map((value, i) => [`${group.layers[i]} ${group.heads[i]}`, value]));
    return [heatMap({title: one.label, look: one.look, rowNames: layers, columnNames: heads, names: ["layer", "head"], value: (r, c) => cells.get(`${layers[r]} ${heads[c]}`), scale})];
  }));
}

// Tables

function table(head, body) {
  const row = (cells, cell) => element("tr", {}, ...cells.map((text, i) => element(i ? cell : "th", {textContent: text, scope: i ? "" : "row"})));
  return element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...body.map((cells) => row(cells, "td"))));
}

function drawNumbers(series, place) {
  const quantities = shownQuantities();
  const body = series.map((one) => {
    const found = quantities.map((quantity) => {
      const places = one.cells.get(quantity);
      const at = places ? placeAtOrBefore(places, place) : null;
      return at === null ? null : {at, value: meanOver(places.get(at), isLayerOn)};
    });
    const ats = [...new Set(found.filter(Boolean).map(({at}) => at))];
    return [one.label, ats.map(compact).join(", "), ...found.map((entry) => number(entry?.value))];
  });
  fill("numbers", body.length && quantities.length ? [table(["run", alongName(), ...quantities.map(quantityTitle)], body)] : []);
}

function drawCost() {
  const body = [...drawn.runs].flatMap(([key, {parts}]) => {
    const seconds = new Map();
    let [training, before] = [0, 0];
    const groups = [...parts].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, list]) => list).filter((group) => group.site === "cost");
    for (const group of groups) {
      if (group.metric !== "step_seconds") seconds.set(group.metric, (seconds.get(group.metric) ?? 0) + group.values.reduce((sum, value) => sum + (value ?? 0), 0));
      else {
        group.steps.forEach((step, i) => {
          training += (group.values[i] ?? 0) * Math.max(0, step - before);
          before = step;
        });
      }
    }
    const whole = seconds.get("measure_seconds");
    if (whole === undefined) return [];
    const dearest = [...seconds].filter(([name]) => name.startsWith("measure_seconds/")).sort(([, a], [, b]) => b - a).slice(0, 4);
    const share = training ? `${number((100 * whole) / (whole + training))} %` : "–";
    return [[key, duration(whole), training ? duration(training) : "–", share, dearest.map(([name, s]) => `${name.slice(16)} ${number(s)} s`).join(", ")]];
  });
  fill("cost", body.length ? [table(["run", "measuring", "training", "share of both", "most of it"], body)] : []);
}

function drawSettings() {
  const keys = [...new Set([...drawn.runs.values()].flatMap((run) => Object.keys(run.settings)))];
  const body = keys.map((key) => [key, ...[...drawn.runs.values()].map((run) => (Object.hasOwn(run.settings, key) ? run.settings[key] : "–"))]);
  const differing = drawn.runs.size > 1 ? body.filter(([, ...cells]) => new Set(cells).size > 1) : body;
  byId("settings-section").querySelector("h2").textContent = drawn.runs.size > 1 ? "Settings that differ" : "Settings";
  fill("settings", differing.length ? [table(["", ...drawn.runs.keys()], differing)] : []);
}

// Controls

function toggle(text, isOn, change, ...before) {
  const box = element("input", {type: "checkbox", checked: isOn});
  box.addEventListener("change", () => change(box.checked));
  return element("label", {}, box, " ", ...before, text);
}

function switched(set, key, isOn) {
  const changed = new Set(set);
  if (isOn) changed.add(key);
  else changed.delete(key);
  return changed;
}

// Whether a series has every word that the reader is looking for.
function isFound(one) {
  return byId("find-series").value.toLowerCase().split(/\s+/).every((word) => one.label.toLowerCase().includes(word));
}

// Draw all series that are found, or none of them.
function drawFound(isOn) {
  const off = new Set(choice.off ?? drawn.series.slice(DISTINCT).map((one) => one.id));
  for (const one of drawn.series.filter(isFound)) {
    if (isOn) off.delete(one.id);
    else off.add(one.id);
  }
  choosing({off});
}

function drawLegend() {
  const off = choice.off ?? new Set(drawn.series.slice(DISTINCT).map((one) => one.id));
  const said = new Set(); // runs whose state is said already
  byId("series-bar").hidden = drawn.series.length <= DISTINCT;
  byId("legend").classList.toggle("many", drawn.series.length > DISTINCT);
  byId("legend").replaceChildren(...drawn.series.map((one) => {
    const mark = element("span", {title: one.arm.about}, sample(one.look), " ");
    const label = toggle(one.label, !off.has(one.id), (isOn) => choosing({off: switched(off, one.id, !isOn)}), mark);
    const row = said.has(one.run) ? null : rows.get(one.run);
    said.add(one.run);
    const name = one.label.includes(one.run) ? "" : one.run;
    const state = row ? `${stateText(row)}, ${progressText(row)}${row.says ? `: ${row.says}` : ""}` : "";
    return element("li", {hidden: !isFound(one)}, label, " ", element("span", {className: "soft", textContent: row ? [name, state].filter(Boolean).join(" ") : ""}));
  }));
}

function drawLayers() {
  const all = Array.from({length: depth() + 1}, (_, layer) => layer);
  const set = (layers) => element("button", {type: "button", textContent: layers[0], onclick: () => choosing({layers: layers[1]})});
  const boxes = all.map((layer) => toggle(layer === 0 ? "0 (embeddings)" : `${layer}`, isLayerOn(layer), (isOn) => choosing({layers: switched(new Set(all.filter(isLayerOn)), layer, isOn)})));
  byId("layers").replaceChildren(element("legend", {textContent: "Layers"}), ...boxes, set(["all", new Set(all)]), set(["none", new Set()]), set(["1 and above", null]));
}

function drawQuantities() {
  const shown = new Set(shownQuantities());
  const bySite = new Map();
  for (const key of geometryQuantities()) {
    const {site, title} = drawn.words[key];
    if (!bySite.has(site)) bySite.set(site, []);
    bySite.get(site).push(toggle(title, shown.has(key), (isOn) => choosing({show: switched(shown, key, isOn)})));
  }
  byId("quantities").replaceChildren(element("legend", {textContent: "Quantities"}), ...[...bySite].flatMap(([site, boxes]) => [element("b", {textContent: site}), ...boxes]));
}

function drawProblems() {
  const problems = [...drawn.runs].flatMap(([key, run]) => run.problems.map((problem) => `${key}: ${problem}`));
  const missing = choice.runs.filter((key) => !drawn.runs.has(key)).map((key) => `There is no run named ${key} here.`);
  const empty = [...drawn.runs].filter(([key]) => !drawn.series.some((one) => one.run === key)).map(([key]) => `${key}: nothing has been measured yet.`);
  const many = choice.off === null && drawn.series.length > DISTINCT ? [`${drawn.series.length} series, of which the first ${DISTINCT} are drawn: choose others above.`] : [];
  byId("problems").replaceChildren(...[...missing, ...empty, ...problems, ...many].map((text) => element("p", {className: "note", textContent: text})));
}

function drawSlider(places, place, series) {
  const slider = byId("slider");
  slider.max = Math.max(places.length - 1, 0);
  slider.value = places.indexOf(place);
  slider.disabled = places.length < 2;
  const along = alongName();
  byId("slider-label").textContent = along;
  const behind = series.flatMap((one) => {
    const at = placesOf([one]).filter((p) => p <= place).pop();
    return at === undefined || at === place ? [] : [`${one.label}: ${compact(at)}`];
  });
  const shown = behind.length > 2 ? `${behind.length} others at an earlier one` : behind.join(", ");
  const text = `${along} ${compact(place)} of ${compact(places[places.length - 1] ?? 0)}${choice.place === null ? " (newest)" : ""}${shown ? `; ${shown}` : ""}`;
  byId("slider-text").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  document.querySelectorAll("h2 .at").forEach((node) => { node.textContent = `at ${along} ${compact(place)}`; });
}

// Draw the view: all of it, or with `onlyStep` what depends on the step alone.
function drawOverlay(onlyStep = false) {
  const series = seriesOn();
  const places = placesOf(series);
  const place = currentPlace(places);
  if (!onlyStep) {
    byId("title").textContent = choice.runs.length === 1 ? choice.runs[0] : `${choice.runs.length} runs`;
    byId("log").checked = choice.log;
    byId("bands").checked = choice.bands ?? series.length <= BANDS_UNTIL;
    drawLegend();
    drawProblems();
    drawLayers();
    drawQuantities();
    drawCost();
    drawSettings();
  }
  drawSlider(places, place, series);
  drawProfiles(series, place);
  drawNumbers(series, place);
  drawCurves(series, place);
  drawPaths(series, place);
  drawMaps(series, place);
  drawHeads(series, place).catch(showTrouble);
  document.documentElement.dataset.drawn = `${Math.round(performance.now())}`;
}
