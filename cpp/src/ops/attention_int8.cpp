// Attention of many queries in integers, over f16 or 8-bit pages. Per chunk of kKeyChunk keys both products
// are linears over P8 panels: scores = Q K^T with a scale per (query, group of head_dim) and per token, then
// out += P V with P scaled by the tokens' scales of V and quantized per (query, 128 keys). Scales belong to
// single tokens and single queries, chunks are aligned to position 0, and keys a query does not see have code
// 0: so a result depends neither on how a prompt was cut nor on what the page holds beyond it. After J. Zhang
// et al., "SageAttention" (2024), without its smoothing of K; the int8 P V is ours.
// A weight of V below 1/254 of the largest among its 128 keys counts as zero, as in any product of 8 bits.
#include "linear_ops.h"
#include "ops/attention_keys.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kVectors = 128;  // queries that share a packed chunk: 128 KiB of scores in L2
constexpr int kPvGroup = 128;  // keys per scale of P
constexpr float kTiny = 1e-36f;

int32_t head_group(int32_t head_dim) { return head_dim % 128 == 0 ? 128 : head_dim % 64 == 0 ? 64 : 32; }

PackedMatrix p8_matrix(const uint8_t* data, int32_t n, int32_t k, int32_t group) {
  return {.data = data, .format = Format::P8, .n = n, .k = k, .group = group};
}

/// A tile's share of the caller's scratch.
struct Buffers {
  explicit Buffers(const AttentionArgs& a)
      : ld(padded(a.head_dim)), head_k(round_up(a.head_dim, head_group(a.head_dim))), base(a.scratch) {
    scores = take<float>(kVectors * kKeyChunk);
    weights = take<float>(kRowBlock * kKeyChunk);
    pv = take<float>(kVectors * ld);
    out = take<float>(kVectors * ld);
    v_scale = take<float>(kKeyChunk);
    q = activations(head_k, head_group(a.head_dim));
    p = activations(kKeyChunk, kPvGroup);
    k_panels = take<uint8_t>(kKeyChunk / kPanel * (64 + head_k * kPanel));
    v_panels = take<uint8_t>(ld / kPanel * (64 + kKeyChunk * kPanel));
    linear = take<uint8_t>(kLinearScratchBytes);
  }

  template <typename T>
  T* take(int64_t count) {
    float* at = base == nullptr ? nullptr : base + floats;  // null: only measures
    floats += round_up(count * static_cast<int64_t>(sizeof(T)), 64) / 4;
    return reinterpret_cast<T*>(at);
  }
  Activations activations(int64_t k, int32_t group) {
    Activations a;
    a.group = group;
    a.codes = take<int8_t>(kVectors * k);
    a.scale = take<float>(kVectors * (k / group));
    a.sum = take<int32_t>(kVectors * (k / group));
    return a;
  }

  int64_t ld, head_k, floats = 0;
  float* base;
  float *scores, *weights, *pv, *out, *v_scale;
  Activations q, p;
  uint8_t *k_panels, *v_panels, *linear;
};

struct Tile {
  explicit Tile(const AttentionArgs& a) : args(a), b(a) {}
  const AttentionArgs& args;
  Buffers b;
  int64_t first = 0;  // query vectors [first, first + count)
  int count = 0;
  float max[kVectors], sum[kVectors], rescale[kVectors];
};

/// to[4 * lane + i] = round(x[i][lane]) + 128; |x| <= 127.
inline void store_codes(const Vec (&x)[4], uint8_t* to) {
  const Vec middle = broadcast(128.0f);
#if defined(NARROWS_ISA_AVX512VNNI)
  __m512i line = _mm512_cvtps_epi32(add(x[0], middle));
  line = _mm512_or_si512(line, _mm512_slli_epi32(_mm512_cvtps_epi32(add(x[1], middle)), 8));
  line = _mm512_or_si512(line, _mm512_slli_epi32(_mm512_cvtps_epi32(add(x[2], middle)), 16));
  line = _mm512_or_si512(line, _mm512_slli_epi32(_mm512_cvtps_epi32(add(x[3], middle)), 24));
  _mm512_storeu_si512(to, line);
#elif defined(NARROWS_ISA_AVX2)
  __m256i line = _mm256_cvtps_epi32(add(x[0], middle));
  line = _mm256_or_si256(line, _mm256_slli_epi32(_mm256_cvtps_epi32(add(x[1], middle)), 8));
  line = _mm256_or_si256(line, _mm256_slli_epi32(_mm256_cvtps_epi32(add(x[2], middle)), 16));
  line = _mm256_or_si256(line, _mm256_slli_epi32(_mm256_cvtps_epi32(add(x[3], middle)), 24));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), line);
#else
  for (int i = 0; i < 4; ++i) {
    float lane[kWidth];
    store(lane, round_nearest(add(x[i], middle)));
    for (int c = 0; c < kWidth; ++c) {
      to[4 * c + i] = lane[c] >= 0.0f && lane[c] <= 255.0f ? static_cast<uint8_t>(lane[c]) : uint8_t{0};
    }
  }
