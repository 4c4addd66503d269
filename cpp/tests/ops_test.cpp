// Norms, activations and rope against double precision, on every instruction set and every remainder of a
// vector.
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "ops_fixture.h"

namespace {

using namespace ops_fixture;

double mean_square(const std::vector<float>& x, double centre) {
  double sum = 0.0;
  for (const float v : x) sum += (v - centre) * (v - centre);
  return sum / static_cast<double>(x.size());
}

// Sums in at least four lanes: their error, n/4 roundings at worst, halves under the root; six more roundings
// follow.
double norm_tolerance(int n) { return (n / 8.0 + 8.0) * kUlp; }

double exact(ActivationKind kind, double x) {
  switch (kind) {
    case ActivationKind::silu: return x / (1.0 + std::exp(-x));
    case ActivationKind::gelu_tanh: {
      const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
      return x / (1.0 + std::exp(-2.0 * u));
    }
    case ActivationKind::gelu_erf: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case ActivationKind::relu: return x > 0.0 ? x : 0.0;
    case ActivationKind::relu2: return x > 0.0 ? x * x : 0.0;
  }
  return kNan;
}

constexpr ActivationKind kAllKinds[] = {ActivationKind::silu, ActivationKind::gelu_tanh,
                                        ActivationKind::gelu_erf, ActivationKind::relu,
                                        ActivationKind::relu2};

// exp is within 2 ulp, and silu adds four roundings. The argument of gelu_tanh is rounded itself, which
// counts times its size. erf is within 1e-6 absolute, and half of it is multiplied by x.
double activation_tolerance(ActivationKind kind, double x, double y) {
  if (kind == ActivationKind::gelu_erf) return 5e-7 * std::fabs(x) + 4 * kUlp * std::fabs(y);
  if (kind == ActivationKind::relu) return 0.0;
  if (kind == ActivationKind::relu2) return 2 * kUlp * std::fabs(y);
  const double argument =
      kind == ActivationKind::silu ? 0.0 : 1.6 * std::fabs(x) + 0.0714 * std::fabs(x * x * x);
  return std::fabs(y) * kUlp * (12.0 + 6.0 * argument) + 1e-37;
}

// A sweep over magnitudes of both signs.
std::vector<float> sweep() {
  std::vector<float> x = {0.0f, -0.0f, 0.625f, -0.625f, 1.0f, -1.0f, 1.4142f};
  for (float v = 1e-6f; v < 60.0f; v *= 1.013f) {
    x.push_back(v);
    x.push_back(-v);
  }
  return x;
}

}  // namespace

TEST(rms_norm_matches_double_precision) {
  for (const Kernels* k : all_kernels()) {
    for (const int n : lengths()) {
      for (const float size : {1.0f, 1e15f, 1e-4f}) {
        Guarded x(random_floats(n, 1, size)), weight(random_floats(n, 2)), out(n);
        const std::vector<float> raw = random_floats(n, 1, size);
        k->rms_norm(x.get(), weight.get(), 1e-6f, out.get(), n);
        const double factor = 1.0 / std::sqrt(mean_square(raw, 0.0) + 1e-6f);
        for (int i = 0; i < n; ++i) {
          const double expected = x[i] * factor * weight[i];
          CHECK_NEAR(out[i], expected, norm_tolerance(n) * std::fabs(expected));
        }
        CHECK(out.intact());
        k->rms_norm(x.get(), weight.get(), 1e-6f, x.get(), n);
        CHECK(std::memcmp(x.get(), out.get(), static_cast<size_t>(n) * 4) == 0);  // in place
      }
    }
  }
}

