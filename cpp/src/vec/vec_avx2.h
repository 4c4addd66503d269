// Vec of 8 floats: AVX2, FMA, F16C. Included by vec.h only, which says what the functions mean.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "ops/isa.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

using Vec = __m256;
using Mask = __m256;  // all bits of a lane set or none
inline constexpr int kWidth = 8;

inline __m256i lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline __m256i first_lanes(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane_numbers()); }

inline Vec broadcast(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec load_partial(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
inline void store_partial(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
inline Vec load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec load_f16_partial(const uint16_t* p, int n) {
  uint16_t lanes[8] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load_f16(lanes);
}
inline __m128i to_f16(Vec v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void store_f16(uint16_t* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16(v)); }
inline void store_f16_partial(uint16_t* p, Vec v, int n) {
  uint16_t lanes[8];
  store_f16(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max_of(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min_of(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec abs_of(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return _mm256_or_ps(_mm256_and_ps(sign, _mm256_set1_ps(-0.0f)), magnitude);
}
inline Vec round_nearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_pow2(Vec a, Vec n) {  // in two factors: n may reach 128 and -150
  const __m256i i = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(i, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

inline Mask not_less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_NLT_UQ); }
inline Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
inline int first_set(Mask m) { return __builtin_ctz(static_cast<unsigned>(_mm256_movemask_ps(m))); }
inline Mask no_lanes() { return _mm256_setzero_ps(); }
inline Mask lanes_between(int begin, int end) {
  const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane_numbers());
  return _mm256_castsi256_ps(_mm256_andnot_si256(before, first_lanes(end)));
}
inline Vec select(Mask m, Vec if_set, Vec otherwise) { return _mm256_blendv_ps(otherwise, if_set, m); }

inline float reduce_add(Vec v) {
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(Vec v) {
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
