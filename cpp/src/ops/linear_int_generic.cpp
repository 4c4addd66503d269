// int8 activations times P8, P44 or P4 weights in plain C++: the meaning of the SIMD versions, bit for bit.
// Per group of k: an exact int32 sum, then acc = fma(float(sum), scale_w * scale_a, acc), groups ascending.
// P8 has one weight scale per channel, applied once at the end: acc = fma(float(sum), scale_a, acc), out =
// acc * scale_w. P44 gives the bits of P8; its upper plane alone has 2 * (16 * upper - 120.5), a whole
// number, for the code, and 0.5 * scale_w.
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

struct Panel {
  const uint8_t* data;
  const uint8_t* zeros;
  const uint8_t* codes;
  const uint8_t* lower;  // P44; null: without them
};

int nibble(const uint8_t* codes, int64_t k, int c) {
  const int byte = codes[(k / 8) * 64 + 4 * c + k % 4];
  return k % 8 < 4 ? byte & 15 : byte >> 4;
}

/// The weight without its scale.
int32_t weight(const PackedMatrix& w, const Panel& panel, int64_t k, int c) {
  if (w.format == Format::P8) return panel.codes[(k / 4) * 64 + 4 * c + k % 4] - 128;
  const int code = nibble(panel.codes, k, c);
  if (w.format == Format::P4) {
    return code - (w.has_zero ? panel.zeros[k / w.group * kPanel + c] : 8);
  }
  return panel.lower != nullptr ? 16 * code + nibble(panel.lower, k, c) - 128 : 32 * code - 241;
}

/// sum[c] = sum over the group of weight * activation, for the 16 channels of a panel.
void group_sums(const PackedMatrix& w, const Panel& panel, const Row& row, int64_t k_begin, int32_t* sum) {
  for (int c = 0; c < kPanel; ++c) sum[c] = 0;
  for (int64_t k = k_begin; k < k_begin + w.group; ++k) {
    const int32_t x = row.codes[(k / 4) * row.rows * 4 + k % 4];
    for (int c = 0; c < kPanel; ++c) sum[c] += weight(w, panel, k, c) * x;
  }
}

void panel_row(const PackedMatrix& w, const Panel& panel, const Row& row, int32_t channels, float* out) {
  const bool p4 = w.format == Format::P4;
  const float part = w.format == Format::P44 && panel.lower == nullptr ? 0.5f : 1.0f;
  float acc[kPanel] = {};
  int32_t sum[kPanel];
  for (int64_t g = 0; g < w.groups(); ++g) {
    group_sums(w, panel, row, g * w.group, sum);
    const float scale_a = row.scale[g * row.rows];
    for (int c = 0; c < kPanel; ++c) {
      const float t =
          p4 ? f16_to_float(reinterpret_cast<const uint16_t*>(panel.data)[g * kPanel + c]) * scale_a
             : scale_a;
      acc[c] = __builtin_fmaf(static_cast<float>(sum[c]), t, acc[c]);
    }
  }
  for (int32_t c = 0; c < channels; ++c) {
    out[c] = p4 ? acc[c] : acc[c] * (part * reinterpret_cast<const float*>(panel.data)[c]);
  }
}

void all_panels(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, bool both_planes) {
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    const uint8_t* data = w.data + p * w.panel_bytes();
    const uint8_t* zeros = data + w.scale_bytes();
    const Panel panel{data, zeros, zeros + w.zero_bytes(), both_planes ? w.data + w.lower_begin(p) : nullptr};
    const int32_t channels = w.n - p * kPanel < kPanel ? w.n - p * kPanel : kPanel;
    for (int32_t row = 0; row < a.rows; ++row) {
      panel_row(w, panel, row_of(a, w, row), channels,
                out + row * ld_out + int64_t{p - panel_begin} * kPanel);
    }
  }
}

}  // namespace

void linear_int(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, uint8_t* /*scratch*/) {
  all_panels(w, panel_begin, panel_end, a, out, ld_out, w.format == Format::P44);
}

void linear_upper(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out, uint8_t* /*scratch*/) {
  all_panels(w, panel_begin, panel_end, a, out, ld_out, false);
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
