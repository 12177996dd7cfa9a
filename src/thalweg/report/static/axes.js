// Axes of charts: their domains, ticks and labels; and the points on them.

const [X, Y, LOW, HIGH, MARK, TRIAL] = [0, 1, 2, 3, 4, 5];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

/** The domain of an axis: the visible values inside its span, with a little air. */
function domainOf(axis, scale, values) {
  const [low, high] = axis[scale];
  if (axis.fixed) return [low, high];
  const slack = 1e-5 * Math.max(Math.abs(low), Math.abs(high)); // values are rounded to six digits
  const inside = values.filter((value) => isNumber(value) && value >= low - Math.min(slack, 1e-5 * Math.abs(low)) && value <= high + slack);
  let [from, to] = inside.length ? d3.extent(inside) : [low, high];
  if (from === to) [from, to] = scale === "log" ? [from / 1.5, to * 1.5] : [from - Math.abs(from || 1) / 10, to + Math.abs(to || 1) / 10];
  if (scale === "log") {
    const air = Math.pow(to / from, 0.04);
    return [from / air, to * air];
  }
  const air = 0.04 * (to - from);
  return [from - (from === 0 ? 0 : air), to + air];
}

/** Ticks of a logarithmic axis: powers of ten, and their double and fivefold on a short axis. */
function logTicks([low, high], count) {
  const decades = Math.log10(high / low);
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  if (decades < 0.7) return d3.ticks(low, high, count);
  const every = Math.max(1, Math.ceil(decades / count));
  const factors = decades < 1.2 ? [1, 2, 3, 5, 7] : decades < 2.4 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = first; power <= last; power += every) for (const factor of factors) ticks.push(factor * 10 ** power);
  return ticks.filter((tick) => tick >= low && tick <= high);
}

function ticksOf(domain, scale, count) {
  let ticks = scale === "log" ? logTicks(domain, count) : d3.ticks(...domain, count);
  while (ticks.length > count + 2) ticks = ticks.filter((_, index) => index % 2 === 0);
  return ticks;
}

/** Format ticks with so many digits that neighbours differ. */
function tickFormat(ticks, unit) {
  let digits = 3;
  while (digits < 12 && new Set(ticks.map((tick) => formatNumber(tick, digits))).size < ticks.length) digits += 1;
  return (tick) => formatNumber(tick, digits) + (unit === "%" ? " %" : "");
}

const withUnit = (axis) => (axis.unit && axis.unit !== "%" ? `${axis.label} (${axis.unit})` : axis.label);
const fitted = (text, width) => (text.length * 6.4 <= width ? text : `${text.slice(0, Math.max(1, Math.floor(width / 6.4) - 1))}…`);

/** Shorten a text to a width without its middle: names of modules differ at their ends. */
function fittedMiddle(text, width) {
  const count = Math.max(4, Math.floor(width / 6.4));
  return text.length <= count ? text : `${text.slice(0, Math.floor((count - 1) / 2))}…${text.slice(text.length - Math.ceil((count - 1) / 2))}`;
}

/** Move labels apart so that none covers another, and keep them between top and bottom. */
function spread(labels, top, bottom, gap = 15) {
  const sorted = [...labels].sort((a, b) => a.at - b.at);
  let last = -Infinity;
  for (const label of sorted) last = label.y = Math.max(label.at, last + gap, top);
  let next = bottom;
  for (const label of sorted.reverse()) next = (label.y = Math.min(label.y, next)) - gap;
  return labels;
}

/** Sort points by how they are marked: those without a value, beyond the axis, on it, and the chosen. */
function sorted(points, [low, high]) {
  const isLost = ({ y, mark }) => mark === "lost" || !isNumber(y);
  const [lost, shown] = [points.filter(isLost), points.filter((point) => !isLost(point))];
  const onAxis = shown.filter(({ y }) => y >= low && y <= high);
  return {
    lost, above: shown.filter(({ y }) => y > high), below: shown.filter(({ y }) => y < low),
    inside: onAxis.filter(({ mark }) => mark !== "chosen"), chosen: onAxis.filter(({ mark }) => mark === "chosen"),
  };
}

function asPoint(values) {
  const at = (index) => (isNumber(values[index]) ? values[index] : NaN);
  return { x: at(X), y: at(Y), low: at(LOW), high: at(HIGH), mark: values[MARK] ?? "", trial: values[TRIAL] ?? -1 };
}
