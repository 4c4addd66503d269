// Sixteen float lanes, one per channel of a panel: one zmm, two ymm, or an array in the scalar twin.
#pragma once
#include <cstdint>

#include "isa.h"
#include "linear_half.h"
#include "narrows/formats.h"

#if !defined(NARROWS_ISA_GENERIC)
#include <immintrin.h>
#endif

namespace narrows::NARROWS_ISA_NAMESPACE {

#if defined(NARROWS_ISA_AVX512VNNI)

struct Lanes {
  __m512 v;
};
inline Lanes zero_lanes() { return {_mm512_setzero_ps()}; }
inline Lanes load_f32(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Lanes load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Lanes load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
/// a * x + c, rounded once.
inline Lanes fma(Lanes a, float x, Lanes c) { return {_mm512_fmadd_ps(a.v, _mm512_set1_ps(x), c.v)}; }
inline void store(float* out, Lanes a, int32_t lanes) {
  _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << lanes) - 1u), a.v);
}

#elif defined(NARROWS_ISA_AVX2)

struct Lanes {
  __m256 lo, hi;
};
inline Lanes zero_lanes() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m128i load_half_lanes(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline Lanes load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_half_lanes(p)), _mm256_cvtph_ps(load_half_lanes(p + 8))};
}
inline __m256 widen_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
inline Lanes load_bf16(const uint16_t* p) {
  return {widen_bf16(load_half_lanes(p)), widen_bf16(load_half_lanes(p + 8))};
}
inline Lanes fma(Lanes a, float x, Lanes c) {
  const __m256 b = _mm256_set1_ps(x);
  return {_mm256_fmadd_ps(a.lo, b, c.lo), _mm256_fmadd_ps(a.hi, b, c.hi)};
}
inline void store(float* out, Lanes a, int32_t lanes) {
  if (lanes == kPanel) {
    _mm256_storeu_ps(out, a.lo);
    _mm256_storeu_ps(out + 8, a.hi);
    return;
  }
  alignas(32) float all[kPanel];
  _mm256_store_ps(all, a.lo);
  _mm256_store_ps(all + 8, a.hi);
  for (int32_t c = 0; c < lanes; ++c) out[c] = all[c];
}

#else

struct Lanes {
  float v[kPanel];
};
inline Lanes zero_lanes() { return Lanes{}; }
inline Lanes load_f32(const float* p) {
  Lanes a;
  for (int c = 0; c < kPanel; ++c) a.v[c] = p[c];
  return a;
}
inline Lanes load_f16(const uint16_t* p) {
  Lanes a;
  for (int c = 0; c < kPanel; ++c) a.v[c] = f16_to_float(p[c]);
  return a;
}
inline Lanes load_bf16(const uint16_t* p) {
  Lanes a;
  for (int c = 0; c < kPanel; ++c) a.v[c] = bf16_to_float(p[c]);
  return a;
}
inline Lanes fma(Lanes a, float x, Lanes c) {
  for (int i = 0; i < kPanel; ++i) c.v[i] = __builtin_fmaf(a.v[i], x, c.v[i]);
  return c;
}
inline void store(float* out, Lanes a, int32_t lanes) {
  for (int32_t c = 0; c < lanes; ++c) out[c] = a.v[c];
}

#endif

}  // namespace narrows::NARROWS_ISA_NAMESPACE
