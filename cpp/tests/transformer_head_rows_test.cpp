// The last layer goes on with the rows alone whose logits are wanted: same bits, same keys and values, in
// every kind of block, for any choice of rows.
#include <cstring>

#include "check.h"
#include "narrows/transformer.h"
#include "step_fixture.h"

using namespace narrows;
using namespace narrows::test;

namespace {

constexpr int32_t kPromptTokens = 203;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Logits of the last token after a step that wants those of every row.
std::vector<float> last_logits(Setup& s, const std::vector<int32_t>& tokens) {
  const int32_t vocab = s.transformer.model().vocab, count = static_cast<int32_t>(tokens.size());
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  std::vector<float> logits(int64_t{count} * vocab);
  std::vector<SequenceOutput> out;
  s.transformer.step(s.kv,
                     {{.tokens = tokens.data(),
                       .num_tokens = count,
                       .blocks = blocks.data(),
                       .num_blocks = 24,
                       .prompt_tokens = kPromptTokens}},
                     out, logits.data());
  return {logits.end() - vocab, logits.end()};
}

/// The log-probabilities of targets at the given rows, -1 elsewhere, of one step over `tokens` from `start`.
std::vector<TokenLogprob> run_targets(Setup& s, const std::vector<int32_t>& tokens, int32_t start,
                                      int32_t count, const std::vector<int32_t>& rows) {
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  std::vector<int32_t> targets(count, -1);
  for (int32_t row : rows) targets[row] = tokens[row];
  const SequenceInput input{.tokens = tokens.data() + start,
                            .num_tokens = count,
                            .start = start,
                            .blocks = blocks.data(),
                            .num_blocks = 24,
                            .prompt_tokens = kPromptTokens,
                            .targets = targets.data()};
  std::vector<SequenceOutput> out;
  s.transformer.step(s.kv, {input}, out);
  return out[0].targets;
}

/// Where few rows have a use for logits the last layer computes only those: same bits, same keys and values.
void check_narrowed(Setup& s, const std::vector<int32_t>& tokens) {
  const int32_t count = static_cast<int32_t>(tokens.size()) - 1, half = 100;
  const std::vector<float> last = last_logits(s, tokens);
  std::vector<int32_t> every(count - half);
  for (int32_t i = 0; i < count - half; ++i) every[i] = i;
  run_targets(s, tokens, 0, half, {});
  const std::vector<TokenLogprob> all = run_targets(s, tokens, half, count - half, every);
  for (const std::vector<int32_t>& some : {std::vector<int32_t>{0}, std::vector<int32_t>{count - half - 1},
                                           std::vector<int32_t>{3, 4, 5, 101, 102, 103, 104, 150, 188}}) {
    const std::vector<TokenLogprob> found = run_targets(s, tokens, half, count - half, some);
    for (int32_t row : some) {
      CHECK(std::memcmp(&found[row].logprob, &all[row].logprob, sizeof(float)) == 0);
      CHECK(found[row].rank == all[row].rank);
    }
  }
  run_targets(s, tokens, half, count - half, {});
  std::vector<float> logits(s.transformer.model().vocab);
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  std::vector<SequenceOutput> out;
  s.transformer.step(s.kv,
                     {{.tokens = &tokens[count],
                       .num_tokens = 1,
                       .start = count,
                       .blocks = blocks.data(),
                       .num_blocks = 24}},
                     out, logits.data());
  CHECK(same_bits(logits, last));
}

void check_knobs(const Knobs& knobs) {
  ThreadPool pool(1);
  const RandomModel random(knobs, pool);
  const std::vector<int32_t> tokens = random_tokens(290, knobs.vocab, 5);
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels == nullptr) continue;
    for (int threads : {1, 3}) {
      Setup s(random.model(), *kernels, threads);
      check_narrowed(s, tokens);
    }
  }
}

}  // namespace

TEST(llama_like_models_narrow_their_last_layer) {
  check_knobs({.format = Format::F32, .kv = KvFormat::f32});
  check_knobs({.format = Format::P4, .group = 32, .hidden = 72, .layers = 1});
  check_knobs({.format = Format::P4, .group = 32, .int8_attention = true, .kv = KvFormat::i8});
  check_knobs({.format = Format::P8, .group = 64, .head_dim = 17, .window = 40, .int8_attention = true});
}

TEST(gemma_neox_and_gpt2_like_models_narrow_their_last_layer) {
  check_knobs({.format = Format::P4,
               .group = 32,
               .kv_heads = 1,
               .window = 21,
               .attention_softcap = 5,
               .final_softcap = 3,
               .post_norms = true,
               .head_norms = true,
               .tied = true});
  Knobs neox{
      .format = Format::P8, .group = 64, .rotated = 4, .norm = NormKind::layer, .gated = false, .bias = true};
  neox.parallel = true;
  check_knobs(neox);
  neox.parallel = false;
  neox.positions = true;
  neox.rotated = 0;
  check_knobs(neox);
}

TEST(layers_of_odd_widths_narrow_their_last_layer) {
  check_knobs({.format = Format::P4,
               .group = 128,
               .hidden = 67,
               .head_dim = 10,
               .intermediate = 75,
               .layers = 3,
               .vocab = 83,
               .rotated = 10,
               .bias = true,
               .uneven = true});
}
