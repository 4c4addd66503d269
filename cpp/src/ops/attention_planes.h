// Register tiles of attention over 8-bit pages: vectors in two planes of signed bytes against pages of keys
// and panels of values. Included by attention_kv8.cpp only.
#pragma once
#include <cstdint>

#include "linear_ops.h"
#include "narrows/kernels.h"
#include "ops/attention_ints.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

inline constexpr int kHeader = 64;         // bytes of a page before its codes: the scales of 16 tokens
inline constexpr float kPlaneStep = 254;   // both planes lie within -127..127, which vpsignb of AVX2 needs
inline constexpr float kPlaneTop = 32384;  // 127 * 254 + 126: a half would round to 128
inline constexpr int kPagesAhead = 8;      // in L2 before they are read: 16 KiB with heads of 128

#if defined(NARROWS_ISA_AVX512VNNI)
inline constexpr int kRows = 4;  // vectors of a register tile
#elif defined(NARROWS_ISA_AVX2)
inline constexpr int kRows = 2;
#else
inline constexpr int kRows = 1;
#endif
// Pages or panels of a register tile: enough chains of sums to hide the latency of a product.
inline constexpr int wide(int rows) { return kRows < 4 ? 1 : rows == 1 ? 4 : 2; }

/// Two planes of bytes of one vector: value i ~ scale * (254 high[i] + low[i]).
struct Planes {
  int8_t *high, *low;
  float scale;
  int32_t sum_high, sum_low;
};

/// Splits x[0, n) times `factor`; n is a multiple of 16. A vector that is not finite gets the scale NaN.
inline void split(const float* x, int64_t n, float factor, float* work, int64_t longest, Planes* to) {
  Vec top = broadcast(0.0f), poison = top;
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec v = load(x + i);
    top = max_of(top, abs_of(v));
    poison = fma(v, broadcast(0.0f), poison);
  }
  const float largest = reduce_max(top), bad = reduce_add(poison);
  const bool zero = !(largest * factor > 1e-30f) || bad != bad;
  const Vec inverse = broadcast(zero ? 0.0f : kPlaneTop / largest);
  float *high = work, *low = work + longest;
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec whole = round_nearest(mul(zero ? broadcast(0.0f) : load(x + i), inverse));
    const Vec upper = round_nearest(mul(whole, broadcast(1.0f / kPlaneStep)));
    store(high + i, upper);
    store(low + i, sub(whole, mul(upper, broadcast(kPlaneStep))));
  }
  to->scale = bad != bad ? bad : zero ? 0.0f : largest * (factor / kPlaneTop);
  to->sum_high = round_codes(high, static_cast<int32_t>(n), 1.0f, to->high);
  to->sum_low = round_codes(low, static_cast<int32_t>(n), 1.0f, to->low);
}

/// to[lane] = (254 high + low) * scale.
inline void join(Ints high, Ints low, Vec scale, float* to) {
  int32_t h[16], l[16];
  store_ints(h, high);
  store_ints(l, low);
  float joined[16];
  for (int lane = 0; lane < 16; ++lane) {
    joined[lane] = static_cast<float>(h[lane]) * kPlaneStep + static_cast<float>(l[lane]);
  }
  for (int lane = 0; lane < 16; lane += kWidth) store(to + lane, mul(load(joined + lane), scale));
}

