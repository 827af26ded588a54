// Sizes as people read them, and text that has to fit into a drawing.

const bytesText = (n) => human(n, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
const flopsText = (n) => human(n, ["", "K", "M", "G", "T", "P"], 1000);
const timeText = (seconds) => human(seconds * 1e9, ["ns", "µs", "ms", "s"], 1000);

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
