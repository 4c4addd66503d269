// One thread's way through a step. Every thread runs the same StepWorker::run() and meets the others at
// barriers; within a stage they share the work by the stage queues. Which thread computes
// what never changes a bit of the result: sums are never split.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "narrows/transformer.h"
#include "stage_queues.h"
#include "transformer_buffers.h"
#include "transformer_plan.h"

namespace narrows {

/// What the threads of a step share.
struct StepContext {
  const Model& model;
  const Kernels& kernels;
  ThreadPool& pool;
  StepBuffers& buffers;
  const StepPlan& plan;
  const std::vector<SequenceInput>& batch;
  KvPages& kv;
  std::vector<SequenceOutput>& out;
  float* all_logits;
  StageQueues& queues;  // reset at the start of a step
  std::array<double, kOpGroups>& op_times;
};

/// What becomes of a tile of linear outputs (after the bias).
struct Epilogue {
  enum class Kind : uint8_t {
    store,     // dst = y
    add,       // dst += y
    add_both,  // dst += y + other
    activate,  // dst = f(y)
    gate,      // dst = f(gate) * up, panels interleaved
  };
  Kind kind = Kind::store;
  float* dst = nullptr;
  int64_t ld = 0;
  int32_t columns = 0;           // of dst
  const float* other = nullptr;  // same ld as dst
  ActivationKind activation = ActivationKind::silu;
};

/// The linear after a barrier; `pairs`: its panels are gates and factors in turn.
struct NextLinear {
  const Linear& linear;
  bool pairs = false;
};

struct RowRange {
  int32_t begin = 0, end = 0;
};
struct PanelRange {
  int32_t begin = 0, end = 0;
};

/// Panels per unit of work. Gates come in pairs of panels, and the kernels like three at a time: six, or
/// three where a panel is on its own. Small matrices need smaller units to be shared evenly.
int32_t unit_panels(int32_t panels, int threads, bool pairs);

/// The search for the largest logits of a few rows by the upper plane of the head: what a thread knows of
/// each row.
struct PlaneSearch {
  int32_t rows = 0;
  float margin[kPlaneRows];     // by which a logit may exceed what the upper plane says, per unit of `rest`
  float threshold[kPlaneRows];  // as many logits as are wanted reach it; -inf: all panels are wanted
  int32_t num_seeds[kPlaneRows];
  int32_t seeds[kPlaneRows][Sampler::kMaxReach];  // the panels with the largest logits by the upper plane
};

class StepWorker {
 public:
  StepWorker(StepContext& context, int thread);
  void run();

 private:
  // transformer_layer.cpp
  void layer(const Layer& layer, int32_t index);
  void attend_all(const Layer& layer, int32_t index);
  void attend_head_rows(const Layer& layer, int32_t index);
  void gather_head_rows();
  void mlp(const Layer& layer, const NextLinear& next);
  void finish_block(const Linear& linear, const Activations& input, const Norm& post, const NextLinear& next,
                    OpGroup group);

  // transformer_input.cpp: rows into and between the linears
  void embed();
  void embed_row(int32_t row);
  void rope_angles(int32_t row);
  void normalize(const Norm& norm, const float* x, float* out, int32_t n) const;
  void add_normalized(const Norm& norm);
  void quantize_rows(const Norm* norm, const float* x, RowRange rows, const Activations& a, int64_t ld);
  Activations input(const Linear& linear, const float* x, int64_t ld, int32_t rows,
                    const Norm* norm = nullptr);

  // transformer_linear.cpp
  void linear(const Linear& linear, const Activations& input, const Epilogue& epilogue);
  void linear(const Linear& linear, const Activations& input, const Epilogue& epilogue, PanelRange panels);
  void linear_panels(const Linear& linear, const Activations& input, const Epilogue& epilogue, int32_t begin,
                     int32_t end);
  void finish_tile(const Linear& linear, const Epilogue& epilogue, RowRange rows, int32_t panel_begin,
                   int32_t panel_end);
  void finish_gate(const Linear& linear, const Epilogue& epilogue, RowRange rows, int32_t panel_begin,
                   int32_t panel_end);

  // transformer_attention.cpp
  void attention(const Layer& layer, int32_t index);
  template <typename Body>
  void each_task(const Layer& layer, const std::vector<PlanPart>& parts, Body&& body) {
    const int32_t count = static_cast<int32_t>(parts.size());
    share_units(count * layer.kv_heads, Take::single,
                [&](UnitRange t) { body(parts[t.begin % count], t.begin / count); });
  }
  void store_part(const Layer& layer, int32_t index, const PlanPart& part, int32_t kv_head,
                  bool with_queries);
  void rotate_queries(const Layer& layer, int32_t kv_head, int32_t row, int32_t angles) const;
  void rotate_head(const Layer& layer, const Norm& norm, int32_t row, float* head) const;
  void attend_part(const Layer& layer, int32_t index, const PlanPart& part, int32_t kv_head);

  // transformer_head.cpp
  void head();
  bool follows_draw(size_t first, int32_t index) const;
  bool is_drawn(const PlanHeadRow& row) const;
  void finish_row(size_t first, int32_t index, const PlaneSearch* search);
  void finish_logits(const PlanHeadRow& row, float* logits);
  void score_target(const PlanHeadRow& row, const float* logits);

  // transformer_planes.cpp: the head where few logits are wanted
  bool by_planes(size_t first, int32_t rows) const;
  void search_planes(size_t first, const Activations& a, PlaneSearch* search);
  void read_upper(const Activations& a);
  void upper_panels(const Activations& a, int32_t begin, int32_t end);
  void find_seeds(int32_t row, int32_t wanted, PlaneSearch* search) const;
  int32_t list_seeds(const PlaneSearch& search) const;
  void set_threshold(int32_t row, PlaneSearch* search) const;
  int32_t list_likely(const PlaneSearch& search, int32_t num_seeds) const;
  void read_both(const Activations& a, int32_t panels);
  Sampled draw_likely(const Sampler& sampler, int32_t row, const PlaneSearch& search) const;

  /// The rows this thread takes of `rows`, in whole row blocks where there are many.
  RowRange share(int32_t rows) const;
  /// body(range) for all units of the next stage this thread gets; all threads come here in the same order.
  template <typename Body>
  void share_units(int32_t units, Take how, Body&& body) {
    const size_t stage = stage_++;
    c_.queues.enter(stage, thread_);
    for (UnitRange u = c_.queues.take(stage, thread_, units, how); !u.empty();
         u = c_.queues.take(stage, thread_, units, how)) {
      body(u);
    }
  }
  void barrier() { c_.pool.barrier(); }
  /// A barrier before the linear `next`: while it waits, this thread fetches its share of the weights.
  void barrier_before(const NextLinear& next);
  /// Books the time since the last call (thread 0 only).
  void lap(OpGroup group);

  StepContext& c_;
  const int thread_;
  const int threads_;
  WorkerBuffers& mine_;
  int32_t rows_;  // of x that are alive: those of the step, after the last attention those of the head
  size_t stage_ = 0;
  std::chrono::steady_clock::time_point lap_begin_;
};

}  // namespace narrows