inline void ask_for(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

/// Scores of kV vectors against kB pages of keys, to scores[v * kKeyChunk + 16 b].
template <int kV, int kB>
inline void score_tile(const Planes* q, int lines, const uint8_t* const* pages, const uint8_t* const* after,
                       float* scores) {
  Ints high[kV][kB], low[kV][kB];
  for (int v = 0; v < kV; ++v) {
    for (int b = 0; b < kB; ++b) {
      high[v][b] = start_ints(q[v].sum_high);
      low[v][b] = start_ints(q[v].sum_low);
    }
  }
  for (int b = 0; b < kB; ++b) ask_for(after[b]);
  for (int j = 0; j < lines; ++j) {
    const int64_t at = kHeader + int64_t{j} * 64;
    for (int b = 0; b < kB; ++b) {
      const CodeLine codes = load_codes(pages[b] + at);
      ask_for(after[b] + at);
      for (int v = 0; v < kV; ++v) {
        high[v][b] = dot4(high[v][b], codes, q[v].high + 4 * j);
        low[v][b] = dot4(low[v][b], codes, q[v].low + 4 * j);
      }
    }
  }
  for (int b = 0; b < kB; ++b) {
    const auto* scale = reinterpret_cast<const float*>(pages[b]);
    for (int v = 0; v < kV; ++v) {
      float* to = scores + v * kKeyChunk + b * kKvBlock;
      join(high[v][b], low[v][b], broadcast(q[v].scale), to);
      for (int lane = 0; lane < kKvBlock; lane += kWidth) {
        store(to + lane, mul(load(to + lane), load(scale + lane)));
      }
    }
  }
}

/// sums[v][plane][16 i..] += weights times kP panels of one page of values.
template <int kV, int kP>
inline void value_tile(const Planes* p, int key, const uint8_t* panels, const uint8_t* after, int64_t ld,
                       int32_t* sums) {
  Ints high[kV][kP], low[kV][kP];
  for (int v = 0; v < kV; ++v) {
    for (int i = 0; i < kP; ++i) {
      high[v][i] = load_ints(sums + 2 * v * ld + 16 * i);
      low[v][i] = load_ints(sums + (2 * v + 1) * ld + 16 * i);
    }
  }
  for (int line = 0; line < 4; ++line) {
    for (int i = 0; i < kP; ++i) {
      const CodeLine codes = load_codes(panels + i * 256 + line * 64);
      ask_for(after + i * 256 + line * 64);
      for (int v = 0; v < kV; ++v) {
        high[v][i] = dot4(high[v][i], codes, p[v].high + key + 4 * line);
        low[v][i] = dot4(low[v][i], codes, p[v].low + key + 4 * line);
      }
    }
  }
  for (int v = 0; v < kV; ++v) {
    for (int i = 0; i < kP; ++i) {
      store_ints(sums + 2 * v * ld + 16 * i, high[v][i]);
      store_ints(sums + (2 * v + 1) * ld + 16 * i, low[v][i]);
    }
  }
}

template <int kV>
inline void score_pages(const Planes* q, int lines, int blocks, const uint8_t* const* pages, float* scores) {
  constexpr int kB = wide(kV);
  int b = 0;
  for (; b + kB <= blocks; b += kB) {
    score_tile<kV, kB>(q, lines, pages + b, pages + b + kPagesAhead, scores + b * kKvBlock);
  }
  for (; b < blocks; ++b) {
    score_tile<kV, 1>(q, lines, pages + b, pages + b + kPagesAhead, scores + b * kKvBlock);
  }
}

template <int kV>
inline void value_page(const Planes* p, int key, int panels, const uint8_t* page, const uint8_t* after,
                       int64_t ld, int32_t* sums) {
  constexpr int kP = wide(kV);
  int i = 0;
  for (; i + kP <= panels; i += kP) {
    value_tile<kV, kP>(p, key, page + i * 256, after + i * 256, ld, sums + 16 * i);
  }
  for (; i < panels; ++i) value_tile<kV, 1>(p, key, page + i * 256, after + i * 256, ld, sums + 16 * i);
}

/// body<kV>(first vector) over the vectors of a tile, as many at a time as fit the registers.
template <int kV = kRows, typename Body>
inline void by_rows(int count, Body&& body) {
  int v = 0;
  for (; v + kV <= count; v += kV) body.template operator()<kV>(v);
  if constexpr (kV > 1) {
    if (v < count) {
      by_rows<kV - 1>(count - v, [&]<int kFewer>(int w) { body.template operator()<kFewer>(v + w); });
    }
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
