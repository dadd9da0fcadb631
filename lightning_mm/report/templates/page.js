"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  // #dark and #light in the address choose the colours, and so does the last click.
  const wanted = { "#dark": "dark", "#light": "light" }[window.location.hash] || stored();
  function stored() {
    try { return window.localStorage.getItem("lightning-mm-theme"); } catch { return null; }
  }
  function show(theme) {
    if (theme) root.dataset.theme = theme;
    const dark = (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
    button.textContent = dark ? "light" : "dark";
    button.setAttribute("aria-label", `switch to ${button.textContent} colours`);
    return dark;
  }
  let dark = show(wanted === "dark" || wanted === "light" ? wanted : null);
  button.hidden = false;
  button.addEventListener("click", () => {
    dark = show(dark ? "light" : "dark");
    try { window.localStorage.setItem("lightning-mm-theme", dark ? "dark" : "light"); } catch { /* private window */ }
  });
  system.addEventListener("change", () => { dark = show(null); });

  // A method of the legend stands out in all charts of its sweep.
  for (const pick of document.querySelectorAll(".legend button")) {
    const charts = pick.closest("section").querySelector(".charts");
    const series = [...charts.querySelectorAll(".series")].filter((one) => one.dataset.look === pick.dataset.look);
    const light = (on) => {
      for (const one of series) one.classList.toggle("picked", on);
      charts.classList.toggle("picking", charts.querySelector(".picked") !== null);
    };
    const pressed = () => pick.getAttribute("aria-pressed") === "true";
    pick.addEventListener("click", () => { pick.setAttribute("aria-pressed", String(!pressed())); light(pressed()); });
    pick.addEventListener("mouseenter", () => light(true));
    pick.addEventListener("mouseleave", () => light(pressed()));
  }

  // A cell of a heat map opens its figures and samples. Texts are set as texts, never as HTML.
  const panel = document.getElementById("panel");
  const body = document.getElementById("panel-body");
  const contents = new Map();
  function contentOf(anchor) {
    if (!contents.has(anchor)) {
      const script = [...document.querySelectorAll("script[data-of]")].find((one) => one.dataset.of === anchor);
      contents.set(anchor, JSON.parse(script.textContent));
    }
    return contents.get(anchor);
  }
  function add(kind, text, parent = body) {
    const made = document.createElement(kind);
    made.textContent = text;
    parent.append(made);
    return made;
  }
  function list(title, samples, total, unit) {
    if (!samples.length) return;
    add("h4", title);
    const shown = add("div", "");
    shown.className = "samples";
    for (const [index, weight] of samples) {
      const chip = add("span", `${index} `, shown);
      if (unit) add("small", unit(weight), chip);
    }
    if (total > samples.length) add("p", `the first ${samples.length}, the most affected first`);
  }
  function open(cell) {
    const data = contentOf(cell.closest("article").id);
    const [metric, method, combination] = cell.dataset.cell.split(".").map(Number);
    document.getElementById("panel-title").textContent = `${data.methods[method]}, ${data.combinations[combination]}`;
    body.replaceChildren();
    const pictures = [];
    for (const [seed, value, n, low, high] of data.figures[cell.dataset.cell] || []) {
      const ends = low === undefined ? "" : ` [${low}, ${high}]`;
      add("p", `${data.metrics[metric]} ${value}${ends}, seed ${seed}, n = ${n}`);
    }
    for (const picture of cell.closest("article").querySelectorAll(`[data-picture="${combination}"]`)) {
      const copy = picture.cloneNode();
      copy.loading = "eager";
      pictures.push(copy);
    }
    const found = data.samples[`${method}.${combination}`];
    if (!found) {
      add("p", "The sweep has no statistics of single samples for this cell.");
      body.append(...pictures);
      panel.showModal();
      return;
    }
    const seeds = found.seeds > 1 ? `, mean over ${found.seeds} seeds` : "";
    const often = found.seeds > 1 ? (count) => `${count}/${found.seeds}` : null;
    const signed = (value) => (value > 0 ? `${value}` : "");
    const unit = data.kind === "right" ? often : signed;
    if (found.against) {
      const words = { right: ["Lost: right there, wrong here", "Gained: wrong there, right here"],
        iou: ["Lost: mean IoU falls by", "Gained: mean IoU rises by"],
        error: ["Lost: absolute error grows by", "Gained: absolute error shrinks by"] }[data.kind];
      add("p", `Compared with ${found.against} on ${found.n} samples: ${found.lost} lost, ${found.gained} gained${seeds}.`);
      list(`${words[0]} (sample index)`, found.lost_samples, found.lost, unit);
      list(`${words[1]} (sample index)`, found.gained_samples, found.gained, unit);
    } else if (data.kind === "right") {
      add("p", `${found.lost} of ${found.n} samples are wrong${seeds}.`);
      list("Wrong (sample index)", found.lost_samples, found.lost, unit);
    } else {
      list(data.kind === "iou" ? "Lowest mean IoU (sample index)" : "Largest absolute error (sample index)",
        found.lost_samples, found.lost, (value) => `${Math.abs(value)}`);
    }
    body.append(...pictures);
    panel.showModal();
  }
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-cell]");
    if (cell) open(cell);
    else if (event.target === panel) panel.close();
  });
  // #open=METRIC.METHOD.COMBINATION opens a cell of the first sweep, for links.
  const link = /^#open=(\d+\.\d+\.\d+)$/.exec(window.location.hash);
  const linked = link && document.querySelector(`[data-cell="${link[1]}"]`);
  if (linked) open(linked);
})();
