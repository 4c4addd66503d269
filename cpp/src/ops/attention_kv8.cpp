// Attention over pages of 8-bit keys and values, for rows that must not lose more than the pages did: queries
// and weights become integers of 15 bits in two planes of signed bytes, x ~ scale * (254 high + low), so both
// products are exact sums of bytes and the rounding of a query or weight is 1/64768 of the largest of its
// kind. Weights of a chunk of keys carry the tokens' scales of V. Chunks of kKeyChunk keys are aligned to
// position 0 and every query vector has its own planes, range and running (max, sum, out): a result depends
// neither on its neighbours nor on how a prompt was cut.
#include "linear_ops.h"
#include "ops/attention_ints.h"
#include "ops/attention_keys.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kVectors = 8;         // query vectors that walk the pages together
constexpr int kHeader = 64;         // bytes of a page before its codes: the scales of 16 tokens
constexpr float kPlaneStep = 254;   // both planes lie within -127..127, which vpsignb of AVX2 needs
constexpr float kPlaneTop = 32384;  // 127 * 254 + 126: a half would round to 128
constexpr int kPagesAhead = 8;      // in L2 before they are read: 16 KiB with heads of 128
constexpr int kChunkBlocks = kKeyChunk / kKvBlock;

#if defined(NARROWS_ISA_AVX512VNNI)
constexpr int kRows = 4;  // vectors of a register tile
#elif defined(NARROWS_ISA_AVX2)
constexpr int kRows = 2;
#else
constexpr int kRows = 1;
#endif
// Pages or panels of a register tile: enough chains of sums to hide the latency of a product.
constexpr int wide(int rows) { return kRows < 4 ? 1 : rows == 1 ? 4 : 2; }

/// Two planes of bytes of one vector: value i ~ scale * (254 high[i] + low[i]).
struct Planes {
  int8_t *high, *low;
  float scale;
  int32_t sum_high, sum_low;
};

struct Tile {
  explicit Tile(const AttentionArgs& a)
      : args(a), ld(padded(a.head_dim)), out(a.scratch), scores(out + kVectors * ld) {
    work = scores + kVectors * kKeyChunk;
    v_scale = work + 2 * longest();
    sums = reinterpret_cast<int32_t*>(v_scale + kKeyChunk);
    auto* bytes = reinterpret_cast<int8_t*>(sums + kVectors * 2 * ld);
    for (int i = 0; i < kVectors; ++i) {
      q[i].high = bytes + (2 * i) * ld;
      q[i].low = bytes + (2 * i + 1) * ld;
    }
    bytes += 2 * kVectors * ld;
    for (int i = 0; i < kVectors; ++i) {
      p[i].high = bytes + (2 * i) * kKeyChunk;
      p[i].low = bytes + (2 * i + 1) * kKeyChunk;
    }
  }
  int64_t longest() const { return ld > kKeyChunk ? ld : kKeyChunk; }
  int64_t floats() const {
    const int64_t bytes = 2 * kVectors * (ld + kKeyChunk);
    return kVectors * (ld + kKeyChunk) + 2 * longest() + kKeyChunk + 2 * kVectors * ld + bytes / 4;
  }

  const AttentionArgs& args;
  int64_t ld;               // head_dim padded to a panel
  float *out, *scores;      // [kVectors][ld], [kVectors][kKeyChunk]
  float *work, *v_scale;    // two rows to split; scales of the chunk's values
  int32_t* sums = nullptr;  // [kVectors][2 planes][ld]
  Planes q[kVectors], p[kVectors];
  int64_t first = 0;  // query vectors [first, first + count)
  int count = 0;
  float max[kVectors], sum[kVectors];
  int begin[kVectors], end[kVectors];  // keys of the chunk that a vector sees
};

