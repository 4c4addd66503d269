// The cost model of models/costs.py and models/step_time.py once more, over the coefficients of what_if.py.
// A step is a list of chunks {n, start, logits, prompt}; bytes, multiply-adds and seconds as there.
"use strict";

const FEW_ROWS = 4, WHOLE_ROWS = 16, GROUP_VECTORS = 8, INT8_VECTORS = 128, KEY_CHUNK = 256, KV_BLOCK = 16, PLANE_ROWS = 8;
const TASK_ROWS = { pages: 32, floats: 32, integers: 64, bytes: 32 };
const FLOAT_LANES = 4, SMALL_ROWS = 16, OVERLAP = 3, FLOAT_BYTES = 4;

const roundUp = (value, to) => Math.ceil(value / to) * to;
const sideBySide = (...parts) => parts.reduce((sum, part) => sum + part ** OVERLAP, 0) ** (1 / OVERLAP);

function visiblePairs(n, start, window) {
  const first = start + 1, last = start + n;
  if (!window || last <= window) return Math.floor(((first + last) * n) / 2);
  const growing = Math.max(0, window - start);
  return Math.floor(((first + window) * growing) / 2) + (n - growing) * window;
}

function tiledPairs(layer, chunk) {
  const tile = Math.max(1, Math.floor(INT8_VECTORS / Math.floor(layer.heads / layer.kv_heads)));
  const end = chunk.start + chunk.n;
  let pairs = 0;
  for (let part = chunk.start; part < end; part += TASK_ROWS.integers) {
    const partEnd = Math.min(part + TASK_ROWS.integers, end);
    for (let row = part; row < partEnd; row += tile) {
      const rowEnd = Math.min(row + tile, partEnd);
      const first = layer.window
        ? Math.floor(Math.max(0, row + 1 - layer.window) / KEY_CHUNK) * KEY_CHUNK : 0;
      pairs += (rowEnd - row) * (roundUp(rowEnd, KV_BLOCK) - first);
    }
  }
  return pairs;
}

function keysRead(chunk, window) {
  const first = window ? Math.floor(Math.max(0, chunk.start + 1 - window) / KV_BLOCK) * KV_BLOCK : 0;
  return roundUp(chunk.start + chunk.n, KV_BLOCK) - first;
}

function wayOf(layer, chunk, int8) {
  if (int8 && chunk.prompt) return "integers";
  if (layer.kv === "int8") return "bytes";
  return chunk.n * Math.floor(layer.heads / layer.kv_heads) <= GROUP_VECTORS ? "pages" : "floats";
}

function attentionOps(layer, step, int8) {
  const ops = [];
  let stages = 1 + (step.some((chunk) => chunk.n > WHOLE_ROWS) ? 1 : 0);
  for (const way of ["pages", "floats", "integers", "bytes"]) {
    const chunks = step.filter((chunk) => wayOf(layer, chunk, int8) === way);
    if (!chunks.length) continue;
    const sum = (of) => chunks.reduce((total, chunk) => total + of(chunk), 0);
    const rows = sum((chunk) => chunk.n);
    const computed = sum((chunk) =>
      way === "integers" ? tiledPairs(layer, chunk) : visiblePairs(chunk.n, chunk.start, layer.window));
    ops.push({
      group: "attention", way, rows, count: layer.count, stages,
      macs: 2 * layer.heads * layer.head_dim * computed,
      scores: layer.heads * computed,
      bytes: sum((chunk) => keysRead(chunk, layer.window)) * layer.row_bytes,
      activation: 2 * rows * (layer.heads + layer.kv_heads) * layer.head_dim * FLOAT_BYTES,
      tasks: layer.kv_heads * sum((chunk) => Math.ceil(chunk.n / TASK_ROWS[way])),
    });
    stages = 0;
  }
  return ops;
}

