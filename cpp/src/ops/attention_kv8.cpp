// Attention over pages of 8-bit keys and values, for rows that must not lose more than the pages did: queries
// and weights become integers of 15 bits in two planes of signed bytes, x ~ scale * (254 high + low), so both
// products are exact sums of bytes and the rounding of a query or weight is 1/64768 of the largest of its
// kind. Weights of a chunk of keys carry the tokens' scales of V. Chunks of kKeyChunk keys are aligned to
// position 0 and every query vector has its own planes, range and running (max, sum, out): a result depends
// neither on its neighbours nor on how a prompt was cut.
#include "ops/attention_keys.h"
#include "ops/attention_planes.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kVectors = 8;  // query vectors that walk the pages together
constexpr int kChunkBlocks = kKeyChunk / kKvBlock;

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
