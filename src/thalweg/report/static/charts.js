// Charts of lines, dots and intervals from the data of the page, drawn by Observable Plot.

const page = { data: null, hidden: new Set(), lit: null, trial: -1, figures: [] };
const FONT = 12;
const CROSS = { symbol: "times", r: 4.5, fill: "none", stroke: "currentColor", strokeWidth: 1.6 };
const PARTS_OF_TABLES = ":is(tr, th, td)[data-contender]";

/** Redraw or mark everything that shows contenders, after one was hidden or highlighted. */
function updateContenders(redraw) {
  for (const button of document.querySelectorAll(".contenders button[data-name]"))
    button.setAttribute("aria-pressed", String(!page.hidden.has(button.dataset.name)));
  for (const row of document.querySelectorAll(PARTS_OF_TABLES)) {
    row.classList.toggle("hidden-contender", page.hidden.has(row.dataset.contender));
    row.classList.toggle("lit", page.lit === row.dataset.contender);
  }
  for (const figure of page.figures) redraw ? figure.draw() : figure.highlight();
}

function highlightContender(name) {
  if (page.lit === name) return;
  page.lit = name;
  updateContenders(false);
}

function highlightTrial(trial) {
  if (page.trial === trial) return;
  page.trial = trial;
  for (const figure of page.figures) figure.highlight();
}

function toggleContender(name) {
  if (!page.hidden.delete(name)) page.hidden.add(name);
  announce(`${visible(name)} is ${page.hidden.has(name) ? "hidden" : "shown"}`);
  updateContenders(true);
}

function startContenders() {
  for (const list of document.querySelectorAll(".contenders")) {
    const buttons = page.data.contenders.map(({ name, colour }) => {
      const button = element("button", { type: "button", "aria-pressed": "true", "data-name": name, title: "Show or hide on all charts" }, swatchOf(colour), name);
      button.addEventListener("click", () => toggleContender(name));
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => highlightContender(name));
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => highlightContender(null));
      return element("li", {}, button);
    });
    const all = element("button", { type: "button" }, "Show all");
    all.addEventListener("click", () => { page.hidden.clear(); announce("All are shown"); updateContenders(true); });
    list.replaceChildren(...buttons, element("li", {}, all));
  }
  for (const row of document.querySelectorAll(PARTS_OF_TABLES)) {
    row.addEventListener("pointerenter", () => highlightContender(row.dataset.contender));
    row.addEventListener("pointerleave", () => highlightContender(null));
  }
}

// --- figures --------------------------------------------------------------------------------------------------------