/// Splits x[0, n) times `factor`; n is a multiple of 16. A vector that is not finite gets the scale NaN.
void split(const float* x, int64_t n, float factor, float* work, int64_t longest, Planes* to) {
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
void score_pages(const Planes* q, int lines, int blocks, const uint8_t* const* pages, float* scores) {
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
void value_page(const Planes* p, int key, int panels, const uint8_t* page, const uint8_t* after, int64_t ld,
                int32_t* sums) {
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

/// The pages of a chunk in the order in which they are read: keys, values, then keys of the next chunk.
struct ChunkPages {
  int first, blocks;  // of the chunk
  const uint8_t* at[2 * kChunkBlocks + kPagesAhead + 1];

  ChunkPages(const AttentionArgs& a, int64_t block0, int first_block, int end_block, int64_t last_block)
      : first(first_block), blocks(end_block - first_block) {
    for (int i = 0; i < blocks; ++i) {
      at[i] = page_at<uint8_t>(a, a.k_pages, block0 + first + i);
      at[blocks + i] = page_at<uint8_t>(a, a.v_pages, block0 + first + i);
    }
    for (int i = 0; i <= kPagesAhead; ++i) {
      const int64_t next = block0 + kChunkBlocks + i;
      at[2 * blocks + i] = page_at<uint8_t>(a, a.k_pages, next < last_block ? next : last_block - 1);
    }
  }
};

/// Sets begin and end of every vector for the chunk at key0; returns their union.
KeyRange clip_to_chunk(Tile& t, int64_t key0) {
  KeyRange all{kKeyChunk, 0};
  const auto clip = [](int64_t key) {
    return static_cast<int>(key < 0 ? 0 : key > kKeyChunk ? kKeyChunk : key);
  };
  for (int i = 0; i < t.count; ++i) {
    const KeyRange seen = visible_keys(t.args, position_at(t.args, t.first + i));
    t.begin[i] = clip(seen.begin - key0);
    t.end[i] = clip(seen.end - key0);
    if (t.begin[i] >= t.end[i]) continue;
    if (t.begin[i] < all.begin) all.begin = t.begin[i];
    if (t.end[i] > all.end) all.end = t.end[i];
  }
  return all;
}

void score_chunk(Tile& t, const ChunkPages& pages) {
  const int lines = (t.args.head_dim + 3) / 4;
  by_rows(t.count, [&]<int kV>(int v) {
    score_pages<kV>(t.q + v, lines, pages.blocks, pages.at,
                    t.scores + v * kKeyChunk + pages.first * kKvBlock);
  });
}

/// out = out * rescale + weights times values.
void accumulate_chunk(Tile& t, const ChunkPages& pages, const float* rescale) {
  const int panels = static_cast<int>(t.ld / kPanel);
  for (int v = 0; v < t.count; ++v) {
    for (int64_t d = 0; d < t.ld; d += 16) {
      store_ints(t.sums + 2 * v * t.ld + d, start_ints(t.p[v].sum_high));
      store_ints(t.sums + (2 * v + 1) * t.ld + d, start_ints(t.p[v].sum_low));
    }
  }
  for (int b = 0; b < pages.blocks; ++b) {
    const uint8_t* page = pages.at[pages.blocks + b] + kHeader;
    const uint8_t* after = pages.at[pages.blocks + b + kPagesAhead] + kHeader;
    const int key = (pages.first + b) * kKvBlock;
    by_rows(t.count, [&]<int kV>(int v) {
      value_page<kV>(t.p + v, key, panels, page, after, t.ld, t.sums + 2 * v * t.ld);
    });
  }
  for (int v = 0; v < t.count; ++v) {
    const int32_t *high = t.sums + 2 * v * t.ld, *low = high + t.ld;
    float* out = t.out + v * t.ld;
    for (int64_t d = 0; d < t.ld; d += 16) {
      float part[16];
      join(load_ints(high + d), load_ints(low + d), broadcast(t.p[v].scale), part);
      for (int i = 0; i < 16; i += kWidth) {
        store(out + d + i, fma(load(out + d + i), broadcast(rescale[v]), load(part + i)));
      }
    }
  }
}

void attend_chunk(Tile& t, int64_t key0, int64_t last_block) {
  const KeyRange keys = clip_to_chunk(t, key0);
  if (keys.begin >= keys.end) return;
  const ChunkPages pages(t.args, key0 / kKvBlock, static_cast<int>(keys.begin) / kKvBlock,
                         (static_cast<int>(keys.end) + kKvBlock - 1) / kKvBlock, last_block);
  score_chunk(t, pages);
  const int from = pages.first * kKvBlock, to = from + pages.blocks * kKvBlock;
  for (int b = 0; b < pages.blocks; ++b) {
    __builtin_memcpy(t.v_scale + from + b * kKvBlock, pages.at[pages.blocks + b], kHeader);
  }
  float rescale[kVectors];
  for (int v = 0; v < t.count; ++v) {
    float* row = t.scores + v * kKeyChunk;
    const KeySpan span{from, to, t.begin[v], t.end[v]};
    rescale[v] = weigh_scores<PreciseExp>(row, row, t.v_scale, span, t.args.softcap, &t.max[v], &t.sum[v]);
    Planes part = t.p[v];
    part.high += from;
    part.low += from;
    split(row + from, to - from, 1.0f, t.work, t.longest(), &part);
    t.p[v].scale = part.scale;
    t.p[v].sum_high = part.sum_high;
    t.p[v].sum_low = part.sum_low;
  }
  accumulate_chunk(t, pages, rescale);
}

void begin_tile(Tile& t, int64_t first, int count) {
  const AttentionArgs& a = t.args;
  t.first = first;
  t.count = count;
  for (int v = 0; v < count; ++v) {
    float* padded_query = t.out + v * t.ld;  // not needed before the first chunk
    const float* q = query_at(a, first + v);
    for (int64_t d = 0; d < t.ld; ++d) padded_query[d] = d < a.head_dim ? q[d] : 0.0f;
    split(padded_query, t.ld, a.scale, t.work, t.longest(), &t.q[v]);
    for (int64_t d = 0; d < t.ld; d += kWidth) store(padded_query + d, broadcast(0.0f));
    t.max[v] = -kInfinity;
    t.sum[v] = 0.0f;
  }
}

void attend_tile(Tile& t, int64_t first, int count) {
  const AttentionArgs& a = t.args;
  begin_tile(t, first, count);
  const int64_t first_key = visible_keys(a, position_at(a, first)).begin;
  const int64_t end_key = visible_keys(a, position_at(a, first + count - 1)).end;
  const int64_t last_block = (end_key + kKvBlock - 1) / kKvBlock;
  for (int64_t key0 = first_key / kKeyChunk * kKeyChunk; key0 < end_key; key0 += kKeyChunk) {
    attend_chunk(t, key0, last_block);
  }
  for (int v = 0; v < count; ++v) {
    float* out = result_at(a, first + v);
    const Vec total = broadcast(t.sum[v]);
    for (int d = 0; d < a.head_dim; d += kWidth) {
      store_partial(out + d, div(load(t.out + v * t.ld + d), total), smaller(kWidth, a.head_dim - d));
    }
  }
}

}  // namespace

int64_t attention_kv8_floats(int32_t head_dim) {
  AttentionArgs none;
  none.head_dim = head_dim;
  return Tile(none).floats();
}

void attention_kv8(const AttentionArgs& args) {
  Tile tile(args);
  const int64_t total = int64_t{args.rows} * args.heads;
  for (int64_t i = 0; i < total; i += kVectors) {
    attend_tile(tile, i, static_cast<int>(total - i < kVectors ? total - i : kVectors));
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
