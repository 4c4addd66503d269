// Builds the native model from Python's parts.
#include "model.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace narrows::python {
namespace {

using namespace nb::literals;

PyNorm make_norm(std::optional<Array> weight, std::optional<Array> bias) {
  PyNorm norm;
  if (!weight.has_value()) {
    if (bias.has_value()) refuse("bias is given without weight");
    return norm;
  }
  norm.native.weight = float_data(*weight, 1, "weight");
  norm.size = static_cast<int64_t>(weight->size());
  if (norm.size == 0) refuse("weight is empty");
  if (bias.has_value()) {
    norm.native.bias = float_data(*bias, 1, "bias");
    if (bias->size() != weight->size()) refuse("bias and weight differ in size");
  }
  norm.weight = std::move(weight);
  norm.bias = std::move(bias);
  return norm;
}

PyLinear make_linear(Array data, const std::string& format, int64_t n, int64_t k, int64_t group,
                     bool has_zero, std::optional<Array> bias) {
  PyLinear linear;
  linear.native.w = packed_matrix(data, packed_shape(format, n, k, group, has_zero), "data");
  if (bias.has_value()) {
    linear.native.bias = float_data(*bias, 1, "bias");
    if (static_cast<int64_t>(bias->size()) != n) refuse("bias must have n values");
  }
  linear.data = std::move(data);
  linear.bias = std::move(bias);
  return linear;
}

PyNorm value_or_absent(const PyNorm* norm) { return norm != nullptr ? *norm : PyNorm{}; }

void set_tensors(PyLayer& layer) {
  Layer& l = layer.native;
  l.qkv = layer.qkv.native;
  l.out = layer.out.native;
  l.up = layer.up.native;
  l.down = layer.down.native;
  l.norm_attn = layer.norm_attn.native;
  l.norm_mlp = layer.norm_mlp.native;
  l.post_attn = layer.post_attn.native;
  l.post_mlp = layer.post_mlp.native;
  l.q_norm = layer.q_norm.native;
  l.k_norm = layer.k_norm.native;
}

void init_layer(PyLayer* self, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t intermediate,
                int32_t window, int32_t rope, float attention_scale, float attention_softcap, bool gated,
                const std::string& activation, bool parallel_residual, const std::string& kv,
                bool int8_attention, const PyLinear& qkv, const PyLinear& out, const PyLinear& up,
                const PyLinear& down, const PyNorm* norm_attn, const PyNorm* norm_mlp,
                const PyNorm* post_attn, const PyNorm* post_mlp, const PyNorm* q_norm, const PyNorm* k_norm) {
  PyLayer layer{.native = {.heads = heads,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .intermediate = intermediate,
                           .window = window,
                           .rope = rope,
                           .attention_scale = attention_scale,
                           .attention_softcap = attention_softcap,
                           .gated = gated,
                           .activation = parse_activation(activation),
                           .parallel_residual = parallel_residual,
                           .kv = parse_kv_format(kv),
                           .int8_attention = int8_attention},
                .qkv = qkv,
                .out = out,
                .up = up,
                .down = down,
                .norm_attn = value_or_absent(norm_attn),
                .norm_mlp = value_or_absent(norm_mlp),
                .post_attn = value_or_absent(post_attn),
                .post_mlp = value_or_absent(post_mlp),
                .q_norm = value_or_absent(q_norm),
                .k_norm = value_or_absent(k_norm)};
  set_tensors(layer);
  new (self) PyLayer(std::move(layer));
}

void set_embedding(PyModel& model, nb::handle embedding) {
  if (nb::isinstance<PyLinear>(embedding)) {
    model.packed_embedding = nb::cast<PyLinear>(embedding);
    model.native.embedding = model.packed_embedding->native.w;
    return;
  }
  Array array;
  if (!nb::try_cast(embedding, array)) throw nb::type_error("embedding must be a Linear or an array of rows");
  const SourceRows rows = source_rows(array, "embedding");
  if (rows.ld != rows.k) refuse("embedding must be contiguous");
  PackedMatrix& view = model.native.embedding;
  view.format = rows.dtype == DType::f32   ? Format::F32
                : rows.dtype == DType::f16 ? Format::F16
                                           : Format::BF16;
  view.n = static_cast<int32_t>(rows.n);
  view.k = static_cast<int32_t>(rows.k);
  model.native.embedding_rows = rows.data;
  model.embedding_rows = std::move(array);
}

void set_ropes(PyModel& model, const std::vector<std::pair<Array, float>>& ropes) {
  for (size_t i = 0; i < ropes.size(); ++i) {
    const float* data = float_data(ropes[i].first, 1, "ropes[" + std::to_string(i) + "]");
    model.native.ropes.push_back({{data, data + ropes[i].first.size()}, ropes[i].second});
  }
}

NormKind parse_norm(const std::string& name) {
  if (name == "rms") return NormKind::rms;
  if (name == "layer") return NormKind::layer;
  refuse("norm is '" + name + "' but must be rms or layer");
}

void init_model(PyModel* self, int32_t hidden, int32_t vocab, int32_t max_positions, const std::string& norm,
                float norm_eps, float embedding_scale, float final_softcap,
                const std::vector<std::pair<Array, float>>& ropes, const std::vector<const PyLayer*>& layers,
                nb::handle embedding, std::optional<Array> position_rows, const PyNorm* final_norm,
                const PyLinear& head) {
  PyModel model{.native = {.hidden = hidden,
                           .vocab = vocab,
                           .max_positions = max_positions,
                           .norm = parse_norm(norm),
                           .norm_eps = norm_eps,
                           .embedding_scale = embedding_scale,
                           .final_softcap = final_softcap},
                .final_norm = value_or_absent(final_norm),
                .head = head};
  set_ropes(model, ropes);
  set_embedding(model, embedding);
  for (const PyLayer* layer : layers) {
    model.layers.push_back(*layer);
    model.native.layers.push_back(layer->native);
  }
  if (position_rows.has_value()) model.native.position_rows = float_data(*position_rows, 2, "position_rows");
  model.position_rows = std::move(position_rows);
  model.native.final_norm = model.final_norm.native;
  model.native.head = model.head.native;
  check_model(model);
  new (self) PyModel(std::move(model));
}

}  // namespace

