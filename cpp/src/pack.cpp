// Checkpoint rows to packed panels, round to nearest (narrows/pack.h).
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

constexpr float kF16Max = 65504.0f;
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

// ---- coding one group of one channel

/// Round to even by way of the float grid; exact for |x| < 2^22, and plain SSE2.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }
inline float clamp(float x, float lo, float hi) { return std::min(std::max(x, lo), hi); }

/// A scale as f16 stores it; finite, because overflow saturates.
inline float through_f16(float scale) { return f16_to_float(float_to_f16(clamp(scale, -kF16Max, kF16Max))); }

struct Coding {
  float scale = 0.0f;  // exactly as stored
  int zero = 8;
};

/// Codes of w on the grid scale * (q - zero), q in [lowest, 15]; returns the squared error.
float encode(const float* w, int64_t n, Coding coding, int lowest, uint8_t* codes) {
  const float inverse = coding.scale == 0.0f ? 0.0f : 1.0f / coding.scale;
  const auto zero = static_cast<float>(coding.zero);
  const float lo = static_cast<float>(lowest) - zero, hi = 15.0f - zero;
  float error[4] = {};
  for (int64_t k = 0; k < n; k += 4) {  // a group is a multiple of 32; four sums let the compiler vectorise
    for (int i = 0; i < 4; ++i) {
      const float q = round_even(clamp(w[k + i] * inverse, lo, hi));
      const float off = w[k + i] - q * coding.scale;
      error[i] += off * off;
      codes[k + i] = static_cast<uint8_t>(static_cast<int>(q + zero));
    }
  }
  return (error[0] + error[1]) + (error[2] + error[3]);
}

/// The better of scale = max|w|/7 with codes 1..15 and the grid that gives the largest |w| code 0 (value -8).
Coding encode_symmetric(const float* w, int64_t n, uint8_t* codes) {
  float top = 0.0f, bottom = 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    top = std::max(top, w[k]);
    bottom = std::min(bottom, w[k]);
  }
  const float extreme = top >= -bottom ? top : bottom;
  const Coding even{through_f16(std::fabs(extreme) / 7.0f), 8}, skew{through_f16(extreme / -8.0f), 8};
  uint8_t other[128];
  const float even_error = encode(w, n, even, 1, codes);
  if (!(encode(w, n, skew, 0, other) < even_error)) return even;
  std::memcpy(codes, other, static_cast<size_t>(n));
  return skew;
}

/// The affine grid of 16 steps over [min(w, 0), max(w, 0)].
Coding encode_affine(const float* w, int64_t n, uint8_t* codes) {
  float top = 0.0f, bottom = 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    top = std::max(top, w[k]);
    bottom = std::min(bottom, w[k]);
  }
  Coding coding{through_f16(top / 15.0f - bottom / 15.0f), 8};
  if (coding.scale != 0.0f) {
    coding.zero = static_cast<int>(round_even(clamp(-bottom / coding.scale, 0.0f, 15.0f)));
  }
  encode(w, n, coding, 0, codes);
  return coding;
}

// ---- laying out one panel; `rows` is float[16][padded_k]

void pack_p4(const PackedMatrix& shape, const float* rows, int channels, uint8_t* panel) {
  const int64_t padded_k = shape.padded_k(), group = shape.group;
  auto* scales = reinterpret_cast<uint16_t*>(panel);
  uint8_t* zeros = panel + shape.scale_bytes();
  uint8_t* lines = zeros + shape.zero_bytes();
  std::memset(panel, 0, static_cast<size_t>(shape.panel_bytes()));
  for (int64_t g = 0; g < shape.groups(); ++g) {
    for (int c = 0; c < kPanel; ++c) {
      uint8_t codes[128];
      Coding coding;
      std::fill(codes, codes + group, uint8_t{8});
      const float* w = rows + c * padded_k + g * group;
      if (c < channels) {
        coding = shape.has_zero ? encode_affine(w, group, codes) : encode_symmetric(w, group, codes);
      }
      scales[g * kPanel + c] = float_to_f16(coding.scale);
      if (shape.has_zero) zeros[g * kPanel + c] = static_cast<uint8_t>(coding.zero);
      for (int64_t k = 0; k < group; k += 8) {
        uint8_t* to = lines + (g * group + k) * (kPanel / 2) + 4 * c;
        for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(codes[k + i] | codes[k + 4 + i] << 4);
      }
    }
  }
}

void pack_p8(const PackedMatrix& shape, const float* rows, int channels, uint8_t* panel) {
  const int64_t padded_k = shape.padded_k();
  auto* scales = reinterpret_cast<float*>(panel);
  for (int c = 0; c < kPanel; ++c) {
    const float* w = rows + c * padded_k;
    float top = 0.0f;
    for (int64_t k = 0; k < padded_k && c < channels; ++k) top = std::max(top, std::fabs(w[k]));
    scales[c] = top / 127.0f < kSmallestNormal ? 0.0f : top / 127.0f;
    const float inverse = scales[c] == 0.0f ? 0.0f : 1.0f / scales[c];
    uint8_t* to = panel + shape.scale_bytes() + 4 * c;
    for (int64_t k = 0; k < padded_k; k += 4, to += 64) {
      for (int i = 0; i < 4; ++i) {
        const float q = c < channels ? round_even(clamp(w[k + i] * inverse, -127.0f, 127.0f)) : 0.0f;
        to[i] = static_cast<uint8_t>(static_cast<int>(q) + 128);
      }
    }
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

void pack_panel(const Rows& rows, const PackedMatrix& shape, int64_t panel, float* floats, uint8_t* dst,
                PackResult* result) {
  Seen seen;
  int channels = 0;
  for (int c = 0; c < kPanel; ++c) {
    const SourceRows* source = nullptr;
    int64_t row = 0;
    if (!rows.find(panel, c, &source, &row)) break;  // only the end of a panel is padding
    read_row(*source, row, shape.padded_k(), floats + c * shape.padded_k(), &seen);
    channels = c + 1;
  }
  uint8_t* to = dst + panel * shape.panel_bytes();
  if (shape.format == Format::P4) {
    pack_p4(shape, floats, channels, to);
  } else if (shape.format == Format::P8) {
    pack_p8(shape, floats, channels, to);
  } else {
    seen.non_finite += pack_float(shape, floats, channels, to);
  }
  result->non_finite += seen.non_finite;
  result->max_abs = std::max(result->max_abs, double{seen.max_abs});
}

}  // namespace

PackResult pack(const std::vector<SourceRows>& sources, bool interleave, const PackedMatrix& shape,
                uint8_t* dst, ThreadPool& pool) {
  const Rows rows(sources, interleave, shape);
  std::vector<PackResult> results(static_cast<size_t>(pool.size()));
  std::atomic<int64_t> next{0};
  pool.run([&](int thread) {
    std::vector<float> floats(static_cast<size_t>(kPanel * shape.padded_k()));
    PackResult mine;
    for (int64_t p = next++; p < shape.panels(); p = next++)
      pack_panel(rows, shape, p, floats.data(), dst, &mine);
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
