// Rows on their way into a linear: embedding, rope angles, norms and the quantization of activations.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/linear_half.h"
#include "transformer_step.h"

namespace narrows {
namespace {

/// Row `row` of a row-major [vocab, hidden] matrix in float.
void unpack_plain_row(const void* rows, Format format, int64_t row, int32_t hidden, float* out) {
  if (format == Format::F32) {
    std::memcpy(out, static_cast<const float*>(rows) + row * hidden, hidden * sizeof(float));
    return;
  }
  const uint16_t* source = static_cast<const uint16_t*>(rows) + row * hidden;
  for (int32_t i = 0; i < hidden; ++i) {
    out[i] = format == Format::F16 ? f16_to_float(source[i]) : bf16_to_float(source[i]);
  }
}

}  // namespace

RowRange StepWorker::share(int32_t rows) const {
  const int64_t step = rows >= kRowBlock * threads_ ? kRowBlock : 1;
  const int64_t steps = (rows + step - 1) / step;
  const auto edge = [&](int64_t thread) {
    return static_cast<int32_t>(std::min<int64_t>(rows, steps * thread / threads_ * step));
  };
  return {edge(thread_), edge(thread_ + 1)};
}

void StepWorker::embed() {
  const RowRange mine = share(c_.plan.num_rows());
  for (int32_t row = mine.begin; row < mine.end; ++row) {
    embed_row(row);
    rope_angles(row);
  }
  barrier();
  lap(OpGroup::other);
}

void StepWorker::embed_row(int32_t row) {
  const Model& m = c_.model;
  const PlanRow& source = c_.plan.rows[row];
  float* x = c_.buffers.x + row * c_.buffers.hidden_ld;
  if (m.embedding_rows != nullptr) {
    unpack_plain_row(m.embedding_rows, m.embedding.format, source.token, m.hidden, x);
  } else {
    c_.kernels.unpack_row(m.embedding, source.token, x);
  }
  if (m.embedding_scale != 1.0f) c_.kernels.scale(x, m.embedding_scale, m.hidden);
  if (m.position_rows != nullptr) {
    c_.kernels.add(x, m.position_rows + int64_t{source.position} * m.hidden, m.hidden);
  }
  if (m.embedding_norm.weight != nullptr) normalize(m.embedding_norm, x, x, m.hidden);
}

void StepWorker::rope_angles(int32_t row) {
  const float position = static_cast<float>(c_.plan.rows[row].position);
  for (size_t r = 0; r < c_.model.ropes.size(); ++r) {
    const Rope& rope = c_.model.ropes[r];
    const size_t half = rope.inv_freq.size();
    float* cos = c_.buffers.cos[r] + row * half;
    float* sin = c_.buffers.sin[r] + row * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle = position * rope.inv_freq[i];  // in float, as the models were trained
      cos[i] = std::cos(angle) * rope.attention_factor;
      sin[i] = std::sin(angle) * rope.attention_factor;
    }
  }
}

void StepWorker::normalize(const Norm& norm, const float* x, float* out, int32_t n) const {
  if (c_.model.norm == NormKind::rms) {
    c_.kernels.rms_norm(x, norm.weight, c_.model.norm_eps, out, n);
  } else {
    c_.kernels.layer_norm(x, norm.weight, norm.bias, c_.model.norm_eps, out, n);
  }
}

void StepWorker::add_normalized(const Norm& norm) {
  const RowRange mine = share(rows_);
  for (int32_t row = mine.begin; row < mine.end; ++row) {
    float* y = c_.buffers.y + row * c_.buffers.hidden_ld;
    normalize(norm, y, y, c_.model.hidden);
    c_.kernels.add(c_.buffers.x + row * c_.buffers.hidden_ld, y, c_.model.hidden);
  }
}

void StepWorker::quantize_rows(const Norm* norm, const float* x, RowRange rows, const Activations& a,
                               int64_t ld) {
  if (norm == nullptr) return c_.kernels.quantize(x + rows.begin * ld, ld, rows.begin, rows.end, a);
  for (int32_t row = rows.begin, end = 0; row < rows.end;
       row = end) {  // block by block, while it is in cache
    end = std::min(rows.end, row / kRowBlock * kRowBlock + kRowBlock);
    for (int32_t i = row; i < end; ++i) {
      normalize(*norm, x + i * ld, mine_.rows + (i - row) * c_.buffers.input_ld, a.k);
    }
    c_.kernels.quantize(mine_.rows, c_.buffers.input_ld, row, end, a);
  }
}

/// The `rows` rows at x as `linear` reads them, after `norm` where one is given. Few rows are prepared by
/// every thread in memory of its own, many by all threads together (which ends with a barrier).
Activations StepWorker::input(const Linear& linear, const float* x, int64_t ld, int32_t rows,
                              const Norm* norm) {
  const bool few = rows <= kFewRows;
  const InputBuffer& buffer = few ? mine_.few : c_.buffers.many;
  const RowRange mine = few ? RowRange{0, rows} : share(rows);
  if (norm != nullptr && norm->weight == nullptr) norm = nullptr;
  Activations a{.rows = rows, .k = linear.w.k, .f32 = x, .ld = ld};
  if (linear.w.quantized()) {
    a.group = linear.w.group;
    a.codes = buffer.codes;
    a.scale = buffer.scale;
    a.sum = buffer.sum;
    quantize_rows(norm, x, mine, a, ld);
    a.f32 = nullptr;
  } else if (norm != nullptr) {
    a.f32 = buffer.f32;
    a.ld = c_.buffers.input_ld;
    for (int32_t row = mine.begin; row < mine.end; ++row) {
      normalize(*norm, x + row * ld, buffer.f32 + row * a.ld, a.k);
    }
  }
  if (!few) barrier();
  return a;
}

}  // namespace narrows
