// Every size of a model against every other, once, so that the kernels need not look.
#include "model.h"

namespace narrows::python {
namespace {

constexpr int64_t kMaxHeadDim = 1024;

void check_norm(const PyNorm& norm, int64_t size, bool bias_allowed, const std::string& name) {
  if (norm.size == 0) return;
  if (norm.size != size) {
    refuse(name + " has " + std::to_string(norm.size) + " weights but must have " + std::to_string(size));
  }
  if (norm.bias.has_value() && !bias_allowed) refuse(name + " has a bias, which an RMS norm cannot have");
}

void check_linear(const PyLinear& linear, int64_t n, int64_t k, const std::string& name) {
  const PackedMatrix& w = linear.native.w;
  if (w.n == n && w.k == k) return;
  refuse(name + " is [" + std::to_string(w.n) + ", " + std::to_string(w.k) + "] but must be [" +
         std::to_string(n) + ", " + std::to_string(k) + "]");
}

void check_rope(const Model& model, const Layer& layer, const std::string& name) {
  if (layer.rope < -1 || layer.rope >= static_cast<int64_t>(model.ropes.size())) {
    refuse(name + "rope is " + std::to_string(layer.rope) + " but the model has " +
           std::to_string(model.ropes.size()) + " ropes");
  }
  if (layer.rope >= 0 && 2 * model.ropes[layer.rope].inv_freq.size() > static_cast<size_t>(layer.head_dim)) {
    refuse(name + "rope rotates more dimensions than head_dim has");
  }
}

void check_layer(const Model& model, const PyLayer& layer, const std::string& name) {
  const Layer& l = layer.native;
  checked_int(l.heads, 1, kMaxDimension / kMaxHeadDim, name + "heads");
  checked_int(l.kv_heads, 1, l.heads, name + "kv_heads");
  if (l.heads % l.kv_heads != 0) refuse(name + "heads must be a multiple of kv_heads");
  checked_int(l.head_dim, 1, kMaxHeadDim, name + "head_dim");
  checked_int(l.intermediate, 1, kMaxDimension / 2, name + "intermediate");
  if (l.window < 0) refuse(name + "window must not be negative");
  if (!(l.attention_softcap >= 0)) refuse(name + "attention_softcap must not be negative");
  check_rope(model, l, name);
  if (l.parallel_residual && (layer.post_attn.size > 0 || layer.post_mlp.size > 0)) {
    refuse(name + "post_attn and post_mlp do not go with parallel_residual");
  }
  const int64_t hidden = model.hidden;
  const int64_t attended = int64_t{l.heads} * l.head_dim;
  const int64_t qkv = attended + 2 * int64_t{l.kv_heads} * l.head_dim;
  check_linear(layer.qkv, qkv, hidden, name + "qkv");
  check_linear(layer.out, hidden, attended, name + "out");
  check_linear(layer.up, l.gated ? 2 * round_up(l.intermediate, kPanel) : l.intermediate, hidden,
               name + "up");
  check_linear(layer.down, hidden, l.intermediate, name + "down");
  const bool bias = model.norm == NormKind::layer;
  check_norm(layer.norm_attn, hidden, bias, name + "norm_attn");
  check_norm(layer.norm_mlp, hidden, bias, name + "norm_mlp");
  check_norm(layer.post_attn, hidden, bias, name + "post_attn");
  check_norm(layer.post_mlp, hidden, bias, name + "post_mlp");
  check_norm(layer.q_norm, l.head_dim, false, name + "q_norm");
  check_norm(layer.k_norm, l.head_dim, false, name + "k_norm");
}

}  // namespace

void check_model(const PyModel& model) {
  const Model& m = model.native;
  checked_int(m.hidden, 1, kMaxDimension, "hidden");
  checked_int(m.vocab, 1, kMaxDimension, "vocab");
  checked_int(m.max_positions, 1, kMaxDimension, "max_positions");
  if (!(m.norm_eps >= 0)) refuse("norm_eps must not be negative");
  if (!(m.final_softcap >= 0)) refuse("final_softcap must not be negative");
  for (size_t i = 0; i < model.layers.size(); ++i) {
    check_layer(m, model.layers[i], "layers[" + std::to_string(i) + "].");
  }
  check_norm(model.final_norm, m.hidden, m.norm == NormKind::layer, "final_norm");
  check_linear(model.head, m.vocab, m.hidden, "head");
  if (m.embedding.n != m.vocab || m.embedding.k != m.hidden) {
    refuse("embedding is [" + std::to_string(m.embedding.n) + ", " + std::to_string(m.embedding.k) +
           "] but must be [vocab, hidden] = [" + std::to_string(m.vocab) + ", " + std::to_string(m.hidden) +
           "]");
  }
  if (model.position_rows.has_value() &&
      (static_cast<int64_t>(model.position_rows->shape(0)) != m.max_positions ||
       static_cast<int64_t>(model.position_rows->shape(1)) != m.hidden)) {
    refuse("position_rows must be [max_positions, hidden]");
  }
}

}  // namespace narrows::python
