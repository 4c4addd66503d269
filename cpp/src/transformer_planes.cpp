// The largest logits of a few rows from a head in two planes. The upper plane is read for all channels; both
// planes then only for the panels that can hold one of the logits wanted. What the upper plane leaves out of
// a logit is the sum over k of scale * (lower - 7.5) * x[k]: with signs that know nothing of x its standard
// deviation is `rest` * |x|, and a panel is passed over where a logit wanted would have to be more than
// kDeviations of them above what the upper plane says.
//
// Which panels a row takes its logits from depends on that row alone, so neither on the rows beside it nor on
// the number of threads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "transformer_step.h"

namespace narrows {
namespace {

constexpr float kDeviations = 8.0f;  // a sum of independent terms is beyond them once in 10^14
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// |x|; 0 where it is not finite, and then so are the logits.
float length(const float* x, int32_t n) {
  double sums[4] = {};
  for (int32_t i = 0; i < n; ++i) sums[i % 4] += double{x[i]} * double{x[i]};
  const auto length = static_cast<float>(std::sqrt(sums[0] + sums[1] + sums[2] + sums[3]));
  return std::isfinite(length) ? length : 0.0f;
}

/// How far the largest logit of a panel may lie above the threshold; not below 0 where it can reach it.
inline float excess(float best, float rest, float margin, float threshold) {
  return best + margin * rest - threshold;
}

}  // namespace

bool StepWorker::by_planes(size_t first, int32_t rows) const {
  if (rows > kPlaneRows) return false;
  const auto begin = c_.plan.head_rows.begin() + static_cast<std::ptrdiff_t>(first);
  return std::all_of(begin, begin + rows, [](const PlanHeadRow& row) { return row.reach > 0; });
}

/// Afterwards the logits of all panels that list_likely() or a row's seeds name are those of both planes.
void StepWorker::search_planes(size_t first, const Activations& a, PlaneSearch* search) {
  const StepBuffers& b = c_.buffers;
  search->rows = a.rows;
  for (int32_t row = 0; row < a.rows; ++row) {
    search->margin[row] = kDeviations * length(b.y + row * b.hidden_ld, a.k);
  }
  read_upper(a);
  barrier();
  // What follows every thread finds for itself, and all find the same: cheaper than one more barrier.
  for (int32_t row = 0; row < a.rows; ++row) {
    find_seeds(row, c_.plan.head_rows[first + row].reach, search);
  }
  const int32_t num_seeds = list_seeds(*search);
  read_both(a, num_seeds);
  barrier();
  for (int32_t row = 0; row < a.rows; ++row) set_threshold(row, search);
  const int32_t num_likely = list_likely(*search, num_seeds);
  if (num_likely == 0) return;
  read_both(a, num_likely);
  barrier();
}

void StepWorker::read_upper(const Activations& a) {
  const int32_t panels = c_.model.head.w.panels();
  const int32_t unit = unit_panels(panels, threads_, false);
  share_units((panels + unit - 1) / unit, Take::half, [&](UnitRange u) {
    const int32_t end = std::min(panels, u.end * unit);
    for (int32_t p = u.begin * unit; p < end; p += kTilePanels) {
      upper_panels(a, p, std::min(end, p + kTilePanels));
    }
  });
}

void StepWorker::upper_panels(const Activations& a, int32_t begin, int32_t end) {
  const Linear& head = c_.model.head;
  const StepBuffers& b = c_.buffers;
  const int32_t width = (end - begin) * kPanel;
  const int32_t count = std::min(width, head.w.n - begin * kPanel);
  c_.kernels.linear_upper(head.w, begin, end, a, mine_.tile, width, mine_.linear);
  for (int32_t row = 0; row < a.rows; ++row) {
    float* y = mine_.tile + int64_t{row} * width;
    if (head.bias != nullptr) c_.kernels.add(y, head.bias + int64_t{begin} * kPanel, count);
    std::fill(y + count, y + width, -kInfinity);
    c_.kernels.panel_max(y, end - begin, b.panel_best + row * b.panels_ld + begin);
  }
  for (int32_t p = begin; p < end; ++p) b.panel_rest[p] = head.w.rest(p);
}

/// The `wanted` panels with the largest logits, best first; of equals the lower ones.
void StepWorker::find_seeds(int32_t row, int32_t wanted, PlaneSearch* search) const {
  const float* best = c_.buffers.panel_best + row * c_.buffers.panels_ld;
  int32_t* seeds = search->seeds[row];
  int32_t found = 0;
  for (int32_t p = 0; p < c_.model.head.w.panels(); ++p) {
    if (found == wanted && !(best[p] > best[seeds[found - 1]])) continue;
    int32_t at = found < wanted ? found++ : found - 1;
    for (; at > 0 && best[p] > best[seeds[at - 1]]; --at) seeds[at] = seeds[at - 1];
    seeds[at] = p;
  }
  search->num_seeds[row] = found;
}

/// The seeds of all rows into mine_.panels; returns how many.
int32_t StepWorker::list_seeds(const PlaneSearch& search) const {
  int32_t* end = mine_.panels;
  for (int32_t row = 0; row < search.rows; ++row) {
    // Sorted as it grows: the seeds of eight rows need more room than a small head has panels.
    const int32_t* seeds = search.seeds[row];
    for (int32_t i = 0; i < search.num_seeds[row]; ++i) {
      int32_t* place = std::lower_bound(mine_.panels, end, seeds[i]);
      if (place != end && *place == seeds[i]) continue;
      std::copy_backward(place, end, end + 1);
      *place = seeds[i];
      ++end;
    }
  }
  return static_cast<int32_t>(end - mine_.panels);
}

/// A value that as many logits reach as are wanted, since each seed has one that does. It is no more than the
/// upper plane says of the seeds, so that they count as likely themselves.
void StepWorker::set_threshold(int32_t row, PlaneSearch* search) const {
  const StepBuffers& b = c_.buffers;
  float threshold = kInfinity;
  for (int32_t i = 0; i < search->num_seeds[row]; ++i) {
    const int32_t p = search->seeds[row][i];
    const float* logits = b.logits + row * b.logits_ld + int64_t{p} * kPanel;
    float exact = -kInfinity;
    for (int32_t c = 0; c < std::min(kPanel, c_.model.head.w.n - p * kPanel); ++c) {
      exact = logits[c] < kInfinity ? std::max(exact, logits[c]) : kInfinity;
      if (exact == kInfinity) break;
    }
    const float upper = b.panel_best[row * b.panels_ld + p];
    const bool finite = exact < kInfinity && upper < kInfinity;
    threshold = finite ? std::min({threshold, exact, upper}) : -kInfinity;
    if (!finite) break;
  }
  search->threshold[row] = threshold;
}

/// The panels that a row wants beside the seeds, which are in mine_.panels, into mine_.panels; returns how
/// many.
int32_t StepWorker::list_likely(const PlaneSearch& search, int32_t num_seeds) const {
  const StepBuffers& b = c_.buffers;
  const int32_t panels = c_.model.head.w.panels();
  std::fill(mine_.excess, mine_.excess + panels, -kInfinity);
  for (int32_t row = 0; row < search.rows; ++row) {
    const float *best = b.panel_best + row * b.panels_ld, *rest = b.panel_rest;
    const float margin = search.margin[row], threshold = search.threshold[row];
    float* most = mine_.excess;
    for (int32_t p = 0; p < panels; ++p) {
      const float mine = excess(best[p], rest[p], margin, threshold);
      most[p] = most[p] > mine ? most[p] : mine;
    }
  }
  for (int32_t i = 0; i < num_seeds; ++i) mine_.excess[mine_.panels[i]] = -kInfinity;
  int32_t count = 0;
  for (int32_t p = 0; p < panels; ++p) {
    mine_.panels[count] = p;
    count += mine_.excess[p] >= 0.0f;
  }
  return count;
}

/// Both planes of the first `panels` of mine_.panels, for all rows, into the logits.
void StepWorker::read_both(const Activations& a, int32_t panels) {
  const Linear& head = c_.model.head;
  const Epilogue into{.dst = c_.buffers.logits, .ld = c_.buffers.logits_ld, .columns = head.w.n};
  share_units(panels, Take::half, [&](UnitRange u) {
    for (int32_t i = u.begin; i < u.end; ++i) {
      linear_panels(head, a, into, mine_.panels[i], mine_.panels[i] + 1);
    }
  });
}

Sampled StepWorker::draw_likely(const Sampler& sampler, int32_t row, const PlaneSearch& search) const {
  const StepBuffers& b = c_.buffers;
  const PackedMatrix& w = c_.model.head.w;
  const float* best = b.panel_best + row * b.panels_ld;
  std::vector<float> logits;
  std::vector<int32_t> tokens;
  for (int32_t p = 0; p < w.panels(); ++p) {
    if (!(excess(best[p], b.panel_rest[p], search.margin[row], search.threshold[row]) >= 0.0f)) continue;
    for (int32_t token = p * kPanel; token < std::min(w.n, (p + 1) * kPanel); ++token) {
      logits.push_back(b.logits[row * b.logits_ld + token]);
      if (!(logits.back() < kInfinity)) return {};
      tokens.push_back(token);
    }
  }
  return sampler.sample_among(c_.kernels, logits.data(), tokens.data(), static_cast<int32_t>(tokens.size()));
}

}  // namespace narrows
