// Vec of 16 floats: AVX-512 F, BW, VL, DQ. Included by vec.h only, which says what the functions mean.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "ops/isa.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

using Vec = __m512;
using Mask = __mmask16;
inline constexpr int kWidth = 16;

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }  // n in 0..16

inline Vec broadcast(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_partial(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load_f16_partial(const uint16_t* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline __m256i to_f16(Vec v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void store_f16(uint16_t* p, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(v)); }
inline void store_f16_partial(uint16_t* p, Vec v, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), to_f16(v));
}

inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max_of(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min_of(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec abs_of(Vec a) { return _mm512_abs_ps(a); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return _mm512_or_ps(_mm512_and_ps(sign, _mm512_set1_ps(-0.0f)), magnitude);
}
inline Vec round_nearest(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec times_pow2(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }

inline Mask not_less(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ);
}  // true where either is NaN
inline Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
inline bool any(Mask m) { return m != 0; }
inline int first_set(Mask m) { return __builtin_ctz(m); }
inline Mask no_lanes() { return 0; }
inline Mask lanes_between(int begin, int end) {  // lanes begin <= i < end; both may lie outside of 0..16
  const int b = begin < 0 ? 0 : begin > 16 ? 16 : begin;
  const int e = end < 0 ? 0 : end > 16 ? 16 : end;
  return static_cast<Mask>(first_lanes(e) & ~first_lanes(b));
}
inline Vec select(Mask m, Vec if_set, Vec otherwise) { return _mm512_mask_blend_ps(m, otherwise, if_set); }

inline float reduce_add(Vec v) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(Vec v) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