#endif
}

/// The scale that maps `top` to 127, and its inverse; NaN where `poison` is (a value was not finite).
inline void scales_of(Vec top, Vec poison, Vec* scale, Vec* inverse) {
  const Mask real = not_less(top, broadcast(kTiny));
  *scale = add(select(real, mul(top, broadcast(1.0f / 127.0f)), broadcast(0.0f)), poison);
  *inverse = select(real, div(broadcast(127.0f), top), broadcast(0.0f));
}

/// 16 tokens of K, stored [head_dim][16], as one panel: its channels are the tokens.
void pack_keys(const uint16_t* page, int32_t head_dim, int64_t head_k, uint8_t* panel) {
  for (int lane = 0; lane < kKvBlock; lane += kWidth) {
    Vec top = broadcast(0.0f), poison = top;
    for (int64_t d = 0; d < head_dim; ++d) {
      const Vec x = load_f16(page + d * kKvBlock + lane);
      top = max_of(top, abs_of(x));
      poison = fma(x, broadcast(0.0f), poison);
    }
    Vec scale, inverse;
    scales_of(top, poison, &scale, &inverse);
    store(reinterpret_cast<float*>(panel) + lane, scale);
    for (int64_t d = 0; d < head_k; d += 4) {
      Vec x[4];
      for (int i = 0; i < 4; ++i) {
        x[i] = d + i < head_dim ? mul(load_f16(page + (d + i) * kKvBlock + lane), inverse) : broadcast(0.0f);
      }
      store_codes(x, panel + 64 + d * kPanel + 4 * lane);
    }
  }
}

/// 4 tokens of V, stored [token][head_dim]: a line of every panel; channels are the dimensions.
void pack_values(const uint16_t* rows, int32_t head_dim, int64_t panel_bytes, uint8_t* line,
                 float* token_scale) {
  Vec inverse[4];
  bool finite[4];
  for (int i = 0; i < 4; ++i) {
    Vec top = broadcast(0.0f), poison = top;
    for (int d = 0; d < head_dim; d += kWidth) {
      const Vec x = load_f16_partial(rows + i * head_dim + d, smaller(kWidth, head_dim - d));
      top = max_of(top, abs_of(x));
      poison = fma(x, broadcast(0.0f), poison);
    }
    Vec scale;
    scales_of(broadcast(reduce_max(top)), broadcast(reduce_add(poison)), &scale, &inverse[i]);
    float lanes[kWidth];
    store(lanes, scale);
    token_scale[i] = lanes[0];
    finite[i] = lanes[0] == lanes[0];
  }
  for (int d = 0; d < head_dim; d += kWidth) {
    Vec x[4];
    for (int i = 0; i < 4; ++i) {
      // Codes of four tokens share a word: one that is not finite may not spill into the others.
      const Vec v = load_f16_partial(rows + i * head_dim + d, smaller(kWidth, head_dim - d));
      x[i] = finite[i] ? mul(v, inverse[i]) : broadcast(0.0f);
    }
    store_codes(x, line + d / kPanel * panel_bytes + 4 * (d % kPanel));
  }
}

/// 16 tokens of 8-bit pages as lines of the panels: they lie there as they are needed.
void copy_page(Tile& t, int64_t block, int32_t key, int64_t k_bytes, int64_t v_bytes) {
  const AttentionArgs& a = t.args;
  const uint8_t* page = page_at<uint8_t>(a, a.v_pages, block);
  __builtin_memcpy(t.b.k_panels + key / kKvBlock * k_bytes, page_at<uint8_t>(a, a.k_pages, block),
                   static_cast<size_t>(kv_key_bytes(KvFormat::i8, a.head_dim)));
  __builtin_memcpy(t.b.v_scale + key, page, 64);
  for (int64_t p = 0; p < t.b.ld / kPanel; ++p) {
    __builtin_memcpy(t.b.v_panels + p * v_bytes + 64 + int64_t{key} * kPanel, page + 64 + p * 256, 256);
  }
}

/// Packs the first `keys` keys (whole blocks) of a chunk; V up to `padded_keys`, whose codes nobody looks at.
void pack_chunk(Tile& t, int64_t block0, int32_t keys, const PackedMatrix& v) {
  const AttentionArgs& a = t.args;
  const int64_t k_bytes = 64 + t.b.head_k * kPanel, v_bytes = v.panel_bytes();
  for (int64_t p = 0; p < t.b.ld / kPanel; ++p) {
    auto* ones = reinterpret_cast<float*>(t.b.v_panels + p * v_bytes);
    for (int c = 0; c < kPanel; ++c) ones[c] = 1.0f;
  }
  for (int32_t key = 0; key < keys; key += kKvBlock) {
    const int64_t block = block0 + key / kKvBlock;
    if (a.kv == KvFormat::i8) {
      copy_page(t, block, key, k_bytes, v_bytes);
      continue;
    }
    pack_keys(page_at<uint16_t>(a, a.k_pages, block), a.head_dim, t.b.head_k,
              t.b.k_panels + key / kKvBlock * k_bytes);
    const uint16_t* values = page_at<uint16_t>(a, a.v_pages, block);
    for (int i = 0; i < kKvBlock; i += 4) {
      pack_values(values + int64_t{i} * a.head_dim, a.head_dim, v_bytes,
                  t.b.v_panels + 64 + int64_t{key + i} * kPanel, t.b.v_scale + key + i);
    }
  }
}

