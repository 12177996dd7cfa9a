// The start of a page: its data, its files, and its renewal while a comparison runs.

function quoted(value) {
  const text = value === null || value === undefined ? "" : String(value);
  // A spreadsheet must not take a text for a formula.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csvOf({ columns, rows }) {
  return [columns, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
}

function startDownloads() {
  const place = document.getElementById("downloads");
  if (!place || !page.data.raw) return;
  const [{ raw }, { rows }] = [page.data, place.dataset]; // trainings or runs
  place.replaceChildren(
    element("button", { type: "button", onclick: () => save(`thalweg-${rows}.csv`, "text/csv", csvOf(raw)) }, `All ${rows} as CSV`),
    element("button", { type: "button", onclick: () => save("thalweg.json", "application/json", JSON.stringify(raw, null, 1)) }, "Everything as JSON"));
  place.hidden = false;
}

function startCharts() {
  page.figures = [];
  const charts = new Map(page.data.charts.map((chart) => [chart.id, chart]));
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = charts.get(figure.dataset.chart);
    if (chart) attempt(() => page.figures.push(new ChartFigure(figure, chart)));
  }
  attempt(startSearch);
  for (const figure of page.figures) attempt(() => figure.draw());
}

/** Run one part of the page; if it fails, the others go on, and the reason can be read. */
function attempt(part) {
  try {
    part();
  } catch (error) {
    console.error(error);
  }
}

function startPage() {
  startTheme();
  startCopying();
  startSorting();
  attempt(startStaticImages);
  const data = document.getElementById("page-data");
  if (!data) return;
  page.data = JSON.parse(data.textContent);
  attempt(startContenders);
  attempt(startDownloads);
  startCharts();
  updateContenders(page.hidden.size > 0);
}

function redrawOnResize() {
  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => page.figures.forEach((figure) => figure.draw()));
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
}

// --- while a comparison runs ----------------------------------------------------------------------------------------

const PAUSE_MS = 1000;
const MAX_RETRIES = 5; // each after twice the pause of the one before

/** Take over a new version of the page, and keep what the reader has chosen. */
function renew(text) {
  const next = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement?.textContent;
  const open = [...document.querySelectorAll("details")].map((details) => details.open);
  const choices = page.figures.map(({ view, scale }) => ({ view, scale }));
  document.title = next.title;
  document.querySelector("main").replaceWith(next.querySelector("main"));
  const [data, fresh] = [document.getElementById("page-data"), next.getElementById("page-data")];
  if (data && fresh) data.textContent = fresh.textContent;
  else if (fresh) document.body.append(fresh);
  page.kept = choices;
  startPage();
  document.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? details.open; });
  page.figures.forEach((figure, index) => {
    const choice = choices[index];
    if (choice?.scale && figure.chart && figure.chart.views[choice.view]) {
      [figure.view, figure.scale] = [choice.view, choice.scale];
      figure.draw();
    }
  });
  [...document.querySelectorAll("button")].find((button) => focused && button.textContent === focused)?.focus();
}

async function ask(name) {
  const answer = await fetch(name, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer;
}

function showState({ text, share }) {
  const line = document.getElementById("live");
  line.querySelector("span").textContent = text;
  const bar = line.querySelector("progress");
  bar.hidden = share === null;
  if (share !== null) bar.value = share;
}

async function follow() {
  let version = document.getElementById("live").dataset.version;
  let failures = 0;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * 2 ** failures));
    try {
      const state = await (await ask("state")).json();
      if (state.version !== version) {
        renew(await (await ask("page")).text());
        version = state.version;
      }
      failures = 0;
      showState(state);
      if (state.ended) return;
    } catch {
      failures += 1;
      if (failures > MAX_RETRIES) {
        showState({ text: "The comparison has ended, was interrupted, or does not answer. This page shows its last state.", share: null });
        return;
      }
      showState({ text: "No answer. This page tries again.", share: null });
    }
  }
}

startPage();
redrawOnResize();
if (document.getElementById("live")) follow();
