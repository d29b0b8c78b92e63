"use strict";
// A figure is drawn once, when it can first be seen: those in a closed section wait until it is opened.
const OPTIONS = {
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  toImageButtonOptions: {format: "svg"},
};

function draw(plot) {
  const source = plot.querySelector("script");
  if (!source || plot.closest("details:not([open])")) return;
  const figure = JSON.parse(source.textContent);
  source.remove();
  figure.layout.template = TEMPLATE;
  Plotly.newPlot(plot, figure.data, figure.layout, OPTIONS);
}

// One figure a turn keeps the page responsive while it fills.
function drawAll() {
  const waiting = [...document.querySelectorAll("details[open] .plot, section > figure .plot")].filter((plot) => plot.querySelector("script"));
  if (!waiting.length) return;
  draw(waiting[0]);
  setTimeout(drawAll, 0);
}

document.querySelectorAll("details").forEach((box) => box.addEventListener("toggle", drawAll));
document.getElementById("open").addEventListener("click", () => document.querySelectorAll("details").forEach((box) => { box.open = true; }));
drawAll();
