// int8 activations times P8, P44 or P4 weights with AVX2: one panel (two ymm of 8 channels) against up to 4
// rows. P4: nibbles are u8 0..15, so vpmaddubsw gives pairs up to 2*15*127 = 3810 and eight of them fit in
// int16; they are widened every 4 lines. P8: u8 weights up to 255 would saturate, so |w| (u8) meets
// sign(w)*x: 2*128*127 fits. P44 is put together to P8 in registers; its upper plane alone goes as P4 does.
#include "linear_ops.h"
#include "stream_ahead.h"

#if defined(NARROWS_ISA_AVX2)
#include <immintrin.h>

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kRows = 4;  // rows of a register tile: 8 int16 accumulators + 4 weights + 2 broadcasts

/// Up to 4 rows of one block; four codes of row r at codes[j*stride + 4r], group g at scale[g*rows + r].
struct Rows {
  const int8_t* codes;
  const float* scale;
  const int32_t* sum;
  int64_t rows;
};

enum class Kind { p8, p4, p44, upper };  // upper: the upper plane of P44

struct Panel {
  const uint8_t* scales;
  const uint8_t* zeros;  // null: symmetric
  const uint8_t* codes;
  const uint8_t* lower;  // P44
  int64_t groups;
  int32_t lines;  // 64-byte lines of codes per group
};

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline __m256i broadcast(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

/// part[r][half] += nibbles of one line times its 8 k of every row.
template <int R>
inline void add_p4_line(const uint8_t* codes, const int8_t* a, int64_t stride, __m256i (&part)[R][2]) {
  const __m256i low = _mm256_set1_epi8(15);
  _mm_prefetch(reinterpret_cast<const char*>(codes + kStreamAhead), _MM_HINT_T0);
  const __m256i v0 = load(codes), v1 = load(codes + 32);
  const __m256i lo0 = _mm256_and_si256(v0, low), hi0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4), low);
  const __m256i lo1 = _mm256_and_si256(v1, low), hi1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4), low);
  for (int r = 0; r < R; ++r) {
    const __m256i first = broadcast(a + 4 * r);
    part[r][0] = _mm256_add_epi16(part[r][0], _mm256_maddubs_epi16(lo0, first));
    part[r][1] = _mm256_add_epi16(part[r][1], _mm256_maddubs_epi16(lo1, first));
    const __m256i second = broadcast(a + stride + 4 * r);
    part[r][0] = _mm256_add_epi16(part[r][0], _mm256_maddubs_epi16(hi0, second));
    part[r][1] = _mm256_add_epi16(part[r][1], _mm256_maddubs_epi16(hi1, second));
    // gcc 12 would compute all products first and keep them on the stack.
    if constexpr (R > 2) asm volatile("" : "+x"(part[r][0]), "+x"(part[r][1]));
  }
}

/// Four P4 lines (32 k) added to total[r][half].
template <int R>
inline void add_p4_lines(const uint8_t* codes, const int8_t* a, int64_t stride, __m256i (&total)[R][2]) {
  __m256i part[R][2];
  for (int r = 0; r < R; ++r) part[r][0] = part[r][1] = _mm256_setzero_si256();
  if constexpr (R > 2) {
#pragma GCC unroll 1
    for (int line = 0; line < 4; ++line, codes += 64, a += 2 * stride) add_p4_line<R>(codes, a, stride, part);
  } else {
    for (int line = 0; line < 4; ++line, codes += 64, a += 2 * stride) add_p4_line<R>(codes, a, stride, part);
  }
  const __m256i ones = _mm256_set1_epi16(1);
  for (int r = 0; r < R; ++r) {
    for (int half = 0; half < 2; ++half) {
      total[r][half] = _mm256_add_epi32(total[r][half], _mm256_madd_epi16(part[r][half], ones));
    }
  }
}

