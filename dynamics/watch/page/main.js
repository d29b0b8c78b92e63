// What happens: the address says what is shown, events say what is new.

function showTrouble(error) {
  const note = byId("connection");
  note.textContent = error ? `${error.message ?? error}` : "";
  note.hidden = !error;
  if (error instanceof Error) console.error(error);
}

// The address

function readAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  const all = (name) => (query.has(name) ? new Set(query.getAll(name).filter(Boolean)) : null);
  Object.assign(choice, {
    runs: query.getAll("run"),
    place: query.has("step") && Number.isFinite(Number(query.get("step"))) ? Number(query.get("step")) : null,
    layers: query.has("layers") ? new Set(query.get("layers").split(",").filter(Boolean).map(Number)) : null,
    off: all("off"),
    show: all("show"),
    log: query.get("log") !== "0",
    bands: query.has("bands") ? query.get("bands") === "1" : null,
    map: query.get("map"),
    heads: query.get("heads"),
  });
}

function writeAddress() {
  const query = choice.runs.map((key) => ["run", key]);
  if (choice.place !== null) query.push(["step", choice.place]);
  if (choice.layers) query.push(["layers", ascending(choice.layers).join(",")]);
  for (const name of ["off", "show"]) {
    if (choice[name]) query.push(...(choice[name].size ? [...choice[name]] : [""]).map((key) => [name, key]));
  }
  if (!choice.log) query.push(["log", "0"]);
  if (choice.bands !== null) query.push(["bands", choice.bands ? "1" : "0"]);
  if (choice.map) query.push(["map", choice.map]);
  if (choice.heads) query.push(["heads", choice.heads]);
  history.replaceState(null, "", `#${new URLSearchParams(query)}`);
}

// Change what the reader has chosen, and draw; one drawing a frame, however fast the slider moves.
let frame = null;
let isStepAlone = true;
function choosing(change) {
  if (!drawn.series) return;
  Object.assign(choice, change);
  isStepAlone &&= Object.keys(change).every((key) => key === "place");
  frame ??= requestAnimationFrame(() => {
    drawOverlay(isStepAlone);
    writeAddress();
    [frame, isStepAlone] = [null, true];
  });
}

let shownRuns = "";
async function show() {
  const isOverlay = choice.runs.length > 0;
  byId("list").hidden = isOverlay;
  byId("overlay").hidden = !isOverlay;
  document.title = isOverlay ? `${choice.runs.join(", ")} – dynamics` : "Runs – dynamics";
  if (!isOverlay) return;
  const wanted = JSON.stringify(choice.runs);
  if (shownRuns !== wanted) byId("title").textContent = "Reading the records ...";
  if (!(await load(choice.runs))) return;
  byId("heads-open").open ||= choice.heads !== null;
  drawOverlay();
  if (shownRuns !== wanted) window.scrollTo(0, 0);
  shownRuns = wanted;
}

// News

// Load what is newer than what is drawn, until nothing is.
let isLoading = false;
async function catchUp() {
  if (isLoading || !drawn.series) return;
  isLoading = true;
  try {
    for (
      let before = -1;
      before < drawn.version && choice.runs.some((key) => rows.get(key)?.version > drawn.version);
    ) {
      before = drawn.version;
      if (await load(choice.runs)) drawOverlay();
    }
  } finally {
    isLoading = false;
  }
}

async function takeNews({rows: changed, gone, all}) {
  if (all) for (const key of rows.keys()) if (!changed.some((row) => row.key === key)) gone.push(key);
  for (const key of gone) rows.delete(key);
  for (const row of changed) rows.set(row.key, row);
  showList(
    changed.map((row) => row.key),
    gone,
  );
  await catchUp();
  if (drawn.series && changed.some((row) => choice.runs.includes(row.key))) keepingFocus(drawLegend);
}

// Listen while the page is seen: a browser keeps few connections to one server, and nobody pays for what none sees.
let events = null;
function listen() {
  events?.close();
  events = null;
  if (document.hidden) return;
  events = new EventSource("api/events");
  events.onmessage = (event) => {
    showTrouble(null);
    takeNews(JSON.parse(event.data)).catch(showTrouble);
  };
  events.onerror = () => showTrouble("The server does not answer: what is shown is what it said last. Trying again.");
}

// The page

byId("find").addEventListener("input", filterList);
byId("find-form").addEventListener("submit", (event) => event.preventDefault());
byId("choose-none").addEventListener("click", () => {
  chosen.clear();
  for (const line of lines.values()) line.box.checked = false;
  showChoice();
});
byId("open").addEventListener("click", () => {
  location.hash = new URLSearchParams([...chosen].map((key) => ["run", key]));
});
byId("find-series").addEventListener("input", drawLegend);
byId("series-all").addEventListener("click", () => drawFound(true));
byId("series-none").addEventListener("click", () => drawFound(false));
byId("slider").addEventListener("input", () => {
  const places = placesOf(seriesOn());
  const i = Number(byId("slider").value);
  choosing({place: i >= places.length - 1 ? null : places[i]});
});
byId("log").addEventListener("change", () => choosing({log: byId("log").checked}));
byId("bands").addEventListener("change", () => choosing({bands: byId("bands").checked}));
byId("map-quantity").addEventListener("change", () => choosing({map: byId("map-quantity").value}));
byId("heads-quantity").addEventListener("change", () => choosing({heads: byId("heads-quantity").value}));
byId("heads-open").addEventListener("toggle", () => choosing({}));
window.addEventListener("hashchange", () => {
  readAddress();
  show().catch(showTrouble);
});
let lastWidth = innerWidth;
window.addEventListener("resize", () => {
  if (innerWidth !== lastWidth && choice.runs.length) choosing({});
  lastWidth = innerWidth;
});

readAddress();
if (EMBEDDED) {
  takeNews({rows: EMBEDDED.rows, gone: [], all: true});
  byId("count").after(element("span", {className: "soft", textContent: `as of ${moment(EMBEDDED.at)}`}));
} else {
  document.addEventListener("visibilitychange", listen);
  listen();
}
show().catch(showTrouble);
