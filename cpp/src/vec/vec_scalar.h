// The generic twin of Vec: one lane, plain C++, any CPU. Included by vec.h only. fma rounds twice here:
// without the instruction a single rounding would be a library call per multiplication.
#pragma once
#include <cstdint>

#include "ops/isa.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

using Vec = float;
using Mask = bool;
inline constexpr int kWidth = 1;

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

/// IEEE binary16 to binary32, exact; a signalling NaN becomes quiet as the instruction does it.
inline float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t fraction = h & 0x3ffu;
  if (exponent == 31)
    return float_of(sign | 0x7f800000u | (fraction << 13) | (fraction != 0 ? 0x400000u : 0u));
  if (exponent != 0) return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return float_of(sign | bits_of(subnormal));
}

/// Round to nearest, ties to even; overflow becomes infinite.
inline uint16_t f16_of(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
  if (magnitude >= 0x477ff000u)
    return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 is the first that rounds up
  if (magnitude <
      0x38800000u) {  // below 2^-14: adding 0.5 leaves the code in the last bits, rounded by the FPU
    const uint32_t code = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | code);
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline Vec broadcast(float x) { return x; }
inline Vec load(const float* p) { return *p; }
inline void store(float* p, Vec v) { *p = v; }
inline Vec load_partial(const float* p, int n) { return n > 0 ? *p : 0.0f; }
inline void store_partial(float* p, Vec v, int n) {
  if (n > 0) *p = v;
}
inline Vec load_f16(const uint16_t* p) { return from_f16(*p); }
inline Vec load_f16_partial(const uint16_t* p, int n) { return n > 0 ? from_f16(*p) : 0.0f; }
inline void store_f16(uint16_t* p, Vec v) { *p = f16_of(v); }
inline void store_f16_partial(uint16_t* p, Vec v, int n) {
  if (n > 0) *p = f16_of(v);
}

inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max_of(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min_of(Vec a, Vec b) { return a < b ? a : b; }
inline Vec abs_of(Vec a) { return __builtin_fabsf(a); }
inline Vec copy_sign(Vec magnitude, Vec sign) { return __builtin_copysignf(magnitude, sign); }
inline Vec round_nearest(Vec a) {  // |a| < 2^22: the sum has no bits left for a fraction
  const float shift = 12582912.0f;
  return (a + shift) - shift;
}
inline Vec times_pow2(Vec a, Vec n) {  // in two factors: n may reach 128 and -150
  if (a != a) return a;
  const int i = static_cast<int>(n);
  const int half = i >> 1;
  return a * float_of(static_cast<uint32_t>(half + 127) << 23) *
         float_of(static_cast<uint32_t>(i - half + 127) << 23);
}

inline Mask not_less(Vec a, Vec b) { return !(a < b); }  // true where either is NaN
inline Mask equal(Vec a, Vec b) { return a == b; }
inline Mask either(Mask a, Mask b) { return a || b; }
inline bool any(Mask m) { return m; }
inline int first_set(Mask) { return 0; }
inline Mask no_lanes() { return false; }
inline Mask lanes_between(int begin, int end) { return begin <= 0 && end > 0; }
inline Vec select(Mask m, Vec if_set, Vec otherwise) { return m ? if_set : otherwise; }
inline float reduce_add(Vec v) { return v; }
inline float reduce_max(Vec v) { return v; }

}  // namespace narrows::NARROWS_ISA_NAMESPACE
