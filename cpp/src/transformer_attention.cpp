// The attention stage: tasks of (part of a sequence, kv head). A task positions its queries and keys, stores
// keys and values into their pages and, where the part is short, attends at once; long chunks attend in a
// second phase.
#include "transformer_step.h"

namespace narrows {

void StepWorker::attention(const Layer& layer, int32_t index) {
  each_task(layer, c_.plan.store_parts, [&](const PlanPart& part, int32_t kv_head) {
    store_part(layer, index, part, kv_head, true);
    if (part.attend) attend_part(layer, index, part, kv_head);
  });
  if (c_.plan.attend_parts.empty()) return;
  barrier();
  each_task(layer, c_.plan.attend_parts,
            [&](const PlanPart& part, int32_t kv_head) { attend_part(layer, index, part, kv_head); });
}

void StepWorker::rotate_head(const Layer& layer, const Norm& norm, int32_t row, float* head) const {
  if (norm.weight != nullptr) {
    c_.kernels.rms_norm(head, norm.weight, c_.model.norm_eps, head, layer.head_dim);
  }
  if (layer.rope < 0) return;
  const int32_t half = static_cast<int32_t>(c_.model.ropes[layer.rope].inv_freq.size());
  c_.kernels.rope(head, c_.buffers.cos[layer.rope] + int64_t{row} * half,
                  c_.buffers.sin[layer.rope] + int64_t{row} * half, half);
}

/// The query heads of `kv_head` in row `row` of qkv, turned by the angles of row `angles` of the step.
void StepWorker::rotate_queries(const Layer& layer, int32_t kv_head, int32_t row, int32_t angles) const {
  const int32_t heads_per_kv = layer.heads / layer.kv_heads;
  float* q = c_.buffers.qkv + row * c_.buffers.qkv_ld + int64_t{kv_head} * heads_per_kv * layer.head_dim;
  for (int32_t h = 0; h < heads_per_kv; ++h) {
    rotate_head(layer, layer.q_norm, angles, q + int64_t{h} * layer.head_dim);
  }
}

void StepWorker::store_part(const Layer& layer, int32_t index, const PlanPart& part, int32_t kv_head,
                            bool with_queries) {
  const SequenceInput& sequence = c_.batch[part.sequence];
  const int64_t head_dim = layer.head_dim;
  uint8_t* k_pages = static_cast<uint8_t*>(c_.kv.k(index, kv_head));
  uint8_t* v_pages = static_cast<uint8_t*>(c_.kv.v(index, kv_head));
  for (int32_t i = 0; i < part.rows; ++i) {
    const int32_t row = part.row + i;
    float* qkv = c_.buffers.qkv + row * c_.buffers.qkv_ld;
    if (with_queries) rotate_queries(layer, kv_head, row, row);
    float* k = qkv + (layer.heads + kv_head) * head_dim;
    const float* v = qkv + (layer.heads + layer.kv_heads + kv_head) * head_dim;
    rotate_head(layer, layer.k_norm, row, k);
    const int32_t position = c_.plan.rows[row].position;
    const int64_t offset = sequence.blocks[position / kKvBlock] * c_.kv.block_stride();
    c_.kernels.store_kv(k, v, layer.head_dim, position % kKvBlock, layer.kv, k_pages + offset,
                        v_pages + offset);
  }
}

void StepWorker::attend_part(const Layer& layer, int32_t index, const PlanPart& part, int32_t kv_head) {
  const SequenceInput& sequence = c_.batch[part.sequence];
  const int32_t heads_per_kv = layer.heads / layer.kv_heads;
  const int64_t column = int64_t{kv_head} * heads_per_kv * layer.head_dim;
  const AttentionArgs args{
      .q = c_.buffers.qkv + part.row * c_.buffers.qkv_ld + column,
      .q_ld = c_.buffers.qkv_ld,
      .out = c_.buffers.attended + part.row * c_.buffers.attended_ld + column,
      .out_ld = c_.buffers.attended_ld,
      .k_pages = c_.kv.k(index, kv_head),
      .v_pages = c_.kv.v(index, kv_head),
      .block_stride = c_.kv.block_stride(),
      .blocks = sequence.blocks,
      .rows = part.rows,
      .heads = heads_per_kv,
      .head_dim = layer.head_dim,
      .start = sequence.start + part.first,
      .window = layer.window,
      .scale = layer.attention_scale,
      .softcap = layer.attention_softcap,
      .kv = layer.kv,
      .causal = true,
      .int8 = part.int8 && layer.int8_attention,
      .scratch = mine_.attention,
  };
  c_.kernels.attention(args);
}

}  // namespace narrows