TEST(layer_norm_survives_a_large_mean) {
  for (const Kernels* k : all_kernels()) {
    for (const int n : lengths()) {
      for (const float shift : {0.0f, 1000.0f}) {
        const std::vector<float> raw = random_floats(n, 3, 1.0f, shift);
        Guarded x(raw), weight(random_floats(n, 4)), bias(random_floats(n, 5)), out(n), plain(n);
        k->layer_norm(x.get(), weight.get(), bias.get(), 1e-5f, out.get(), n);
        k->layer_norm(x.get(), weight.get(), nullptr, 1e-5f, plain.get(), n);
        double mean = 0.0;
        for (const float v : raw) mean += v / static_cast<double>(n);
        const double factor = 1.0 / std::sqrt(mean_square(raw, mean) + 1e-5f);
        // The mean is off by some roundings of its size; every centred value inherits that.
        const double centred = (std::log2(n) + 8.0) * kUlp * (std::fabs(mean) + 1.0) * factor;
        for (int i = 0; i < n; ++i) {
          const double y = (x[i] - mean) * factor;
          const double tolerance = std::fabs(weight[i]) * (norm_tolerance(n) * std::fabs(y) + centred) * 1.5;
          CHECK_NEAR(plain[i], y * weight[i], tolerance);
          CHECK_NEAR(out[i], y * weight[i] + bias[i],
                     tolerance + 2 * kUlp * (std::fabs(bias[i]) + std::fabs(y)));
        }
        CHECK(out.intact() && plain.intact());
      }
    }
  }
}

TEST(norms_of_zeros_are_zero) {
  for (const Kernels* k : all_kernels()) {
    Guarded x(std::vector<float>(40, 0.0f)), weight(random_floats(40, 6)), out(40);
    k->rms_norm(x.get(), weight.get(), 1e-6f, out.get(), 40);
    for (int i = 0; i < 40; ++i) CHECK(out[i] == 0.0f);
    k->layer_norm(x.get(), weight.get(), nullptr, 1e-6f, out.get(), 40);
    for (int i = 0; i < 40; ++i) CHECK(out[i] == 0.0f);
  }
}

TEST(activations_match_double_precision) {
  const std::vector<float> values = sweep();
  for (const Kernels* k : all_kernels()) {
    for (const ActivationKind kind : kAllKinds) {
      std::vector<float> x = values;
      k->activate(kind, x.data(), static_cast<int32_t>(x.size()));
      for (size_t i = 0; i < x.size(); ++i) {
        const double y = exact(kind, values[i]);
        CHECK_NEAR(x[i], y, activation_tolerance(kind, values[i], y));
      }
    }
  }
}

TEST(activations_of_every_length_stay_in_their_buffer) {
  for (const Kernels* k : all_kernels()) {
    for (const ActivationKind kind : kAllKinds) {
      for (const int n : lengths()) {
        Guarded x(random_floats(n, 7));
        const std::vector<float> values = random_floats(n, 7);
        k->activate(kind, x.get(), n);
        for (size_t i = 0; i < values.size(); ++i) {
          const double y = exact(kind, values[i]);
          CHECK_NEAR(x[i], y, activation_tolerance(kind, values[i], y));
        }
        CHECK(x.intact());
      }
    }
  }
}

TEST(gates_and_their_factors_lie_in_panels_of_16) {
  for (const Kernels* k : all_kernels()) {
    for (const ActivationKind kind : kAllKinds) {
      for (const int pairs : {1, 2, 3, 48}) {
        const std::vector<float> panels = random_floats(32 * pairs, 8);
        Guarded out(16 * pairs);
        k->activate_gated(kind, panels.data(), out.get(), pairs);
        for (int i = 0; i < 16 * pairs; ++i) {
          const size_t gate = static_cast<size_t>(i / 16 * 32 + i % 16);
          float x = panels[gate];
          k->activate(kind, &x, 1);
          const double y = x * static_cast<double>(panels[gate + 16]);
          CHECK_NEAR(out[i], y, kUlp * std::fabs(y) + 1e-44);
        }
        CHECK(out.intact());
      }
    }
  }
}

TEST(activations_of_huge_values_are_their_limits) {
  const float huge[] = {100.0f, 1e4f, 1e15f, 1e30f, 3e38f, kInf};
  for (const Kernels* k : all_kernels()) {
    for (const ActivationKind kind : kAllKinds) {
      for (const float v : huge) {
        float x[2] = {v, -v};
        k->activate(kind, x, 2);
        CHECK(kind == ActivationKind::relu2 ? x[0] == v * v : x[0] == v);
        CHECK(std::fabs(x[1]) <= 1e-36f);  // false for NaN
      }
      float nan[1] = {kNan};
      k->activate(kind, nan, 1);
      CHECK(std::isnan(nan[0]));
    }
  }
}

