// int8 activations times P8, P44 or P4 weights with AVX-512 VNNI, 1..16 rows: bound by memory, so each line
// of weights is read and unpacked once for all rows and the activations come as {1to16} operands of vpdpbusd.
// P4: the high nibble is used unshifted (16*q <= 240 is a u8) into accumulators of its own and shifted back,
// exactly, at the end of the group; from 9 rows on registers are short and it is shifted at once. P44: a line
// of each plane becomes two of P8 by a shift and a select each; the upper plane alone goes as P4 does.
#include "linear_int_avx512.h"

#include "stream_ahead.h"

#if defined(NARROWS_ISA_AVX512VNNI)
#include <immintrin.h>

namespace narrows::NARROWS_ISA_NAMESPACE {

IntPanel int_panel(const PackedMatrix& w, int32_t panel) {
  const uint8_t* data = w.data + panel * w.panel_bytes();
  const uint8_t* zeros = data + w.scale_bytes();
  const int32_t left = w.n - panel * kPanel;
  return {data, w.has_zero ? zeros : nullptr, zeros + w.zero_bytes(), w.data + w.lower_begin(panel),
          left < kPanel ? left : kPanel};
}

IntBlock int_block(const PackedMatrix& w, const Activations& a, int32_t row) {
  return {a.codes + row * w.padded_k(), a.scale + row * w.groups(), a.sum + row * w.groups()};
}

namespace {

enum class Kind { p8, p4, p44, upper };  // upper: the upper plane of P44

struct Job {
  IntPanel w;
  IntBlock a, b;  // rows 0..7 and 8..15
  int64_t groups;
  int32_t lines;  // 64-byte lines of codes per group
  int64_t ahead;  // kStreamAhead
};

/// acc[c] += dot of the 4 codes of channel c and the 4 activations at x. As asm, because gcc 12 copies the
/// accumulator and loads the broadcast apart: three instructions and two registers where one instruction
/// does.
inline __attribute__((always_inline)) void dot(__m512i& acc, __m512i weights, const int8_t* x) {
  using Four = const int8_t[4];
  asm("vpdpbusd %[x]%{1to16%}, %[w], %[acc]"
      : [acc] "+v"(acc)
      : [w] "v"(weights), [x] "m"(*reinterpret_cast<Four*>(x)));
}

/// Lines taken together, each with accumulators of its own: 4 chains and more hide vpdpbusd's latency (4 or
/// 5), and fewer of them leave less to add up at the end of a group.
constexpr int unroll(Kind kind, int rows) {
  if (kind != Kind::p8) return rows == 1 ? 2 : 1;
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

/// Minus the zero points as int16 in the low halves of 16 dwords: vpdpwssd with the sum of the activations
/// (|sum| <= 128*127 fits in int16) then adds -zero * sum exactly.
template <Kind kKind>
inline __m512i negative_zero(const IntPanel& w, int64_t g) {
  if (kKind == Kind::upper) return _mm512_set1_epi32(0xff0f);  // -241, of 32 * upper
  if (kKind != Kind::p4) return _mm512_set1_epi32(0xff80);
  if (w.zeros == nullptr) return _mm512_set1_epi32(0xfff8);
  const __m512i zero =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + g * 16)));
  return _mm512_maskz_sub_epi16(0x55555555, _mm512_setzero_si512(), zero);
}

/// The int32 accumulators of one group: R1 rows of the first block, R2 of the second, U lines at a time.
template <Kind kKind, int R1, int R2>
struct Group {
  static constexpr int R = R1 + R2, U = unroll(kKind, R),
                       kSteps = kKind == Kind::p8 ? 1 : 2;  // of 4 k a line
  static constexpr bool kHighApart = kKind != Kind::p8 && R <= 8;
  __m512i lo[U][R], hi[kHighApart ? U : 1][kHighApart ? R : 1];

