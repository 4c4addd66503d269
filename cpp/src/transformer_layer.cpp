// The order of the stages: embedding, layers, head. Each stage ends at a barrier.
#include <cstring>

#include "transformer_step.h"

namespace narrows {

StepWorker::StepWorker(StepContext& context, int thread)
    : c_(context),
      thread_(thread),
      threads_(context.pool.size()),
      mine_(context.buffers.workers[thread]),
      rows_(context.plan.num_rows()),
      lap_begin_(std::chrono::steady_clock::now()) {}

void StepWorker::lap(OpGroup group) {
  if (thread_ != 0) return;
  const auto now = std::chrono::steady_clock::now();
  c_.op_times[static_cast<size_t>(group)] += std::chrono::duration<double>(now - lap_begin_).count();
  lap_begin_ = now;
}

void StepWorker::run() {
  embed();
  for (size_t i = 0; i < c_.model.layers.size(); ++i) layer(c_.model.layers[i], static_cast<int32_t>(i));
  head();
}

void StepWorker::layer(const Layer& layer, int32_t index) {
  const StepBuffers& b = c_.buffers;
  const bool last = index + 1 == static_cast<int32_t>(c_.model.layers.size());
  if (last && c_.plan.narrowed()) {
    attend_head_rows(layer, index);
    if (rows_ == 0) return;
  } else {
    attend_all(layer, index);
  }
  const Activations attended = input(layer.out, b.attended, b.attended_ld, rows_);
  if (layer.parallel_residual) {  // the MLP reads the same x, so the sum waits for it
    linear(layer.out, attended, {.dst = b.y, .ld = b.hidden_ld, .columns = c_.model.hidden});
    barrier();
    lap(OpGroup::out);
  } else {
    finish_block(layer.out, attended, layer.post_attn, {layer.up, layer.gated}, OpGroup::out);
  }
  mlp(layer, {last ? c_.model.head : c_.model.layers[index + 1].qkv});
}

void StepWorker::attend_all(const Layer& layer, int32_t index) {
  const StepBuffers& b = c_.buffers;
  const Activations normed = input(layer.qkv, b.x, b.hidden_ld, rows_, &layer.norm_attn);
  linear(layer.qkv, normed, {.dst = b.qkv, .ld = b.qkv_ld, .columns = layer.qkv.w.n});
  barrier();
  lap(OpGroup::qkv);
  attention(layer, index);
  barrier_before({layer.out});
  lap(OpGroup::attention);
}

/// The last layer, where not every row has a use for its output: keys and values of all rows, then only the
/// head rows go on, moved together at the front of x. Of a long prompt that is one row.
void StepWorker::attend_head_rows(const Layer& layer, int32_t index) {
  const StepBuffers& b = c_.buffers;
  const int64_t queries = int64_t{layer.heads} * layer.head_dim;
  const Epilogue into_qkv{.dst = b.qkv, .ld = b.qkv_ld, .columns = layer.qkv.w.n};
  // A panel that queries and keys share is computed both times; the keys are in their pages by then.
  const PanelRange keys_values{static_cast<int32_t>(queries / kPanel), layer.qkv.w.panels()};
  linear(layer.qkv, input(layer.qkv, b.x, b.hidden_ld, rows_, &layer.norm_attn), into_qkv, keys_values);
  barrier();
  lap(OpGroup::qkv);
  if (thread_ == 0) gather_head_rows();
  each_task(layer, c_.plan.store_parts,
            [&](const PlanPart& part, int32_t kv_head) { store_part(layer, index, part, kv_head, false); });
  barrier();
  lap(OpGroup::attention);
  rows_ = c_.plan.num_head_rows();
  if (rows_ == 0) return;
  linear(layer.qkv, input(layer.qkv, b.x, b.hidden_ld, rows_, &layer.norm_attn), into_qkv,
         {0, static_cast<int32_t>((queries + kPanel - 1) / kPanel)});
  barrier();
  lap(OpGroup::qkv);
  each_task(layer, c_.plan.head_parts, [&](const PlanPart& part, int32_t kv_head) {
    for (int32_t row = part.row; row < part.row + part.rows; ++row) {
      rotate_queries(layer, kv_head, row, c_.plan.head_rows[row].row);
    }
    attend_part(layer, index, part, kv_head);
  });
  barrier_before({layer.out});
  lap(OpGroup::attention);
}

void StepWorker::gather_head_rows() {
  const StepBuffers& b = c_.buffers;
  for (int32_t i = 0; i < c_.plan.num_head_rows(); ++i) {  // in order: a row only moves forward
    const int32_t from = c_.plan.head_rows[i].row;
    if (from == i) continue;
    std::memcpy(b.x + i * b.hidden_ld, b.x + from * b.hidden_ld, c_.model.hidden * sizeof(float));
  }
}

void StepWorker::mlp(const Layer& layer, const NextLinear& next) {
  const StepBuffers& b = c_.buffers;
  const Activations normed = input(layer.up, b.x, b.hidden_ld, rows_, &layer.norm_mlp);
  linear(layer.up, normed,
         {.kind = layer.gated ? Epilogue::Kind::gate : Epilogue::Kind::activate,
          .dst = b.mlp,
          .ld = b.mlp_ld,
          .columns = layer.intermediate,
          .activation = layer.activation});
  barrier_before({layer.down});
  lap(OpGroup::up);
  const Activations active = input(layer.down, b.mlp, b.mlp_ld, rows_);
  if (layer.parallel_residual) {
    linear(layer.down, active,
           {.kind = Epilogue::Kind::add_both,
            .dst = b.x,
            .ld = b.hidden_ld,
            .columns = c_.model.hidden,
            .other = b.y});
    barrier_before(next);
    lap(OpGroup::down);
  } else {
    finish_block(layer.down, active, layer.post_mlp, next, OpGroup::down);
  }
}

/// x += linear(input), or x += post(linear(input)): a norm needs the whole row, hence one more barrier.
void StepWorker::finish_block(const Linear& l, const Activations& input, const Norm& post,
                              const NextLinear& next, OpGroup group) {
  const StepBuffers& b = c_.buffers;
  if (post.weight == nullptr) {
    linear(l, input,
           {.kind = Epilogue::Kind::add, .dst = b.x, .ld = b.hidden_ld, .columns = c_.model.hidden});
  } else {
    linear(l, input, {.dst = b.y, .ld = b.hidden_ld, .columns = c_.model.hidden});
    barrier();
    add_normalized(post);
  }
  barrier_before(next);
  lap(group);
}

}  // namespace narrows
