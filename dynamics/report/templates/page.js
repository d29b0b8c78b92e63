"use strict";
// A figure is drawn once, when it can first be seen: those in a closed section wait until it is opened.
const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isTouch = matchMedia("(pointer: coarse), (max-width: 700px)");
const OPTIONS = {responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]]};

async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);

// The colours of a figure are those of a light page; its text is kept, to paint it anew.
function figureOf(plot, dark) {
  const paint = (text) => (dark ? text.replace(/#[0-9a-f]{6}|rgba\(\d+,\d+,\d+,/g, (colour) => DARK[colour] ?? colour) : text);
  const figure = JSON.parse(paint(plot.source));
  figure.layout.template = JSON.parse(paint(JSON.stringify(TEMPLATE)));
  // A finger on a figure moves the page; a tap shows a value.
  if (isTouch.matches) figure.layout.dragmode = false;
  return figure;
}

function paint(plot, dark = isDark()) {
  const {data, layout} = figureOf(plot, dark);
  return Plotly.react(plot, data, layout, OPTIONS);
}

const drawn = () => [...document.querySelectorAll(".plot")].filter((plot) => plot.source);
const paintAll = (dark) => drawn().forEach((plot) => paint(plot, dark));

// One figure a turn keeps the page responsive while it fills.
let isDrawing = false;
async function drawAll() {
  if (isDrawing) return;
  isDrawing = true;
  const waiting = () => [...document.querySelectorAll(".plot")].find((plot) => !plot.source && !plot.closest("details:not([open])"));
  for (let plot = waiting(); plot; plot = waiting()) {
    const script = plot.querySelector("script");
    plot.source = await unpack(script);
    script.remove();
    paint(plot);
    await new Promise((next) => setTimeout(next));
  }
  isDrawing = false;
  root.dataset.height = document.body.scrollHeight;
}

function save(name, url) {
  Object.assign(document.createElement("a"), {download: name, href: url}).click();
}

async function saveSvg(button) {
  const plot = button.closest("figure").querySelector(".plot");
  const figure = {...figureOf(plot, false), config: {}};
  const size = {width: plot.clientWidth, height: plot.clientHeight};
  save(`${button.dataset.name}.svg`, await Plotly.toImage(figure, {format: "svg", ...size}));
}

async function saveCsv(button) {
  const text = await unpack(button.nextElementSibling);
  save(`${button.dataset.name}.csv`, URL.createObjectURL(new Blob([text], {type: "text/csv"})));
}

// What is wider than the screen says so, and the arrow keys reach it.
const cues = new ResizeObserver((entries) => entries.forEach(({target}) => {
  const box = target.closest(".scroll");
  const isWide = box.scrollWidth > box.clientWidth + 1;
  box.classList.toggle("wide", isWide);
  if (isWide) box.tabIndex = 0; else box.removeAttribute("tabindex");
}));
document.querySelectorAll(".scroll").forEach((box) => [box, box.firstElementChild].forEach((each) => cues.observe(each)));

document.querySelectorAll("details").forEach((box) => box.addEventListener("toggle", drawAll));
document.getElementById("open").addEventListener("click", () => document.querySelectorAll("details").forEach((box) => { box.open = true; }));
document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; paintAll(); });
document.querySelectorAll(".svg").forEach((button) => button.addEventListener("click", () => saveSvg(button)));
document.querySelectorAll(".csv").forEach((button) => button.addEventListener("click", () => saveCsv(button)));
systemIsDark.addEventListener("change", () => paintAll());
addEventListener("beforeprint", () => paintAll(false));
addEventListener("afterprint", () => paintAll());

if (!("DecompressionStream" in window)) document.querySelector("nav").insertAdjacentHTML("beforebegin", '<p class="note">The figures need a browser of 2023 or newer; the tables do not.</p>');
else unpack(document.getElementById("plotly")).then((code) => {
  document.head.append(Object.assign(document.createElement("script"), {textContent: code}));
  return drawAll();
});
