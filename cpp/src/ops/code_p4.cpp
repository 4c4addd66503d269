// One group of 16 channels to 4-bit codes: the scale (and zero point) of the least squared error found, never
// worse than rounding to nearest between the extremes. A lane is a channel, sums run over ascending k and
// nothing is fused, so every instruction set finds the same bits (oracle: narrows/kernels/p4_coding.py).
#include "linear_ops.h"
#include "vec/vec.h"

namespace narrows::NARROWS_ISA_NAMESPACE {
namespace {

constexpr int kParts = kPanel / kWidth;
constexpr int kMaxGroup = 128;
constexpr float kF16Max = 65504.0f;
// Steps tried, as parts of the one that spans the extremes. Finer or wider sets gain less than 0.3 % of error
// on normal and on heavy-tailed weights (docs/decisions/2026-11-21-four-bit-quality.md).
constexpr float kSteps[] = {0.70f, 0.75f, 0.80f, 0.85f, 0.90f, 0.95f, 1.00f, 1.05f};

/// A float of each channel.
struct Lanes {
  Vec part[kParts];
  Vec& operator[](int i) { return part[i]; }
  const Vec& operator[](int i) const { return part[i]; }
};

/// Values scale * c with integer c in [low, low + 15]; scale as f16 stores it, low = -zero.
struct Grid {
  Lanes scale, low;
};

struct Range {
  Lanes top, bottom;  // at least 0, at most 0
};

inline Vec clamp(Vec x, Vec low, Vec high) { return min_of(max_of(x, low), high); }

/// Saturates instead of becoming infinite.
inline Vec through_f16(Vec x) {
  uint16_t half[kWidth];
  store_f16(half, clamp(x, broadcast(-kF16Max), broadcast(kF16Max)));
  return load_f16(half);
}

inline Vec inverse_of(Vec scale) {
  const Vec zero = broadcast(0.0f);
  return select(equal(scale, zero), zero, div(broadcast(1.0f), scale));
}

inline Vec nearest(Vec w, Vec inverse, Vec low) {
  return round_nearest(clamp(mul(w, inverse), low, add(low, broadcast(15.0f))));
}

/// Rows to tile[k][16].
void transpose(const float* rows, int64_t ld, int32_t group, float* __restrict tile) {
  for (int32_t k = 0; k < group; ++k) {
    for (int c = 0; c < kPanel; ++c) tile[k * kPanel + c] = rows[c * ld + k];
  }
}

Range range_of(const float* tile, int32_t group) {
  Range range;
  for (int p = 0; p < kParts; ++p) range.top[p] = range.bottom[p] = broadcast(0.0f);
  for (int32_t k = 0; k < group; ++k) {
    for (int p = 0; p < kParts; ++p) {
      const Vec w = load(tile + k * kPanel + p * kWidth);
      range.top[p] = max_of(w, range.top[p]);
      range.bottom[p] = min_of(w, range.bottom[p]);
    }
  }
  return range;
}

Lanes squared_error(const float* tile, int32_t group, const Grid& grid) {
  Lanes error, inverse;
  for (int p = 0; p < kParts; ++p) error[p] = broadcast(0.0f), inverse[p] = inverse_of(grid.scale[p]);
  for (int32_t k = 0; k < group; ++k) {
    for (int p = 0; p < kParts; ++p) {
      const Vec w = load(tile + k * kPanel + p * kWidth);
      const Vec off = sub(w, mul(nearest(w, inverse[p], grid.low[p]), grid.scale[p]));
      error[p] = add(error[p], mul(off, off));
    }
  }
  return error;
}

/// Codes at the grid's scale, then the scale that suits these codes best: <w, c> / <c, c>. `gain` is how much
/// smaller than <w, w> its squared error is.
void refit(const float* tile, int32_t group, Grid* grid, Lanes* gain) {
  Lanes dot, norm, inverse;
  for (int p = 0; p < kParts; ++p) {
    dot[p] = norm[p] = broadcast(0.0f);
    inverse[p] = inverse_of(grid->scale[p]);
  }
  for (int32_t k = 0; k < group; ++k) {
    for (int p = 0; p < kParts; ++p) {
      const Vec w = load(tile + k * kPanel + p * kWidth);
      const Vec c = nearest(w, inverse[p], grid->low[p]);
      dot[p] = add(dot[p], mul(w, c));
      norm[p] = add(norm[p], mul(c, c));
    }
  }
  for (int p = 0; p < kParts; ++p) {
    const Vec zero = broadcast(0.0f);
    const Vec scale = through_f16(select(equal(norm[p], zero), zero, div(dot[p], norm[p])));
    grid->scale[p] = scale;
    (*gain)[p] = sub(mul(mul(broadcast(2.0f), scale), dot[p]), mul(mul(scale, scale), norm[p]));
  }
}

/// Takes over the lanes of `grid` whose `merit` is above the best so far.
void take_better(const Grid& grid, const Lanes& merit, Grid* best, Lanes* best_merit) {
  for (int p = 0; p < kParts; ++p) {
    const Mask keep = not_less((*best_merit)[p], merit[p]);  // also where the merit is NaN
    best->scale[p] = select(keep, best->scale[p], grid.scale[p]);
    best->low[p] = select(keep, best->low[p], grid.low[p]);
    (*best_merit)[p] = select(keep, (*best_merit)[p], merit[p]);
  }
}

void take_less_error(const float* tile, int32_t group, const Grid& grid, Grid* best, Lanes* least) {
  Lanes error = squared_error(tile, group, grid);
  for (int p = 0; p < kParts; ++p) error[p] = sub(broadcast(0.0f), error[p]);
  take_better(grid, error, best, least);
}

// ---- symmetric: low is -8, and the sign of the scale says which end reaches 8 steps

Vec extreme_of(const Range& range, int p) {
  return select(not_less(range.top[p], sub(broadcast(0.0f), range.bottom[p])), range.top[p], range.bottom[p]);
}

/// max|w| is 7 steps, or the end with 8 of them: whichever leaves the smaller error.
Grid round_symmetric(const float* tile, int32_t group, const Range& range, Lanes* least) {
  Grid even, skew;
  for (int p = 0; p < kParts; ++p) {
    const Vec extreme = extreme_of(range, p);
    even.low[p] = skew.low[p] = broadcast(-8.0f);
    even.scale[p] = through_f16(div(abs_of(extreme), broadcast(7.0f)));
    skew.scale[p] = through_f16(div(extreme, broadcast(-8.0f)));
  }
  Grid best = even;
  *least = squared_error(tile, group, even);
  for (int p = 0; p < kParts; ++p) (*least)[p] = sub(broadcast(0.0f), (*least)[p]);
  take_less_error(tile, group, skew, &best, least);
  return best;
}

Grid search_symmetric(const float* tile, int32_t group, const Range& range, Grid best) {
  Lanes best_gain;
  for (int p = 0; p < kParts; ++p) best_gain[p] = broadcast(0.0f);
  for (float end : {-8.0f, 8.0f}) {
    for (float step : kSteps) {
      Grid grid;
      Lanes gain;
      for (int p = 0; p < kParts; ++p) {
        grid.low[p] = broadcast(-8.0f);
        grid.scale[p] = through_f16(mul(div(extreme_of(range, p), broadcast(end)), broadcast(step)));
      }
      refit(tile, group, &grid, &gain);
      take_better(grid, gain, &best, &best_gain);
    }
  }
  return best;
}

// ---- affine: low is -zero, zero in 0..15

Lanes full_step(const Range& range) {
  Lanes step;
  for (int p = 0; p < kParts; ++p)
    step[p] = sub(div(range.top[p], broadcast(15.0f)), div(range.bottom[p], broadcast(15.0f)));
  return step;
}

/// 16 steps over [bottom, top].
Grid round_affine(const float* tile, int32_t group, const Range& range, Lanes* least) {
  Grid grid;
  const Lanes step = full_step(range);
  for (int p = 0; p < kParts; ++p) {
    const Vec zero = broadcast(0.0f), scale = through_f16(step[p]);
    const Vec low = round_nearest(clamp(div(range.bottom[p], scale), broadcast(-15.0f), zero));
    grid.scale[p] = scale;
    grid.low[p] = select(equal(scale, zero), broadcast(-8.0f), low);
  }
  *least = squared_error(tile, group, grid);
  for (int p = 0; p < kParts; ++p) (*least)[p] = sub(broadcast(0.0f), (*least)[p]);
  return grid;
}

/// Grids narrower than the range lose as much at one end as at the other.
Grid search_affine(const float* tile, int32_t group, const Range& range, Grid best) {
  Lanes best_gain;
  for (int p = 0; p < kParts; ++p) best_gain[p] = broadcast(0.0f);
  const Lanes full = full_step(range);
  for (float step : kSteps) {
    Grid grid;
    Lanes gain;
    for (int p = 0; p < kParts; ++p) {
      const Vec half = broadcast(0.5f);
      const Vec middle = add(mul(range.top[p], half), mul(range.bottom[p], half));
      grid.scale[p] = through_f16(mul(full[p], broadcast(step)));
      const Vec low = sub(mul(middle, inverse_of(grid.scale[p])), broadcast(7.5f));
      grid.low[p] = round_nearest(clamp(low, broadcast(-15.0f), broadcast(0.0f)));
    }
    refit(tile, group, &grid, &gain);
    take_better(grid, gain, &best, &best_gain);
  }
  return best;
}

// ---- writing

/// Line j, channel c, byte i: the codes of inputs 8j + i and, in the high half, 8j + 4 + i. Two codes are
/// below 2^8 and three bytes below 2^24, so floats add them exactly.
void write_lines(const float* tile, int32_t group, const Grid& grid, uint8_t* lines) {
  Lanes inverse;
  for (int p = 0; p < kParts; ++p) inverse[p] = inverse_of(grid.scale[p]);
  for (int32_t k = 0; k < group; k += 8) {
    float low_bytes[kPanel], high_byte[kPanel];
    for (int p = 0; p < kParts; ++p) {
      const auto code = [&](int32_t at) {
        const Vec w = load(tile + at * kPanel + p * kWidth);
        return sub(nearest(w, inverse[p], grid.low[p]), grid.low[p]);
      };
      const auto byte = [&](int32_t i) { return add(code(k + i), mul(code(k + 4 + i), broadcast(16.0f))); };
      const Vec upper = add(mul(byte(1), broadcast(0x1p8f)), mul(byte(2), broadcast(0x1p16f)));
      store(low_bytes + p * kWidth, add(byte(0), upper));
      store(high_byte + p * kWidth, byte(3));
    }
    uint32_t words[kPanel];
    for (int c = 0; c < kPanel; ++c) {
      const auto low = static_cast<uint32_t>(static_cast<int32_t>(low_bytes[c]));
      words[c] = low | static_cast<uint32_t>(static_cast<int32_t>(high_byte[c])) << 24;
    }
    __builtin_memcpy(lines + k * (kPanel / 2), words, sizeof words);
  }
}

}  // namespace

void code_p4(const float* rows, int64_t ld, int32_t group, uint16_t* scales, uint8_t* zeros_or_null,
             uint8_t* lines) {
  alignas(64) float tile[kMaxGroup * kPanel];
  transpose(rows, ld, group, tile);
  const Range range = range_of(tile, group);
  const bool affine = zeros_or_null != nullptr;
  Lanes least;
  Grid best = affine ? round_affine(tile, group, range, &least) : round_symmetric(tile, group, range, &least);
  const Grid found =
      affine ? search_affine(tile, group, range, best) : search_symmetric(tile, group, range, best);
  take_less_error(tile, group, found, &best, &least);
  write_lines(tile, group, best, lines);
  for (int p = 0; p < kParts; ++p) {
    store_f16(scales + p * kWidth, best.scale[p]);
    float low[kWidth];
    store(low, best.low[p]);
    for (int i = 0; i < kWidth && affine; ++i)
      zeros_or_null[p * kWidth + i] = static_cast<uint8_t>(-static_cast<int>(low[i]));
  }
}

}  // namespace narrows::NARROWS_ISA_NAMESPACE