int clip(int64_t key) { return static_cast<int>(key < 0 ? 0 : key > kKeyChunk ? kKeyChunk : key); }

/// Weights of a block of rows, which stay in L1 until they are codes.
void weigh_block(Tile& t, int first, int rows, int64_t key0, int width) {
  for (int i = first; i < first + rows; ++i) {
    const KeyRange seen = visible_keys(t.args, position_at(t.args, t.first + i));
    const KeySpan span{0, width, clip(seen.begin - key0), clip(seen.end - key0)};
    t.rescale[i] = weigh_scores<QuickExp>(t.b.scores + i * kKeyChunk, t.b.weights + (i - first) * kKeyChunk,
                                          t.b.v_scale, span, t.args.softcap, &t.max[i], &t.sum[i]);
  }
}

void attend_chunk(Tile& t, int64_t key0, int32_t keys) {
  const AttentionArgs& a = t.args;
  Buffers& b = t.b;
  const int32_t width = static_cast<int32_t>(round_up(keys, kPvGroup));
  const PackedMatrix k = p8_matrix(b.k_panels, keys, a.head_dim, b.q.group);
  const PackedMatrix v = p8_matrix(b.v_panels, a.head_dim, width, kPvGroup);
  pack_chunk(t, key0 / kKvBlock, keys, v);
  linear_int(k, 0, k.panels(), b.q, b.scores, kKeyChunk, b.linear);
  b.p.rows = t.count;
  b.p.k = width;
  for (int i = 0; i < t.count; i += kRowBlock) {
    const int rows = smaller(kRowBlock, t.count - i);
    weigh_block(t, i, rows, key0, width);
    quantize(b.weights, kKeyChunk, i, i + rows, b.p);
  }
  linear_int(v, 0, v.panels(), b.p, b.pv, b.ld, b.linear);
  for (int i = 0; i < t.count; ++i) {
    float *out = b.out + i * b.ld, *pv = b.pv + i * b.ld;
    const Vec rescale = broadcast(t.rescale[i]);
    for (int64_t d = 0; d < b.ld; d += kWidth) store(out + d, fma(load(out + d), rescale, load(pv + d)));
  }
}

void begin_tile(Tile& t, int64_t first, int count) {
  const AttentionArgs& a = t.args;
  Buffers& b = t.b;
  t.first = first;
  t.count = count;
  for (int i = 0; i < count; ++i) {
    const float* q = query_at(a, first + i);
    for (int64_t d = 0; d < a.head_dim; ++d) b.pv[i * b.ld + d] = q[d] * a.scale;
    t.max[i] = -kInfinity;
    t.sum[i] = 0.0f;
    for (int64_t d = 0; d < b.ld; ++d) b.out[i * b.ld + d] = 0.0f;
  }
  b.q.rows = count;
  b.q.k = a.head_dim;
  quantize(b.pv, b.ld, 0, count, b.q);
}

void attend_tile(Tile& t, int64_t first, int count) {
  const AttentionArgs& a = t.args;
  begin_tile(t, first, count);
  const int64_t first_key = visible_keys(a, position_at(a, first)).begin;
  const int64_t end_key = visible_keys(a, position_at(a, first + count - 1)).end;
  for (int64_t key0 = first_key / kKeyChunk * kKeyChunk; key0 < end_key; key0 += kKeyChunk) {
    const int64_t left = round_up(end_key - key0, kKvBlock);
    attend_chunk(t, key0, static_cast<int32_t>(left < kKeyChunk ? left : kKeyChunk));
  }
  for (int i = 0; i < count; ++i) {
    float* out = result_at(a, first + i);
    const Vec total = broadcast(t.sum[i]);
    for (int d = 0; d < a.head_dim; d += kWidth) {
      store_partial(out + d, div(load(t.b.out + i * t.b.ld + d), total), smaller(kWidth, a.head_dim - d));
    }
  }
}

}  // namespace

int64_t attention_int8_floats(int32_t head_dim) {
  AttentionArgs none;
  none.head_dim = head_dim;
  return Buffers(none).floats;
}

void attention_int8(const AttentionArgs& args) {
  Tile tile(args);
  const int64_t total = int64_t{args.rows} * args.heads;
  for (int64_t i = 0; i < total; i += kVectors) {
    attend_tile(tile, i, static_cast<int>(total - i < kVectors ? total - i : kVectors));
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
