// Checkpoint rows to packed panels (narrows/pack.h).
// One panel is one task: its 16 rows are converted to floats, coded in groups, and laid out as formats.h
// says.
#include "narrows/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "ops/linear_half.h"

namespace narrows {
namespace {

constexpr float kSmallestNormal = 0x1p-126f;  // a smaller scale would have an infinite inverse

// ---- reading rows

struct Seen {
  int64_t non_finite = 0;
  float max_abs = 0.0f;
};

/// Row `row` of a source as floats, zero up to `padded_k`; values that are not finite are counted and read as
/// 0.
void read_row(const SourceRows& source, int64_t row, int64_t padded_k, float* out, Seen* seen) {
  const auto* f32 =
      static_cast<const float*>(source.data) + (source.dtype == DType::f32 ? row * source.ld : 0);
  const auto* half =
      static_cast<const uint16_t*>(source.data) + (source.dtype == DType::f32 ? 0 : row * source.ld);
  if (source.dtype == DType::f32) std::memcpy(out, f32, static_cast<size_t>(source.k) * 4);
  if (source.dtype == DType::f16) {
    for (int64_t k = 0; k < source.k; ++k) out[k] = f16_to_float(half[k]);
  }
  if (source.dtype == DType::bf16) {
    for (int64_t k = 0; k < source.k; ++k) out[k] = bf16_to_float(half[k]);
  }
  std::fill(out + source.k, out + padded_k, 0.0f);
  uint32_t top = 0;
  for (int64_t k = 0; k < source.k; ++k) top = std::max(top, float_bits(out[k]) & 0x7fffffffu);
  if (top >= 0x7f800000u) {
    top = 0;
    for (int64_t k = 0; k < source.k; ++k) {
      if (!std::isfinite(out[k])) out[k] = 0.0f, ++seen->non_finite;
      top = std::max(top, float_bits(out[k]) & 0x7fffffffu);
    }
  }
  seen->max_abs = std::max(seen->max_abs, bits_float(top));
}

// ---- coding

/// Round to even by way of the float grid; exact for |x| < 2^22, and plain SSE2.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }
inline float clamp(float x, float lo, float hi) { return std::min(std::max(x, lo), hi); }

// ---- laying out one panel; `rows` is float[16][padded_k]

void pack_p4(const PackedMatrix& shape, const Kernels& kernels, const float* rows, uint8_t* panel) {
  auto* scales = reinterpret_cast<uint16_t*>(panel);
  uint8_t* zeros = panel + shape.scale_bytes();
  uint8_t* lines = zeros + shape.zero_bytes();
  std::memset(panel, 0, static_cast<size_t>(lines - panel));
  for (int64_t g = 0; g < shape.groups(); ++g) {
    kernels.code_p4(rows + g * shape.group, shape.padded_k(), shape.group, scales + g * kPanel,
                    shape.has_zero ? zeros + g * kPanel : nullptr, lines + g * shape.group * (kPanel / 2));
  }
}

/// A panel of P8, whatever the format of `shape`.
void pack_p8(const PackedMatrix& shape, const float* rows, int channels, uint8_t* panel) {
  const int64_t padded_k = shape.padded_k();
  auto* scales = reinterpret_cast<float*>(panel);
  for (int c = 0; c < kPanel; ++c) {
    const float* w = rows + c * padded_k;
    float top = 0.0f;
    for (int64_t k = 0; k < padded_k && c < channels; ++k) top = std::max(top, std::fabs(w[k]));
    scales[c] = top / 127.0f < kSmallestNormal ? 0.0f : top / 127.0f;
    const float inverse = scales[c] == 0.0f ? 0.0f : 1.0f / scales[c];
    uint8_t* to = panel + kPanel * sizeof(float) + 4 * c;
    for (int64_t k = 0; k < padded_k; k += 4, to += 64) {
      for (int i = 0; i < 4; ++i) {
        const float q = c < channels ? round_even(clamp(w[k + i] * inverse, -127.0f, 127.0f)) : 0.0f;
        to[i] = static_cast<uint8_t>(static_cast<int>(q) + 128);
      }
    }
  }
}

/// Splits one panel of P8 at `whole` into its two planes.
void pack_p44(const PackedMatrix& shape, const uint8_t* whole, uint8_t* upper, uint8_t* lower) {
  const auto* scales = reinterpret_cast<const float*>(whole);
  const uint8_t* codes = whole + kPanel * sizeof(float);
  double squares[kPanel] = {};
  uint8_t* to = upper + shape.scale_bytes();
  for (int64_t k = 0; k < shape.padded_k(); k += 8, codes += 128, to += 64, lower += 64) {
    for (int i = 0; i < 64; ++i) {
      const int first = codes[i], second = codes[64 + i];
      to[i] = static_cast<uint8_t>(first >> 4 | (second & 240));
      lower[i] = static_cast<uint8_t>((first & 15) | (second & 15) << 4);
      const double missing[2] = {(first & 15) - 7.5, (second & 15) - 7.5};
      if (k + i % 4 < shape.k) squares[i / 4] += missing[0] * missing[0];
      if (k + 4 + i % 4 < shape.k) squares[i / 4] += missing[1] * missing[1];
    }
  }
  std::memset(upper, 0, static_cast<size_t>(shape.scale_bytes()));
  std::memcpy(upper, scales, kPanel * sizeof(float));
  float& rest = reinterpret_cast<float*>(upper)[kPanel];
  for (int c = 0; c < kPanel; ++c) {
    const double mean = squares[c] / static_cast<double>(shape.k);
    rest = std::max(rest, scales[c] * static_cast<float>(std::sqrt(mean)));
  }
}

/// Counts the values that f16 or bf16 cannot hold: they would become infinite.
int64_t pack_float(const PackedMatrix& shape, const float* rows, int channels, uint8_t* panel) {
  auto* f32 = reinterpret_cast<float*>(panel);
  auto* half = reinterpret_cast<uint16_t*>(panel);
  int64_t overflow = 0;
  std::memset(panel, 0, static_cast<size_t>(shape.panel_bytes()));
  for (int64_t k = 0; k < shape.k; ++k) {
    for (int c = 0; c < channels; ++c) {
      const float w = rows[c * shape.padded_k() + k];
      const int64_t at = k * kPanel + c;
      if (shape.format == Format::F32) {
        f32[at] = w;
        continue;
      }
      const bool f16 = shape.format == Format::F16;
      half[at] = f16 ? float_to_f16(w) : float_to_bf16(w);
      overflow += (half[at] & 0x7fff) == (f16 ? 0x7c00 : 0x7f80);
    }
  }
  return overflow;
}

// ---- which source row a packed channel is

class Rows {
 public:
  Rows(const std::vector<SourceRows>& sources, bool interleave, const PackedMatrix& shape)
      : sources_(sources), interleave_(interleave) {
    int64_t n = 0;
    for (const SourceRows& source : sources) {
      if (source.k != shape.k)
        throw std::invalid_argument("pack: every source must have the k of the packed shape");
      n += source.n;
    }
    if (interleave) {
      if (sources.size() != 2 || sources[0].n != sources[1].n) {
        throw std::invalid_argument("pack: interleaving takes exactly two sources with equal n");
      }
      n = 2 * round_up(sources[0].n, kPanel);
    }
    if (n != shape.n)
      throw std::invalid_argument("pack: the sources do not add up to the n of the packed shape");
    if (shape.quantized() && shape.group != 32 && shape.group != 64 && shape.group != 128) {
      throw std::invalid_argument("pack: the group of a quantised matrix must be 32, 64 or 128");
    }
  }