/// Half a line of P8 (4 k of 8 channels) added to total[r][half].
template <int R>
inline void add_p8_half(__m256i codes, const int8_t* a, int half, __m256i (&total)[R][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
  const __m256i magnitude = _mm256_abs_epi8(w);
  for (int r = 0; r < R; ++r) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(broadcast(a + 4 * r), w));
    total[r][half] = _mm256_add_epi32(total[r][half], _mm256_madd_epi16(pairs, ones));
  }
}

template <int R>
inline void add_p8_line(const uint8_t* codes, const int8_t* a, __m256i (&total)[R][2]) {
  _mm_prefetch(reinterpret_cast<const char*>(codes + kStreamAhead), _MM_HINT_T0);
  for (int half = 0; half < 2; ++half) add_p8_half<R>(load(codes + 32 * half), a, half, total);
}

/// One line of each plane of P44: two lines of P8.
template <int R>
inline void add_p44_line(const uint8_t* upper, const uint8_t* lower, const int8_t* a, int64_t stride,
                         __m256i (&total)[R][2]) {
  const __m256i low = _mm256_set1_epi8(15);
  _mm_prefetch(reinterpret_cast<const char*>(upper + kStreamAhead), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(lower + kStreamAhead), _MM_HINT_T0);
  for (int half = 0; half < 2; ++half) {
    const __m256i u = load(upper + 32 * half), l = load(lower + 32 * half);
    const __m256i first =
        _mm256_or_si256(_mm256_andnot_si256(low, _mm256_slli_epi16(u, 4)), _mm256_and_si256(low, l));
    const __m256i second =
        _mm256_or_si256(_mm256_andnot_si256(low, u), _mm256_and_si256(low, _mm256_srli_epi16(l, 4)));
    add_p8_half<R>(first, a, half, total);
    add_p8_half<R>(second, a + stride, half, total);
  }
}

/// total = -zero * sum of the activations: subtracts the zero point exactly (P8 codes are signed already).
template <Kind kKind, int R>
inline void start_group(const Panel& w, const Rows& a, int64_t g, __m256i (&total)[R][2]) {
  constexpr bool kP4 = kKind == Kind::p4;
  for (int half = 0; half < 2; ++half) {
    __m256i zero = _mm256_set1_epi32(8);
    if (kP4 && w.zeros != nullptr) {
      zero = _mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + g * 16 + 8 * half)));
    }
    for (int r = 0; r < R; ++r) {
      total[r][half] = _mm256_setzero_si256();
      if (kP4) {
        const __m256i sum = _mm256_set1_epi32(a.sum[g * a.rows + r]);
        total[r][half] = _mm256_sub_epi32(total[r][half], _mm256_mullo_epi32(zero, sum));
      }
    }
  }
}

/// Sums of upper nibbles become sums of 32 * upper - 241.
template <int R>
inline void finish_upper(const Rows& a, int64_t g, __m256i (&total)[R][2]) {
  for (int r = 0; r < R; ++r) {
    const __m256i middle = _mm256_set1_epi32(241 * a.sum[g * a.rows + r]);
    for (int half = 0; half < 2; ++half) {
      total[r][half] = _mm256_sub_epi32(_mm256_slli_epi32(total[r][half], 5), middle);
    }
  }
}

inline void store(float* out, __m256 lo, __m256 hi, int32_t channels) {
  if (channels == kPanel) {
    _mm256_storeu_ps(out, lo);
    _mm256_storeu_ps(out + 8, hi);
    return;
  }
  alignas(32) float lane[kPanel];
  _mm256_store_ps(lane, lo);
  _mm256_store_ps(lane + 8, hi);
  for (int32_t c = 0; c < channels; ++c) out[c] = lane[c];
}

