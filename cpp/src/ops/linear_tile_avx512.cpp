// The prefill tile of AVX-512 VNNI: 8 rows x 48 channels. gcc 12 spills two dozen accumulators per step when
// they are intrinsic arrays, so one group of k of one tile is a single asm block with fixed registers:
//   zmm8..zmm31  accumulators, row r in zmm(8+3r)..zmm(10+3r)     zmm0..2  weights of the 3 panels, then
//   their scales zmm3..7      broadcast activations, then scale products
// Per k/4 step: 3 loads + 8 broadcasts + 24 vpdpbusd, so only the multipliers limit. Weights of a group are
// unpacked once into L1 (6 KiB) and used by all row blocks; fp32 sums live in a contiguous [rows][48] block
// of scratch.
#include "linear_int_avx512.h"

#if defined(NARROWS_ISA_AVX512VNNI)
#include <immintrin.h>

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kTileWidth = kTilePanels * kPanel;
constexpr int kMaxGroup = 128;

/// The unpacked group of three panels, and what the epilogue needs.
struct TileGroup {
  const uint8_t* codes[kTilePanels];  // 64-byte lines of 4 k
  alignas(64) float scale[kTilePanels][kPanel];
  alignas(64) int32_t minus_zero[kTilePanels][kPanel];  // int16 in the low halves
  bool shared_zero;                                     // all channels have `zero`
  int32_t zero;
  int64_t bytes;  // of codes per panel
};

// clang-format off
#define NARROWS_ROW(r, b, x0, x1, x2)                       \
  "vpbroadcastd 4*" #r "(%[a]), %%zmm" #b "\n\t"            \
  "vpdpbusd %%zmm" #b ", %%zmm0, %%zmm" #x0 "\n\t"          \
  "vpdpbusd %%zmm" #b ", %%zmm1, %%zmm" #x1 "\n\t"          \
  "vpdpbusd %%zmm" #b ", %%zmm2, %%zmm" #x2 "\n\t"
#define NARROWS_INIT_SHARED(r, x0, x1, x2)                  \
  "vpbroadcastd 4*" #r "(%[start]), %%zmm" #x0 "\n\t"       \
  "vmovdqa64 %%zmm" #x0 ", %%zmm" #x1 "\n\t"                \
  "vmovdqa64 %%zmm" #x0 ", %%zmm" #x2 "\n\t"
#define NARROWS_INIT_ZERO(r, x0, x1, x2)                    \
  "vpbroadcastd 4*" #r "(%[start]), %%zmm3\n\t"             \
  "vpmaddwd (%[zero]), %%zmm3, %%zmm" #x0 "\n\t"            \
  "vpmaddwd 64(%[zero]), %%zmm3, %%zmm" #x1 "\n\t"          \
  "vpmaddwd 128(%[zero]), %%zmm3, %%zmm" #x2 "\n\t"
#define NARROWS_SCALE(r, p, t, x)                           \
  "vmulps 4*" #r "(%[sa])%{1to16%}, %%zmm" #p ", %%zmm" #t "\n\t" \
  "vcvtdq2ps %%zmm" #x ", %%zmm" #x "\n\t"                  \
  "vfmadd213ps 192*" #r "+64*" #p "(%[c]), %%zmm" #t ", %%zmm" #x "\n\t" \
  "vmovaps %%zmm" #x ", 192*" #r "+64*" #p "(%[c])\n\t"
#define NARROWS_SCALE_ROW(r, x0, x1, x2) \
  NARROWS_SCALE(r, 0, 3, x0) NARROWS_SCALE(r, 1, 4, x1) NARROWS_SCALE(r, 2, 5, x2)
#define NARROWS_ROWS(DO)                                                                     \
  DO(0, 8, 9, 10) DO(1, 11, 12, 13) DO(2, 14, 15, 16) DO(3, 17, 18, 19)                      \
  DO(4, 20, 21, 22) DO(5, 23, 24, 25) DO(6, 26, 27, 28) DO(7, 29, 30, 31)