  /// The source and row of packed channel 16*panel + c; false for padding.
  bool find(int64_t panel, int c, const SourceRows** source, int64_t* row) const {
    if (interleave_) {
      *source = &sources_[panel % 2];
      *row = panel / 2 * kPanel + c;
      return *row < (*source)->n;
    }
    *row = panel * kPanel + c;
    for (const SourceRows& each : sources_) {
      *source = &each;
      if (*row < each.n) return true;
      *row -= each.n;
    }
    return false;
  }

 private:
  const std::vector<SourceRows>& sources_;
  bool interleave_;
};

/// What a thread needs beside the packed bytes.
struct Room {
  explicit Room(const PackedMatrix& shape) : floats(static_cast<size_t>(kPanel * shape.padded_k())) {}
  std::vector<float> floats;   // [16, padded_k]
  std::vector<uint8_t> bytes;  // a panel of P8 on its way to P44
};

void pack_panel(const Rows& rows, const PackedMatrix& shape, const Kernels& kernels, int64_t panel,
                Room* room, uint8_t* dst, PackResult* result) {
  float* floats = room->floats.data();
  Seen seen;
  int channels = 0;
  for (int c = 0; c < kPanel; ++c) {
    const SourceRows* source = nullptr;
    int64_t row = 0;
    if (!rows.find(panel, c, &source, &row)) break;  // only the end of a panel is padding
    read_row(*source, row, shape.padded_k(), floats + c * shape.padded_k(), &seen);
    channels = c + 1;
  }
  std::fill(floats + channels * shape.padded_k(), floats + kPanel * shape.padded_k(), 0.0f);
  uint8_t* to = dst + panel * shape.panel_bytes();
  if (shape.format == Format::P4) {
    pack_p4(shape, kernels, floats, to);
  } else if (shape.format == Format::P8) {
    pack_p8(shape, floats, channels, to);
  } else if (shape.format == Format::P44) {
    std::vector<uint8_t>& whole = room->bytes;
    whole.resize(static_cast<size_t>(kPanel * sizeof(float) + shape.padded_k() * kPanel));
    pack_p8(shape, floats, channels, whole.data());
    pack_p44(shape, whole.data(), to, dst + shape.lower_begin(panel));
  } else {
    seen.non_finite += pack_float(shape, floats, channels, to);
  }
  result->non_finite += seen.non_finite;
  result->max_abs = std::max(result->max_abs, double{seen.max_abs});
}

}  // namespace

PackResult pack(const std::vector<SourceRows>& sources, bool interleave, const PackedMatrix& shape,
                uint8_t* dst, ThreadPool& pool, const Kernels& kernels) {
  const Rows rows(sources, interleave, shape);
  std::vector<PackResult> results(static_cast<size_t>(pool.size()));
  std::atomic<int64_t> next{0};
  pool.run([&](int thread) {
    Room room(shape);
    PackResult mine;
    for (int64_t p = next++; p < shape.panels(); p = next++)
      pack_panel(rows, shape, kernels, p, &room, dst, &mine);
    results[static_cast<size_t>(thread)] = mine;
  });
  PackResult total;
  for (const PackResult& part : results) {
    total.non_finite += part.non_finite;
    total.max_abs = std::max(total.max_abs, part.max_abs);
  }
  return total;
}

}  // namespace narrows
