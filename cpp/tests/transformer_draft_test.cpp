// Guessed tokens change no draw: the tokens and log-probabilities of a sampler that is given guesses, right
// and wrong ones, are those of one token a step, in every format, on every instruction set, however many
// threads.
#include <utility>

#include "check.h"
#include "step_fixture.h"

using namespace narrows;
using namespace narrows::test;

namespace {

/// Tokens drawn one a step after `prompt`, each with the sampler's log-probability.
std::vector<Sampled> draw_alone(Setup& s, const std::vector<int32_t>& prompt, Sampler sampler,
                                int32_t count) {
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  std::vector<int32_t> tokens = prompt;
  std::vector<Sampled> drawn;
  std::vector<SequenceOutput> out;
  for (int32_t start = 0; count-- > 0; start = static_cast<int32_t>(tokens.size()) - 1) {
    const SequenceInput input{.tokens = tokens.data() + start,
                              .num_tokens = static_cast<int32_t>(tokens.size()) - start,
                              .start = start,
                              .blocks = blocks.data(),
                              .num_blocks = 24,
                              .prompt_tokens = static_cast<int32_t>(prompt.size()),
                              .sampler = &sampler};
    s.transformer.step(s.kv, {input}, out);
    drawn.push_back(out[0].drawn[0]);
    tokens.push_back(drawn.back().token);
  }
  return drawn;
}

/// The same with guesses of `num_draft` tokens, of which every `wrong`th is another token; two sequences at
/// once.
std::vector<Sampled> draw_guessing(Setup& s, const std::vector<int32_t>& prompt, const Sampler& fresh,
                                   const std::vector<Sampled>& expected, int32_t num_draft, int32_t wrong) {
  const std::vector<int32_t> blocks = scattered_blocks(24, 7), others = scattered_blocks(24, 32);
  Sampler sampler = fresh, other = fresh;
  std::vector<int32_t> tokens = prompt;
  std::vector<Sampled> drawn;
  std::vector<SequenceOutput> out;
  for (int32_t start = 0; drawn.size() < expected.size();) {
    std::vector<int32_t> fed(tokens.begin() + start, tokens.end());
    const int32_t certain = static_cast<int32_t>(fed.size());
    for (size_t i = drawn.size();
         start > 0 && i < expected.size() - 1 && fed.size() < certain + size_t(num_draft); ++i) {
      const int32_t token = expected[i].token;
      fed.push_back(static_cast<int32_t>(i) % wrong == wrong - 1 ? (token + 1) % s.transformer.model().vocab
                                                                 : token);
    }
    SequenceInput input{.tokens = fed.data(), .num_tokens = static_cast<int32_t>(fed.size()), .start = start};
    input.prompt_tokens = static_cast<int32_t>(prompt.size());
    input.num_draft = static_cast<int32_t>(fed.size()) - certain;
    input.num_blocks = 24;
    SequenceInput twin = input;
    input.blocks = blocks.data(), input.sampler = &sampler;
    twin.blocks = others.data(), twin.sampler = &other;
    s.transformer.step(s.kv, {input, twin}, out);
    CHECK(!out[0].drawn.empty() && out[0].drawn.size() <= size_t(input.num_draft) + 1);
    CHECK(out[0].drawn.size() == out[1].drawn.size());
    for (const Sampled& one : out[0].drawn) {
      drawn.push_back(one);
      tokens.push_back(one.token);
    }
    start = static_cast<int32_t>(tokens.size()) - 1;
  }
  return drawn;
}

void check_guesses(const Knobs& knobs, const SamplingParams& params) {
  ThreadPool pool(1);
  const RandomModel random(knobs, pool);
  const std::vector<int32_t> prompt = random_tokens(61, knobs.vocab, 3);
  const Sampler fresh(params, prompt.data(), static_cast<int64_t>(prompt.size()));
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels == nullptr) continue;
    Setup one(random.model(), *kernels, 1);
    const std::vector<Sampled> alone = draw_alone(one, prompt, fresh, 60);
    for (int threads : {1, 3}) {
      Setup s(random.model(), *kernels, threads);
      for (const auto& [num_draft, wrong] : {std::pair{1, 2}, {3, 5}, {8, 1}, {20, 1000}, {37, 1000}}) {
        const std::vector<Sampled> guessed = draw_guessing(s, prompt, fresh, alone, num_draft, wrong);
        CHECK(guessed.size() == alone.size());
        for (size_t i = 0; i < std::min(guessed.size(), alone.size()); ++i) {
          CHECK(guessed[i].token == alone[i].token && guessed[i].logprob == alone[i].logprob);
          CHECK(guessed[i].top.size() == alone[i].top.size());
        }
      }
    }
  }
}

}  // namespace

TEST(guesses_change_no_draw) {
  check_guesses({.format = Format::F32, .kv = KvFormat::f32}, {.temperature = 0, .top_logprobs = 2});
  check_guesses({.format = Format::BF16, .window = 20}, {.temperature = 0.8f, .top_k = 20, .seed = 5});
  check_guesses({.format = Format::P4, .group = 32, .int8_attention = true},
                {.temperature = 1, .min_p = 0.05f, .seed = 7});
  check_guesses({.format = Format::P8, .group = 64, .head_dim = 17, .final_softcap = 20},
                {.temperature = 0.7f,
                 .repetition_penalty = 1.3f,
                 .presence_penalty = 0.5f,
                 .frequency_penalty = 0.2f,
                 .seed = 9,
                 .top_logprobs = 0});
  check_guesses({.format = Format::P44, .group = 64, .vocab = 701}, {.temperature = 0});
  check_guesses({.format = Format::P44, .group = 32, .vocab = 701, .tied = true},
                {.temperature = 0.9f, .top_k = 12, .top_p = 0.95f, .seed = 4});
  check_guesses({.format = Format::F16, .norm = NormKind::layer, .gated = false, .positions = true},
                {.temperature = 0, .frequency_penalty = 1.0f});
}
