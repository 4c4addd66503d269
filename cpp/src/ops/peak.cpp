// The ceiling of the integer kernels: multiply-accumulates per second of one thread, registers only.
#include <chrono>

#include "peak.h"

#if defined(NARROWS_ISA_AVX512VNNI) || defined(NARROWS_ISA_AVX2)
#include <immintrin.h>
#endif

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kChains = 12;       // independent accumulators: more than latency times throughput of the instruction
constexpr int64_t kBurst = 20000;  // rounds between looks at the clock

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr int64_t kMacsPerRound = kChains * 64;
void burst() {
  __m512i acc[kChains];
  for (__m512i& a : acc) a = _mm512_setzero_si512();
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (int64_t i = 0; i < kBurst; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) asm volatile("vpdpbusd %1, %2, %0" : "+v"(acc[c]) : "v"(x), "v"(w));
  }
}
#elif defined(NARROWS_ISA_AVX2)
constexpr int64_t kMacsPerRound = kChains * 32;  // vpmaddubsw + vpaddw: what the 4-bit kernel issues per 32 products
void burst() {
  __m256i acc[kChains];
  for (__m256i& a : acc) a = _mm256_setzero_si256();
  const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5);
  for (int64_t i = 0; i < kBurst; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      __m256i t;
      asm volatile("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(acc[c]), "=&x"(t) : "x"(x), "x"(w));
    }
  }
}
#else
constexpr int64_t kMacsPerRound = kChains;
void burst() {
  volatile int32_t acc[kChains] = {};
  for (int64_t i = 0; i < kBurst; ++i) {
    for (int c = 0; c < kChains; ++c) acc[c] = acc[c] + 15;
  }
}
#endif

}  // namespace

double int8_peak(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  int64_t rounds = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    burst();
    rounds += kBurst;
    elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(rounds) * kMacsPerRound / elapsed;
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
