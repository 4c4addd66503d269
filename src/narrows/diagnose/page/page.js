// Fills the page: the roofline, the time bars, the sliders that ask model.js again.
"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
const NEEDS = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const three = (value) => Number(value.toPrecision(3)).toLocaleString("en-US");
const seconds = (s) => s >= 1 ? `${three(s)} s` : s >= 1e-3 ? `${three(s * 1e3)} ms` : `${three(s * 1e6)} µs`;
const size = (b) => b >= 1e9 ? `${three(b / 1e9)} GB` : b >= 1e6 ? `${three(b / 1e6)} MB` : `${three(b / 1e3)} kB`;

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

// Arithmetic intensity against rate, both logarithmic: below the slope memory is the limit, below the flat peak.
function roofline() {
  const svg = NEEDS("roofline"), W = 640, H = 340, L = 62, B = 40, R = 26, T = 14;
  const peak = 2 * report.machine.gmac_per_s, slope = report.machine.gb_per_s;
  const points = report.phases.flatMap((phase) => phase.ops
    .filter((op) => op.flops > 0 && op.read_bytes > 0 && op.seconds > 0)
    .map((op) => ({ phase: phase.name, op, x: op.flops / op.read_bytes, y: op.flops / op.seconds / 1e9 })));
  if (!points.length) return;
  const xs = points.map((p) => p.x).concat(peak / slope, 1), ys = points.map((p) => p.y).concat(peak);
  const range = (values) => [10 ** Math.floor(Math.log10(Math.min(...values))), 10 ** Math.ceil(Math.log10(Math.max(...values) * 1.2))];
  const [x0, x1] = range(xs), [y0, y1] = range(ys);
  const X = (x) => L + ((Math.log10(x) - Math.log10(x0)) / Math.log10(x1 / x0)) * (W - L - R);
  const Y = (y) => H - B - ((Math.log10(y) - Math.log10(y0)) / Math.log10(y1 / y0)) * (H - B - T);
  for (let x = x0; x <= x1 * 1.001; x *= 10) {
    draw(svg, "line", { x1: X(x), x2: X(x), y1: T, y2: H - B, class: "grid" });
    draw(svg, "text", { x: X(x), y: H - B + 16, "text-anchor": "middle", class: "tick" }, three(x));
  }
  for (let y = y0; y <= y1 * 1.001; y *= 10) {
    draw(svg, "line", { x1: L, x2: W - R, y1: Y(y), y2: Y(y), class: "grid" });
    draw(svg, "text", { x: L - 6, y: Y(y) + 4, "text-anchor": "end", class: "tick" }, three(y));
  }
  const knee = peak / slope, from = Math.max(x0, y0 / slope);
  draw(svg, "polyline", { points: `${X(from)},${Y(from * slope)} ${X(knee)},${Y(peak)} ${X(x1)},${Y(peak)}`, class: "roof" });
  draw(svg, "text", { x: W - R - 4, y: Y(peak) - 6, "text-anchor": "end", class: "label" }, `${three(peak)} GOP/s ${report.machine.mac_format}`);
  draw(svg, "text", { x: X(knee) - 8, y: Y(peak) + 22, "text-anchor": "end", class: "label" }, `${three(slope)} GB/s`);
  if (report.phases.some((phase) => phase.ops.some((op) => op.flops > 0)) && report.machine.mac_format === "int8" && /^(f32|f16|bf16)/.test(report.model.weights)) {
    draw(svg, "line", { x1: X(knee / 4), x2: X(x1), y1: Y(peak / 4), y2: Y(peak / 4), class: "grid float" });
    draw(svg, "text", { x: W - R - 4, y: Y(peak / 4) - 6, "text-anchor": "end", class: "label" }, `${three(peak / 4)} GFLOP/s of float weights`);
  }
  draw(svg, "text", { x: (L + W) / 2, y: H - 6, "text-anchor": "middle", class: "tick" }, "operations per byte read");
  draw(svg, "text", { x: 12, y: H / 2, transform: `rotate(-90 12 ${H / 2})`, "text-anchor": "middle", class: "tick" }, "GOP/s");
  for (const { phase, op, x, y } of points) {
    const radius = 4 + 9 * Math.sqrt(op.share);
    const dot = draw(svg, "circle", { cx: X(x), cy: Y(y), r: radius, class: `dot ${phase}` });
    draw(dot, "title", {}, `${phase} ${op.group}: ${seconds(op.seconds)}, ${Math.round(op.fraction * 100)} % of ${op.ceiling}`);
  }
}