class ChartFigure {
  constructor(figure, chart) {
    [this.figure, this.chart, this.view] = [figure, chart, 0];
    this.scale = this.axisOf(this.current).scale;
    this.plot = element("div", { className: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart" });
    this.tip = element("div", { className: "tip", hidden: true });
    this.cursor = -1;
    figure.querySelectorAll(".static").forEach((node) => node.remove());
    figure.querySelector("figcaption").after(this.plot);
    this.makeControls();
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  get current() { return this.chart.views[this.view]; }

  get hasRows() { return ["intervals", "rows"].includes(this.chart.kind); }

  axisOf(view) { return this.hasRows ? view.x : view.y; }

  makeControls() {
    const tools = element("div", { className: "tools" });
    const group = (label, entries, isOn, choose) => {
      const box = element("span", { role: "group", "aria-label": `${label}: ${this.chart.title}` });
      for (const [value, text] of entries) {
        const button = element("button", { type: "button", "aria-pressed": String(isOn(value)) }, text);
        button.addEventListener("click", () => {
          choose(value);
          [...box.children].forEach((each, index) => each.setAttribute("aria-pressed", String(isOn(entries[index][0]))));
          this.draw();
        });
        box.append(button);
      }
      tools.append(box);
    };
    if (this.chart.views.length > 1)
      group("horizontal axis", this.chart.views.map((view, index) => [index, view.name]), (index) => index === this.view, (index) => { this.view = index; });
    if (this.chart.views.some((view) => this.axisOf(view).log))
      group("scale", [["log", "log"], ["linear", "linear"]], (scale) => scale === this.scale, (scale) => { this.scale = scale; });
    const name = `thalweg-${this.chart.id}`;
    const legend = () => this.visibleSeries().map(({ name: text, colour }) => ({ name: fitted(text, this.width / 3 - 20), colour }));
    tools.append(...imageButtons(() => this.plot.querySelector("svg"), name, this.chart.title, legend).childNodes);
    this.figure.querySelector("figcaption").append(tools);
  }

  visibleSeries() { return this.current.series.filter((series) => !page.hidden.has(series.name)); }

  draw() {
    this.leave();
    this.width = Math.max(240, Math.floor(this.plot.clientWidth));
    const series = this.visibleSeries();
    this.points = [];
    const svg = this.hasRows ? this.drawRows(series) : this.drawPlane(series);
    svg.querySelectorAll("[aria-label]").forEach((node) => node.removeAttribute("aria-label")); // the whole is one image
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", this.current.alt);
    this.plot.setAttribute("aria-label", `${this.chart.title}. Arrow keys read its values.`);
    this.plot.replaceChildren(svg, this.tip);
    this.highlight();
  }

  /** Return a function that tags the elements of a mark, so that they can be coloured and highlighted. */
  tagged(series, data) {
    return (index, scales, values, dimensions, context, next) => {
      const group = next(index, scales, values, dimensions, context);
      group.classList.add("series");
      group.dataset.name = series.name;
      group.style.color = colourOf(series.colour);
      group.removeAttribute("aria-label");
      if (data && group.children.length === index.length)
        [...group.children].forEach((child, at) => { if (data[index[at]].trial >= 0) child.dataset.trial = data[index[at]].trial; });
      return group;
    };
  }

  /** Draw values in rows: of a chart of intervals every series has a row, of a chart of rows every name. */
  drawRows(series) {
    const hasIntervals = this.chart.kind === "intervals";
    const axis = this.current.x, scale = axis.log ? this.scale : "linear";
    const names = hasIntervals ? series.map(({ name }) => name) : this.current.rows;
    const left = Math.min(0.38 * this.width, 18 + 6.6 * Math.max(3, ...names.map((name) => name.length)));
    const lines = series.map((line, index) => ({ line, points: line.points.map((point) => ({ ...asPoint(point), row: hasIntervals ? index : point[X] })) }));
    const domain = domainOf(axis, scale, lines.flatMap(({ points }) => points).flatMap(({ y, low, high }) => [y, low, high]));
    const place = ({ y, mark }) => (mark === "lost" || !isNumber(y) ? this.worst(domain) : clamp(y, domain));
    const ticks = ticksOf(domain, scale, Math.max(2, Math.floor((this.width - left) / 100)));
    const marks = [Plot.gridX({ ticks, stroke: "var(--grid)", strokeOpacity: 1 })];
    const leader = hasIntervals ? lines[0]?.points[0] : null;
    if (leader && isNumber(leader.low) && isNumber(leader.high))
      marks.push(Plot.rect([leader], { x1: clamp(leader.low, domain), x2: clamp(leader.high, domain), y1: -0.5, y2: series.length - 0.5, fill: "currentColor", fillOpacity: 0.07 }));
    for (const { line, points } of lines) marks.push(...this.rowMarks(line, points, domain, place));
    const count = Math.max(1, names.length);
    const height = 58 + Math.min(count * (this.current.series.length > 1 ? 30 : 23), 660);
    const every = Math.ceil(count / 28);
    const chosen = new Set(lines.flatMap(({ points }) => points.filter(({ mark }) => mark === "chosen").map(({ row }) => row)));
    const named = d3.range(names.length).filter((row) => row % every === 0 || (chosen.size === 1 && chosen.has(row)));
    const svg = Plot.plot({
      width: this.width, height, marginLeft: left, marginRight: 16, marginTop: 8, marginBottom: 44, className: "plot-svg", style: `font-size: ${FONT}px`,
      x: { type: scale, domain, ticks, tickFormat: tickFormat(ticks, axis.unit), label: fitted(withUnit(axis), this.width - left), labelAnchor: "center", labelArrow: "none", tickSize: 0 },
      y: { type: "linear", domain: [count - 0.5, -0.5], ticks: named, tickFormat: (row) => (hasIntervals ? fitted : fittedMiddle)(names[row] ?? "", left - 14), label: null, tickSize: 0 },
      marks,
    });
    const [x, y] = [svg.scale("x"), svg.scale("y")];
    this.points = lines.flatMap(({ line, points }) => points.map((point) => ({ px: x.apply(place(point)), py: y.apply(point.row), point, series: line })));
    return svg;
  }

  rowMarks(line, points, [low, high], place) {
    const marks = [];
    const add = (data, options) => { if (data.length) marks.push(Plot.dot(data, { x: place, y: "row", fill: "currentColor", symbol: TURNS[turnOf(line.colour)].symbol, ...options, render: this.tagged(line, data) })); };
    if (this.chart.kind === "intervals") {
      const end = (name) => (point) => clamp(isNumber(point[name]) ? point[name] : point.y, [low, high]);
      marks.push(Plot.ruleY(points, { x1: end("low"), x2: end("high"), y: "row", stroke: "currentColor", strokeWidth: 5, strokeOpacity: 0.45, strokeLinecap: "round", render: this.tagged(line) }));
    } else if (this.current.series.length === 1)
      marks.push(Plot.line(points, { x: ({ y }) => (y >= low && y <= high ? y : NaN), y: "row", stroke: "currentColor", strokeOpacity: 0.35, render: this.tagged(line) }));
    const { lost, above, below, inside, chosen } = sorted(points, [low, high]);
    const r = this.chart.kind === "intervals" ? 6 : 5;
    add(inside, { r });
    add(above, { r, symbol: "triangle", rotate: 90 });
    add(below, { r, symbol: "triangle", rotate: -90 });
    add(lost, CROSS);
    add(chosen, { r: 7, stroke: "var(--ink)", strokeWidth: 2 });
    return marks;
  }

  drawPlane(series) {
    const { x, y, vertical } = this.current;
    const scale = y.log ? this.scale : "linear";
    const isLines = this.chart.kind === "lines";
    const data = new Map(series.map((line) => [line, line.points.map(asPoint)]));
    const all = [...data.values()].flat();
    const labelled = this.current.series.length > 1 ? series.filter((line) => isLines || line.line.length) : [];
    const right = labelled.length ? Math.min(Math.max(0.3 * this.width, 96), 30 + 7 * Math.max(...labelled.map((line) => line.label.length))) : 20;
    const yDomain = domainOf(y, scale, all.map((point) => point.y));
    const xDomain = domainOf(x, x.scale, all.map((point) => point.x).concat(isLines && x.linear[0] === 0 ? [0] : [], vertical ? [vertical[0]] : []));
    const height = Math.round(Math.min(380, Math.max(260, 0.62 * this.width)));
    const yTicks = ticksOf(yDomain, scale, 6);
    const format = tickFormat(yTicks, y.unit);
    const left = 16 + 7 * Math.max(2, ...yTicks.map((tick) => format(tick).length));
    const xTicks = ticksOf(xDomain, x.scale, Math.max(2, Math.floor((this.width - left - right) / 62)));
    const marks = [Plot.gridY({ ticks: yTicks, stroke: "var(--grid)", strokeOpacity: 1 })];
    if (vertical) {
      const isNearEnd = vertical[0] > xDomain[0] + 0.6 * (xDomain[1] - xDomain[0]);
      marks.push(Plot.ruleX([vertical[0]], { stroke: "currentColor", strokeOpacity: 0.6, strokeDasharray: "4 3" }));
      marks.push(Plot.text([vertical], { x: "0", text: "1", frameAnchor: "top", textAnchor: isNearEnd ? "end" : "start", dx: isNearEnd ? -5 : 5, dy: 2, fill: "currentColor" }));
    }
    for (const [line, points] of data) marks.push(...(isLines ? this.lineMarks(line, points, yDomain, scale) : this.dotMarks(line, points, yDomain)));
    const svg = Plot.plot({
      width: this.width, height, marginLeft: left, marginRight: right, marginTop: 26, marginBottom: 42, className: "plot-svg", style: `font-size: ${FONT}px`,
      x: { type: x.scale, domain: xDomain, ticks: xTicks, tickFormat: tickFormat(xTicks, x.unit), label: fitted(withUnit(x), this.width - left - 8), labelAnchor: "center", labelArrow: "none", tickSize: 4 },
      y: { type: scale, domain: yDomain, ticks: yTicks, tickFormat: format, label: fitted(withUnit(y), this.width - 20), labelArrow: "none", tickSize: 0 },
      marks,
    });
    const [sx, sy] = [svg.scale("x"), svg.scale("y")];
    for (const [line, points] of data)
      for (const point of points) {
        if (!isNumber(point.x) || (point.mark !== "lost" && !isNumber(point.y))) continue;
        const value = isNumber(point.y) && point.mark !== "lost" ? Math.min(yDomain[1], Math.max(yDomain[0], point.y)) : this.worst(yDomain);
        this.points.push({ px: sx.apply(point.x), py: sy.apply(value), point, series: line });
      }
    this.labelEnds(svg, labelled, sx, sy, yDomain, right, height);
    return svg;
  }

  worst(domain) { return this.chart.maximize ? domain[0] : domain[1]; }

  lineMarks(series, points, domain, scale) {
    const marks = [];
    const render = this.tagged(series);
    const curve = this.chart.step ? "step-after" : "linear";
    const value = ({ y }) => (scale === "log" && y <= 0 ? NaN : y); // a logarithm has no place for it
    if (points.some((point) => isNumber(point.low)))
      marks.push(Plot.areaY(points, { x: "x", y1: "low", y2: "high", fill: "currentColor", fillOpacity: 0.15, clip: true, curve, render, defined: (value) => isNumber(value) }));
    marks.push(Plot.line(points, { x: "x", y: value, stroke: "currentColor", strokeWidth: 2, strokeDasharray: TURNS[turnOf(series.colour)].dashes, clip: true, curve, render }));
    const alone = points.filter((point) => isNumber(value(point)));
    if (alone.length === 1) marks.push(Plot.dot(alone, { x: "x", y: "y", r: 3.5, fill: "currentColor", clip: true, render }));
    const { lost } = sorted(points.filter(({ mark }) => mark === "lost"), domain);
    if (lost.length) marks.push(Plot.dot(lost, { x: "x", y: this.worst(domain), fill: "none", stroke: "currentColor", ...CROSS, render }));
    return marks;
  }

  dotMarks(series, points, [low, high]) {
    const { lost, above, below, inside, chosen } = sorted(points, [low, high]);
    const options = (data, more) => ({ x: "x", y: "y", fill: "currentColor", r: 3.5, fillOpacity: 0.7, symbol: TURNS[turnOf(series.colour)].symbol, ...more, render: this.tagged(series, data) });
    const marks = [];
    if (series.line.length > 1)
      marks.push(Plot.line(series.line.map(asPoint), { x: "x", y: "y", stroke: "currentColor", strokeWidth: 1.6, strokeOpacity: 0.7, strokeDasharray: TURNS[turnOf(series.colour)].dashes, clip: true, render: this.tagged(series) }));
    if (inside.length) marks.push(Plot.dot(inside, options(inside)));
    if (above.length) marks.push(Plot.dot(above, options(above, { y: high, symbol: "triangle", r: 4.5 })));
    if (below.length) marks.push(Plot.dot(below, options(below, { y: low, symbol: "triangle", rotate: 180, r: 4.5 })));
    if (lost.length) marks.push(Plot.dot(lost, options(lost, { y: this.worst([low, high]), ...CROSS })));
    if (chosen.length) marks.push(Plot.dot(chosen, options(chosen, { r: 6.5, fillOpacity: 1, stroke: "var(--ink)", strokeWidth: 2 })));
    return marks;
  }

  /** Write the name of each line at its end, moved apart, in the order of the table. */
  labelEnds(svg, labelled, sx, sy, domain, right, height) {
    const ends = labelled.map((line) => {
      const points = (this.chart.kind === "lines" ? line.points : line.line).map(asPoint).filter(({ y }) => isNumber(y));
      const last = points[points.length - 1];
      if (!last) return null;
      const at = sy.apply(Math.min(domain[1], Math.max(domain[0], last.y)));
      return { line, at, from: sx.apply(last.x), y: at };
    }).filter(Boolean);
    spread(ends, 30, height - 44);
    const x = this.width - right + 12;
    const group = d3.select(svg).append("g").attr("class", "end");
    for (const { line, at, from, y } of ends) {
      const entry = group.append("g").attr("class", "series").attr("data-name", line.name).style("color", colourOf(line.colour));
      entry.append("path").attr("d", `M${from + 2},${at}L${x - 3},${y}`).attr("stroke", "currentColor").attr("stroke-opacity", 0.6).attr("fill", "none");
      entry.append("path").attr("d", symbolPath(line.colour, 40)).attr("transform", `translate(${x},${y})`).attr("fill", "currentColor");
      entry.append("text").attr("x", x + 7).attr("y", y).attr("dy", "0.34em").attr("text-anchor", "start").text(fitted(line.label, right - 20));
    }
  }

  // --- highlights and values ----------------------------------------------------------------------------------------

  highlight() {
    const svg = this.plot.querySelector("svg");
    if (!svg) return;
    const isHere = this.current.series.some(({ name }) => name === page.lit);
    for (const group of svg.querySelectorAll(".series")) group.classList.toggle("dim", isHere && group.dataset.name !== page.lit);
    svg.querySelectorAll(".ring").forEach((ring) => ring.remove());
    const linked = page.trial >= 0 ? this.points.filter(({ point }) => point.trial === page.trial) : [];
    const own = this.cursor >= 0 ? [this.points[this.cursor]] : [];
    for (const { px, py } of [...linked, ...own].filter(Boolean))
      d3.select(svg).append("circle").attr("class", "ring").attr("cx", px).attr("cy", py).attr("r", 8).attr("fill", "none").attr("stroke", "var(--ink)").attr("stroke-width", 2);
  }

  point(event) {
    const svg = this.plot.querySelector("svg");
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    // In a row the distance across counts first, so that a value can be read from anywhere on its row.
    const distance = ({ px, py }) => (this.chart.kind === "rows" ? 1e4 * Math.abs(py - y) + Math.abs(px - x) : Math.hypot(px - x, py - y));
    const nearest = d3.leastIndex(this.points, (a, b) => distance(a) - distance(b));
    if (nearest === undefined || nearest < 0) return;
    if (this.chart.kind === "rows") return this.show(nearest);
    const { px, py } = this.points[nearest];
    const reach = this.chart.kind === "dots" ? 28 : 70;
    if (Math.hypot(px - x, this.chart.kind === "intervals" ? 0 : py - y) > reach * (event.pointerType === "touch" ? 2 : 1)) this.leave();
    else this.show(nearest);
  }

  key(event) {
    const [across, down] = [{ ArrowRight: 1, ArrowLeft: -1 }[event.key], { ArrowDown: 1, ArrowUp: -1 }[event.key]];
    const isInRows = this.chart.kind === "rows"; // there a series goes down
    const [step, turn] = isInRows ? [down, across] : [across, down];
    const along = isInRows ? "py" : "px";
    if (event.key === "Escape") return this.leave();
    if ((step === undefined && turn === undefined) || !this.points.length) return;
    event.preventDefault();
    const names = [...new Set(this.points.map(({ series }) => series.name))];
    const here = this.points[this.cursor] ?? null;
    let name = here ? here.series.name : names[0];
    if (here && turn) name = names[(names.indexOf(name) + turn + names.length) % names.length];
    const own = this.points.map((point, index) => [point, index]).filter(([point]) => point.series.name === name).sort(([a], [b]) => a[along] - b[along]);
    let place = here ? d3.leastIndex(own, ([a], [b]) => Math.abs(a[along] - here[along]) - Math.abs(b[along] - here[along])) : -1;
    if (here && this.chart.kind !== "intervals" && step) place = own.findIndex(([, index]) => index === this.cursor) + step;
    else if (here && step) return this.key({ key: step > 0 ? "ArrowDown" : "ArrowUp", preventDefault() {} });
    this.show(own[Math.min(own.length - 1, Math.max(0, place))][1], true);
  }

  show(index, aloud = false) {
    this.cursor = index;
    const { px, py, point, series } = this.points[index];
    page.trial = point.trial;
    page.lit = series.name;
    updateContenders(false);
    const lines = this.textOf(point, series);
    this.tip.replaceChildren(element("b", {}, lines[0]), ...lines.slice(1).map((text) => (text instanceof Node ? text : element("span", {}, text))));
    this.tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const left = px + 14 + width > this.plot.clientWidth ? px - width - 14 : px + 14;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.plot.clientWidth - width))}px`;
    this.tip.style.top = `${Math.max(0, py - height - 10 < 0 ? py + 14 : py - height - 10)}px`;
    if (aloud) announce([...this.tip.children].map((child) => child.textContent).join(", "));
  }

  textOf(point, series) {
    const { x, y } = this.current;
    const unit = (axis, value) => formatNumber(value, 4) + (axis.unit ? ` ${axis.unit}` : "");
    const valueOf = (axis, { y: value, mark }) => (mark === "lost" ? "no finite value" : unit(axis, value));
    if (this.chart.kind === "intervals") {
      const ends = isNumber(point.low) && isNumber(point.high) ? [`95 % interval: ${formatNumber(point.low, 4)} – ${formatNumber(point.high, 4)}`] : [];
      return [series.name, `${x.label}: ${unit(x, point.y)}`, ...ends];
    }
    if (this.chart.kind === "rows") {
      const values = this.visibleSeries().map((line) => {
        const here = line.points.map(asPoint).find((each) => each.x === point.x);
        return here && element(line.name === series.name ? "b" : "span", {}, swatchOf(line.colour), `${line.name}: ${valueOf(x, here)}`);
      });
      return [`${this.current.rows[point.x]}, ${x.label}`, ...values.filter(Boolean)];
    }
    if (this.chart.kind === "lines") {
      const values = this.visibleSeries().map((line) => {
        const near = d3.least(line.points.map(asPoint), (each) => Math.abs(each.x - point.x));
        const text = element(line.name === series.name ? "b" : "span", {}, swatchOf(line.colour), `${line.name}: ${near ? valueOf(y, near) : "–"}`);
        if (isNumber(near?.low) && isNumber(near?.high) && line.name === series.name) text.append(` (${formatNumber(near.low)} – ${formatNumber(near.high)})`);
        return text;
      });
      return [`${x.label}: ${unit(x, point.x)}`, ...values];
    }
    const lost = point.mark === "lost" || !isNumber(point.y);
    return [series.name, `${y.label}: ${lost ? "none, the training was lost" : unit(y, point.y)}`, `${x.label}: ${unit(x, point.x)}`, ...trialLines(point.trial)];
  }

  leave() {
    this.tip.hidden = true;
    if (this.cursor < 0) return;
    this.cursor = -1;
    page.trial = -1;
    page.lit = null;
    updateContenders(false);
  }
}

/** The settings of a training, as lines of a tooltip. */
function trialLines(trial) {
  const row = page.data.raw?.rows?.[trial];
  if (!row) return [];
  const value = (name) => row[page.data.raw.columns.indexOf(name)];
  const settings = page.data.raw.columns.map((name, index) => [name, row[index]])
    .filter(([name, entry]) => name.startsWith("settings.") && name !== "settings.lr" && entry !== null)
    .map(([name, entry]) => `${visible(name.slice(9)).slice(0, 40)}: ${isNumber(entry) ? formatNumber(entry, 4) : visible(entry)}`);
  return [...settings.slice(0, 8), `seed ${value("seed")}, ${formatNumber(value("seconds"))} s`];
}
