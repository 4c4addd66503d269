// quantize: the block layout, round to nearest even, exact sums, and safe behaviour on zero, tiny and
// non-finite rows.
#include <limits>

#include "check.h"
#include "linear_fixture.h"

namespace {

using namespace fixture;

/// The code, scale and sum of (row, k) by the layout of formats.h.
struct Reader {
  Reader(const PackedMatrix& w, const Activations& a, int32_t row)
      : a(a),
        padded_k(w.padded_k()),
        groups(w.groups()),
        block(row / 8 * 8),
        r(row % 8),
        rb(std::min(8, a.rows - block)) {}
  int code(int64_t k) const { return a.codes[block * padded_k + (k / 4 * rb + r) * 4 + k % 4]; }
  float scale(int64_t g) const { return a.scale[block * groups + g * rb + r]; }
  int32_t sum(int64_t g) const { return a.sum[block * groups + g * rb + r]; }
  const Activations& a;
  int64_t padded_k, groups;
  int32_t block, r, rb;
};

void check_row(const Reader& read, const float* x, int32_t k, int32_t group) {
  for (int64_t g = 0; g < read.groups; ++g) {
    float top = 0.0f;
    const int64_t end = std::min<int64_t>((g + 1) * group, k);
    for (int64_t i = g * group; i < end; ++i) top = std::max(top, std::fabs(x[i]));
    CHECK(read.scale(g) == top / 127.0f);
    int32_t sum = 0;
    for (int64_t i = g * group; i < (g + 1) * group; ++i) {
      const int expected = i < end && top > 0 ? static_cast<int>(std::nearbyint(x[i] * (127.0f / top))) : 0;
      CHECK(read.code(i) == expected);
      CHECK(std::abs(read.code(i)) <= 127);
      sum += read.code(i);
    }
    CHECK(read.sum(g) == sum);
  }
}

PackedMatrix p8(int32_t k, int32_t group) { return shape_of({Format::P8, group, false}, 16, k); }

}  // namespace

TEST(codes_scales_and_sums_follow_the_definition_for_every_size) {
  Random random(1);
  for (int32_t group : {32, 64, 128}) {
    for (int32_t k = 1; k <= group + 3; ++k) {
      const int32_t rows = 1 + k % 19;
      const PackedMatrix w = p8(k, group);
      const std::vector<float> x = random_rows(rows, k, random);
      for (const Kernels* kernels : present()) {
        Inputs in(w, x, rows, *kernels);
        CHECK(in.codes.intact() && in.scale.intact() && in.sum.intact());
        for (int32_t r = 0; r < rows; ++r) check_row(Reader(w, in.a, r), x.data() + int64_t{r} * k, k, group);
      }
    }
  }
}

TEST(halves_round_to_even) {
  std::vector<float> x(32, 0.0f);
  const float halves[] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 125.5f, 126.5f};
  const int codes[] = {127, 0, 2, 2, 0, -2, -2, 126, 126};
  std::memcpy(x.data(), halves, sizeof halves);
  for (const Kernels* kernels : present()) {
    const PackedMatrix w = p8(32, 32);
    const Inputs in(w, x, 1, *kernels);
    for (int i = 0; i < 9; ++i) CHECK(Reader(w, in.a, 0).code(i) == codes[i]);
  }
}

TEST(rows_may_be_quantised_in_any_pieces) {
  Random random(2);
  const int32_t rows = 21, k = 150;
  const PackedMatrix w = p8(k, 64);
  const std::vector<float> x = random_rows(rows, k, random);
  for (const Kernels* kernels : present()) {
    const Inputs whole(w, x, rows, *kernels);
    Inputs pieces(w, x, rows, *kernels);
    std::memset(pieces.codes.data(), 99, static_cast<size_t>(pieces.codes.bytes()));
    for (int32_t r : {20, 3, 11}) {
      const int32_t begin = r == 20 ? 12 : r == 11 ? 4 : 0;
      kernels->quantize(x.data() + static_cast<size_t>(begin) * static_cast<size_t>(k), k, begin, r + 1,
                        pieces.a);
    }
    CHECK(std::memcmp(whole.codes.data(), pieces.codes.data(), static_cast<size_t>(whole.codes.bytes())) ==
          0);
  }
}

TEST(zero_tiny_huge_and_non_finite_groups_are_defined_and_equal_everywhere) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* kernels : present()) {
    for (float odd : {0.0f, 1e-40f, 1e-37f, 3.4e38f, inf, -inf, nan, -nan}) {
      std::vector<float> x(32, 0.0f);
      x[5] = odd;
      x[31] = -odd;
      const PackedMatrix w = p8(32, 32);
      const Inputs in(w, x, 1, *kernels);
      const Reader read(w, in.a, 0);
      const bool finite = std::isfinite(odd), coded = finite && std::fabs(odd) > 1.0f;
      CHECK(std::isnan(read.scale(0)) == !finite);
      if (finite) CHECK(read.scale(0) == (coded ? odd / 127.0f : 0.0f));
      CHECK(read.code(5) == (coded ? 127 : 0));
      CHECK(read.code(31) == (coded ? -127 : 0));
      CHECK(read.sum(0) == 0);
    }
  }
}

TEST(a_non_finite_activation_makes_the_outputs_of_its_row_nan_and_no_other) {
  Random random(3);
  ThreadPool pool(1);
  for (const Kernels* kernels : present()) {
    for (const Spec& spec :
         {Spec{Format::P8, 32, false}, Spec{Format::P4, 32, false}, Spec{Format::P4, 32, true}}) {
      const Weights weights(spec, 48, 64, false, random, pool);
      std::vector<float> x = random_rows(17, 64, random);
      x[3 * 64 + 40] = std::numeric_limits<float>::quiet_NaN();
      const Inputs in(weights.matrix, x, 17, *kernels);
      Guarded<float> out(17 * 48);
      Guarded<uint8_t> scratch(kLinearScratchBytes);
      kernels->linear(weights.matrix, 0, 3, in.a, out.data(), 48, scratch.data());
      for (int r = 0; r < 17; ++r) {
        for (int c = 0; c < 48; ++c) CHECK(std::isnan(out[r * 48 + c]) == (r == 3));
      }
    }
  }
}
