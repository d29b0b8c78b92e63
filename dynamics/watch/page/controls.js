// What the reader can choose in the overlay: series, layers, quantities, the step; and what is wrong with the runs.

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
  return byId("find-series")
    .value.toLowerCase()
    .split(/\s+/)
    .every((word) => one.label.toLowerCase().includes(word));
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
  byId("legend").replaceChildren(
    ...drawn.series.map((one) => {
      const mark = element("span", {title: one.arm.about}, sample(one.look), " ");
      const label = toggle(one.label, !off.has(one.id), (isOn) => choosing({off: switched(off, one.id, !isOn)}), mark);
      const row = said.has(one.run) ? null : rows.get(one.run);
      said.add(one.run);
      const name = one.label.includes(one.run) ? "" : one.run;
      const state = row ? `${stateText(row)}, ${progressText(row)}${row.says ? `: ${row.says}` : ""}` : "";
      return element(
        "li",
        {hidden: !isFound(one)},
        label,
        " ",
        element("span", {className: "soft", textContent: row ? [name, state].filter(Boolean).join(" ") : ""}),
      );
    }),
  );
}

function drawLayers() {
  const all = Array.from({length: depth() + 1}, (_, layer) => layer);
  const set = (layers) =>
    element("button", {type: "button", textContent: layers[0], onclick: () => choosing({layers: layers[1]})});
  const boxes = all.map((layer) =>
    toggle(layer === 0 ? "0 (embeddings)" : `${layer}`, isLayerOn(layer), (isOn) =>
      choosing({layers: switched(new Set(all.filter(isLayerOn)), layer, isOn)}),
    ),
  );
  byId("layers").replaceChildren(
    element("legend", {textContent: "Layers"}),
    ...boxes,
    set(["all", new Set(all)]),
    set(["none", new Set()]),
    set(["1 and above", null]),
  );
}

function drawQuantities() {
  const shown = new Set(shownQuantities());
  const bySite = new Map();
  for (const key of geometryQuantities()) {
    const {site, title} = drawn.words[key];
    if (!bySite.has(site)) bySite.set(site, []);
    bySite.get(site).push(toggle(title, shown.has(key), (isOn) => choosing({show: switched(shown, key, isOn)})));
  }
  byId("quantities").replaceChildren(
    element("legend", {textContent: "Quantities"}),
    ...[...bySite].flatMap(([site, boxes]) => [element("b", {textContent: site}), ...boxes]),
  );
}

function drawProblems() {
  const problems = [...drawn.runs].flatMap(([key, run]) => run.problems.map((problem) => `${key}: ${problem}`));
  const missing = choice.runs
    .filter((key) => !drawn.runs.has(key))
    .map((key) => (rows.has(key) ? `The record of ${key} is not in this page.` : `There is no run named ${key} here.`));
  const empty = [...drawn.runs]
    .filter(([key]) => !drawn.series.some((one) => one.run === key))
    .map(([key]) => `${key}: nothing has been measured yet.`);
  const many =
    choice.off === null && drawn.series.length > DISTINCT
      ? [`${drawn.series.length} series, of which the first ${DISTINCT} are drawn: choose others above.`]
      : [];
  byId("problems").replaceChildren(
    ...[...missing, ...empty, ...problems, ...many].map((text) => element("p", {className: "note", textContent: text})),
  );
}

function drawSlider(places, place, series) {
  const slider = byId("slider");
  slider.max = Math.max(places.length - 1, 0);
  slider.value = places.indexOf(place);
  slider.disabled = places.length < 2;
  const along = alongName();
  byId("slider-label").textContent = along;
  const behind = series.flatMap((one) => {
    const at = placesOf([one])
      .filter((p) => p <= place)
      .pop();
    return at === undefined || at === place ? [] : [`${one.label}: ${compact(at)}`];
  });
  const shown = behind.length > 2 ? `${behind.length} others at an earlier one` : behind.join(", ");
  const text = `${along} ${compact(place)} of ${compact(places[places.length - 1] ?? 0)}${choice.place === null ? " (newest)" : ""}${shown ? `; ${shown}` : ""}`;
  byId("slider-text").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  document.querySelectorAll("h2 .at").forEach((node) => {
    node.textContent = `at ${along} ${compact(place)}`;
  });
}
