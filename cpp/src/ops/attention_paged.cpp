// Attention of one kv head over paged keys and values, prefill and decode alike. The (row, head) pairs of a call form
// one list of query vectors; up to kTileQueries of them walk the keys together in chunks of kKeyChunk aligned to
// position 0. Each vector has its own key range and its own running (max, sum, out): keys outside of the range are
// never multiplied, so they may hold anything, and a vector's result does not depend on its neighbours.
#include "ops/attention_tile.h"
#include "ops/float_ops.h"

namespace narrows {

namespace {
constexpr int kTileQueries = 64;  // 64 x 256 scores + 64 x 128 queries and sums + a V chunk: about 256 KB of L2
constexpr int64_t padded(int64_t x) { return (x + 15) / 16 * 16; }
}  // namespace

#if defined(NARROWS_ISA_GENERIC)
int64_t attention_scratch_floats(int32_t /*heads: a tile holds kTileQueries vectors whatever their number*/,
                                 int32_t head_dim) {
  const int64_t k = int64_t{2} * kKvBlock * head_dim;
  const int64_t v = kKeyChunk * padded(head_dim);
  const int64_t scores = int64_t{kTileQueries} * kKeyChunk;
  return k + v + scores + kTileQueries * (padded(head_dim) + padded(head_dim));
}
#endif

namespace NARROWS_ISA_NAMESPACE {
namespace {

static_assert(kStepBlocks <= 2, "attention_scratch_floats reserves two K blocks");

inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

// Query vectors [first, first + count) of a tile, multiplied together.
struct Group {
  int first, count;
};

struct Tile {
  explicit Tile(const AttentionArgs& a)
      : args(a),
        ld(padded(a.head_dim)),
        k(a.scratch),
        v(k + int64_t{2} * kKvBlock * a.head_dim),
        scores(v + kKeyChunk * ld),
        q(scores + int64_t{kTileQueries} * kKeyChunk),
        out(q + kTileQueries * ld) {}

