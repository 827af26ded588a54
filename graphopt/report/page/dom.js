// Elements are made here and nowhere else; text comes in as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const h = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

function human(value, units, base) {
  let size = value, unit = 0;
  while (Math.abs(size) >= base && unit < units.length - 1) {
    size /= base;
    unit += 1;
  }
  const digits = unit === 0 && Number.isInteger(size) ? 0 : size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${size.toFixed(digits)} ${units[unit]}`.trimEnd();
}

const bytesText = (n) => human(n, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
const flopsText = (n) => human(n, ["", "K", "M", "G", "T", "P"], 1000);
const countText = (n) => n.toLocaleString("en-US");
const timeText = (seconds) => human(seconds * 1e9, ["ns", "µs", "ms", "s"], 1000);
const plural = (n, one, many = `${one}s`) => `${countText(n)} ${n === 1 ? one : many}`;

// Fonts of the drawing, as report.css has them; text is cut where it would leave its box.
const FAMILY = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const SANS = FAMILY("--sans"), MONO = FAMILY("--mono");
const FONTS = { title: `650 14px ${SANS}`, note: `12px ${SANS}`, name: `600 12.5px ${SANS}`, leaf: `11px ${SANS}`, mono: `10.5px ${MONO}` };
const ruler = document.createElement("canvas").getContext("2d");

function textWidth(text, font) {
  ruler.font = font;
  return ruler.measureText(text).width;
}

function fitText(text, font, width) {
  if (textWidth(text, font) <= width) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (textWidth(`${text.slice(0, middle)}…`, font) <= width) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

function ranges(numbers) {
  const runs = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(", ");
}

function card(label, value, note = "") {
  return h("div", { class: "card" },
    h("div", { class: "card-label" }, label),
    h("div", { class: "card-value" }, value),
    note && h("div", { class: "card-note" }, note));
}
