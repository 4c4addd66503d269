// int8 activations times P8 or P4 weights in plain C++: the meaning of the SIMD versions, bit for bit.
// Per group of k: an exact int32 sum, then acc = fma(float(sum), scale_w * scale_a, acc), groups ascending.
// P8 has one weight scale per channel, applied once at the end: acc = fma(float(sum), scale_a, acc), out =
// acc * scale_w.
#include "linear_ops.h"

#if defined(NARROWS_ISA_GENERIC)
#include "linear_half.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

/// One row of activations inside its block: a dword of four codes every `stride` bytes.
struct Row {
  const int8_t* codes;
  const float* scale;
  int32_t rows;  // of the block
};

Row row_of(const Activations& a, const PackedMatrix& w, int32_t row) {
  const int32_t first = row / kRowBlock * kRowBlock, r = row - first;
  const int32_t rows = a.rows - first < kRowBlock ? a.rows - first : kRowBlock;
  return {a.codes + first * w.padded_k() + 4 * r, a.scale + first * w.groups() + r, rows};
}

/// sum[c] = sum over the group of (code - zero[c]) * activation, for the 16 channels of a panel.
void group_sums(const PackedMatrix& w, const uint8_t* codes, const int32_t* zero, const Row& row,
                int64_t k_begin, int32_t* sum) {
  for (int c = 0; c < kPanel; ++c) sum[c] = 0;
  for (int64_t k = k_begin; k < k_begin + w.group; ++k) {
    const int32_t x = row.codes[(k / 4) * row.rows * 4 + k % 4];
    for (int c = 0; c < kPanel; ++c) {
      if (w.format == Format::P8) {
        sum[c] += (codes[(k / 4) * 64 + 4 * c + k % 4] - zero[c]) * x;
      } else {
        const int byte = codes[(k / 8) * 64 + 4 * c + k % 4];
        sum[c] += ((k % 8 < 4 ? byte & 15 : byte >> 4) - zero[c]) * x;
      }
    }
  }
}

void panel_row(const PackedMatrix& w, const uint8_t* panel, const Row& row, int32_t channels, float* out) {
  const bool p4 = w.format == Format::P4;
  const uint8_t* zeros = panel + w.scale_bytes();
  const uint8_t* codes = zeros + w.zero_bytes();
  float acc[kPanel] = {};
  int32_t zero[kPanel], sum[kPanel];
  for (int64_t g = 0; g < w.groups(); ++g) {
    for (int c = 0; c < kPanel; ++c) zero[c] = !p4 ? 128 : w.has_zero ? zeros[g * kPanel + c] : 8;
    group_sums(w, codes, zero, row, g * w.group, sum);
    const float scale_a = row.scale[g * row.rows];
    for (int c = 0; c < kPanel; ++c) {
      const float t =
          p4 ? f16_to_float(reinterpret_cast<const uint16_t*>(panel)[g * kPanel + c]) * scale_a : scale_a;
      acc[c] = __builtin_fmaf(static_cast<float>(sum[c]), t, acc[c]);
    }
  }
  for (int32_t c = 0; c < channels; ++c) {
    out[c] = p4 ? acc[c] : acc[c] * reinterpret_cast<const float*>(panel)[c];
  }
}

}  // namespace

void linear_int(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, uint8_t* /*scratch*/) {
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = w.data + p * w.panel_bytes();
    const int32_t channels = w.n - p * kPanel < kPanel ? w.n - p * kPanel : kPanel;
    for (int32_t row = 0; row < a.rows; ++row) {
      panel_row(w, panel, row_of(a, w, row), channels,
                out + row * ld_out + int64_t{p - panel_begin} * kPanel);
    }
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
