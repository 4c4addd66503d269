// The border of a step: owns the buffers, makes the plan, starts the threads.
#include "narrows/transformer.h"

#include <mutex>
#include <utility>

#include "transformer_step.h"

namespace narrows {

struct Transformer::State {
  State(Model m, ThreadPool& p, const Kernels& k, int32_t rows)
      : model(std::move(m)),
        pool(p),
        kernels(k),
        max_rows(rows),
        buffers(model, pool.size(), rows),
        queues(pool.size()) {}

  const Model model;
  ThreadPool& pool;
  const Kernels& kernels;
  const int32_t max_rows;
  StepBuffers buffers;
  StepPlan plan;
  StageQueues queues;
  std::array<double, kOpGroups> op_times{};
  std::mutex one_step;
};

Transformer::Transformer(Model model, ThreadPool& pool, const Kernels& kernels, int32_t max_step_tokens)
    : state_(std::make_unique<State>(std::move(model), pool, kernels, max_step_tokens)) {}

Transformer::~Transformer() = default;

void Transformer::step(KvPages& kv, const std::vector<SequenceInput>& batch, std::vector<SequenceOutput>& out,
                       float* all_logits) {
  State& s = *state_;
  const std::lock_guard lock(s.one_step);
  s.plan.build(s.model, batch, all_logits != nullptr);
  out.resize(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    const size_t targets = batch[i].targets != nullptr ? batch[i].num_tokens : 0;
    out[i].drawn.clear();
    out[i].targets.assign(targets, TokenLogprob{});
    out[i].target_top.assign(targets, {});
  }
  if (s.plan.num_rows() == 0) return;
  s.queues.reset();
  StepContext context{s.model, s.kernels, s.pool,     s.buffers, s.plan,    batch,
                      kv,      out,       all_logits, s.queues,  s.op_times};
  s.pool.run([&context](int thread) { StepWorker(context, thread).run(); });
}

const Model& Transformer::model() const { return state_->model; }

int32_t Transformer::max_step_tokens() const { return state_->max_rows; }

int64_t Transformer::weight_bytes_per_step() const {
  const Model& m = state_->model;
  int64_t bytes = m.head.w.panel_bytes() * m.head.w.panels();  // of two planes the upper one
  for (const Layer& layer : m.layers) {
    for (const Linear* linear : {&layer.qkv, &layer.out, &layer.up, &layer.down}) bytes += linear->w.bytes();
  }
  return bytes;
}

int64_t Transformer::scratch_bytes() const { return state_->buffers.bytes(); }

std::array<double, kOpGroups> Transformer::take_op_times() {
  const std::lock_guard lock(state_->one_step);
  return std::exchange(state_->op_times, {});
}

}  // namespace narrows
