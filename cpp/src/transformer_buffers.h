// All memory of a step, allocated once for `max_rows` rows: one anonymous mapping, touched only as far as
// steps need.
#pragma once
#include <cstdint>
#include <vector>

#include "narrows/transformer.h"

namespace narrows {

// Rows up to which every thread normalizes and quantizes all rows for itself: cheaper than one more barrier.
inline constexpr int32_t kFewRows = 4;
// Rows and columns of a tile of linear outputs: 256 x 96 floats = 96 KiB, which stays in L2 beside the
// weights.
inline constexpr int32_t kTileRows = 256;
inline constexpr int32_t kTilePanels =
    6;  // least common multiple of the interleaved pair and the 3-panel tile
inline constexpr int32_t kTileFloats = kTileRows * kTilePanels * kPanel;
// Rows of logits kept at a time: a vocabulary of 150k takes 20 MB.
inline constexpr int32_t kHeadRows = 32;
// Rows whose best tokens are looked for by planes; of more, the multipliers are the limit, not the memory.
inline constexpr int32_t kPlaneRows = 8;

/// Inputs of a linear as the kernels read them; the widest linear of the model fits.
struct InputBuffer {
  float* f32 = nullptr;  // [rows, widest]
  int8_t* codes = nullptr;
  float* scale = nullptr;
  int32_t* sum = nullptr;
};

struct WorkerBuffers {
  float* tile = nullptr;  // [kTileFloats]
  float* rows = nullptr;  // [kRowBlock, input_ld]: a row block between its norm and its codes
  float* attention = nullptr;
  uint8_t* linear = nullptr;
  float* excess = nullptr;    // [panels of a head in two planes]
  int32_t* panels = nullptr;  // likewise
  InputBuffer few;            // [kFewRows]
};

class StepBuffers {
 public:
  StepBuffers(const Model& model, int threads, int32_t max_rows);  // throws std::bad_alloc
  ~StepBuffers();
  StepBuffers(const StepBuffers&) = delete;
  StepBuffers& operator=(const StepBuffers&) = delete;

  int64_t bytes() const { return bytes_; }

  int64_t qkv_ld = 0, attended_ld = 0, mlp_ld = 0, hidden_ld = 0, logits_ld = 0, input_ld = 0;
  float* x = nullptr;            // [rows, hidden_ld] the residual stream
  float* y = nullptr;            // [rows, hidden_ld] an output that still waits for a norm, a sum or the head
  float* qkv = nullptr;          // [rows, qkv_ld]
  float* attended = nullptr;     // [rows, attended_ld]
  float* mlp = nullptr;          // [rows, mlp_ld]
  float* logits = nullptr;       // [kHeadRows, logits_ld]
  float* panel_best = nullptr;   // [kPlaneRows, panels_ld] by the upper plane of the head
  float* panel_rest = nullptr;   // [panels_ld] PackedMatrix::rest
  int64_t panels_ld = 0;         // 0: the head has no planes
  InputBuffer many;              // [rows], shared by all threads
  std::vector<float*> cos, sin;  // per rope: [rows, half]
  std::vector<WorkerBuffers> workers;

 private:
  class Arena;
  void measure(const Model& model);
  void place(Arena& arena, const Model& model, int64_t max_rows);
  void place_input(Arena& arena, InputBuffer& input, int64_t rows) const;

  int64_t max_codes_ = 0, max_groups_ = 0, attention_floats_ = 0;
  int64_t bytes_ = 0;
  uint8_t* data_ = nullptr;
};

}  // namespace narrows
