// The list of runs: one row each, kept up to date in place, so that neither focus nor choice is lost.

const ORDER = ["running", "stalled", "failed", "interrupted", "stopped", "done", "unknown"];
const chosen = new Set(); // keys of the runs that are to be overlaid
const lines = new Map(); // the row in the table, by key

function moment(seconds) {
  const date = new Date(seconds * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], {
    ...(isToday ? {} : {month: "short", day: "numeric", year: "numeric"}),
    hour: "2-digit",
    minute: "2-digit",
  });
}

function stateText(row) {
  const since = row.state === "stalled" && row.written ? ` since ${moment(row.written)}` : "";
  return `${row.state}${since}`;
}

function progressText(row) {
  const unit = row.last ? ` of ${row.last}` : "";
  const done =
    row.unit === "part"
      ? `${row.step ?? 0} part${row.step === 1 ? "" : "s"} measured`
      : `${row.unit ?? "step"} ${row.step ?? 0}${unit}`;
  if (row.state !== "running" || !row.left) return done;
  const now = EMBEDDED ? EMBEDDED.at : Date.now() / 1000;
  return `${done}, about ${duration(Math.max(0, row.left - (now - row.written)))} left`;
}

function costText(row) {
  if (!row.measure_seconds) return "";
  const share = row.share === null ? "" : `, about ${number(100 * row.share)} % of the time`;
  const step = row.step_seconds ? `; ${number(row.step_seconds)} s a step` : "";
  return `${number(row.measure_seconds)} s a measurement${share}${step}`;
}

function searched(row) {
  return [row.key, row.kind, row.state, ...(row.settings ?? []).flat()].join(" ").toLowerCase();
}

function makeLine(key) {
  const box = element("input", {type: "checkbox", checked: chosen.has(key), onchange: () => choose(key, box.checked)});
  box.setAttribute("aria-label", `choose ${key}`);
  const link = element("a", {textContent: key, href: `#${new URLSearchParams([["run", key]])}`});
  const head = element(
    "th",
    {scope: "row"},
    link,
    element("div", {className: "soft"}),
    element("div", {className: "note"}),
  );
  const bar = element("progress", {max: 1});
  bar.setAttribute("aria-label", `progress of ${key}`);
  const fields = {
    state: element("td", {}, element("span"), element("div", {className: "soft"})),
    progress: element("td", {}, bar, element("div")),
    numbers: element("td"),
    cost: element("td"),
    settings: element("td"),
  };
  return Object.assign(element("tr", {}, element("td", {}, box), head, ...Object.values(fields)), {fields, head, box});
}

function fillLine(line, row) {
  const {state, progress, numbers, cost, settings} = line.fields;
  const [kind, problem] = line.head.querySelectorAll("div");
  kind.textContent = [row.kind, row.created && moment(Date.parse(row.created) / 1000)].filter(Boolean).join(", ");
  problem.textContent = row.problem ?? "";
  problem.hidden = !row.problem;
  state.firstChild.textContent = stateText(row);
  state.firstChild.className = `state state-${ORDER.includes(row.state) ? row.state : "unknown"}`;
  state.lastChild.textContent = row.says;
  progress.firstChild.hidden = !row.last;
  progress.firstChild.value = row.last ? Math.min(row.step / row.last, 1) : 0;
  progress.lastChild.textContent = progressText(row);
  numbers.replaceChildren(
    ...(row.numbers ?? []).map(({name, text, step}) =>
      element("div", {textContent: `${name} ${text}`, title: `step ${step}`}),
    ),
  );
  cost.textContent = costText(row);
  settings.textContent = (row.settings ?? []).map((pair) => pair.filter(Boolean).join(" ")).join(", ");
  line.text = searched(row);
}

function choose(key, isChosen) {
  if (isChosen) chosen.add(key);
  else chosen.delete(key);
  showChoice();
}

function showChoice() {
  const open = document.getElementById("open");
  open.disabled = chosen.size === 0;
  open.textContent = chosen.size
    ? `Overlay ${chosen.size} chosen run${chosen.size > 1 ? "s" : ""}`
    : "Overlay the chosen runs";
  document.getElementById("choose-none").disabled = chosen.size === 0;
}

function showList(changed = [...rows.keys()], gone = []) {
  for (const key of gone) {
    lines.get(key)?.remove();
    lines.delete(key);
    chosen.delete(key);
  }
  for (const key of changed) {
    if (!lines.has(key)) lines.set(key, makeLine(key));
    fillLine(lines.get(key), rows.get(key));
  }
  const rank = (row) => (ORDER.includes(row.state) ? ORDER.indexOf(row.state) : ORDER.length);
  const order = [...rows.values()].sort(
    (a, b) => rank(a) - rank(b) || b.written - a.written || (a.key < b.key ? -1 : 1),
  );
  const body = document.getElementById("rows");
  const wanted = order.map(({key}) => lines.get(key));
  if (wanted.some((line, i) => body.children[i] !== line)) body.append(...wanted);
  filterList();
  showChoice();
  const none = document.getElementById("no-runs");
  none.hidden = rows.size > 0;
  none.textContent = "There is no run yet: one appears here as soon as it begins, as with dynamics fit.";
}

function filterList() {
  const words = document.getElementById("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of lines.values()) {
    line.hidden = !words.every((word) => line.text.includes(word));
    shown += line.hidden ? 0 : 1;
  }
  document.getElementById("count").textContent =
    shown === rows.size ? `${shown} runs` : `${shown} of ${rows.size} runs`;
}