void bind_model(nb::module_& m) {
  nb::class_<PyNorm>(m, "Norm").def(
      "__init__",
      [](PyNorm* self, std::optional<Array> weight, std::optional<Array> bias) {
        new (self) PyNorm(make_norm(std::move(weight), std::move(bias)));
      },
      "weight"_a.noconvert().none() = nb::none(), "bias"_a.noconvert().none() = nb::none());
  nb::class_<PyLinear>(m, "Linear")
      .def(
          "__init__",
          [](PyLinear* self, Array data, const std::string& format, int64_t n, int64_t k, int64_t group,
             bool has_zero, std::optional<Array> bias) {
            new (self) PyLinear(make_linear(std::move(data), format, n, k, group, has_zero, std::move(bias)));
          },
          "data"_a.noconvert(), nb::kw_only(), "format"_a, "n"_a, "k"_a, "group"_a = 0, "has_zero"_a = false,
          "bias"_a.noconvert().none() = nb::none());
  nb::class_<PyLayer>(m, "Layer")
      .def("__init__", &init_layer, nb::kw_only(), "heads"_a, "kv_heads"_a, "head_dim"_a, "intermediate"_a,
           "window"_a, "rope"_a, "attention_scale"_a, "attention_softcap"_a, "gated"_a, "activation"_a,
           "parallel_residual"_a, "kv"_a = "f16", "int8_attention"_a = false, "qkv"_a, "out"_a, "up"_a,
           "down"_a, "norm_attn"_a.none() = nb::none(), "norm_mlp"_a.none() = nb::none(),
           "post_attn"_a.none() = nb::none(), "post_mlp"_a.none() = nb::none(),
           "q_norm"_a.none() = nb::none(), "k_norm"_a.none() = nb::none());
  nb::class_<PyModel>(m, "Model")
      .def("__init__", &init_model, nb::kw_only(), "hidden"_a, "vocab"_a, "max_positions"_a, "norm"_a,
           "norm_eps"_a, "embedding_scale"_a, "final_softcap"_a, "ropes"_a, "layers"_a, "embedding"_a,
           "position_rows"_a.noconvert().none(), "final_norm"_a.none(), "head"_a);
}

}  // namespace narrows::python
