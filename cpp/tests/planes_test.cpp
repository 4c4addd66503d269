// The head in two planes: the upper plane on its own, and the search that reads both planes of few panels.
// What it draws is what all logits would have given.
#include <algorithm>
#include <limits>

#include "check.h"
#include "linear_fixture.h"
#include "step_fixture.h"

namespace {

using namespace fixture;
using namespace narrows::test;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> upper_of(const Kernels& kernels, const PackedMatrix& w, const Activations& a) {
  static Guarded<uint8_t> scratch(kLinearScratchBytes);
  const int64_t ld = int64_t{w.panels()} * kPanel;
  Guarded<float> out(a.rows * ld);
  kernels.linear_upper(w, 0, w.panels(), a, out.data(), ld, scratch.data());
  CHECK(out.intact());
  std::vector<float> result;
  for (int32_t r = 0; r < a.rows; ++r)
    result.insert(result.end(), out.data() + r * ld, out.data() + r * ld + w.n);
  return result;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Value k of row `row` of a P44 matrix by its upper plane alone.
double upper_value(const PackedMatrix& w, int32_t row, int64_t k) {
  const uint8_t* panel = w.data + w.panel_bytes() * (row / kPanel);
  const double scale = double{reinterpret_cast<const float*>(panel)[row % kPanel]};
  const int byte = panel[w.scale_bytes() + k / 8 * 64 + 4 * (row % kPanel) + k % 4];
  return scale * (16 * (k % 8 < 4 ? byte & 15 : byte >> 4) - 120.5);
}

/// A model with a head in two planes; with `close` most of its channels differ from their neighbours in one
/// input only, by less than the upper plane can tell.
struct TwoPlanes {
  TwoPlanes(int32_t vocab, bool close) : random({.format = Format::P44, .group = 32, .vocab = vocab}, pool) {
    model = random.model();
    const PackedMatrix& w = model.head.w;
    values.resize(static_cast<size_t>(w.n) * w.k);
    Random numbers(9);
    for (int32_t row = 0; row < w.n; ++row) {
      float* mine = values.data() + int64_t{row} * w.k;
      for (int32_t k = 0; k < w.k; ++k) mine[k] = close && row % 8 != 0 ? mine[k - w.k] : numbers.normal();
      if (close) mine[numbers.below(w.k)] += 0.02f;
    }
    bytes = std::make_unique<Guarded<uint8_t>>(w.bytes());
    pack({{values.data(), DType::f32, w.n, w.k, w.k}}, false, w, bytes->data(), pool, *select_kernels());
    model.head.w.data = bytes->data();
  }
  ThreadPool pool{2};
  RandomModel random;
  Model model;
  std::vector<float> values;
  std::unique_ptr<Guarded<uint8_t>> bytes;
};

/// `count` sequences of one token each, with samplers of `params`: the tokens drawn.
std::vector<int32_t> draw(Setup& s, const SamplingParams& params, int32_t seed, int32_t count) {
  std::vector<int32_t> tokens =
      random_tokens(count, s.transformer.model().vocab, static_cast<uint32_t>(seed));
  std::vector<int32_t> blocks(static_cast<size_t>(count));
  std::vector<Sampler> samplers;
  for (int32_t i = 0; i < count; ++i) {
    SamplingParams mine = params;
    mine.seed = static_cast<uint64_t>(seed * 100 + i);
    samplers.emplace_back(mine, nullptr, 0);
    blocks[static_cast<size_t>(i)] = i;
  }
  std::vector<SequenceInput> batch(static_cast<size_t>(count));
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i] = {.tokens = &tokens[i], .num_tokens = 1, .blocks = &blocks[i], .num_blocks = 1};
    batch[i].sampler = &samplers[i];
  }
  std::vector<SequenceOutput> out;
  s.transformer.step(s.kv, batch, out);
  std::vector<int32_t> drawn;
  for (const SequenceOutput& one : out) drawn.push_back(one.drawn.at(0).token);
  return drawn;
}