  const AttentionArgs& args;
  int64_t ld;                       // floats between rows of `v` and `out`: head_dim padded to 16
  float *k, *v, *scores, *q, *out;  // parts of args.scratch
  int64_t query0 = 0;               // query vector i of the tile is (row, head) = divmod(query0 + i, heads)
  int queries = 0;
  int num_groups = 0;
  Group groups[kTileQueries];
  float max[kTileQueries], sum[kTileQueries];
  int begin[kTileQueries], end[kTileQueries];  // keys of the current chunk, relative to it; empty: begin >= end
};

struct KeyRange {
  int64_t begin, end;
};

// The keys position p sees. Without causal the window reaches as far ahead as it does back.
KeyRange visible_keys(const AttentionArgs& a, int64_t p) {
  const int64_t keys = int64_t{a.start} + a.rows;
  KeyRange range{0, a.causal ? p + 1 : keys};
  if (a.window > 0) {
    if (p + 1 - a.window > 0) range.begin = p + 1 - a.window;
    if (p + a.window < range.end) range.end = p + a.window;
  }
  return range;
}

int64_t position_of(const Tile& t, int i) { return t.args.start + (t.query0 + i) / t.args.heads; }

void begin_tile(Tile& t, int64_t query0, int queries) {
  t.query0 = query0;
  t.queries = queries;
  t.num_groups = 0;
  for (int i = 0; i < queries;) {  // as few groups as possible, of nearly equal size
    const int left = queries - i;
    const int groups_left = (left + kTileRows - 1) / kTileRows;
    const int count = (left + groups_left - 1) / groups_left;
    t.groups[t.num_groups++] = {i, count};
    i += count;
  }
  const AttentionArgs& a = t.args;
  for (int g = 0; g < t.num_groups; ++g) {  // q of a group as [head_dim][count], times the scale
    const Group group = t.groups[g];
    float* packed = t.q + int64_t{group.first} * a.head_dim;
    for (int r = 0; r < group.count; ++r) {
      const int64_t vector = query0 + group.first + r;
      const float* q = a.q + vector / a.heads * a.q_ld + vector % a.heads * a.head_dim;
      for (int64_t d = 0; d < a.head_dim; ++d) packed[d * group.count + r] = q[d] * a.scale;
    }
  }
  for (int i = 0; i < queries; ++i) {
    t.max[i] = -kInfinity;
    t.sum[i] = 0.0f;
  }
  for (int64_t i = 0; i < queries * t.ld; i += kWidth) store(t.out + i, broadcast(0.0f));
}

template <typename Element>
const Element* page_of(const Tile& t, const void* pages, int64_t block) {
  return static_cast<const Element*>(pages) + t.args.blocks[block] * t.args.block_stride;
}

// Asks for blocks [begin, end) of `pages`. They may lie anywhere, so the hardware cannot see them coming.
void prefetch_blocks(const Tile& t, const void* pages, int64_t begin, int64_t end) {
  const int64_t bytes = int64_t{t.args.head_dim} * kKvBlock * (t.args.kv_f32 ? 4 : 2);
  for (int64_t block = begin; block < end; ++block) {
    const char* p = t.args.kv_f32 ? reinterpret_cast<const char*>(page_of<float>(t, pages, block))
                                  : reinterpret_cast<const char*>(page_of<uint16_t>(t, pages, block));
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
  }
}

// A single group reads f16 pages as they are; more of them share a copy in float.
bool reads_f16(const Tile& t) { return !t.args.kv_f32 && t.num_groups == 1; }

// Floats of one K block: the page itself, or a converted copy in `copy`.
const float* key_block(const Tile& t, int64_t block, float* copy) {
  const AttentionArgs& a = t.args;
  if (a.kv_f32) return page_of<float>(t, a.k_pages, block);
  const uint16_t* page = page_of<uint16_t>(t, a.k_pages, block);
  for (int64_t i = 0; i < int64_t{a.head_dim} * kKvBlock; i += kWidth) store(copy + i, load_f16(page + i));
  return copy;
}

template <typename Load, typename LoadPartial>
void copy_rows(float* to, int64_t ld, int64_t n, int rows, const Load& full, const LoadPartial& partial) {
  for (int row = 0; row < rows; ++row, to += ld) {
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) store(to + i, full(row * n + i));
    if (i < n) store(to + i, partial(row * n + i, static_cast<int>(n - i)));
  }
}

// Floats of tokens [begin, end) of one V block; other rows of the result are undefined.
const float* value_block(const Tile& t, int64_t block, int begin, int end, float* copy) {
  const AttentionArgs& a = t.args;
  const int64_t n = a.head_dim;
  float* to = copy + begin * t.ld;
  if (a.kv_f32) {
    if (n == t.ld) return page_of<float>(t, a.v_pages, block);
    const float* page = page_of<float>(t, a.v_pages, block) + begin * n;
    copy_rows(to, t.ld, n, end - begin, [page](int64_t i) { return load(page + i); },
              [page](int64_t i, int left) { return load_partial(page + i, left); });
  } else {
    const uint16_t* page = page_of<uint16_t>(t, a.v_pages, block) + begin * n;
    copy_rows(to, t.ld, n, end - begin, [page](int64_t i) { return load_f16(page + i); },
              [page](int64_t i, int left) { return load_f16_partial(page + i, left); });
  }
  return copy;
}

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
void score_step(Tile& t, int b, int blocks, const Element* const* keys) {
  for (int g = 0; g < t.num_groups; ++g) {
    const Group group = t.groups[g];
    bool wanted = false;
    for (int i = group.first; i < group.first + group.count; ++i) {
      wanted |= t.begin[i] < (b + blocks) * kKvBlock && t.end[i] > b * kKvBlock && t.begin[i] < t.end[i];
    }
    if (!wanted) continue;
    score_rows(group.count, blocks, t.q + int64_t{group.first} * t.args.head_dim, keys, t.args.head_dim,
               t.scores + group.first * kKeyChunk + b * kKvBlock);
  }
}

void score_chunk(Tile& t, int64_t block0, int first_block, int end_block) {
  const int64_t block_floats = int64_t{t.args.head_dim} * kKvBlock;
  for (int b = first_block; b < end_block; b += kStepBlocks) {
    const int blocks = smaller(kStepBlocks, end_block - b);
    prefetch_blocks(t, t.args.v_pages, block0 + b, block0 + b + blocks);
    if (reads_f16(t)) {
      const uint16_t* keys[kStepBlocks];
      for (int i = 0; i < blocks; ++i) keys[i] = page_of<uint16_t>(t, t.args.k_pages, block0 + b + i);
      score_step(t, b, blocks, keys);
    } else {
      const float* keys[kStepBlocks];
      for (int i = 0; i < blocks; ++i) keys[i] = key_block(t, block0 + b + i, t.k + i * block_floats);
      score_step(t, b, blocks, keys);
    }
  }
}

// Scores of keys [begin, end) become e^(score - max); the running max, sum and out of the vector follow.
void softmax_chunk(Tile& t, int i) {
  float* row = t.scores + i * kKeyChunk;
  const int begin = t.begin[i], end = t.end[i];
  const int first = begin / kWidth * kWidth;
  const float cap = t.args.softcap;
  Vec best = broadcast(-kInfinity);
  for (int key = first; key < end; key += kWidth) {
    Vec s = load(row + key);
    if (cap > 0.0f) s = mul(broadcast(cap), tanh_of(div(s, broadcast(cap))));
    if (key < begin || key + kWidth > end) {
      s = select(lanes_between(begin - key, end - key), s, broadcast(-kInfinity));
    }
    store(row + key, s);
    best = max_of(best, s);
  }
  const float chunk_max = reduce_max(best);
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

// out += P V for kVecs vectors of d of one group. Keys that all vectors see are multiplied together; the few at both
// ends that only some see, one vector at a time.
template <int kVecs, typename Element>
void accumulate_group(const Tile& t, const Group& group, const ChunkValues<Element>& v, int64_t d) {
  int begin = 0, end = kKeyChunk;
  for (int i = group.first; i < group.first + group.count; ++i) {
    begin = larger(begin, t.begin[i]);
    end = smaller(end, t.end[i]);
  }
  if (begin >= end) begin = end = kKeyChunk;  // nothing in common: all of it is "before"
  const auto alone = [&](int i, int from, int to) {
    if (from >= to) return;
    value_rows<kVecs>(1, t.scores + i * kKeyChunk, v, from, to, d, t.out + i * t.ld + d, t.ld);
  };
  for (int i = group.first; i < group.first + group.count; ++i) alone(i, t.begin[i], smaller(begin, t.end[i]));
  if (begin == kKeyChunk) return;
  value_rows<kVecs>(group.count, t.scores + group.first * kKeyChunk, v, begin, end, d,
                    t.out + group.first * t.ld + d, t.ld);
  for (int i = group.first; i < group.first + group.count; ++i) alone(i, end, t.end[i]);
}

// out += P V, kTileVecs columns of vectors at a time; K of the next chunk comes into the cache meanwhile.
template <typename Element>
void accumulate_columns(const Tile& t, const ChunkValues<Element>& v, int64_t next_block, int64_t next_blocks) {
  constexpr int kStep = kTileVecs * kWidth;  // 16 or 32, and ld is a multiple of 16
  for (int64_t d = 0; d < t.ld; d += kStep) {
    const int64_t columns_done = d + kStep < t.ld ? d + kStep : t.ld;
    prefetch_blocks(t, t.args.k_pages, next_block + next_blocks * d / t.ld,
                    next_block + next_blocks * columns_done / t.ld);
    for (int g = 0; g < t.num_groups; ++g) {
      if (d + kStep <= t.ld) {
        accumulate_group<kTileVecs>(t, t.groups[g], v, d);
      } else {
        accumulate_group<kKvBlock / kWidth>(t, t.groups[g], v, d);
      }
    }
  }
}

// `end_block`: the end of the blocks this tile needs at all.
void accumulate_chunk(Tile& t, int64_t block0, const KeyRange& keys, int64_t end_block) {
  const int first = static_cast<int>(keys.begin) / kKvBlock;
  const int end = (static_cast<int>(keys.end) + kKvBlock - 1) / kKvBlock;
  const int64_t next = block0 + kMaxChunkBlocks;
  const int64_t left = end_block > next ? end_block - next : 0;
  const int64_t next_blocks = left < kMaxChunkBlocks ? left : kMaxChunkBlocks;
  if (reads_f16(t) && t.args.head_dim == t.ld) {
    ChunkValues<uint16_t> v;
    v.ld = t.ld;
    for (int b = first; b < end; ++b) v.data[b] = page_of<uint16_t>(t, t.args.v_pages, block0 + b);
    return accumulate_columns(t, v, next, next_blocks);
  }
  ChunkValues<float> v;
  v.ld = t.ld;
  for (int b = first; b < end; ++b) {
    const int from = larger(0, static_cast<int>(keys.begin) - b * kKvBlock);
    const int to = smaller(kKvBlock, static_cast<int>(keys.end) - b * kKvBlock);
    v.data[b] = value_block(t, block0 + b, from, to, t.v + b * kKvBlock * t.ld);
  }
  accumulate_columns(t, v, next, next_blocks);
}

void finish_tile(const Tile& t) {
  const AttentionArgs& a = t.args;
  for (int i = 0; i < t.queries; ++i) {
    const int64_t vector = t.query0 + i;
    float* out = a.out + vector / a.heads * a.out_ld + vector % a.heads * a.head_dim;
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
    score_chunk(t, key0 / kKvBlock, static_cast<int>(keys.begin) / kKvBlock,
                (static_cast<int>(keys.end) + kKvBlock - 1) / kKvBlock);
    for (int i = 0; i < queries; ++i) {
      if (t.begin[i] < t.end[i]) softmax_chunk(t, i);
    }
    accumulate_chunk(t, key0 / kKvBlock, keys, (end_key + kKvBlock - 1) / kKvBlock);
  }
  finish_tile(t);
}

}  // namespace

void attention(const AttentionArgs& args) {
  Tile tile(args);
  const int64_t total = int64_t{args.rows} * args.heads;
  for (int64_t i = 0; i < total; i += kTileQueries) {
    attend_tile(tile, i, static_cast<int>(total - i < kTileQueries ? total - i : kTileQueries));
  }
}

}  // namespace NARROWS_ISA_NAMESPACE
}  // namespace narrows