function bars() {
  const bars = [...document.querySelectorAll("[data-share]")];
  const scale = Math.max(...bars.map((bar) => Number(bar.dataset.share)));
  for (const bar of bars) {
    bar.style.width = `${(100 * Number(bar.dataset.share)) / scale}%`;
  }
}

const CONTEXTS = (most) => {
  const found = [];
  for (let n = 64; n < most; n *= 2) found.push(n, Math.min(most, n * 1.5));
  return [...new Set([...found.map(Math.floor), most])];
};

function whatIf() {
  const data = report.what_if;
  if (!data) { NEEDS("whatif").hidden = true; return; }
  const kinds = Object.keys(data.kinds), now = data.setup;
  const output = Math.min(now.output, Math.max(1, Math.floor(now.max_context / 4)));
  const prompts = CONTEXTS(Math.max(65, now.max_context - output)).concat(now.prompt).sort((a, b) => a - b);
  const batches = [...new Set([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, now.streams])].sort((a, b) => a - b);
  const sliders = { batch: [batches, now.streams], context: [prompts, now.prompt], bits: [kinds, "now"] };
  for (const [name, [values, at]] of Object.entries(sliders)) {
    const input = NEEDS(name);
    input.max = values.length - 1;
    input.value = values.indexOf(at);
    input.addEventListener("input", show);
  }
  const first = figures(data, { kind: "now", ...now });
  function show() {
    const chosen = Object.fromEntries(Object.entries(sliders).map(([name, [values]]) => [name, values[Number(NEEDS(name).value)]]));
    NEEDS("batch-value").textContent = chosen.batch;
    NEEDS("context-value").textContent = three(chosen.context);
    NEEDS("bits-value").textContent = chosen.bits === "now" ? `as now (${report.model.weights})` : chosen.bits;
    const setup = { ...now, kind: chosen.bits, streams: chosen.batch, prompt: chosen.context };
    const found = figures(data, setup);
    const put = (id, text, gain) => {
      NEEDS(id).textContent = text;
      NEEDS(`${id}-gain`).textContent = Math.abs(gain - 1) < 0.005 ? "as now" : `${three(gain)}× ${gain > 1 ? "better" : "of now"}`;
      NEEDS(`${id}-gain`).className = gain > 1.005 ? "better" : gain < 0.995 ? "worse" : "";
    };
    put("wi-ttft", seconds(found.ttft_s), first.ttft_s / found.ttft_s);
    put("wi-tpot", seconds(found.tpot_s), first.tpot_s / found.tpot_s);
    put("wi-rate", `${three(found.tokens_per_s)} tokens/s`, found.tokens_per_s / first.tokens_per_s);
    put("wi-memory", size(found.memory_bytes), first.memory_bytes / found.memory_bytes);
    document.body.dataset.whatIf = JSON.stringify({ ...chosen, ...found, decode: undefined });
    const step = Object.entries(found.decode).sort((a, b) => b[1] - a[1]);
    const whole = step.reduce((sum, [, s]) => sum + s, 0);
    NEEDS("wi-step").replaceChildren(...step.filter(([, s]) => s > 0.005 * whole).map(([group, s]) => {
      const part = document.createElement("span");
      part.style.flexGrow = s / whole;
      part.title = `${group}: ${seconds(s)}`;
      part.textContent = s > 0.07 * whole ? group : "";
      return part;
    }));
  }
  show();
}

roofline();
bars();
whatIf();
