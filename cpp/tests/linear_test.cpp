// linear, quantize and unpack_row: every instruction set gives the bits of the generic twin, for every batch
// size and panel split, and the generic twin agrees with double precision.
#include "check.h"
#include "linear_fixture.h"

namespace {

using namespace fixture;

ThreadPool& pool() {
  static ThreadPool two(2);
  return two;
}

/// out[rows][ld] of panels [begin, end), with ld wider than the channels so that overruns show.
struct Output {
  Output(const PackedMatrix& w, int32_t rows, int32_t panel_begin, int32_t panel_end)
      : width(std::min(w.n, panel_end * kPanel) - panel_begin * kPanel), ld(width + 5), data(rows * ld - 5) {}
  int32_t width;
  int64_t ld;
  Guarded<float> data;
};

uint8_t* scratch() {
  static Guarded<uint8_t> bytes(kLinearScratchBytes);
  return bytes.data();
}

/// Runs a kernel, checks that nothing but the results was written, and returns them as [rows][width].
std::vector<float> run(const Kernels& kernels, const PackedMatrix& w, const Activations& a,
                       int32_t panel_begin, int32_t panel_end) {
  Output out(w, a.rows, panel_begin, panel_end);
  kernels.linear(w, panel_begin, panel_end, a, out.data.data(), out.ld, scratch());
  CHECK(out.data.intact());
  std::vector<float> result;
  for (int32_t r = 0; r < a.rows; ++r) {
    const float* row = out.data.data() + r * out.ld;
    result.insert(result.end(), row, row + out.width);
    if (r + 1 < a.rows) CHECK(Guarded<float>::untouched(row + out.width, 5 * 4));
  }
  return result;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> run_all(const Kernels& kernels, const PackedMatrix& w, const Activations& a) {
  return run(kernels, w, a, 0, w.panels());
}

/// All instruction sets against the generic twin.
void compare(const Spec& spec, int32_t n, int32_t k, int32_t rows, bool extreme, Random& random) {
  const Weights weights(spec, n, k, extreme, random, pool());
  const std::vector<float> x = random_rows(rows, k, random);
  const Kernels& generic = *kernels_for(Isa::generic);
  const Inputs inputs(weights.matrix, x, rows, generic);
  const std::vector<float> expected = run_all(generic, weights.matrix, inputs.a);
  for (const Kernels* kernels : present()) {
    const bool equal = same(expected, run_all(*kernels, weights.matrix, inputs.a));
    CHECK(equal);
    if (!equal) {
      std::printf("  %s format %d group %d zero %d n %d k %d rows %d extreme %d\n", kernels->name,
                  int(spec.format), spec.group, spec.has_zero, n, k, rows, extreme);
    }
  }
}

}  // namespace

TEST(every_isa_gives_the_bits_of_the_generic_twin_for_every_shape) {
  Random random(1);
  for (const Spec& spec : all_specs()) {
    const int32_t last = spec.group > 0 ? spec.group + 2 : 40;
    for (int32_t k = 1; k <= last; ++k) {
      compare(spec, 1 + (k * 7) % 40, k, 1 + (k * 5) % 20, k % 2 == 0, random);
    }
  }
}

TEST(every_batch_size_gives_the_bits_of_the_generic_twin) {
  Random random(2);
  for (const Spec& spec : all_specs()) {
    for (int32_t rows = 1; rows <= 40; ++rows)
      compare(spec, 49 + rows % 30, 200, rows, rows % 2 == 0, random);
    compare(spec, 100, 130, 270, true, random);  // more rows than one pass of the tile
  }
}

TEST(a_row_does_not_depend_on_the_rows_beside_it) {
  Random random(3);
  for (const Spec& spec : all_specs()) {
    const int32_t n = 70, k = 300, all = 40;
    const Weights weights(spec, n, k, false, random, pool());
    const std::vector<float> x = random_rows(all, k, random);
    for (const Kernels* kernels : present()) {
      if (kernels->isa == Isa::generic) continue;  // it takes rows one by one
      std::vector<float> alone;
      for (int32_t r = 0; r < all; ++r) {
        const Inputs one(weights.matrix, {x.begin() + r * k, x.begin() + (r + 1) * k}, 1, *kernels);
        const std::vector<float> row = run_all(*kernels, weights.matrix, one.a);
        alone.insert(alone.end(), row.begin(), row.end());
      }
      for (int32_t rows = 1; rows <= all; ++rows) {
        const Inputs many(weights.matrix, x, rows, *kernels);
        CHECK(same({alone.begin(), alone.begin() + rows * n}, run_all(*kernels, weights.matrix, many.a)));
      }
    }
  }
}

TEST(a_channel_does_not_depend_on_how_panels_are_split) {
  Random random(4);
  for (const Spec& spec : all_specs()) {
    const Weights weights(spec, 150, 160, false, random, pool());
    const int32_t panels = weights.matrix.panels();
    for (int32_t rows : {1, 5, 16, 17, 33}) {
      const Inputs inputs(weights.matrix, random_rows(rows, 160, random), rows, *kernels_for(Isa::generic));
      for (const Kernels* kernels : present()) {
        const std::vector<float> whole = run_all(*kernels, weights.matrix, inputs.a);
        for (int32_t cut = 1; cut < panels; ++cut) {
          const std::vector<float> left = run(*kernels, weights.matrix, inputs.a, 0, cut);
          const std::vector<float> right = run(*kernels, weights.matrix, inputs.a, cut, panels);
          std::vector<float> joined;
          const int32_t width = cut * kPanel, rest = weights.matrix.n - width;
          for (int32_t r = 0; r < rows; ++r) {
            joined.insert(joined.end(), left.begin() + r * width, left.begin() + (r + 1) * width);
            joined.insert(joined.end(), right.begin() + r * rest, right.begin() + (r + 1) * rest);
          }
          CHECK(same(whole, joined));
        }
      }
    }
  }
}

TEST(the_generic_twin_agrees_with_double_precision) {
  Random random(5);
  const Kernels& generic = *kernels_for(Isa::generic);
  for (const Spec& spec : all_specs()) {
    const int32_t n = 37, k = 333, rows = 11;
    const Weights weights(spec, n, k, false, random, pool());
    const std::vector<float> x = random_rows(rows, k, random);
    const Inputs inputs(weights.matrix, x, rows, generic);
    const std::vector<float> got = run_all(generic, weights.matrix, inputs.a);
    std::vector<float> w(static_cast<size_t>(k));
    for (int32_t c = 0; c < n; ++c) {
      generic.unpack_row(weights.matrix, c, w.data());
      for (int32_t r = 0; r < rows; ++r) {
        const int32_t rb = std::min(8, rows - r / 8 * 8);
        double sum = 0.0, magnitude = 0.0;
        for (int32_t i = 0; i < k; ++i) {
          double v = x[static_cast<size_t>(r) * k + i];
          if (spec.group > 0) {
            const int64_t block = r / 8 * 8, padded = weights.matrix.padded_k(),
                          groups = weights.matrix.groups();
            v = double{inputs.a.scale[block * groups + i / spec.group * rb + r % 8]} *
                inputs.a.codes[block * padded + (i / 4 * rb + r % 8) * 4 + i % 4];
          }
          sum += v * w[static_cast<size_t>(i)];
          magnitude += std::fabs(v * w[static_cast<size_t>(i)]);
        }
        // One rounding of 2^-24 per fma of the chain; the quantised chain is shorter but has products of
        // scales.
        const double roundings = spec.group > 0 ? 3.0 * (k / spec.group + 2) : k;
        CHECK_NEAR(got[static_cast<size_t>(r) * n + c], sum, roundings * magnitude * 0x1p-24);
      }
    }
  }
}

TEST(unpack_row_gives_the_same_bits_everywhere_and_stays_in_bounds) {
  Random random(6);
  for (const Spec& spec : all_specs()) {
    for (int32_t k : {1, 31, 64, 129, 200}) {
      const Weights weights(spec, 35, k, true, random, pool());
      for (int32_t row : {0, 15, 16, 34}) {
        Guarded<float> expected(k);
        kernels_for(Isa::generic)->unpack_row(weights.matrix, row, expected.data());
        for (const Kernels* kernels : present()) {
          Guarded<float> got(k);
          kernels->unpack_row(weights.matrix, row, got.data());
          CHECK(got.intact());
          CHECK(std::memcmp(got.data(), expected.data(), static_cast<size_t>(got.bytes())) == 0);
        }
      }
    }
  }
}