#define NARROWS_TILE(INIT)                                                                   \
  asm volatile(                                                                              \
      NARROWS_ROWS(INIT)                                                                     \
      ".p2align 5\n\t"                                                                       \
      "1:\n\t"                                                                               \
      "vmovdqa64 (%[w0],%[i]), %%zmm0\n\t"                                                   \
      "vmovdqa64 (%[w1],%[i]), %%zmm1\n\t"                                                   \
      "vmovdqa64 (%[w2],%[i]), %%zmm2\n\t"                                                   \
      NARROWS_ROW(0, 3, 8, 9, 10) NARROWS_ROW(1, 4, 11, 12, 13)                              \
      NARROWS_ROW(2, 5, 14, 15, 16) NARROWS_ROW(3, 6, 17, 18, 19)                            \
      NARROWS_ROW(4, 7, 20, 21, 22) NARROWS_ROW(5, 3, 23, 24, 25)                            \
      NARROWS_ROW(6, 4, 26, 27, 28) NARROWS_ROW(7, 5, 29, 30, 31)                            \
      "lea 32(%[a]), %[a]\n\t"                                                               \
      "add $64, %[i]\n\t"                                                                    \
      "jne 1b\n\t"                                                                           \
      "vmovaps (%[sw]), %%zmm0\n\t"                                                          \
      "vmovaps 64(%[sw]), %%zmm1\n\t"                                                        \
      "vmovaps 128(%[sw]), %%zmm2\n\t"                                                       \
      NARROWS_ROWS(NARROWS_SCALE_ROW)                                                        \
      : [a] "+r"(a), [i] "+r"(i)                                                             \
      : [w0] "r"(g.codes[0] + g.bytes), [w1] "r"(g.codes[1] + g.bytes),                      \
        [w2] "r"(g.codes[2] + g.bytes), [start] "r"(start), [zero] "r"(&g.minus_zero[0][0]), \
        [sw] "r"(&g.scale[0][0]), [sa] "r"(scale_a), [c] "r"(c)                              \
      : "memory", "cc", "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7",      \
        "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16",       \
        "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23", "zmm24", "zmm25",     \
        "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31")
// clang-format on

/// c[8][48] = fma(float(group sum), scale_w * scale_a, c) for one row block.
inline void tile_group(const TileGroup& g, const int8_t* a, const float* scale_a, const int32_t* sum,
                       float* c) {
  int64_t i = -g.bytes;
  if (g.shared_zero) {
    alignas(32) int32_t start[kRowBlock];
    const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sum));
    _mm256_store_si256(reinterpret_cast<__m256i*>(start),
                       _mm256_mullo_epi32(sums, _mm256_set1_epi32(-g.zero)));
    NARROWS_TILE(NARROWS_INIT_SHARED);
  } else {
    const int32_t* start = sum;
    NARROWS_TILE(NARROWS_INIT_ZERO);
  }
}

/// Nibbles of `lines` P4 lines into 2 * lines lines of 4 k each.
inline void unpack_p4(const uint8_t* codes, int32_t lines, uint8_t* to) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int32_t i = 0; i < lines; ++i, codes += 64, to += 128) {
    const __m512i v = _mm512_load_si512(codes);
    _mm512_store_si512(to, _mm512_and_si512(v, low));
    _mm512_store_si512(to + 64, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
  }
}

/// Lines of the two planes of P44 into twice as many lines of P8.
inline void unpack_p44(const uint8_t* upper, const uint8_t* lower, int32_t lines, uint8_t* to) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int32_t i = 0; i < lines; ++i, upper += 64, lower += 64, to += 128) {
    const __m512i v = _mm512_load_si512(upper), w = _mm512_load_si512(lower);
    _mm512_store_si512(to, _mm512_ternarylogic_epi32(low, w, _mm512_slli_epi16(v, 4), 0xca));
    _mm512_store_si512(to + 64, _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(w, 4), v, 0xca));
  }
}

/// The codes that come after group g, in these panels or in those of the next tile. They are asked for in
/// portions between the row blocks, so that they travel while the multipliers work and never fill the miss
/// buffers at once.
class Ahead {
 public:
  Ahead(const PackedMatrix& w, const IntPanel (&panel)[kTilePanels], int64_t g)
      : bytes_(int64_t{w.group} * (w.format == Format::P8 ? kPanel : kPanel / 2)),
        two_planes_(w.format == Format::P44) {
    const bool last = g + 1 == w.groups();
    for (int p = 0; p < kTilePanels; ++p) {
      next_[p] = panel[p].codes + (last ? kTilePanels * w.panel_bytes() : (g + 1) * bytes_);
      lower_[p] = panel[p].lower + (last ? kTilePanels * w.lower_bytes() : (g + 1) * bytes_);
    }
  }
  /// Portion `part` of `parts`; prefetching past the last panel is harmless.
  void prefetch(int64_t part, int64_t parts) const {
    const int64_t lines = bytes_ / 64 * kTilePanels;
    for (int64_t i = lines * part / parts; i < lines * (part + 1) / parts; ++i) {
      const int64_t at = i / kTilePanels * 64;
      _mm_prefetch(reinterpret_cast<const char*>(next_[i % kTilePanels] + at), _MM_HINT_T0);
      if (two_planes_) {
        _mm_prefetch(reinterpret_cast<const char*>(lower_[i % kTilePanels] + at), _MM_HINT_T0);
      }
    }
  }

