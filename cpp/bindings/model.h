// Python's Norm, Linear, Layer and Model: the native views and the arrays that keep their memory alive.
#pragma once
#include <optional>
#include <vector>

#include "checks.h"
#include "narrows/transformer.h"

namespace narrows::python {

struct PyNorm {
  std::optional<Array> weight, bias;
  Norm native;
  int64_t size = 0;  // 0: absent
};

struct PyLinear {
  Array data;
  std::optional<Array> bias;
  Linear native;
};

struct PyLayer {
  Layer native;
  PyLinear qkv, out, up, down;
  PyNorm norm_attn, norm_mlp, post_attn, post_mlp, q_norm, k_norm;
};

struct PyModel {
  Model native;
  std::vector<PyLayer> layers;
  PyNorm final_norm;
  PyLinear head;
  std::optional<PyLinear> packed_embedding;
  std::optional<Array> embedding_rows, position_rows;
};

/// ValueError naming the layer and the tensor where sizes do not fit each other.
void check_model(const PyModel& model);

}  // namespace narrows::python
