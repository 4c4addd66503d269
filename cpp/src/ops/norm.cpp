// RMS and layer normalisation of one row. Four vectors of partial sums; the variance of layer_norm is taken
// in a second pass around the mean, so a large mean costs no digits.
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kLanes = 4;  // independent sums: hides the latency of one addition behind three others

inline float sum_lanes(const Vec* sums) {
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// Sum over i of (x[i] - centre)^2.
float sum_squares(const float* x, float centre, int32_t n) {
  Vec sums[kLanes] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  const Vec c = broadcast(centre);
  int32_t i = 0;
  for (; i + kLanes * kWidth <= n; i += kLanes * kWidth) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const Vec v = sub(load(x + i + lane * kWidth), c);
      sums[lane] = fma(v, v, sums[lane]);
    }
  }
  for (; i < n; i += kWidth) {
    const int32_t left = n - i < kWidth ? n - i : kWidth;
    const Vec v = select(lanes_between(0, left), sub(load_partial(x + i, left), c), broadcast(0.0f));
    sums[0] = fma(v, v, sums[0]);
  }
  return sum_lanes(sums);
}

float sum(const float* x, int32_t n) {
  Vec sums[kLanes] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  int32_t i = 0;
  for (; i + kLanes * kWidth <= n; i += kLanes * kWidth) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] = add(sums[lane], load(x + i + lane * kWidth));
  }
  for (; i < n; i += kWidth) sums[0] = add(sums[0], load_partial(x + i, n - i < kWidth ? n - i : kWidth));
  return sum_lanes(sums);
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, float* out, int32_t n) {
  const Vec factor = broadcast(1.0f / __builtin_sqrtf(sum_squares(x, 0.0f, n) / static_cast<float>(n) + eps));
  int32_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, mul(mul(load(x + i), factor), load(weight + i)));
  if (i < n) {
    const int32_t left = n - i;
    const Vec v = mul(mul(load_partial(x + i, left), factor), load_partial(weight + i, left));
    store_partial(out + i, v, left);
  }
}

void layer_norm(const float* x, const float* weight, const float* bias_or_null, float eps, float* out,
                int32_t n) {
  const float mean = sum(x, n) / static_cast<float>(n);
  const Vec centre = broadcast(mean);
  const Vec factor = broadcast(1.0f / __builtin_sqrtf(sum_squares(x, mean, n) / static_cast<float>(n) + eps));
  for (int32_t i = 0; i < n; i += kWidth) {
    const int32_t left = n - i < kWidth ? n - i : kWidth;
    const Vec bias = bias_or_null != nullptr ? load_partial(bias_or_null + i, left) : broadcast(0.0f);
    const Vec v = mul(sub(load_partial(x + i, left), centre), factor);
    store_partial(out + i, fma(v, load_partial(weight + i, left), bias), left);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