TEST(add_scale_and_softcap) {
  for (const Kernels* k : all_kernels()) {
    for (const int n : lengths()) {
      const std::vector<float> a = random_floats(n, 9), b = random_floats(n, 10);
      Guarded sum(a), y(b), scaled(a), capped(random_floats(n, 9, 40.0f));
      const Guarded before(random_floats(n, 9, 40.0f));
      k->add(sum.get(), y.get(), n);
      k->scale(scaled.get(), 0.37f, n);
      k->softcap(capped.get(), 30.0f, n);
      for (int i = 0; i < n; ++i) {
        CHECK(sum[i] == a[static_cast<size_t>(i)] + b[static_cast<size_t>(i)]);
        CHECK(scaled[i] == a[static_cast<size_t>(i)] * 0.37f);
        CHECK_NEAR(capped[i], 30.0 * std::tanh(before[i] / 30.0), 30.0 * 2e-7);
      }
      CHECK(sum.intact() && scaled.intact() && capped.intact());
    }
    float extremes[] = {kInf, -kInf, 3e38f, -3e38f, 0.0f, 1e-30f};
    k->softcap(extremes, 30.0f, 6);
    const float expected[] = {30.0f, -30.0f, 30.0f, -30.0f, 0.0f, 1e-30f};
    for (int i = 0; i < 6; ++i) CHECK_NEAR(extremes[i], expected[i], 3 * kUlp * std::fabs(expected[i]));
  }
}

TEST(softcap_is_accurate_relative_to_small_values) {  // tanh near 0 and at the seam of its two formulas
  for (const Kernels* k : all_kernels()) {
    for (float v = 1e-5f; v < 12.0f; v *= 1.01f) {
      float x[1] = {v};
      k->softcap(x, 1.0f, 1);
      CHECK_NEAR(x[0], std::tanh(static_cast<double>(v)),
                 4 * kUlp * std::tanh(v) + (v < 0.625f ? 0.0 : 1e-7));
    }
  }
}

TEST(rope_rotates_pairs_and_leaves_the_rest) {
  for (const Kernels* k : all_kernels()) {
    for (int half = 1; half <= 65; ++half) {
      const std::vector<float> raw = random_floats(2 * half + 5, 11), angles = random_floats(half, 12, 3.0f);
      Guarded head(raw);
      std::vector<float> cos, sin;
      for (const float angle : angles) {
        cos.push_back(std::cos(angle));
        sin.push_back(std::sin(angle));
      }
      k->rope(head.get(), cos.data(), sin.data(), half);
      for (int i = 0; i < half; ++i) {
        const size_t s = static_cast<size_t>(i);
        const double a = raw[s], b = raw[s + static_cast<size_t>(half)];
        const double tolerance = 2 * kUlp * (std::fabs(a) + std::fabs(b));
        CHECK_NEAR(head[i], a * cos[s] - b * sin[s], tolerance);
        CHECK_NEAR(head[half + i], b * cos[s] + a * sin[s], tolerance);
      }
      for (int i = 2 * half; i < 2 * half + 5; ++i) CHECK(head[i] == raw[static_cast<size_t>(i)]);
      CHECK(head.intact());
    }
  }
}

TEST(instruction_sets_agree_with_generic) {
  const Kernels& generic = *kernels_for(Isa::generic);
  const std::vector<float> raw = random_floats(777, 17, 3.0f), weight = random_floats(777, 18);
  for (const Kernels* k : all_kernels()) {
    std::vector<float> a(777), b(777);
    k->rms_norm(raw.data(), weight.data(), 1e-5f, a.data(), 777);
    generic.rms_norm(raw.data(), weight.data(), 1e-5f, b.data(), 777);
    for (size_t i = 0; i < a.size(); ++i) CHECK_NEAR(a[i], b[i], 2 * norm_tolerance(777) * std::fabs(b[i]));
    for (const ActivationKind kind : kAllKinds) {
      a = raw;
      b = raw;
      k->activate(kind, a.data(), 777);
      generic.activate(kind, b.data(), 777);
      for (size_t i = 0; i < a.size(); ++i) {
        CHECK_NEAR(a[i], b[i], 2 * activation_tolerance(kind, raw[i], b[i]));
      }
    }
  }
}
