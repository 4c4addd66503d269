// Attention of one kv head over paged keys and values, prefill and decode alike. The (row, head) pairs of a
// call form one list of query vectors; up to kTileQueries of them walk the keys together in chunks of
// kKeyChunk aligned to position 0. Each vector has its own key range and its own running (max, sum, out):
// keys outside of the range are never multiplied, so they may hold anything, and a vector's result does not
// depend on its neighbours.
#include "ops/attention_state.h"
#include "ops/attention_tile.h"
#include "ops/float_ops.h"

namespace narrows {

#if defined(NARROWS_ISA_GENERIC)
int64_t attention_scratch_floats(int32_t /*heads: a tile holds kTileQueries vectors whatever their number*/,
                                 int32_t head_dim) {
  using namespace isa_generic;
  const int64_t k = int64_t{kMaxStepBlocks} * kKvBlock * head_dim;
  const int64_t v = kKeyChunk * padded(head_dim);
  const int64_t scores = int64_t{kTileQueries} * kKeyChunk;
  const int64_t floats = k + v + scores + kTileQueries * (padded(head_dim) + padded(head_dim));
  int64_t most = floats;
  for (const int64_t other : {attention_int8_floats(head_dim), attention_kv8_floats(head_dim)}) {
    if (other > most) most = other;
  }
  return most;
}
#endif

namespace NARROWS_ISA_NAMESPACE {
namespace {

// Sets begin/end of every vector for the chunk at key0; returns their union (empty: begin >= end).
KeyRange clip_to_chunk(Tile& t, int64_t key0) {
  KeyRange all{kKeyChunk, 0};
  for (int i = 0; i < t.queries; ++i) {
    const KeyRange keys = visible_keys(t.args, position_of(t, i));
    const int64_t begin = keys.begin - key0;
    const int64_t end = keys.end - key0;
    t.begin[i] = static_cast<int>(begin < 0 ? 0 : begin > kKeyChunk ? kKeyChunk : begin);
    t.end[i] = static_cast<int>(end < 0 ? 0 : end > kKeyChunk ? kKeyChunk : end);
    if (t.begin[i] >= t.end[i]) continue;
    if (t.begin[i] < all.begin) all.begin = t.begin[i];
    if (t.end[i] > all.end) all.end = t.end[i];
  }
  return all;
}

// Scores of `blocks` K blocks from block b of the chunk on, for all groups that see one of their keys.
template <typename Element>
void score_step(Tile& t, int b, int blocks, const Element* const* keys, const Element* const* after) {
  for (int g = 0; g < t.num_groups; ++g) {
    const Group group = t.groups[g];
    bool wanted = false;
    for (int i = group.first; i < group.first + group.count; ++i) {
      wanted |= t.begin[i] < (b + blocks) * kKvBlock && t.end[i] > b * kKvBlock && t.begin[i] < t.end[i];
    }
    if (!wanted) continue;
    score_rows(group.count, blocks, t.q + int64_t{group.first} * t.args.head_dim, keys, after,
               t.args.head_dim, t.scores + group.first * kKeyChunk + b * kKvBlock);
  }
}

// The f16 pages of a chunk in the order in which they are read: its keys, its values, then the keys that
// come next.
struct ChunkPages {
  const Tile& t;
  int64_t block0;  // of the chunk
  int first, end;  // its blocks
  int64_t last;    // the end of what the tile reads in later chunks