  inline __attribute__((always_inline)) void start(const Job& job, int64_t g) {
    const __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      lo[0][r] = kKind == Kind::upper ? zero : less_zeros(job, g, r, zero);
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) lo[u][r] = zero;
      if constexpr (kHighApart) {
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) hi[u][r] = zero;
      }
    }
  }

  /// sum - zero * (sum of the activations of row r)
  static inline __attribute__((always_inline)) __m512i less_zeros(const Job& job, int64_t g, int r,
                                                                  __m512i sum) {
    const int32_t inputs = r < R1 ? job.a.sum[g * R1 + r] : job.b.sum[g * R2 + r - R1];
    return _mm512_dpwssd_epi32(sum, negative_zero<kKind>(job.w, g), _mm512_set1_epi32(inputs));
  }

  /// The first and the second 4 k of a line as bytes; those of P4 and of the upper plane may be 16 times as
  /// large in the second.
  static inline __attribute__((always_inline)) void split(const uint8_t* line, const uint8_t* lower,
                                                          int64_t ahead, __m512i* l, __m512i* h) {
    const __m512i v = _mm512_load_si512(line), low = _mm512_set1_epi8(15);
    _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T0);
    if constexpr (kKind == Kind::p44) {
      const __m512i w = _mm512_load_si512(lower);
      _mm_prefetch(reinterpret_cast<const char*>(lower + ahead), _MM_HINT_T0);
      *l = _mm512_ternarylogic_epi32(low, w, _mm512_slli_epi16(v, 4), 0xca);  // low ? w : v
      *h = _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(w, 4), v, 0xca);
    } else if constexpr (kKind == Kind::p8) {
      *l = *h = v;
    } else {
      *l = _mm512_and_si512(v, low);
      *h = kHighApart ? _mm512_andnot_si512(low, v) : _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
  }

  inline __attribute__((always_inline)) void add_line(int u, const uint8_t* line, const uint8_t* lower,
                                                      int64_t ahead, const int8_t* x, const int8_t* y) {
    __m512i l, h;
    split(line, lower, ahead, &l, &h);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int8_t* at = r < R1 ? x + 4 * r : y + 4 * (r - R1);
      dot(lo[u][r], l, at);
    }
    if constexpr (kSteps == 2) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int8_t* at = r < R1 ? x + 4 * (R1 + r) : y + 4 * (R2 + r - R1);
        if constexpr (kHighApart) {
          dot(hi[u][r], h, at);
        } else {
          dot(lo[u][r], h, at);
        }
      }
    }
  }

  inline __attribute__((always_inline)) __m512 result(const Job& job, int64_t g, int r) const {
    __m512i sum = lo[0][r];
#pragma GCC unroll 4
    for (int u = 1; u < U; ++u) sum = _mm512_add_epi32(sum, lo[u][r]);
    if constexpr (kKind == Kind::upper) sum = _mm512_slli_epi32(sum, 5);
    if constexpr (kHighApart) {
      __m512i high = hi[0][r];
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) high = _mm512_add_epi32(high, hi[u][r]);
      if constexpr (kKind == Kind::p4) high = _mm512_srai_epi32(high, 4);
      if constexpr (kKind == Kind::upper) high = _mm512_slli_epi32(high, 1);
      sum = _mm512_add_epi32(sum, high);
    }
    if constexpr (kKind == Kind::upper) sum = less_zeros(job, g, r, sum);
    return _mm512_cvtepi32_ps(sum);
  }
};

template <Kind kKind, int R1, int R2>
void panel_rows(const Job& job, float* out, int64_t ld_out) {
  using Acc = Group<kKind, R1, R2>;
  constexpr bool kP4 = kKind == Kind::p4;
  constexpr int R = R1 + R2, U = Acc::U, kSteps = Acc::kSteps;
  const uint8_t *codes = job.w.codes, *lower = job.w.lower;
  const int8_t *x = job.a.codes, *y = job.b.codes;
  __m512 acc[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < job.groups; ++g) {
    Acc group;
    group.start(job, g);
    for (int32_t i = 0; i < job.lines; i += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u)
        group.add_line(u, codes + 64 * u, lower + 64 * u, job.ahead, x + 4 * R1 * kSteps * u,
                       y + 4 * R2 * kSteps * u);
      codes += 64 * U;
      lower += 64 * U;
      x += 4 * R1 * kSteps * U;
      y += 4 * R2 * kSteps * U;
    }
    const __m512 scale_w =
        kP4 ? _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.w.scales + g * 32)))
            : _mm512_set1_ps(1.0f);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float scale_a = r < R1 ? job.a.scale[g * R1 + r] : job.b.scale[g * R2 + r - R1];
      acc[r] =
          _mm512_fmadd_ps(group.result(job, g, r), _mm512_mul_ps(scale_w, _mm512_set1_ps(scale_a)), acc[r]);
    }
  }
  const auto mask = static_cast<__mmask16>((1u << job.w.channels) - 1u);
  const __m512 part = _mm512_set1_ps(kKind == Kind::upper ? 0.5f : 1.0f);
  const __m512 scale = kP4 ? part : _mm512_mul_ps(part, _mm512_loadu_ps(job.w.scales));
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (!kP4) acc[r] = _mm512_mul_ps(acc[r], scale);
    _mm512_mask_storeu_ps(out + r * ld_out, mask, acc[r]);
  }
}