// All rows store keys and values; those whose logits are wanted, the last ones, attend.
function narrowedAttention(layer, step, rows, logits, int8) {
  const last = step.filter((chunk) => chunk.logits)
    .map((chunk) => ({ ...chunk, n: chunk.logits, start: chunk.start + chunk.n - chunk.logits }));
  return [{
    group: "attention", rows: rows - logits, count: layer.count, stages: 1, macs: 0, scores: 0, bytes: 0, tasks: 0,
    activation: 2 * (rows - logits) * layer.kv_heads * layer.head_dim * FLOAT_BYTES,
  }, ...(last.length ? attentionOps(layer, last, int8) : [])];
}

function stepOps(data, kind, step) {
  const what = data.kinds[kind];
  const rows = step.reduce((total, chunk) => total + chunk.n, 0);
  const logits = step.reduce((total, chunk) => total + chunk.logits, 0);
  const narrowed = logits < rows;
  const ops = [...what.linears, ...(narrowed ? what.last_narrowed : what.last_whole)].map((op) => {
    const own = op.logits_only ? logits : rows;
    return {
      ...op, rows: own, macs: op.macs * own,
      bytes: own ? (own > PLANE_ROWS && op.bytes_of_many ? op.bytes_of_many : op.bytes) : 0,
      activation: op.activation_bytes * own,
      stages: own ? (own > PLANE_ROWS && op.bytes_of_many ? op.stages_of_many : op.stages) + (own > FEW_ROWS ? 1 : 0) : 0,
    };
  });
  for (const layer of what.attention) ops.push(...attentionOps(layer, step, what.int8_attention));
  const last = what.last_attention;
  ops.push(...(narrowed ? narrowedAttention(last, step, rows, logits, what.int8_attention)
    : attentionOps(last, step, what.int8_attention)));
  ops.push({
    group: "other", count: 1, rows, stages: 1, bytes: rows * what.row_bytes,
    activation: (rows * data.frame.hidden + logits * data.frame.vocab) * FLOAT_BYTES,
  });
  return ops;
}

function nearCeilings(data, ops, steps) {
  const bytes = ops.reduce((total, op) => total + op.count * op.bytes, 0) / steps;
  const c = data.ceilings;
  const cached = Math.min(1, (c.cache_bytes / Math.max(Math.floor(bytes), 1)) ** 2);
  return {
    gb: 1 / (cached / c.cache_gb_per_s + (1 - cached) / c.dram_gb_per_s),
    peak: c.gmac_per_s * 1e9, threads: c.threads, cached,
  };
}

function opSeconds(op, near, rates) {
  let work;
  if (op.group === "attention") {
    const shared = op.bytes / (near.gb * 1e9);
    const alone = ((1 - near.cached) * op.bytes) / (rates.page_gb_per_s * near.threads * 1e9);
    const share = op.way === "pages" ? rates.attend_pages : rates.attend_floats;
    let compute = (op.macs * FLOAT_LANES) / (share * near.peak);
    if (op.way === "integers") compute = (op.macs / rates.tile + op.scores * rates.score_macs) / near.peak;
    if (op.way === "bytes") {
      compute = ((2 * op.macs) / rates.attend_bytes + op.scores * rates.byte_score_macs) / near.peak;
    }
    work = sideBySide(shared, alone, compute) + (rates.head_macs * op.activation) / near.peak;
    if (op.tasks) work *= (Math.ceil(op.tasks / near.threads) * near.threads) / op.tasks;
  } else if (op.group === "other") {
    work = (rates.logit_macs * op.activation) / near.peak;
  } else if (op.rows === 0) {
    work = 0;
  } else {
    const perRow = op.macs / op.rows;
    let compute;
    if (op.format === "p4" || op.format === "p8" || op.format === "p44") {
      const share = op.rows <= SMALL_ROWS ? rates.small : rates.tile;
      const unpack = op.format === "p8" ? 0 : rates.unpack_macs;
      const scaling = 1 + rates.group_macs / op.group_size;
      compute = (perRow * (unpack + (op.rows * scaling) / share)) / near.peak;
    } else {
      compute = (perRow * op.rows * FLOAT_LANES) / (rates.floats * near.peak);
    }
    const repeated = op.rows <= FEW_ROWS ? near.threads : 1;
    work = sideBySide(op.bytes / (rates.stream * near.gb * 1e9), compute)
      + (rates.activation_macs * op.activation * repeated) / near.peak;
  }
  return work + (near.threads > 1 ? op.stages * rates.stage_s : 0);
}

