// One token's key and value into its slot of a KV block, in the formats of narrows/formats.h.
#include "linear_ops.h"
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

namespace {

constexpr int kMaxHeadDim = 1024;  // the bindings take no more

/// Codes + 128 of x[0, n), and their scale: max|x| / 127, 0 where nothing is there, NaN where x is not
/// finite.
float code_bytes(const float* x, int n, uint8_t* codes) {
  alignas(64) float padded[kMaxHeadDim];
  Vec top = broadcast(0.0f), poison = top;
  for (int d = 0; d < n; d += kWidth) {
    const Vec part = load_partial(x + d, n - d < kWidth ? n - d : kWidth);
    top = max_of(top, abs_of(part));
    poison = fma(part, broadcast(0.0f), poison);
    store(padded + d, part);
  }
  for (int d = (n + kWidth - 1) / kWidth * kWidth; d < (n + 15) / 16 * 16; ++d) padded[d] = 0.0f;
  const float largest = reduce_max(top), bad = reduce_add(poison);
  alignas(64) int8_t rounded[kMaxHeadDim];
  const bool real = bad == bad && largest >= 1e-36f;
  if (real) round_codes(padded, (n + 15) / 16 * 16, 127.0f / largest, rounded);
  for (int d = 0; d < n; ++d) codes[d] = static_cast<uint8_t>(real ? rounded[d] + 128 : 128);
  return real ? largest / 127.0f : bad;  // 0 or NaN
}

void store_bytes(const float* k, const float* v, int32_t head_dim, int32_t slot, uint8_t* keys,
                 uint8_t* values) {
  uint8_t codes[kMaxHeadDim + 4];
  const float k_scale = code_bytes(k, head_dim, codes);
  __builtin_memcpy(keys + 4 * slot, &k_scale, 4);
  for (int d = head_dim; d < (head_dim + 3) / 4 * 4; ++d) codes[d] = 128;
  for (int64_t d = 0; d < head_dim; d += 4) {
    __builtin_memcpy(keys + 64 + d * kKvBlock + 4 * slot, codes + d, 4);
  }
  const float v_scale = code_bytes(v, head_dim, codes);
  __builtin_memcpy(values + 4 * slot, &v_scale, 4);
  uint8_t* lane = values + 64 + slot / 4 * 64 + slot % 4;
  for (int64_t d = 0; d < head_dim; ++d) lane[d / kPanel * (kPanel * kKvBlock) + d % kPanel * 4] = codes[d];
}

}  // namespace

void store_kv(const float* k, const float* v, int32_t head_dim, int32_t slot, KvFormat kv, void* k_block,
              void* v_block) {
  if (kv == KvFormat::i8) {
    return store_bytes(k, v, head_dim, slot, static_cast<uint8_t*>(k_block), static_cast<uint8_t*>(v_block));
  }
  if (kv == KvFormat::f32) {
    float* keys = static_cast<float*>(k_block) + slot;
    float* values = static_cast<float*>(v_block) + int64_t{slot} * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) keys[d * kKvBlock] = k[d];
    for (int64_t d = 0; d < head_dim; ++d) values[d] = v[d];
    return;
  }
  uint16_t* keys = static_cast<uint16_t*>(k_block) + slot;
  uint16_t* values = static_cast<uint16_t*>(v_block) + int64_t{slot} * head_dim;
  for (int d = 0; d < head_dim; d += kWidth) {
    const int left = head_dim - d < kWidth ? head_dim - d : kWidth;
    uint16_t lanes[kWidth];
    store_f16(lanes, load_partial(k + d, left));
    for (int i = 0; i < left; ++i) keys[(d + i) * int64_t{kKvBlock}] = lanes[i];
    store_f16_partial(values + d, load_partial(v + d, left), left);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