/// What the samplers of draw() draw from all logits.
std::vector<int32_t> draw_from_all(Setup& s, const Kernels& kernels, const SamplingParams& params,
                                   int32_t seed, int32_t count) {
  const int32_t vocab = s.transformer.model().vocab;
  const std::vector<int32_t> tokens = random_tokens(count, vocab, static_cast<uint32_t>(seed));
  std::vector<int32_t> drawn;
  const int32_t block = 0;
  for (int32_t i = 0; i < count; ++i) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    std::vector<SequenceOutput> out;
    const SequenceInput input{
        .tokens = &tokens[static_cast<size_t>(i)], .num_tokens = 1, .blocks = &block, .num_blocks = 1};
    s.transformer.step(s.kv, {input}, out, logits.data());
    SamplingParams mine = params;
    mine.seed = static_cast<uint64_t>(seed * 100 + i);
    drawn.push_back(Sampler(mine, nullptr, 0).sample(kernels, logits.data(), vocab).token);
  }
  return drawn;
}

}  // namespace

TEST(the_upper_plane_gives_the_bits_of_the_generic_twin_alone_and_in_batches) {
  Random random(1);
  ThreadPool pool(2);
  const Kernels& generic = *kernels_for(Isa::generic);
  for (int32_t group : {32, 64, 128}) {
    for (int32_t rows = 1; rows <= 35; rows += rows < 18 ? 1 : 8) {
      const int32_t k = 40 + 37 * rows % 200, n = 1 + rows * 11 % 70;
      const Weights weights({Format::P44, group, false}, n, k, rows % 2 == 0, random, pool);
      const std::vector<float> x = random_rows(rows, k, random);
      const Inputs inputs(weights.matrix, x, rows, generic);
      const std::vector<float> expected = upper_of(generic, weights.matrix, inputs.a);
      for (const Kernels* kernels : present())
        CHECK(same(expected, upper_of(*kernels, weights.matrix, inputs.a)));
      const Inputs last(weights.matrix, {x.end() - k, x.end()}, 1, generic);
      for (const Kernels* kernels : present())
        CHECK(same({expected.end() - n, expected.end()}, upper_of(*kernels, weights.matrix, last.a)));
    }
  }
}

TEST(the_upper_plane_is_the_middle_of_its_codes_and_rest_is_what_it_leaves_out) {
  Random random(2);
  ThreadPool pool(1);
  for (int32_t k : {1, 31, 100, 257}) {
    const Weights weights({Format::P44, 32, false}, 37, k, false, random, pool);
    const PackedMatrix& w = weights.matrix;
    std::vector<float> x(static_cast<size_t>(k), 0.0f), row(x);
    std::vector<double> rest(static_cast<size_t>(w.panels()), 0.0);
    for (int32_t n = 0; n < w.n; ++n) {
      kernels_for(Isa::generic)->unpack_row(w, n, row.data());
      const double scale =
          double{reinterpret_cast<const float*>(w.data + w.panel_bytes() * (n / 16))[n % 16]};
      double squares = 0.0;
      for (int32_t i = 0; i < k; ++i) {
        const double missing = double{row[static_cast<size_t>(i)]} - upper_value(w, n, i);
        CHECK(std::fabs(missing) <= scale * 7.5001);
        squares += missing * missing;
      }
      rest[static_cast<size_t>(n / 16)] = std::max(rest[static_cast<size_t>(n / 16)], std::sqrt(squares / k));
    }
    for (int32_t p = 0; p < w.panels(); ++p)
      CHECK_NEAR(w.rest(p), rest[static_cast<size_t>(p)], 1e-5 * rest[static_cast<size_t>(p)]);
    x[static_cast<size_t>(k) / 2] = 127.0f;  // one input: its code is 127, its scale 1
    const Inputs inputs(w, x, 1, *kernels_for(Isa::generic));
    const std::vector<float> got = upper_of(*kernels_for(Isa::generic), w, inputs.a);
    for (int32_t n = 0; n < w.n; ++n) {
      const double wanted = 127.0 * upper_value(w, n, k / 2);
      CHECK_NEAR(got[static_cast<size_t>(n)], wanted, 1e-6 * std::fabs(wanted));
    }
  }
}

TEST(the_largest_of_a_panel_is_found_and_what_is_not_finite_shows) {
  Random random(3);
  std::vector<float> x(16 * 20);
  for (float& v : x) v = random.normal();
  x[16 * 3 + 5] = std::numeric_limits<float>::quiet_NaN();
  x[16 * 7] = kInfinity;
  std::fill(x.begin() + 16 * 9, x.begin() + 16 * 10, -kInfinity);
  for (const Kernels* kernels : present()) {
    std::vector<float> best(20);
    kernels->panel_max(x.data(), 20, best.data());
    for (size_t p = 0; p < best.size(); ++p) {
      const float wanted = p == 3 || p == 7 ? kInfinity : *std::max_element(&x[16 * p], &x[16 * p] + 16);
      CHECK(best[p] == wanted);
    }
  }
}