  const uint16_t* at(int i) const {
    const int blocks = end - first;
    if (i < blocks) return page_of<uint16_t>(t, t.args.k_pages, block0 + first + i);
    if (i < 2 * blocks) return page_of<uint16_t>(t, t.args.v_pages, block0 + first + i - blocks);
    const int64_t next = block0 + kMaxChunkBlocks + i - 2 * blocks;
    return page_of<uint16_t>(t, t.args.k_pages, next < last ? next : last - 1);
  }
};

void score_chunk(Tile& t, const ChunkPages& pages) {
  const int64_t block_floats = int64_t{t.args.head_dim} * kKvBlock;
  for (int b = pages.first; b < pages.end; b += kStepBlocks) {
    const int blocks = smaller(kStepBlocks, pages.end - b);
    if (reads_f16(t)) {
      const uint16_t *keys[kStepBlocks], *after[kStepBlocks];
      for (int i = 0; i < blocks; ++i) {
        keys[i] = pages.at(b - pages.first + i);
        after[i] = pages.at(b - pages.first + i + kPagesAhead);
      }
      score_step(t, b, blocks, keys, after);
    } else {
      const float* keys[kStepBlocks];
      for (int i = 0; i < blocks; ++i) keys[i] = key_block(t, pages.block0 + b + i, t.k + i * block_floats);
      score_step(t, b, blocks, keys, keys);
    }
  }
}

// Scores of keys [begin, end) become e^(score - max); the running max, sum and out of the vector follow.
void softmax_chunk(Tile& t, int i) {
  float* row = t.scores + i * kKeyChunk;
  const int begin = t.begin[i], end = t.end[i];
  const int first = begin / kWidth * kWidth;
  const float chunk_max = mask_scores(row, begin, end, t.args.softcap);
  const float new_max = chunk_max > t.max[i] ? chunk_max : t.max[i];
  const Vec max = broadcast(new_max);
  Vec total = broadcast(0.0f);
  for (int key = first; key < end; key += kWidth) {
    const Vec p = exp_of(sub(load(row + key), max));
    store(row + key, p);
    total = add(total, p);
  }
  float factor[kWidth];
  const Vec rescale = exp_of(sub(broadcast(t.max[i]), max));
  store(factor, rescale);
  t.sum[i] = t.sum[i] * factor[0] + reduce_add(total);
  t.max[i] = new_max;
  float* out = t.out + i * t.ld;
  for (int64_t d = 0; d < t.ld; d += kWidth) store(out + d, mul(load(out + d), rescale));
}

// out += P V for keys [from, to) and kVecs vectors of d of one group. Keys that all vectors see are
// multiplied together; the few at both ends that only some see, one vector at a time.
template <int kVecs, typename Element>
void accumulate_group(const Tile& t, const Group& group, const ChunkValues<Element>& v, int from, int to,
                      int64_t d) {
  int begin = from, end = to;
  for (int i = group.first; i < group.first + group.count; ++i) {
    begin = larger(begin, t.begin[i]);
    end = smaller(end, t.end[i]);
  }
  if (begin >= end) begin = end = to;  // nothing in common: all of it is "before"
  const auto alone = [&](int i, int first_key, int end_key) {
    if (first_key >= end_key) return;
    value_rows<kVecs>(1, t.scores + i * kKeyChunk, v, first_key, end_key, d, t.out + i * t.ld + d, t.ld);
  };
  for (int i = group.first; i < group.first + group.count; ++i) {
    alone(i, larger(from, t.begin[i]), smaller(begin, t.end[i]));
  }
  if (begin == to) return;
  value_rows<kVecs>(group.count, t.scores + group.first * kKeyChunk, v, begin, end, d,
                    t.out + group.first * t.ld + d, t.ld);
  for (int i = group.first; i < group.first + group.count; ++i) alone(i, end, smaller(to, t.end[i]));
}

// out += P V for keys [from, to), kTileVecs columns of vectors at a time.
template <typename Element>
void accumulate_columns(const Tile& t, const ChunkValues<Element>& v, int from, int to) {
  constexpr int kStep = kTileVecs * kWidth;  // 16 or 32, and ld is a multiple of 16
  for (int64_t d = 0; d < t.ld; d += kStep) {
    for (int g = 0; g < t.num_groups; ++g) {
      if (d + kStep <= t.ld) {
        accumulate_group<kTileVecs>(t, t.groups[g], v, from, to, d);
      } else {
        accumulate_group<kKvBlock / kWidth>(t, t.groups[g], v, from, to, d);
      }
    }
  }
}

void accumulate_chunk(Tile& t, const ChunkPages& pages, const KeyRange& keys) {
  const int blocks = pages.end - pages.first;
  if (reads_f16(t) && t.args.head_dim == t.ld) {
    ChunkValues<uint16_t> v;
    v.ld = t.ld;
    for (int i = 0; i < blocks; ++i) v.data[pages.first + i] = pages.at(blocks + i);
    for (int i = 0; i < blocks; ++i) {  // page by page: each is read once
      v.after = pages.at(blocks + i + kPagesAhead);
      accumulate_columns(t, v, (pages.first + i) * kKvBlock, (pages.first + i + 1) * kKvBlock);
    }
    return;
  }
  ChunkValues<float> v;
  v.ld = t.ld;
  for (int b = pages.first; b < pages.end; ++b) {
    const int from = larger(0, static_cast<int>(keys.begin) - b * kKvBlock);
    const int to = smaller(kKvBlock, static_cast<int>(keys.end) - b * kKvBlock);
    v.data[b] = value_block(t, pages.block0 + b, from, to, t.v + b * kKvBlock * t.ld);
  }
  accumulate_columns(t, v, 0, kKeyChunk);
}

void finish_tile(const Tile& t) {
  const AttentionArgs& a = t.args;
  for (int i = 0; i < t.queries; ++i) {
    float* out = result_at(a, t.query0 + i);
    const Vec total = broadcast(t.sum[i]);
    for (int d = 0; d < a.head_dim; d += kWidth) {
      store_partial(out + d, div(load(t.out + i * t.ld + d), total), smaller(kWidth, a.head_dim - d));
    }
  }
}

void attend_tile(Tile& t, int64_t query0, int queries) {
  begin_tile(t, query0, queries);
  const int64_t first_key = visible_keys(t.args, position_of(t, 0)).begin;
  const int64_t end_key = visible_keys(t.args, position_of(t, queries - 1)).end;
  for (int64_t key0 = first_key / kKeyChunk * kKeyChunk; key0 < end_key; key0 += kKeyChunk) {
    const KeyRange keys = clip_to_chunk(t, key0);
    if (keys.begin >= keys.end) continue;
    const ChunkPages pages{t, key0 / kKvBlock, static_cast<int>(keys.begin) / kKvBlock,
                           (static_cast<int>(keys.end) + kKvBlock - 1) / kKvBlock,
                           (end_key + kKvBlock - 1) / kKvBlock};
    score_chunk(t, pages);
    for (int i = 0; i < queries; ++i) {
      if (t.begin[i] < t.end[i]) softmax_chunk(t, i);
    }
    accumulate_chunk(t, pages, keys);
  }
  finish_tile(t);
}

}  // namespace

void attention(const AttentionArgs& args) {
  if (args.int8 && args.kv != KvFormat::f32) return attention_int8(args);
  if (args.kv == KvFormat::i8) return attention_kv8(args);
  Tile tile(args);
  const int64_t total = int64_t{args.rows} * args.heads;
  for (int64_t i = 0; i < total; i += kTileQueries) {
    attend_tile(tile, i, static_cast<int>(total - i < kTileQueries ? total - i : kTileQueries));
  }
}

}  // namespace NARROWS_ISA_NAMESPACE
}  // namespace narrows
