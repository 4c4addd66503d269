// One linear layer over the threads: units of panels from the stage queues, and what happens to finished
// tiles.
#include <algorithm>
#include <cstring>

#include "transformer_step.h"

namespace narrows {
namespace {

constexpr int32_t kDirectRows = 16;  // up to here rows are written straight to a wide enough destination

/// Rows [rows.begin, rows.end) of `a`; begin is a multiple of kRowBlock, and so is end or it is the last row.
Activations slice(const PackedMatrix& w, Activations a, RowRange rows) {
  a.rows = rows.end - rows.begin;
  if (a.f32 != nullptr) a.f32 += rows.begin * a.ld;
  if (a.group > 0) {
    a.codes += rows.begin * w.padded_k();
    a.scale += rows.begin * w.groups();
    a.sum += rows.begin * w.groups();
  }
  return a;
}

constexpr int64_t kAheadBytes =
    96 * 1024;                       // of a slice that is fetched during a barrier; L2 is 256 KiB or more
constexpr int kAheadLines = 32;      // in flight while the inputs are prepared
constexpr int32_t kStreamRows = 16;  // more rows: the multipliers are the limit, not the memory

}  // namespace

int32_t unit_panels(int32_t panels, int threads, bool pairs) {
  if (panels < 4 * kTilePanels * threads) return 2;
  return pairs ? kTilePanels : kTilePanels / 2;
}

void StepWorker::barrier_before(const NextLinear& next) {
  if (rows_ > kStreamRows) return barrier();
  const PackedMatrix& w = next.linear.w;
  const int32_t unit = unit_panels(w.panels(), threads_, next.pairs);
  const int32_t units = (w.panels() + unit - 1) / unit;
  const int64_t first = std::min(w.panels(), c_.queues.first_unit(thread_, units) * unit) * w.panel_bytes();
  const int64_t left = w.bytes() - first;
  Ahead ahead{w.data + first, w.data + first + std::min(left, kAheadBytes)};
  c_.pool.barrier(&ahead);
  ahead.fetch(kAheadLines);
}

void StepWorker::linear(const Linear& linear, const Activations& input, const Epilogue& epilogue) {
  this->linear(linear, input, epilogue, {0, linear.w.panels()});
}

void StepWorker::linear(const Linear& linear, const Activations& input, const Epilogue& epilogue,
                        PanelRange panels) {
  const int32_t count = panels.end - panels.begin;
  const int32_t unit = unit_panels(count, threads_, epilogue.kind == Epilogue::Kind::gate);
  const Take how = input.rows <= kStreamRows ? Take::half : Take::single;
  share_units((count + unit - 1) / unit, how, [&](UnitRange u) {
    linear_panels(linear, input, epilogue, panels.begin + u.begin * unit,
                  std::min(panels.end, panels.begin + u.end * unit));
  });
}

void StepWorker::linear_panels(const Linear& linear, const Activations& input, const Epilogue& epilogue,
                               int32_t begin, int32_t end) {
  const int32_t block_rows = std::min(input.rows, kTileRows);
  const int32_t step = kTileFloats / (block_rows * kPanel) / kTilePanels * kTilePanels;
  const bool direct = epilogue.kind == Epilogue::Kind::store && linear.bias == nullptr &&
                      input.rows <= kDirectRows && epilogue.ld >= int64_t{linear.w.panels()} * kPanel;
  for (int32_t p = begin; p < end; p += step) {
    const int32_t p_end = std::min(end, p + step);
    const int64_t ld = int64_t{p_end - p} * kPanel;
    for (int32_t row = 0; row < input.rows; row += kTileRows) {
      const RowRange rows{row, std::min(input.rows, row + kTileRows)};
      const Activations a = slice(linear.w, input, rows);
      if (direct) {
        c_.kernels.linear(linear.w, p, p_end, a, epilogue.dst + int64_t{p} * kPanel, epilogue.ld,
                          mine_.linear);
        continue;
      }
      c_.kernels.linear(linear.w, p, p_end, a, mine_.tile, ld, mine_.linear);
      if (epilogue.kind == Epilogue::Kind::gate) {
        finish_gate(linear, epilogue, rows, p, p_end);
      } else {
        finish_tile(linear, epilogue, rows, p, p_end);
      }
    }
  }
}

void StepWorker::finish_tile(const Linear& linear, const Epilogue& e, RowRange rows, int32_t panel_begin,
                             int32_t panel_end) {
  const int32_t width = (panel_end - panel_begin) * kPanel;
  const int64_t column = int64_t{panel_begin} * kPanel;
  const int32_t count = static_cast<int32_t>(std::min<int64_t>(width, e.columns - column));
  for (int32_t row = rows.begin; row < rows.end; ++row) {
    float* y = mine_.tile + int64_t{row - rows.begin} * width;
    float* dst = e.dst + row * e.ld + column;
    if (linear.bias != nullptr) c_.kernels.add(y, linear.bias + column, count);
    switch (e.kind) {
      case Epilogue::Kind::add_both:
        c_.kernels.add(y, e.other + row * e.ld + column, count);
        c_.kernels.add(dst, y, count);
        break;
      case Epilogue::Kind::add: c_.kernels.add(dst, y, count); break;
      case Epilogue::Kind::activate:
        // Whole panels: an element's value may not depend on where a vector loop ends.
        c_.kernels.activate(e.activation, y, width);
        std::memcpy(dst, y, count * sizeof(float));
        break;
      case Epilogue::Kind::store:
      case Epilogue::Kind::gate: std::memcpy(dst, y, count * sizeof(float)); break;
    }
  }
}

void StepWorker::finish_gate(const Linear& linear, const Epilogue& e, RowRange rows, int32_t panel_begin,
                             int32_t panel_end) {
  const int32_t pairs = (panel_end - panel_begin) / 2;
  const int64_t width = int64_t{panel_end - panel_begin} * kPanel;
  for (int32_t row = rows.begin; row < rows.end; ++row) {
    float* y = mine_.tile + (row - rows.begin) * width;
    if (linear.bias != nullptr) c_.kernels.add(y, linear.bias + int64_t{panel_begin} * kPanel, width);
    // Whole panels: rows of dst are padded to 16 columns.
    c_.kernels.activate_gated(e.activation, y, e.dst + row * e.ld + int64_t{panel_begin} / 2 * kPanel, pairs);
  }
}

}  // namespace narrows