using Kernel = void (*)(const Job&, float*, int64_t);
template <Kind kKind>
constexpr Kernel kKernels[kSmallRows] = {
    panel_rows<kKind, 1, 0>, panel_rows<kKind, 2, 0>, panel_rows<kKind, 3, 0>, panel_rows<kKind, 4, 0>,
    panel_rows<kKind, 5, 0>, panel_rows<kKind, 6, 0>, panel_rows<kKind, 7, 0>, panel_rows<kKind, 8, 0>,
    panel_rows<kKind, 8, 1>, panel_rows<kKind, 8, 2>, panel_rows<kKind, 8, 3>, panel_rows<kKind, 8, 4>,
    panel_rows<kKind, 8, 5>, panel_rows<kKind, 8, 6>, panel_rows<kKind, 8, 7>, panel_rows<kKind, 8, 8>};

/// Copies the scales and zero points of a P4 panel to scratch. Read in turn with the codes they make two
/// streams in one page, and Zen 4 then stops prefetching: half the bandwidth at groups of 32 and 64.
IntPanel near_scales(const PackedMatrix& w, IntPanel panel, uint8_t* scratch) {
  const int64_t bytes = panel.codes - panel.scales;
  if (w.format != Format::P4 || bytes > kLinearScratchBytes) return panel;
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm512_store_si512(scratch + i, _mm512_load_si512(panel.scales + i));
    _mm_prefetch(reinterpret_cast<const char*>(panel.scales + i + kStreamAhead), _MM_HINT_T0);
  }
  panel.scales = scratch;
  if (panel.zeros != nullptr) panel.zeros = scratch + w.scale_bytes();
  return panel;
}

/// Rows [row, row + rows) against one panel; see int_small.
template <Kind kKind>
void small(const PackedMatrix& w, int32_t panel, const Activations& a, int32_t row, int32_t rows, float* out,
           int64_t ld_out, uint8_t* scratch) {
  const IntBlock first = int_block(w, a, row);
  const IntBlock second = rows > kRowBlock ? int_block(w, a, row + kRowBlock) : first;
  const Job job{near_scales(w, int_panel(w, panel), scratch), first,       second, w.groups(),
                w.group / (kKind == Kind::p8 ? 4 : 8),        kStreamAhead};
  kKernels<kKind>[rows - 1](job, out, ld_out);
}

}  // namespace

void int_small(const PackedMatrix& w, int32_t panel, const Activations& a, int32_t row, int32_t rows,
               float* out, int64_t ld_out, uint8_t* scratch) {
  switch (w.format) {
    case Format::P8: return small<Kind::p8>(w, panel, a, row, rows, out, ld_out, scratch);
    case Format::P44: return small<Kind::p44>(w, panel, a, row, rows, out, ld_out, scratch);
    default: return small<Kind::p4>(w, panel, a, row, rows, out, ld_out, scratch);
  }
}

void linear_upper(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out, uint8_t* scratch) {
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    float* column = out + int64_t{p - panel_begin} * kPanel;
    for (int32_t row = 0; row < a.rows; row += kSmallRows) {
      const int32_t rows = a.rows - row < kSmallRows ? a.rows - row : kSmallRows;
      small<Kind::upper>(w, p, a, row, rows, column + row * ld_out, ld_out, scratch);
    }
  }
}

void linear_int(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, uint8_t* scratch) {
  // The tile puts the lines of P44 together in memory; for two small batches registers are cheaper.
  const int32_t small_rows = w.format == Format::P44 ? 2 * kSmallRows : kSmallRows;
  const int32_t tiled_rows = a.rows > small_rows ? a.rows / kRowBlock * kRowBlock : 0;
  const int32_t tiled_end = panel_begin + (panel_end - panel_begin) / kTilePanels * kTilePanels;
  for (int32_t row = 0; row < tiled_rows; row += kTileRows) {
    const int32_t rows = tiled_rows - row < kTileRows ? tiled_rows - row : kTileRows;
    for (int32_t p = panel_begin; p < tiled_end; p += kTilePanels) {
      int_tile(w, p, a, row, rows, out + row * ld_out + int64_t{p - panel_begin} * kPanel, ld_out, scratch);
    }
  }
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    float* column = out + int64_t{p - panel_begin} * kPanel;
    for (int32_t row = p < tiled_end ? tiled_rows : 0; row < a.rows; row += kSmallRows) {
      const int32_t rows = a.rows - row < kSmallRows ? a.rows - row : kSmallRows;
      int_small(w, p, a, row, rows, column + row * ld_out, ld_out, scratch);
    }
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
