// One row of a packed matrix back to floats: the embedding lookup. A strided gather of k values, scalar
// everywhere.
#include "linear_half.h"
#include "linear_ops.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

void unpack_float(const PackedMatrix& w, const uint8_t* panel, int32_t channel, float* out) {
  const auto* f32 = reinterpret_cast<const float*>(panel) + channel;
  const auto* f16 = reinterpret_cast<const uint16_t*>(panel) + channel;
  for (int64_t k = 0; k < w.k; ++k) {
    if (w.format == Format::F32) out[k] = f32[k * kPanel];
    if (w.format == Format::F16) out[k] = f16_to_float(f16[k * kPanel]);
    if (w.format == Format::BF16) out[k] = bf16_to_float(f16[k * kPanel]);
  }
}

void unpack_p8(const PackedMatrix& w, const uint8_t* panel, int32_t channel, float* out) {
  const float scale = reinterpret_cast<const float*>(panel)[channel];
  const uint8_t* codes = panel + w.scale_bytes() + 4 * channel;
  for (int64_t k = 0; k < w.k; ++k) {
    out[k] = scale * static_cast<float>(int{codes[(k / 4) * 64 + k % 4]} - 128);
  }
}

void unpack_p44(const PackedMatrix& w, int32_t row, float* out) {
  const uint8_t* panel = w.data + w.panel_bytes() * (row / kPanel);
  const int32_t channel = row % kPanel;
  const float scale = reinterpret_cast<const float*>(panel)[channel];
  const uint8_t* upper = panel + w.scale_bytes() + 4 * channel;
  const uint8_t* lower = w.data + w.lower_begin(row / kPanel) + 4 * channel;
  for (int64_t k = 0; k < w.k; ++k) {
    const int64_t at = (k / 8) * 64 + k % 4;
    const int shift = k % 8 < 4 ? 0 : 4;
    const int code = (upper[at] >> shift & 15) << 4 | (lower[at] >> shift & 15);
    out[k] = scale * static_cast<float>(code - 128);
  }
}

void unpack_p4(const PackedMatrix& w, const uint8_t* panel, int32_t channel, float* out) {
  const auto* scales = reinterpret_cast<const uint16_t*>(panel) + channel;
  const uint8_t* zeros = panel + w.scale_bytes() + channel;
  const uint8_t* codes = panel + w.scale_bytes() + w.zero_bytes() + 4 * channel;
  for (int64_t g = 0; g < w.groups(); ++g) {
    const float scale = f16_to_float(scales[g * kPanel]);
    const int zero = w.has_zero ? zeros[g * kPanel] : 8;
    const int64_t end = (g + 1) * w.group < w.k ? (g + 1) * w.group : w.k;
    for (int64_t k = g * w.group; k < end; ++k) {
      const int byte = codes[(k / 8) * 64 + k % 4];
      const int q = k % 8 < 4 ? byte & 15 : byte >> 4;
      out[k] = scale * static_cast<float>(q - zero);
    }
  }
}

}  // namespace

void unpack_row(const PackedMatrix& w, int32_t row, float* out) {
  const uint8_t* panel = w.data + w.panel_bytes() * (row / kPanel);
  const int32_t channel = row % kPanel;
  switch (w.format) {
    case Format::P8: return unpack_p8(w, panel, channel, out);
    case Format::P4: return unpack_p4(w, panel, channel, out);
    case Format::P44: return unpack_p44(w, row, out);
    default: return unpack_float(w, panel, channel, out);
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
