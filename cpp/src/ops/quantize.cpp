// Activations to int8, symmetric per (row, group), in the block layout of narrows/formats.h.
// scale = max|x| / 127, code = round-to-even(x * (127 / max|x|)). A group below 1e-36 counts as zero (127 /
// max|x| would overflow). A group with a NaN or an infinity gets scale NaN and codes 0: the outputs it feeds
// become NaN, which the sampler reports, and no float-to-int conversion is ever out of range.
#include <cstring>

#include "linear_half.h"
#include "linear_ops.h"

#if defined(NARROWS_ISA_AVX2) || defined(NARROWS_ISA_AVX512VNNI)
#include <immintrin.h>
#endif

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr float kTiny = 1e-36f;
constexpr int kMaxGroup = 128;

#if defined(NARROWS_ISA_AVX512VNNI)

/// Largest |x| as a bit pattern: as integers, infinities and NaNs order above every finite value.
uint32_t max_abs_bits(const float* x, int32_t group) {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  __m512i top = _mm512_setzero_si512();
  for (int32_t i = 0; i < group; i += 16) {
    top = _mm512_max_epi32(top, _mm512_and_si512(mask, _mm512_loadu_si512(x + i)));
  }
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(top));
}

}  // namespace

int32_t round_codes(const float* x, int32_t n, float inverse, int8_t* codes) {
  __m512i sum = _mm512_setzero_si512();
  for (int32_t i = 0; i < n; i += 16) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
    sum = _mm512_add_epi32(sum, q);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(q));
  }
  return _mm512_reduce_add_epi32(sum);
}

namespace {

#elif defined(NARROWS_ISA_AVX2)

uint32_t max_abs_bits(const float* x, int32_t group) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i top = _mm256_setzero_si256();
  for (int32_t i = 0; i < group; i += 8) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    top = _mm256_max_epi32(top, _mm256_and_si256(mask, bits));
  }
  alignas(32) uint32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), top);
  uint32_t best = 0;
  for (uint32_t bits : lane) best = bits > best ? bits : best;
  return best;
}

}  // namespace

int32_t round_codes(const float* x, int32_t n, float inverse, int8_t* codes) {
  const __m256 inv = _mm256_set1_ps(inverse);
  __m256i sum = _mm256_setzero_si256();
  for (int32_t i = 0; i < n; i += 16) {
    const __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inv));
    const __m256i q1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), inv));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(q0, q1));
    const __m128i s0 = _mm_packs_epi32(_mm256_castsi256_si128(q0), _mm256_extracti128_si256(q0, 1));
    const __m128i s1 = _mm_packs_epi32(_mm256_castsi256_si128(q1), _mm256_extracti128_si256(q1, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm_packs_epi16(s0, s1));
  }
  alignas(32) int32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), sum);
  int32_t total = 0;
  for (int32_t part : lane) total += part;
  return total;
}

namespace {

#else

uint32_t max_abs_bits(const float* x, int32_t group) {
  uint32_t best = 0;
  for (int32_t i = 0; i < group; ++i) {
    const uint32_t bits = float_bits(x[i]) & 0x7fffffffu;
    best = bits > best ? bits : best;
  }
  return best;
}

}  // namespace

int32_t round_codes(const float* x, int32_t n, float inverse, int8_t* codes) {
  constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: adding it leaves the integer, rounded to even, in the low bits
  int32_t sum = 0;
  for (int32_t i = 0; i < n; ++i) {
    const float shifted = x[i] * inverse + kMagic;
    const auto q = static_cast<int32_t>(shifted - kMagic);
    codes[i] = static_cast<int8_t>(q);
    sum += q;
  }
  return sum;
}

namespace {

#endif

/// codes[0, group) contiguous; the caller spreads them over the block.
void quantize_group(const float* x, int32_t group, int8_t* codes, float* scale, int32_t* sum) {
  const uint32_t bits = max_abs_bits(x, group);
  const float top = bits_float(bits);
  *sum = 0;
  if (bits >= 0x7f800000u || top < kTiny) {
    *scale = bits >= 0x7f800000u ? bits_float(0x7fc00000u) : 0.0f;
    std::memset(codes, 0, static_cast<size_t>(group));
    return;
  }
  *scale = top / 127.0f;
  *sum = round_codes(x, group, 127.0f / top, codes);
}

/// The same where only `left` of the group's values exist; the others count as zero.
void quantize_part(const float* x, int64_t left, int32_t group, int8_t* codes, float* scale, int32_t* sum) {
  if (left >= group) return quantize_group(x, group, codes, scale, sum);
  alignas(64) float padded[kMaxGroup] = {};
  std::memcpy(padded, x, static_cast<size_t>(left) * 4);
  quantize_group(padded, group, codes, scale, sum);
}

/// to[(8 j + i) * 4]: the four codes 4j.. of row i; an 8 x 8 transposition of dwords at a time.
void interleave_block(const int8_t (&codes)[kRowBlock][kMaxGroup], int32_t group, int8_t* to) {
#if defined(NARROWS_ISA_AVX2) || defined(NARROWS_ISA_AVX512VNNI)
  for (int32_t k = 0; k < group; k += 32, to += 256) {
    __m256i row[8], pair[8], quad[8];
    for (int i = 0; i < 8; ++i) row[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes[i] + k));
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_epi32(row[i], row[i + 1]);
      pair[i + 1] = _mm256_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      quad[i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
      quad[i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
      quad[i + 2] = _mm256_unpacklo_epi64(pair[i + 1], pair[i + 3]);
      quad[i + 3] = _mm256_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    auto* out = reinterpret_cast<__m256i*>(to);
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_si256(out + i, _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x20));
      _mm256_storeu_si256(out + i + 4, _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x31));
    }
  }
#else
  for (int32_t j = 0; j < group / 4; ++j) {
    for (int i = 0; i < kRowBlock; ++i, to += 4) std::memcpy(to, codes[i] + 4 * j, 4);
  }
#endif
}

}  // namespace

void quantize(const float* x, int64_t ld, int32_t row_begin, int32_t row_end, const Activations& a) {
  const int64_t groups = (a.k + a.group - 1) / a.group;
  const int64_t padded_k = groups * a.group;
  for (int32_t row = row_begin; row < row_end;) {
    const int32_t first = row / kRowBlock * kRowBlock, r = row - first;
    const int32_t block_rows = a.rows - first < kRowBlock ? a.rows - first : kRowBlock;
    const int32_t rows = row_end - row < block_rows - r ? row_end - row : block_rows - r;
    int8_t* block = a.codes + first * padded_k;
    for (int64_t g = 0; g < groups; ++g) {
      alignas(64) int8_t codes[kRowBlock][kMaxGroup];
      const int64_t at = first * groups + g * block_rows + r;
      for (int32_t i = 0; i < rows; ++i) {
        const float* source = x + (row + i - row_begin) * ld + g * a.group;
        quantize_part(source, a.k - g * a.group, a.group, codes[i], a.scale + at + i, a.sum + at + i);
      }
      int8_t* to = block + (g * (a.group / 4) * block_rows + r) * 4;
      if (rows == kRowBlock) {
        interleave_block(codes, a.group, to);
        continue;
      }
      for (int32_t i = 0; i < rows; ++i) {
        for (int32_t j = 0; j < a.group / 4; ++j) {
          std::memcpy(to + (int64_t{j} * block_rows + i) * 4, codes[i] + 4 * j, 4);
        }
      }
    }
    row += rows;
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
