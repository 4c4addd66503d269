// Rotary position embedding of one head, rotate-half convention: pairs (i, i + half).
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

void rope(float* head, const float* cos, const float* sin, int32_t half) {
  for (int32_t i = 0; i < half; i += kWidth) {
    const int32_t left = half - i < kWidth ? half - i : kWidth;
    const Vec a = load_partial(head + i, left);
    const Vec b = load_partial(head + half + i, left);
    const Vec c = load_partial(cos + i, left);
    const Vec s = load_partial(sin + i, left);
    store_partial(head + i, sub(mul(a, c), mul(b, s)), left);
    store_partial(head + half + i, fma(b, c, mul(a, s)), left);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
