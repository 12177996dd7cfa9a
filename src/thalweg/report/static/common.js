// Parts that every page has: theme, copy, sorting, numbers and files. Nothing here asks a server for anything.

/** Format a number as Python's format_number does: three digits, a dash if there is none. */
function formatNumber(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-4 && size < 1e6) {
    const rounded = Number(value.toPrecision(digits));
    if (size >= 1000 || Math.abs(rounded) >= 1000) return Math.round(size >= 1000 ? value : rounded).toLocaleString("en-US");
    return String(rounded);
  }
  const [mantissa, power] = Number(value.toPrecision(2)).toExponential().split("e");
  return `${mantissa}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

/** Show characters that hide or reorder text as escapes. */
function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (name === "className") node.className = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// The colours of contenders, and what tells those of one turn through them from those of the next, as in charts/theme.py.
const COLOURS = 10;
const TURNS = [
  { symbol: "circle", dashes: "none" }, { symbol: "square", dashes: "8 4" },
  { symbol: "diamond", dashes: "2 4" }, { symbol: "cross", dashes: "10 4 2 4" },
];
const variableOf = (number) => `--c${number % COLOURS}`;
const colourOf = (number) => `var(${variableOf(number)})`;
const turnOf = (number) => Math.floor(number / COLOURS) % TURNS.length;
const swatchOf = (number) => element("span", { className: `swatch turn-${turnOf(number)}`, style: `background: ${colourOf(number)}` });

/** Return the path of the symbol of a number, around the origin. */
function symbolPath(number, size) {
  const { symbol } = TURNS[turnOf(number)];
  return d3.symbol(d3[`symbol${symbol[0].toUpperCase()}${symbol.slice(1)}`], size)();
}

/** Read a text to users of a screen reader. */
function announce(text) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}

function save(name, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  announce(`${name} was saved`);
}

function startTheme() {
  const control = document.querySelector(".theme");
  if (!control) return;
  control.hidden = false;
  const select = control.querySelector("select");
  select.value = document.documentElement.dataset.theme || "auto";
  select.addEventListener("change", () => {
    if (select.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = select.value;
  });
}

function startCopying() {
  for (const button of document.querySelectorAll(".copy")) {
    const code = button.nextElementSibling;
    button.hidden = false;
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent.trim());
      } catch (error) {
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      announce("Copied");
    });
  }
}

// --- tables ---------------------------------------------------------------------------------------------------------

function cellValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text : number;
}

/** Sort the rows of a table; a cell without a value comes last either way. */
function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const missing = (value) => value === "" || value === "–";
  const rows = [...body.rows].sort((first, second) => {
    const [a, b] = [cellValue(first, column), cellValue(second, column)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return descending ? -order : order;
  });
  body.append(...rows);
  table.querySelectorAll("thead th").forEach((head, index) => {
    if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", index === column ? (descending ? "descending" : "ascending") : "none");
  });
  announce(`Sorted by ${table.tHead.rows[0].cells[column].textContent.trim()}, ${descending ? "largest" : "smallest"} first`);
}

function startSorting() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const select = element("select", { "aria-label": "Sort the table by" });
    select.append(element("option", { value: "-1" }, "the order of the report"));
    const order = [...table.tBodies[0].rows];
    heads.forEach((head, column) => {
      const label = head.textContent.trim();
      head.setAttribute("aria-sort", "none");
      const button = element("button", { type: "button", className: "sort" }, ...head.childNodes);
      button.addEventListener("click", () => sortTable(table, column, head.getAttribute("aria-sort") === "ascending"));
      head.append(button);
      for (const [suffix, name] of [["", "smallest first"], ["d", "largest first"]])
        select.append(element("option", { value: `${column}${suffix}` }, `${label}, ${name}`));
    });
    select.addEventListener("change", () => {
      if (select.value === "-1") table.tBodies[0].append(...order);
      else sortTable(table, parseInt(select.value), select.value.endsWith("d"));
    });
    const sorter = element("p", { className: "sorter" }, "Sort by ", select);
    (table.closest(".scroll") || table).before(sorter);
  }
}

// --- images ---------------------------------------------------------------------------------------------------------

/** Return a chart as a file of its own: with its colours instead of those of the page, its title and its legend. */
function standaloneSvg(svg, title, legend) {
  const root = getComputedStyle(document.documentElement);
  const colour = (name) => root.getPropertyValue(name).trim();
  const box = svg.getBoundingClientRect();
  const [width, height] = [Math.round(box.width), Math.round(box.height)];
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, index) => {
    const style = getComputedStyle(originals[index]);
    for (const name of ["fill", "stroke", "color", "font-size", "opacity", "font-weight"]) node.style[name] = style[name];
  });
  copy.querySelectorAll("style").forEach((node) => node.remove());
  const space = "http://www.w3.org/2000/svg";
  const whole = document.createElementNS(space, "svg");
  const head = 34, foot = legend.length ? 14 + 20 * Math.ceil(legend.length / 3) : 8;
  const total = height + head + foot;
  whole.setAttribute("xmlns", space);
  for (const [name, value] of [["width", width + 24], ["height", total], ["viewBox", `0 0 ${width + 24} ${total}`], ["font-family", "system-ui, sans-serif"]]) whole.setAttribute(name, value);
  const add = (tag, attributes, text = "") => {
    const node = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    whole.append(node);
  };
  add("rect", { width: "100%", height: "100%", fill: colour("--card") });
  add("text", { x: 12, y: 22, fill: colour("--ink"), "font-size": 14, "font-weight": 600 }, title);
  copy.setAttribute("x", 12);
  copy.setAttribute("y", head);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  whole.append(copy);
  legend.forEach(({ name, colour: number }, index) => {
    const [x, y] = [12 + (index % 3) * (width / 3), head + height + 16 + 20 * Math.floor(index / 3)];
    add("path", { d: symbolPath(number, 80), transform: `translate(${x + 5},${y - 4})`, fill: colour(variableOf(number)) });
    add("text", { x: x + 15, y, fill: colour("--ink"), "font-size": 12 }, name);
  });
  return { text: new XMLSerializer().serializeToString(whole), width: width + 24, height: total };
}

function saveSvg(svg, name, title, legend) {
  save(`${name}.svg`, "image/svg+xml", standaloneSvg(svg, title, legend).text);
}

async function savePng(svg, name, title, legend) {
  const { text, width, height } = standaloneSvg(svg, title, legend);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = element("canvas", { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
  canvas.toBlob((blob) => save(`${name}.png`, "image/png", blob));
}

/** Add buttons that save an image of a chart which matplotlib drew. */
function startStaticImages() {
  document.querySelectorAll("figure:not([data-chart])").forEach((figure, index) => {
    const svg = figure.querySelector("svg");
    if (!svg) return;
    const [name, title] = [`chart-${index + 1}`, svg.getAttribute("aria-label").slice(0, 80)];
    figure.append(imageButtons(() => svg, name, title, () => []));
  });
}

function imageButtons(svg, name, title, legend) {
  return element("div", { className: "tools" },
    element("button", { type: "button", "aria-label": `Save ${title} as PNG`, onclick: () => savePng(svg(), name, title, legend()) }, "PNG"),
    element("button", { type: "button", "aria-label": `Save ${title} as SVG`, onclick: () => saveSvg(svg(), name, title, legend()) }, "SVG"));
}
