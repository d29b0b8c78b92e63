// The tables of the overlay: numbers at the chosen step, the cost of measuring, settings.

function table(head, body) {
  const row = (cells, cell) =>
    element("tr", {}, ...cells.map((text, i) => element(i ? cell : "th", {textContent: text, scope: i ? "" : "row"})));
  return element(
    "table",
    {},
    element("thead", {}, row(head, "th")),
    element("tbody", {}, ...body.map((cells) => row(cells, "td"))),
  );
}

function drawNumbers(series, place) {
  const quantities = shownQuantities();
  const body = series.map((one) => {
    const found = quantities.map((quantity) => {
      const places = one.cells.get(quantity);
      const at = places ? placeAtOrBefore(places, place) : null;
      return at === null ? null : {at, value: meanOver(places, at, isLayerOn)};
    });
    const ats = [...new Set(found.filter(Boolean).map(({at}) => at))];
    return [one.label, ats.map(compact).join(", "), ...found.map((entry) => number(entry?.value))];
  });
  fill(
    "numbers",
    body.length && quantities.length ? [table(["run", alongName(), ...quantities.map(quantityTitle)], body)] : [],
  );
}

function drawCost() {
  const body = [...drawn.runs].flatMap(([key, run]) => {
    const seconds = new Map();
    let [training, before] = [0, beginOf(run)];
    const groups = [...run.parts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([, list]) => list)
      .filter((group) => group.site === "cost");
    for (const group of groups) {
      if (group.metric !== "step_seconds")
        seconds.set(
          group.metric,
          (seconds.get(group.metric) ?? 0) + group.values.reduce((sum, value) => sum + (value ?? 0), 0),
        );
      else {
        group.steps.forEach((step, i) => {
          training += (group.values[i] ?? 0) * Math.max(0, step - before);
          before = step;
        });
      }
    }
    const whole = seconds.get("measure_seconds");
    if (whole === undefined) return [];
    const dearest = [...seconds]
      .filter(([name]) => name.startsWith("measure_seconds/"))
      .sort(([, a], [, b]) => b - a)
      .slice(0, 4);
    const share = training ? `${number((100 * whole) / (whole + training))} %` : "–";
    return [
      [
        key,
        duration(whole),
        training ? duration(training) : "–",
        share,
        dearest.map(([name, s]) => `${name.slice(16)} ${number(s)} s`).join(", "),
      ],
    ];
  });
  fill("cost", body.length ? [table(["run", "measuring", "training", "share of both", "most of it"], body)] : []);
}

function drawSettings() {
  const all = [...drawn.runs.values()];
  const isHistory = (key) => all.length > 1 && drawn.history.includes(key);
  const keys = [...new Set(all.flatMap((run) => Object.keys(run.settings)))].filter((key) => !isHistory(key));
  const body = keys.map((key) => [
    key,
    ...all.map((run) => (Object.hasOwn(run.settings, key) ? run.settings[key] : "–")),
  ]);
  const differing = drawn.runs.size > 1 ? body.filter(([, ...cells]) => new Set(cells).size > 1) : body;
  byId("settings-section").querySelector("h2").textContent = drawn.runs.size > 1 ? "Settings that differ" : "Settings";
  fill("settings", differing.length ? [table(["", ...drawn.runs.keys()], differing)] : []);
}
