// The second view: chosen runs overlaid, with one step for all of it.

const DISTINCT = 28; // looks that can be told apart: of more series, so many are drawn until the reader chooses
const PANELS = 8; // quantities that are drawn where none belongs to the core
const BANDS_UNTIL = 3; // series whose intervals are drawn where the reader has not chosen

// What the reader has chosen, kept in the address: `place` null follows the newest step; others null are defaults.
const choice = {
  runs: [],
  place: null,
  layers: null,
  off: null,
  show: null,
  log: true,
  bands: null,
  map: null,
  heads: null,
};

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
  return Object.entries(drawn.words)
    .filter(([key]) => known.has(key))
    .sort((a, b) => {
      const [one, other] = [order(a), order(b)];
      return one[0] - other[0] || one[1].localeCompare(other[1]) || one[2].localeCompare(other[2]);
    })
    .map(([key]) => key);
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

// The steps at which forks among the series begin, where steps are what is drawn along.
function forksOf(series) {
  const steps = series.map((one) => beginOf(drawn.runs.get(one.run))).filter((step) => step > 0);
  return alongName() === "step" ? [...new Set(steps)] : [];
}

// Learning curves

function drawCurves(series, place) {
  const known = new Set(series.flatMap((one) => [...one.curves.keys()]));
  const metrics = [...new Set([...known].map((key) => key.slice(key.indexOf("/") + 1)))];
  const isQuality = (metric) => [...known].some((key) => key.endsWith(`/${metric}`) && drawn.words[key].core !== null);
  const shown = metrics.filter((metric) => isQuality(metric) || metric === "loss" || choice.show?.has(metric));
  const order = (metric) => (isQuality(metric) ? 0 : 1);
  const width = widthIn(byId("curves"));
  fill(
    "curves",
    shown
      .sort((a, b) => order(a) - order(b))
      .map((metric) => {
        const drawnLines = ["train", "validation", "test"].flatMap((site) =>
          series
            .filter((one) => one.curves.has(`${site}/${metric}`))
            .map((one) => ({
              label: `${one.label}, ${drawn.words[`${site}/${metric}`].site}`,
              look: one.look,
              points: one.curves.get(`${site}/${metric}`),
              isMarks: site !== "train",
              isFaint: site === "train",
              isPlain: true,
            })),
        );
        const key = [...known].find((name) => name.endsWith(`/${metric}`));
        const {title, unit} = drawn.words[key];
        return lineChart({
          title: capital(title),
          soft: isQuality(metric) ? unit : "",
          width,
          x: {label: "step", kind: choice.log ? "steps" : "linear"},
          y: {label: unitOf(key), wide: true},
          lines: drawnLines,
          cursor: place,
          forks: forksOf(series),
        });
      }),
  );
}

// Layer profiles at the chosen step

function profilePoints(group, one, isShare) {
  return group.layers
    .map((layer, i) => ({
      layer,
      x: isShare ? layer / one.depth : layer,
      y: group.values[i],
      low: group.low?.[i],
      high: group.high?.[i],
      why: group.why?.[i],
    }))
    .filter((p) => p.layer >= 0 && isLayerOn(p.layer))
    .sort((a, b) => a.x - b.x);
}

function drawProfiles(series, place) {
  const isShare = new Set(series.map((one) => one.depth).filter((depth) => depth > 0)).size > 1;
  const width = widthIn(byId("profiles"));
  const bands = choice.bands ?? series.length <= BANDS_UNTIL;
  fill(
    "profiles",
    shownQuantities().flatMap((quantity) => {
      const shown = series
        .filter((one) => one.cells.has(quantity))
        .flatMap((one) => {
          const at = placeAtOrBefore(one.cells.get(quantity), place);
          if (at === null) return [];
          return [
            {label: one.label, look: one.look, points: profilePoints(one.cells.get(quantity).get(at), one, isShare)},
          ];
        });
      if (!shown.some((line) => line.points.length)) return [];
      const label = isShare ? "depth (share of the layers)" : "layer";
      return [
        lineChart({
          title: quantityTitle(quantity),
          width,
          x: {label, kind: isShare ? "linear" : "whole"},
          y: {label: unitOf(quantity), wide: drawn.words[quantity].wide},
          lines: shown,
          bands,
        }),
      ];
    }),
  );
}

// Over all steps: of one series its layers, of several their means

function drawPaths(series, place) {
  const width = widthIn(byId("paths"));
  const isSingle = series.length === 1;
  const [colours, dark] = [drawn.scales.depth, drawn.scales.depth_dark].map((scale) => {
    const channelsAt = coloursOf(scale);
    return (share) => `rgb(${channelsAt(share).join(",")})`;
  });
  byId("paths-note").textContent = isSingle
    ? "A line for each chosen layer, from faint (first) to strong (last)."
    : "Means over the chosen layers.";
  fill(
    "paths",
    shownQuantities().flatMap((quantity) => {
      const shown = series
        .filter((one) => one.cells.has(quantity))
        .flatMap((one) => {
          const places = one.cells.get(quantity);
          const xs = ascending(places.keys());
          if (!isSingle)
            return [
              {label: one.label, look: one.look, points: xs.map((x) => ({x, y: meanOver(places, x, isLayerOn)}))},
            ];
          const layers = ascending([...places.values()].flatMap((group) => group.layers)).filter(
            (layer) => layer < 0 || isLayerOn(layer),
          );
          return layers.map((layer) => {
            const share = layer / Math.max(one.depth, 1);
            const look = layer < 0 ? one.look : {...one.look, colour: colours(share), dark: dark(share)};
            const points = xs.map((x) => {
              const group = places.get(x);
              const i = group.layers.indexOf(layer);
              return {x, y: group.values[i], why: group.why?.[i]};
            });
            return {label: layer < 0 ? one.label : `layer ${layer}`, look, points};
          });
        });
      if (!shown.some((line) => line.points.length > 1)) return [];
      const kind = choice.log && alongName() === "step" ? "steps" : "linear";
      return [
        lineChart({
          title: quantityTitle(quantity),
          width,
          x: {label: alongName(), kind},
          y: {label: unitOf(quantity), wide: drawn.words[quantity].wide},
          lines: shown,
          cursor: place,
          forks: forksOf(series),
        }),
      ];
    }),
  );
}

