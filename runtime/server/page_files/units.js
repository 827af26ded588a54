// Numbers as people read them.

const DASH = "–";

function msText(ms) {
  if (ms >= 10000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

const rateText = (n) => (n >= 100 || Number.isInteger(n) ? countText(Math.round(n)) : n.toFixed(n >= 9.95 ? 1 : 2));
const shareText = (share) => `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
const bigText = (n) => human(n, ["", " K", " M", " G", " T"], 1000).replace("  ", " ");

function agoText(seconds) {
  const s = Math.floor(seconds), m = Math.floor(s / 60), hours = Math.floor(m / 60), days = Math.floor(hours / 24);
  if (days) return `${plural(days, "day")} ${hours % 24} h`;
  if (hours) return `${hours} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}
