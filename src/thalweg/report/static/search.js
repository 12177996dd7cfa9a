// The search of one contender: its settings on parallel axes, and two of them against each other.

const SVG = "http://www.w3.org/2000/svg";

/** A figure of the search; a contender is chosen for both figures at once. */
class SearchFigure {
  constructor(figure, draw, id, title) {
    [this.figure, this.drawer, this.id, this.title] = [figure, draw, id, title];
    this.plot = element("div", { className: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart" });
    this.tip = element("div", { className: "tip", hidden: true });
    this.marks = [];
    this.cursor = -1;
    const caption = figure.querySelector("figcaption");
    caption.after(this.plot);
    this.tools = element("div", { className: "tools" });
    caption.append(this.tools);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    for (const name of ["pointerleave", "blur"]) this.plot.addEventListener(name, () => this.leave());
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  addImageButtons() {
    const legend = () => [{ name: this.search.name.slice(0, 30), colour: this.search.colour }];
    this.tools.append(...imageButtons(() => this.plot.querySelector("svg"), `thalweg-${this.id}`, this.title, legend).childNodes);
  }

  draw() {
    this.cursor = -1;
    this.tip.hidden = true;
    this.search = page.data.search[page.searched];
    this.width = Math.max(240, Math.floor(this.plot.clientWidth));
    const { svg, marks, alt } = this.drawer(this.search, this.width);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", alt);
    this.marks = marks;
    this.plot.setAttribute("aria-label", `${this.title} of ${this.search.name}. Arrow keys read its settings, the best first.`);
    this.plot.replaceChildren(svg, this.tip);
    this.highlight();
  }

  highlight() {
    for (const { node, row } of this.marks) {
      const isLit = page.trial >= 0 && row[3] === page.trial;
      node.classList.toggle("lit-trial", isLit);
      node.setAttribute("stroke-width", isLit ? 4 : node.dataset.width);
      if (isLit) node.parentNode.append(node);
      node.classList.toggle("dim", page.trial >= 0 && this.marks.some((mark) => mark.row[3] === page.trial) && !isLit);
    }
  }

  point(event) {
    const box = this.plot.querySelector("svg").getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 24];
    this.marks.forEach((mark, index) => {
      const distance = Math.min(...mark.places.map(([px, py]) => Math.hypot(px - x, py - y)));
      if (distance < least) [best, least] = [index, distance];
    });
    if (best < 0) this.leave();
    else this.show(best, [x, y]);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return this.leave();
    if (!step || !this.marks.length) return;
    event.preventDefault();
    const sign = this.search.maximize ? -1 : 1;
    const worth = ({ row }) => (row[1] === null ? Infinity : sign * row[1]);
    const order = d3.range(this.marks.length).sort((a, b) => worth(this.marks[a]) - worth(this.marks[b]));
    const place = this.cursor < 0 ? 0 : Math.min(order.length - 1, Math.max(0, order.indexOf(this.cursor) + step));
    this.show(order[place], this.marks[order[place]].places.at(-1), true);
  }

  show(index, [x, y], aloud = false) {
    this.cursor = index;
    const { row } = this.marks[index];
    const value = row[1] === null ? { stopped: "stopped early", lost: "diverged or failed" }[row[2]] : formatNumber(row[1], 4);
    const lines = [`${this.search.label}: ${value}`, ...this.search.settings.map((name, at) => `${name}: ${formatNumber(row[0][at], 4)}`)];
    this.tip.replaceChildren(element("b", {}, lines[0]), ...lines.slice(1).map((text) => element("span", {}, text)));
    this.tip.hidden = false;
    const left = x + 16 + this.tip.offsetWidth > this.plot.clientWidth ? x - this.tip.offsetWidth - 16 : x + 16;
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.max(0, y - this.tip.offsetHeight - 8)}px`;
    highlightTrial(row[3]);
    if (aloud) announce(lines.join(", "));
  }

  leave() {
    this.tip.hidden = true;
    if (this.cursor < 0) return;
    this.cursor = -1;
    highlightTrial(-1);
  }
}

/** The share of trials that are better than each: 0 for the best. A trial without a value has none. */
function ranksOf({ rows, maximize }) {
  const values = rows.map((row) => row[1]).filter((value) => value !== null).sort((a, b) => (maximize ? b - a : a - b));
  return rows.map((row) => (row[1] === null ? null : values.indexOf(row[1]) / Math.max(1, values.length - 1)));
}

function axesOf(search) {
  const values = search.rows.map((row) => row[1]).filter((value) => value !== null);
  const median = d3.median(values), best = search.maximize ? d3.max(values) : d3.min(values);
  const reach = 10 * Math.abs(median - best) || 1;
  const shown = values.filter((value) => Math.abs(value - best) <= reach);
  const isLog = shown.length > 0 && d3.min(shown) > 0 && d3.max(shown) > 5 * d3.min(shown);
  const settings = search.settings.map((label, at) => ({ label, isLog: search.is_log[at], of: (row) => row[0][at], domain: d3.extent(search.rows, (row) => row[0][at]) }));
  return [...settings, { label: search.label, isLog, of: (row) => row[1], domain: shown.length ? d3.extent(shown) : [0, 1], isValue: true }];
}

function widened([low, high], isLog) {
  return low < high ? [low, high] : isLog ? [low / 2, high * 2] : [low - 1, high + 1];
}

function styleTrial(node, row, rank, width) {
  const isLost = row[1] === null, isChosen = row[2] === "chosen";
  node.dataset.width = isChosen ? 3 : width;
  node.setAttribute("stroke-width", node.dataset.width);
  node.setAttribute("stroke", isLost || rank > 0.34 ? "var(--soft)" : "currentColor");
  node.setAttribute("stroke-opacity", isChosen ? 1 : isLost ? 0.55 : rank > 0.34 ? 0.35 : 0.85);
  if (isLost) node.setAttribute("stroke-dasharray", "4 4");
  node.dataset.trial = row[3];
}

function drawParallel(search, width) {
  const axes = axesOf(search), ranks = ranksOf(search), [left, right, top] = [14, 22, 22], gap = Math.max(64, 250 / (axes.length - 1));
  const height = top + gap * (axes.length - 1) + 34;
  const svg = d3.create("svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`).style("font-size", `${FONT}px`).style("color", colourOf(search.colour));
  const scales = axes.map(({ isLog, domain }) => (isLog ? d3.scaleLog() : d3.scaleLinear()).domain(widened(domain, isLog)).range([left, width - right]).clamp(true));
  const group = svg.append("g").attr("fill", "none");
  const order = d3.range(search.rows.length).sort((a, b) => (ranks[b] ?? 2) - (ranks[a] ?? 2));
  const marks = order.map((index) => {
    const row = search.rows[index];
    const worst = search.maximize ? left : width - right;
    const places = axes.map((axis, at) => [axis.of(row) === null ? worst + (search.maximize ? -8 : 12) : scales[at](axis.of(row)), top + gap * at]);
    const node = group.append("path").attr("d", d3.line().curve(d3.curveBumpY)(places)).node();
    styleTrial(node, row, ranks[index], 1.4);
    return { node, row, places };
  });
  axes.forEach((axis, at) => {
    const y = top + gap * at;
    const axisGroup = svg.append("g").attr("transform", `translate(0,${y})`);
    axisGroup.append("line").attr("x1", left).attr("x2", width - right).attr("stroke", "var(--soft)");
    const domain = scales[at].domain(), ticks = ticksOf(domain, axis.isLog ? "log" : "linear", Math.max(2, Math.floor(width / 110)));
    const format = tickFormat(ticks, "");
    for (const tick of ticks) {
      const x = scales[at](tick);
      axisGroup.append("line").attr("x1", x).attr("x2", x).attr("y1", -3).attr("y2", 3).attr("stroke", "var(--soft)");
      halo(axisGroup.append("text").attr("x", x).attr("y", 16).attr("text-anchor", x < 30 ? "start" : x > width - 40 ? "end" : "middle").text(format(tick)));
    }
    halo(axisGroup.append("text").attr("x", left).attr("y", -8).attr("font-weight", 600).text(fitted(axis.label, width - 30)));
  });
  return { svg: svg.node(), marks, alt: altOfSearch(search) };
}

function halo(text) {
  return text.attr("stroke", "var(--card)").attr("stroke-width", 4).attr("paint-order", "stroke");
}

function altOfSearch(search) {
  const rows = search.rows.filter((row) => row[1] !== null);
  const best = d3.least(rows, (row) => (search.maximize ? -row[1] : row[1]));
  if (!best) return `${search.name}: none of ${search.rows.length} settings ended.`;
  const settings = search.settings.map((name, at) => `${name} ${formatNumber(best[0][at])}`).join(", ");
  return `${search.rows.length} settings of ${search.name}. The best, with ${search.label} ${formatNumber(best[1])}: ${settings}.`;
}

function drawScatter(search, width) {
  const axes = axesOf(search), ranks = ranksOf(search);
  const [across, up] = page.scatter.map((at) => axes[Math.min(at, axes.length - 1)]);
  const [right, top, bottom] = [16, 26, 44], height = Math.round(Math.min(360, Math.max(250, 0.62 * width)));
  const ticksUp = ticksOf(widened(up.domain, up.isLog), up.isLog ? "log" : "linear", 6), formatUp = tickFormat(ticksUp, "");
  const left = 16 + 7 * Math.max(2, ...ticksUp.map((tick) => formatUp(tick).length));
  const svg = d3.create("svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`).style("font-size", `${FONT}px`).style("color", colourOf(search.colour));
  const scale = ({ isLog, domain }, range) => (isLog ? d3.scaleLog() : d3.scaleLinear()).domain(widened(domain, isLog)).range(range).clamp(true);
  const [x, y] = [scale(across, [left + 8, width - right]), scale(up, [height - bottom - 6, top + 6])];
  for (const tick of ticksUp) {
    svg.append("line").attr("x1", left).attr("x2", width - right).attr("y1", y(tick)).attr("y2", y(tick)).attr("stroke", "var(--grid)");
    svg.append("text").attr("x", left - 6).attr("y", y(tick)).attr("dy", "0.32em").attr("text-anchor", "end").text(formatUp(tick));
  }
  const ticksAcross = ticksOf(x.domain(), across.isLog ? "log" : "linear", Math.max(2, Math.floor(width / 90))), formatAcross = tickFormat(ticksAcross, "");
  for (const tick of ticksAcross) svg.append("text").attr("x", x(tick)).attr("y", height - bottom + 16).attr("text-anchor", "middle").text(formatAcross(tick));
  svg.append("text").attr("x", (left + width) / 2).attr("y", height - 6).attr("text-anchor", "middle").text(fitted(across.label, width - left));
  svg.append("text").attr("x", 4).attr("y", 14).text(fitted(up.label, width - 10));
  const group = svg.append("g");
  const place = (axis, row, to, worst) => (axis.of(row) === null ? worst : to(axis.of(row)));
  const order = d3.range(search.rows.length).sort((a, b) => (ranks[b] ?? 2) - (ranks[a] ?? 2));
  const marks = order.map((index) => {
    const row = search.rows[index], rank = ranks[index];
    const px = place(across, row, x, search.maximize ? left + 8 : width - right), py = place(up, row, y, search.maximize ? height - bottom - 6 : top + 6);
    const node = document.createElementNS(SVG, "circle");
    group.node().append(node);
    for (const [name, value] of [["cx", px], ["cy", py], ["r", rank === null ? 4 : 4 + 5 * (1 - rank) ** 2]]) node.setAttribute(name, value);
    styleTrial(node, row, rank, 1.6);
    node.removeAttribute("stroke-dasharray");
    node.setAttribute("fill", row[1] === null ? "none" : rank > 0.34 ? "var(--soft)" : "currentColor");
    node.setAttribute("fill-opacity", 0.3);
    return { node, row, places: [[px, py]] };
  });
  return { svg: svg.node(), marks, alt: altOfSearch(search) };
}

function startSearch() {
  const [parallel, scatter] = ["search-parallel", "search-scatter"].map((id) => document.querySelector(`[data-chart="${id}"]`));
  if (!page.data.search?.length || !parallel) return;
  for (const node of document.querySelectorAll(".needs-search")) node.hidden = false;
  page.searched = Math.min(page.searched ?? 0, page.data.search.length - 1);
  page.scatter ??= null;
  const figures = [
    new SearchFigure(parallel, drawParallel, "search-parallel", "All settings on parallel axes"),
    new SearchFigure(scatter, drawScatter, "search-scatter", "Two settings against each other"),
  ];
  const chooser = element("select", { "aria-label": "Contender whose search is shown" },
    ...page.data.search.map(({ name }, index) => element("option", { value: index }, name)));
  chooser.value = String(page.searched);
  const pickers = ["horizontal axis of the settings", "vertical axis of the settings"].map((label) => element("select", { "aria-label": label }));
  const fill = (reset) => {
    const axes = axesOf(page.data.search[page.searched]);
    const last = axes.length - 1;
    const second = axes.findIndex(({ domain, isValue }, at) => at > 0 && (isValue || domain[0] < domain[1]));
    if (reset || !page.scatter) page.scatter = [0, second < 0 ? last : second];
    pickers.forEach((picker, at) => {
      picker.replaceChildren(...axes.map((axis, index) => element("option", { value: index }, axis.label)));
      picker.value = String(Math.min(page.scatter[at], last));
    });
  };
  fill(false);
  chooser.addEventListener("change", () => { page.searched = Number(chooser.value); fill(true); figures.forEach((figure) => figure.draw()); });
  pickers.forEach((picker, at) => picker.addEventListener("change", () => { page.scatter[at] = Number(picker.value); figures[1].draw(); }));
  document.getElementById("search-chooser").replaceChildren("Contender ", chooser);
  figures[1].tools.append(pickers[0], pickers[1]);
  figures.forEach((figure) => figure.addImageButtons());
  page.figures.push(...figures);
}