// Maps of layers and steps, and of layers and heads

function options(select, keys, wanted) {
  const value = keys.includes(wanted) ? wanted : keys[0];
  select.replaceChildren(
    ...keys.map((key) => element("option", {value: key, textContent: quantityTitle(key), selected: key === value})),
  );
  return value;
}

function drawMaps(series, place) {
  const layered = geometryQuantities().filter((key) =>
    series.some((one) => [...(one.cells.get(key)?.values() ?? [])].some((group) => group.layers.length > 1)),
  );
  const quantity = options(byId("map-quantity"), layered, choice.map);
  const shown = series.filter((one) => one.cells.has(quantity));
  fill("maps", []);
  byId("maps-section").hidden = shown.length === 0;
  if (!shown.length) return;
  const tables = shown
    .map((one) => {
      const places = one.cells.get(quantity);
      const columns = ascending(places.keys());
      const layers = ascending([...places.values()].flatMap((group) => group.layers)).filter(isLayerOn);
      const values = columns.map(
        (at) => new Map(places.get(at).layers.map((layer, i) => [layer, places.get(at).values[i]])),
      );
      return {one, columns, layers, value: (row, column) => values[column].get(layers[row])};
    })
    .filter(({layers, columns}) => layers.length && columns.length);
  const scale = mapScale(
    quantity,
    tables.flatMap(({columns, layers, value}) => columns.flatMap((_, c) => layers.map((__, r) => value(r, c)))),
  );
  byId("map-scale").replaceChildren(scaleBar(scale));
  byId("maps").replaceChildren(
    ...tables.map(({one, columns, layers, value}) =>
      heatMap({
        title: one.label,
        look: one.look,
        rowNames: layers,
        columnNames: columns,
        names: ["layer", alongName()],
        value,
        scale,
        cursor: place,
      }),
    ),
  );
}

async function drawHeads() {
  if (!byId("heads-open").open) return;
  await loadHeads();
  keepingFocus(drawHeadMaps);
}

function drawHeadMaps() {
  const series = seriesOn();
  const place = currentPlace(placesOf(series)); // as it is now that the heads are there
  const tables = new Map(); // of each series and quantity, the places with their groups
  for (const one of series) {
    const members = new Map(
      one.arm.members
        .filter(([run, , , seed]) => run === one.run && seed === one.seed)
        .map(([, subject, condition, , at]) => [JSON.stringify([subject, condition]), at]),
    );
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
  const scale = mapScale(
    quantity,
    [...tables.get(quantity).values()].flatMap((places) => [...places.values()].flatMap((group) => group.values)),
  );
  byId("heads-scale").replaceChildren(scaleBar(scale));
  byId("heads").replaceChildren(
    ...[...tables.get(quantity)].flatMap(([one, places]) => {
      const at = placeAtOrBefore(places, place);
      if (at === null) return [];
      const group = places.get(at);
      const [layers, heads] = [ascending(group.layers), ascending(group.heads)];
      const cells = new Map(group.values.map((value, i) => [`${group.layers[i]} ${group.heads[i]}`, value]));
      return [
        heatMap({
          title: one.label,
          look: one.look,
          rowNames: layers,
          columnNames: heads,
          names: ["layer", "head"],
          value: (r, c) => cells.get(`${layers[r]} ${heads[c]}`),
          scale,
        }),
      ];
    }),
  );
}

// Draw anew without losing the focus, which is that of the same control or figure afterwards.
function keepingFocus(draw) {
  const controls = "a, input, button, select, summary, svg[tabindex], canvas";
  const focused = document.activeElement;
  const place = focused?.closest("[id]");
  const i = place && place !== focused ? [...place.querySelectorAll(controls)].indexOf(focused) : -1;
  draw();
  if (i >= 0 && !focused.isConnected) place.querySelectorAll(controls)[i]?.focus({preventScroll: true});
}

// Draw the view: all of it, or with `onlyStep` what depends on the step alone.
function drawOverlay(onlyStep = false) {
  keepingFocus(() => drawParts(onlyStep));
  document.documentElement.dataset.drawn = `${Math.round(performance.now())}`;
}

function drawParts(onlyStep) {
  const series = seriesOn();
  const places = placesOf(series);
  const place = currentPlace(places);
  for (const id of ["controls", "heads-section"]) byId(id).hidden = places.length === 0;
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
    drawCurves(series, place);
    drawPaths(series, place);
    drawMaps(series, place);
  }
  for (const figure of document.querySelectorAll("#curves figure, #paths figure, #maps figure"))
    figure.moveCursor(place);
  drawSlider(places, place, series);
  drawProfiles(series, place);
  drawNumbers(series, place);
  drawHeads().catch(showTrouble);
}