TEST(two_planes_give_the_bits_of_whole_codes) {
  ThreadPool pool(2);
  for (int32_t vocab : {100, 1003}) {
    const RandomModel whole({.format = Format::P8, .group = 32, .vocab = vocab, .tied = true}, pool);
    const RandomModel planes({.format = Format::P44, .group = 32, .vocab = vocab, .tied = true}, pool);
    for (int32_t count : {3, 40}) {
      const std::vector<int32_t> tokens = random_tokens(count, vocab, 4), blocks = scattered_blocks(8, 0);
      const SequenceInput input{
          .tokens = tokens.data(), .num_tokens = count, .blocks = blocks.data(), .num_blocks = 8};
      std::vector<float> logits[2] = {std::vector<float>(static_cast<size_t>(count) * vocab), {}};
      logits[1] = logits[0];
      for (const Kernels* kernels : present()) {
        int i = 0;
        for (const RandomModel* each : {&whole, &planes}) {
          Setup s(each->model(), *kernels, 2);
          std::vector<SequenceOutput> out;
          s.transformer.step(s.kv, {input}, out, logits[i++].data());
        }
        CHECK(same(logits[0], logits[1]));
      }
    }
  }
}

TEST(few_rows_draw_from_few_panels_what_they_would_from_all) {
  const SamplingParams kinds[] = {
      {.temperature = 0},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 5, .top_p = 0.9f},
      {.temperature = 2, .top_k = 64, .min_p = 0.01f},
      {.temperature = 1, .top_k = 65},  // more than it is done for
      {.temperature = 0, .logit_bias = {{7, 100.0f}}},
  };
  for (bool close : {false, true}) {
    for (int32_t vocab : {5, 1003}) {
      const TwoPlanes two(vocab, close);
      for (const Kernels* kernels : present()) {
        const int32_t repeats = kernels->isa == Isa::generic ? 4 : 40;
        Setup alone(two.model, *kernels, 1), s(two.model, *kernels, 3);
        for (const SamplingParams& params : kinds) {
          for (int32_t seed = 0; seed < repeats; ++seed) {
            const int32_t count = 1 + seed % 10;  // more than kPlaneRows too
            const std::vector<int32_t> wanted = draw_from_all(alone, *kernels, params, seed, count);
            CHECK(draw(s, params, seed, count) == wanted);
            CHECK(draw(alone, params, seed, count) == wanted);
          }
        }
      }
    }
  }
}

TEST(logits_that_are_not_finite_give_no_token) {
  const TwoPlanes two(1003, false);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    Model model = two.model;
    std::vector<float> weight(model.final_norm.weight, model.final_norm.weight + model.hidden);
    weight[3] = bad;
    model.final_norm.weight = weight.data();
    for (const Kernels* kernels : present()) {
      Setup s(model, *kernels, 2);
      for (int32_t top_k : {0, 5}) {
        const SamplingParams params{.temperature = top_k > 0 ? 1.0f : 0.0f, .top_k = top_k};
        CHECK(draw(s, params, 1, 2) == draw_from_all(s, *kernels, params, 1, 2));
        CHECK(draw(s, params, 1, 1)[0] == -1);
      }
    }
  }
}

TEST(a_sampler_says_how_many_logits_it_looks_at) {
  const auto reach = [](const SamplingParams& params) { return Sampler(params, nullptr, 0).reach(); };
  CHECK(reach({.temperature = 0, .top_k = 7}) == 1);
  CHECK(reach({.temperature = 1, .top_k = 7, .top_p = 0.5f, .min_p = 0.1f}) == 7);
  CHECK(reach({.temperature = 1, .top_k = 65}) == 0);
  CHECK(reach({.temperature = 1}) == 0);
  CHECK(reach({.temperature = 0, .top_logprobs = 0}) == 0);
  CHECK(reach({.temperature = 0, .presence_penalty = 0.1f}) == 0);
  CHECK(reach({.temperature = 0, .repetition_penalty = 1.1f}) == 0);
  CHECK(reach({.temperature = 0, .logit_bias = {{1, -1.0f}}}) == 0);
  Sampler banned({.temperature = 0, .banned_until_min = {3}, .min_tokens = 2}, nullptr, 0);
  CHECK(banned.reach() == 0);
  banned.accept(5);
  banned.accept(5);
  CHECK(banned.reach() == 1);
}
