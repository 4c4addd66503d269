// Sixteen int32 sums and the product they gather: four unsigned codes of a lane (x + 128) times four signed
// bytes that all lanes share. The sums are those of (code - 128): exact on every instruction set.
#pragma once
#include <cstdint>

#include "ops/isa.h"

#if defined(NARROWS_ISA_AVX2) || defined(NARROWS_ISA_AVX512VNNI)
#include <immintrin.h>
#endif

namespace narrows::NARROWS_ISA_NAMESPACE {

inline int32_t four_bytes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}

#if defined(NARROWS_ISA_AVX512VNNI)

// Bare vectors: gcc 12 keeps arrays of structs in memory, and stores every sum at every step.
using Ints = __m512i;
using CodeLine = __m512i;  // 64 codes: 16 lanes of 4
// The product is unsigned times signed, so 128 times the sum of the bytes is taken off at the start.
inline Ints start_ints(int32_t sum_of_bytes) { return _mm512_set1_epi32(-128 * sum_of_bytes); }
inline Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_ints(int32_t* p, Ints a) { _mm512_storeu_si512(p, a); }
inline CodeLine load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Ints dot4(Ints sum, CodeLine codes, const int8_t* bytes) {
  return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four_bytes(bytes)));
}

#elif defined(NARROWS_ISA_AVX2)

struct Ints {
  __m256i lo, hi;
};
// Unsigned codes up to 255 would saturate vpmaddubsw: |code - 128| meets the bytes with its sign instead.
struct CodeLine {
  __m256i lo, hi, abs_lo, abs_hi;
};
inline Ints start_ints(int32_t /*sum_of_bytes*/) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Ints load_ints(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline void store_ints(int32_t* p, Ints a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
inline CodeLine load_codes(const uint8_t* p) {
  const __m256i flip = _mm256_set1_epi8(-128);
  const __m256i lo = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), flip);
  const __m256i hi = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32)), flip);
  return {lo, hi, _mm256_abs_epi8(lo), _mm256_abs_epi8(hi)};
}
inline Ints dot4(Ints sum, CodeLine codes, const int8_t* bytes) {
  const __m256i ones = _mm256_set1_epi16(1), b = _mm256_set1_epi32(four_bytes(bytes));
  const __m256i lo = _mm256_maddubs_epi16(codes.abs_lo, _mm256_sign_epi8(b, codes.lo));
  const __m256i hi = _mm256_maddubs_epi16(codes.abs_hi, _mm256_sign_epi8(b, codes.hi));
  return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(lo, ones)),
          _mm256_add_epi32(sum.hi, _mm256_madd_epi16(hi, ones))};
}

#else

struct Ints {
  int32_t v[16];
};
struct CodeLine {
  const uint8_t* codes;
};
inline Ints start_ints(int32_t /*sum_of_bytes*/) { return {}; }
inline Ints load_ints(const int32_t* p) {
  Ints a;
  for (int i = 0; i < 16; ++i) a.v[i] = p[i];
  return a;
}
inline void store_ints(int32_t* p, Ints a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline CodeLine load_codes(const uint8_t* p) { return {p}; }
inline Ints dot4(Ints sum, CodeLine line, const int8_t* bytes) {
  for (int lane = 0; lane < 16; ++lane) {
    for (int i = 0; i < 4; ++i) sum.v[lane] += (line.codes[4 * lane + i] - 128) * bytes[i];
  }
  return sum;
}

#endif

}  // namespace narrows::NARROWS_ISA_NAMESPACE
