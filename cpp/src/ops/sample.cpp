// The passes over the vocabulary that sampled tokens need: log-sum-exp, argmax and the largest of each panel.
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int32_t kSumBlock = 1024;  // floats summed in float before they join the double total
constexpr int kLanes = 4;

// The tail of a row: lanes past the end hold `filler`.
inline Vec load_or(const float* x, int32_t left, float filler) {
  if (left >= kWidth) return load(x);
  return select(lanes_between(0, left), load_partial(x, left), broadcast(filler));
}

// Largest value, NaN passed over; -inf where there is none.
float max_value(const float* x, int32_t n) {
  Vec best[kLanes] = {broadcast(-kInfinity), broadcast(-kInfinity), broadcast(-kInfinity),
                      broadcast(-kInfinity)};
  int32_t i = 0;
  for (; i + kLanes * kWidth <= n; i += kLanes * kWidth) {
    for (int lane = 0; lane < kLanes; ++lane) best[lane] = max_of(load(x + i + lane * kWidth), best[lane]);
  }
  for (; i < n; i += kWidth) best[0] = max_of(load_or(x + i, n - i, -kInfinity), best[0]);
  return reduce_max(max_of(max_of(best[0], best[1]), max_of(best[2], best[3])));
}

bool any_nan_or_inf(const float* x, int32_t n) {
  Mask bad = no_lanes();
  const Vec limit = broadcast(kInfinity);
  for (int32_t i = 0; i < n; i += kWidth) bad = either(bad, not_less(load_or(x + i, n - i, 0.0f), limit));
  return any(bad);
}

// Sum of e^(x - max) over at most kSumBlock values.
float sum_exp(const float* x, Vec max, int32_t n) {
  Vec sums[kLanes] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  int32_t i = 0;
  for (; i + kLanes * kWidth <= n; i += kLanes * kWidth) {
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] = add(sums[lane], exp_of(sub(load(x + i + lane * kWidth), max)));
    }
  }
  for (; i < n; i += kWidth) sums[0] = add(sums[0], exp_of(sub(load_or(x + i, n - i, -kInfinity), max)));
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

}  // namespace

void log_sum_exp(const float* x, int32_t n, float* max, float* lse, bool* finite) {
  *finite = !any_nan_or_inf(x, n);
  *max = max_value(x, n);
  *lse = *max;
  if (!(*max > -kInfinity) || *max == kInfinity) return;  // nothing to sum: e^(x - max) would be NaN
  double total = 0.0;
  for (int32_t i = 0; i < n; i += kSumBlock) {
    total += static_cast<double>(sum_exp(x + i, broadcast(*max), n - i < kSumBlock ? n - i : kSumBlock));
  }
  *lse = static_cast<float>(static_cast<double>(*max) + __builtin_log(total));
}

int32_t argmax(const float* x, int32_t n) {
  const Vec best = broadcast(max_value(x, n));
  for (int32_t i = 0; i < n; i += kWidth) {
    Mask hit = equal(load_or(x + i, n - i, 0.0f), best);
    if (!any(hit)) continue;
    const int32_t found = i + first_set(hit);
    if (found < n) return found;
  }
  return 0;  // all NaN
}

void panel_max(const float* x, int32_t panels, float* best) {
  const Vec limit = broadcast(kInfinity);
  for (int32_t p = 0; p < panels; ++p, x += kPanel) {
    Vec largest = broadcast(-kInfinity);
    Mask bad = no_lanes();
    for (int32_t i = 0; i < kPanel; i += kWidth) {
      largest = max_of(load(x + i), largest);
      bad = either(bad, not_less(load(x + i), limit));
    }
    best[p] = any(bad) ? kInfinity : reduce_max(largest);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
