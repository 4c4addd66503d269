// One token's key and value into its slot of a KV block: K is stored [head_dim][16 tokens], V [16
// tokens][head_dim].
#include "ops/float_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

void store_kv(const float* k, const float* v, int32_t head_dim, int32_t slot, bool kv_f32, void* k_block,
              void* v_block) {
  if (kv_f32) {
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