// Seconds by group of a load ("prefill", "decode", "mixed") of a setup {kind, streams, prompt, output, chunk}.
function loadSeconds(data, setup, load) {
  const steps = stepsOf(data, setup, load);
  const ops = steps.flatMap((step) => stepOps(data, setup.kind, step));
  const near = nearCeilings(data, ops, steps.length);
  const found = { outside: (data.outside_s[load] ?? data.rates.step_s) };
  if (load === "prefill") {
    const now = stepsOf(data, data.setup, "prefill").length;
    found.outside = load in data.outside_s ? (data.outside_s[load] * steps.length) / now
      : data.rates.step_s * steps.length;
  }
  for (const op of ops) {
    const scale = scaleOf(data, setup.kind, load, op) * data.kinds[setup.kind].waiting;
    found[op.group] = (found[op.group] ?? 0) + op.count * opSeconds(op, near, data.rates) * scale;
  }
  return found;
}

// Measured over predicted, where the same kernels are at work: same_kernels() of diagnose/predict.py.
function scaleOf(data, kind, load, op) {
  const now = data.kinds.now, other = data.kinds[kind];
  if (op.group === "attention" && load !== "decode" && now.int8_attention !== other.int8_attention) return 1;
  const before = now.linears.find((linear) => linear.group === op.group);
  if (before && before.format !== op.format) return 1;
  return data.scale[load][op.group] ?? 1;
}

function stepsOf(data, setup, load) {
  const size = data.setup.step_tokens, context = setup.prompt + Math.floor(setup.output / 2);
  const row = { n: 1, start: context, logits: 1, prompt: false };
  if (load === "decode") return [Array(setup.streams).fill(row)];
  if (load === "mixed") {
    const others = Math.max(1, setup.streams - 1);
    const n = Math.max(1, Math.min(setup.chunk, setup.prompt, size - others));
    const start = Math.floor((setup.prompt - n) / 2);
    return [[{ n, start, logits: 0, prompt: true }, ...Array(others).fill(row)]];
  }
  const steps = [];
  for (let at = 0; at < setup.prompt; at += size) {
    const n = Math.min(size, setup.prompt - at);
    steps.push([{ n, start: at, logits: at + size >= setup.prompt ? 1 : 0, prompt: true }]);
  }
  return steps;
}

// What a user sees where `streams` requests are always under way: compose() of diagnose/predict.py.
function figures(data, setup) {
  const total = (load) => Object.values(loadSeconds(data, setup, load)).reduce((a, b) => a + b, 0);
  const decode = total("decode") + data.host_s;
  const promptSteps = Math.ceil(setup.prompt / (setup.streams > 1 ? setup.chunk : data.setup.step_tokens));
  let reading, stall = 0, cycle, tpot = decode;
  if (setup.streams === 1) {
    reading = total("prefill") + data.host_s * promptSteps;
    cycle = reading + (setup.output - 1) * decode;
  } else {
    stall = total("mixed") + data.host_s;
    reading = promptSteps * stall;
    const left = Math.max(0, setup.output - 1 - promptSteps * (setup.streams - 1));
    cycle = setup.streams * reading + left * decode;
    if (setup.output > 1) tpot = (cycle - reading) / (setup.output - 1);
  }
  const tokens = setup.streams * roundUp(setup.prompt + setup.output, KV_BLOCK);
  return {
    ttft_s: reading + data.request_s, tpot_s: tpot, tokens_per_s: (setup.streams * setup.output) / cycle,
    memory_bytes: data.kinds[setup.kind].memory_bytes + tokens * data.kinds[setup.kind].kv_bytes_per_token, stall_s: stall,
    decode: loadSeconds(data, setup, "decode"),
  };
}