template <Kind kKind, int R>
void panel_rows(const Panel& w, const Rows& a, int32_t channels, float* out, int64_t ld_out) {
  constexpr bool kP4 = kKind == Kind::p4, kUpper = kKind == Kind::upper;
  const int64_t stride = a.rows * 4;
  const uint8_t *codes = w.codes, *lower = w.lower;
  const int8_t* x = a.codes;
  __m256 acc[R][2];
  __m256i total[R][2];
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < w.groups; ++g) {
    start_group<kKind, R>(w, a, g, total);
    if constexpr (kP4 || kUpper) {
      for (int32_t i = 0; i < w.lines; i += 4, codes += 256, x += 8 * stride)
        add_p4_lines<R>(codes, x, stride, total);
      if (kUpper) finish_upper<R>(a, g, total);
    } else if constexpr (kKind == Kind::p44) {
      for (int32_t i = 0; i < w.lines; ++i, codes += 64, lower += 64, x += 2 * stride)
        add_p44_line<R>(codes, lower, x, stride, total);
    } else {
      for (int32_t i = 0; i < w.lines; ++i, codes += 64, x += stride) add_p8_line<R>(codes, x, total);
    }
    for (int half = 0; half < 2; ++half) {
      __m256 scale_w = _mm256_set1_ps(1.0f);
      if (kP4) {
        scale_w =
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.scales + g * 32 + 16 * half)));
      }
      for (int r = 0; r < R; ++r) {
        const __m256 t = _mm256_mul_ps(scale_w, _mm256_set1_ps(a.scale[g * a.rows + r]));
        acc[r][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[r][half]), t, acc[r][half]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int half = 0; half < 2 && !kP4; ++half) {
      const __m256 scale = _mm256_loadu_ps(reinterpret_cast<const float*>(w.scales) + 8 * half);
      acc[r][half] = _mm256_mul_ps(acc[r][half], kUpper ? _mm256_mul_ps(_mm256_set1_ps(0.5f), scale) : scale);
    }
    store(out + r * ld_out, acc[r][0], acc[r][1], channels);
  }
}

using Kernel = void (*)(const Panel&, const Rows&, int32_t, float*, int64_t);
template <Kind kKind>
constexpr Kernel kKernels[kRows] = {panel_rows<kKind, 1>, panel_rows<kKind, 2>, panel_rows<kKind, 3>,
                                    panel_rows<kKind, 4>};

template <Kind kKind>
void all_panels(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out) {
  const int64_t groups = w.groups(), padded_k = w.padded_k(), panel_bytes = w.panel_bytes();
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* data = w.data + p * panel_bytes;
    const uint8_t* zeros = data + w.scale_bytes();
    const Panel panel{
        data,   w.has_zero ? zeros : nullptr,         zeros + w.zero_bytes(), w.data + w.lower_begin(p),
        groups, w.group / (kKind == Kind::p8 ? 4 : 8)};
    const int32_t channels = w.n - p * kPanel < kPanel ? w.n - p * kPanel : kPanel;
    for (int32_t row = 0; row < a.rows;) {
      const int32_t first = row / kRowBlock * kRowBlock, r = row - first;
      const int32_t rows = a.rows - first < kRowBlock ? a.rows - first : kRowBlock;
      const int32_t take = rows - r < kRows ? rows - r : kRows;
      const Rows part{a.codes + first * padded_k + 4 * r, a.scale + first * groups + r,
                      a.sum + first * groups + r, rows};
      kKernels<kKind>[take - 1](panel, part, channels, out + row* ld_out + int64_t{p - panel_begin}* kPanel,
                                ld_out);
      row += take;
    }
  }
}

}  // namespace

void linear_int(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, uint8_t* /*scratch*/) {
  switch (w.format) {
    case Format::P8: return all_panels<Kind::p8>(w, panel_begin, panel_end, a, out, ld_out);
    case Format::P44: return all_panels<Kind::p44>(w, panel_begin, panel_end, a, out, ld_out);
    default: return all_panels<Kind::p4>(w, panel_begin, panel_end, a, out, ld_out);
  }
}

void linear_upper(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out, uint8_t* /*scratch*/) {
  all_panels<Kind::upper>(w, panel_begin, panel_end, a, out, ld_out);
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
