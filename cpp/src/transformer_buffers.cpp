#include "transformer_buffers.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace narrows {

/// Hands out 64-byte aligned pieces; with a null base it only counts.
class StepBuffers::Arena {
 public:
  explicit Arena(uint8_t* base) : base_(base) {}
  template <typename T>
  void take(T*& pointer, int64_t count) {
    if (base_ != nullptr) pointer = reinterpret_cast<T*>(base_ + used_);
    int64_t size = 0;
    if (__builtin_mul_overflow(count, static_cast<int64_t>(sizeof(T)), &size) ||
        __builtin_add_overflow(used_, round_up(size, 64), &used_)) {
      throw std::bad_alloc();
    }
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

void StepBuffers::measure(const Model& model) {
  const auto input = [&](const Linear& linear) {
    input_ld = std::max(input_ld, round_up(linear.w.k, kPanel));
    max_codes_ = std::max(max_codes_, linear.w.padded_k());
    max_groups_ = std::max(max_groups_, linear.w.groups());
  };
  hidden_ld = round_up(model.hidden, kPanel);
  logits_ld = int64_t{model.head.w.panels()} * kPanel;
  panels_ld = model.head.w.format == Format::P44 ? round_up(model.head.w.panels(), kPanel) : 0;
  for (const Layer& layer : model.layers) {
    for (const Linear* linear : {&layer.qkv, &layer.out, &layer.up, &layer.down}) input(*linear);
    qkv_ld = std::max(qkv_ld, int64_t{layer.qkv.w.panels()} * kPanel);
    attended_ld = std::max(attended_ld, round_up(int64_t{layer.heads} * layer.head_dim, kPanel));
    mlp_ld = std::max(mlp_ld, round_up(layer.intermediate, kPanel));
    attention_floats_ =
        std::max(attention_floats_, attention_scratch_floats(layer.heads / layer.kv_heads, layer.head_dim));
  }
  input(model.head);
}

void StepBuffers::place_input(Arena& arena, InputBuffer& input, int64_t rows) const {
  arena.take(input.f32, rows * input_ld);
  arena.take(input.codes, rows * max_codes_);
  arena.take(input.scale, rows * max_groups_);
  arena.take(input.sum, rows * max_groups_);
}

void StepBuffers::place(Arena& arena, const Model& model, int64_t max_rows) {
  arena.take(x, max_rows * hidden_ld);
  arena.take(y, max_rows * hidden_ld);
  arena.take(qkv, max_rows * qkv_ld);
  arena.take(attended, max_rows * attended_ld);
  arena.take(mlp, max_rows * mlp_ld);
  arena.take(logits, std::min<int64_t>(max_rows, kHeadRows) * logits_ld);
  arena.take(panel_best, kPlaneRows * panels_ld);
  arena.take(panel_rest, panels_ld);
  place_input(arena, many, max_rows);
  for (size_t i = 0; i < model.ropes.size(); ++i) {
    arena.take(cos[i], max_rows * static_cast<int64_t>(model.ropes[i].inv_freq.size()));
    arena.take(sin[i], max_rows * static_cast<int64_t>(model.ropes[i].inv_freq.size()));
  }
  for (WorkerBuffers& worker : workers) {
    arena.take(worker.tile, kTileFloats);
    arena.take(worker.rows, kRowBlock * input_ld);
    arena.take(worker.attention, attention_floats_);
    arena.take(worker.linear, kLinearScratchBytes);
    arena.take(worker.excess, panels_ld);
    arena.take(worker.panels, panels_ld);
    place_input(arena, worker.few, kFewRows);
  }
}

StepBuffers::StepBuffers(const Model& model, int threads, int32_t max_rows)
    : cos(model.ropes.size()), sin(model.ropes.size()), workers(threads) {
  measure(model);
  Arena count(nullptr);
  place(count, model, max_rows);
  bytes_ = count.used();
  void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(data);
  Arena arena(data_);
  place(arena, model, max_rows);
}

StepBuffers::~StepBuffers() { munmap(data_, bytes_); }

}  // namespace narrows