 private:
  const uint8_t* next_[kTilePanels];
  const uint8_t* lower_[kTilePanels];
  int64_t bytes_;  // of codes in a group
  bool two_planes_;
};

void load_group(const PackedMatrix& w, const IntPanel (&panel)[kTilePanels], int64_t g, uint8_t* unpacked,
                TileGroup* group) {
  for (int p = 0; p < kTilePanels; ++p) {
    if (w.format == Format::P8) {
      group->codes[p] = panel[p].codes + g * group->bytes;
      continue;
    }
    uint8_t* to = unpacked + p * kMaxGroup * kPanel;
    const int64_t begin = g * w.group * (kPanel / 2);
    group->codes[p] = to;
    if (w.format == Format::P44) {
      unpack_p44(panel[p].codes + begin, panel[p].lower + begin, w.group / 8, to);
      continue;
    }
    unpack_p4(panel[p].codes + begin, w.group / 8, to);
    const auto* scale = reinterpret_cast<const __m256i*>(panel[p].scales + g * 32);
    _mm512_store_ps(group->scale[p], _mm512_cvtph_ps(_mm256_loadu_si256(scale)));
    if (w.has_zero) {
      const __m128i zero = _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel[p].zeros + g * 16));
      const __m512i minus =
          _mm512_maskz_sub_epi16(0x55555555, _mm512_setzero_si512(), _mm512_cvtepu8_epi32(zero));
      _mm512_store_si512(group->minus_zero[p], minus);
    }
  }
}

void store_tile(const PackedMatrix& w, const IntPanel (&panel)[kTilePanels], const float* c, int32_t rows,
                float* out, int64_t ld_out) {
  for (int p = 0; p < kTilePanels; ++p) {
    const bool p8 = w.format != Format::P4;  // one scale per channel
    const __m512 scale = p8 ? _mm512_loadu_ps(panel[p].scales) : _mm512_setzero_ps();
    const auto mask = static_cast<__mmask16>((1u << panel[p].channels) - 1u);
    for (int32_t r = 0; r < rows; ++r) {
      __m512 v = _mm512_load_ps(c + r * kTileWidth + p * kPanel);
      if (p8) v = _mm512_mul_ps(v, scale);
      _mm512_mask_storeu_ps(out + r * ld_out + p * kPanel, mask, v);
    }
  }
}

}  // namespace

void int_tile(const PackedMatrix& w, int32_t panel, const Activations& a, int32_t row, int32_t rows,
              float* out, int64_t ld_out, uint8_t* scratch) {
  const IntPanel panels[kTilePanels] = {int_panel(w, panel), int_panel(w, panel + 1),
                                        int_panel(w, panel + 2)};
  auto* c = reinterpret_cast<float*>(scratch);
  uint8_t* unpacked = scratch + kTileRows * kTileWidth * sizeof(float);
  __builtin_memset(c, 0, static_cast<size_t>(rows) * kTileWidth * sizeof(float));
  TileGroup group;
  group.shared_zero = !w.has_zero;
  group.zero = w.format == Format::P4 ? 8 : 128;
  group.bytes = int64_t{w.group} * kPanel;
  for (int p = 0; p < kTilePanels; ++p) _mm512_store_ps(group.scale[p], _mm512_set1_ps(1.0f));
  const int64_t groups = w.groups(), padded_k = w.padded_k();
  const IntBlock first = int_block(w, a, row);
  for (int64_t g = 0; g < groups; ++g) {
    load_group(w, panels, g, unpacked, &group);
    const Ahead ahead(w, panels, g);
    for (int32_t r = 0; r < rows; r += kRowBlock) {
      ahead.prefetch(r / kRowBlock, rows / kRowBlock);
      tile_group(group, first.codes + r * padded_k + g * w.group * kRowBlock,
                 first.scale + r * groups + g * kRowBlock, first.sum + r * groups + g * kRowBlock,
                 c + r * kTileWidth);
    }
  }
  store_tile(w, panels, c, rows, out, ld_out);
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
