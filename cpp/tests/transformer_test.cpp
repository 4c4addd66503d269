// A step gives the same bits however a prompt is cut, whoever shares the batch and however many threads
// compute, in every format and on every instruction set. That the bits are the right ones is tests/runners'
// matter.
#include "narrows/transformer.h"

#include <cstring>

#include "check.h"
#include "step_fixture.h"

using namespace narrows;
using namespace narrows::test;

namespace {

constexpr int32_t kPromptTokens = 203;  // cuts lie on both sides of it, and one piece lies across

/// Logits [tokens, vocab] of one sequence run in chunks of the given sizes (the last one repeats).
std::vector<float> run_chunks(Setup& s, const std::vector<int32_t>& tokens,
                              const std::vector<int32_t>& sizes) {
  const int32_t vocab = s.transformer.model().vocab, count = static_cast<int32_t>(tokens.size());
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  std::vector<float> logits(int64_t{count} * vocab);
  std::vector<SequenceOutput> out;
  int32_t done = 0;
  for (size_t i = 0; done < count; ++i) {
    const int32_t size = std::min(count - done, sizes[std::min(i, sizes.size() - 1)]);
    SequenceInput input{.tokens = tokens.data() + done, .num_tokens = size, .start = done};
    input.blocks = blocks.data();
    input.num_blocks = static_cast<int32_t>(blocks.size());
    input.prompt_tokens = kPromptTokens;
    s.transformer.step(s.kv, {input}, out, logits.data() + int64_t{done} * vocab);
    done += size;
  }
  return logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool all_finite(const std::vector<float>& values) {
  for (float x : values) {
    if (!std::isfinite(x)) return false;
  }
  return true;
}

/// The last token's logits of `tokens` when it decodes in a batch with two prompts and another decoding
/// sequence.
std::vector<float> run_mixed(Setup& s, const std::vector<int32_t>& tokens) {
  const int32_t vocab = s.transformer.model().vocab, count = static_cast<int32_t>(tokens.size());
  run_chunks(s, {tokens.begin(), tokens.end() - 1}, {count});
  const std::vector<int32_t> other = random_tokens(80, vocab, 99);
  const std::vector<int32_t> mine = scattered_blocks(24, 7), a = scattered_blocks(8, 32), b = {0}, c = {1, 2};
  std::vector<SequenceInput> batch = {
      {.tokens = other.data(), .num_tokens = 77, .start = 0, .blocks = a.data(), .num_blocks = 8},
      {.tokens = other.data() + 3, .num_tokens = 1, .start = 0, .blocks = b.data(), .num_blocks = 1},
      {.tokens = tokens.data() + count - 1,
       .num_tokens = 1,
       .start = count - 1,
       .blocks = mine.data(),
       .num_blocks = 24},
      {.tokens = other.data() + 9, .num_tokens = 19, .start = 0, .blocks = c.data(), .num_blocks = 2}};
  std::vector<SequenceOutput> out;
  std::vector<float> logits(int64_t{77 + 1 + 1 + 19} * vocab);
  s.transformer.step(s.kv, batch, out, logits.data());
  return {logits.begin() + 78 * vocab, logits.begin() + 79 * vocab};
}

void check_invariance(const Knobs& knobs) {
  ThreadPool pool(1);
  const RandomModel random(knobs, pool);
  const std::vector<int32_t> tokens = random_tokens(290, knobs.vocab, 5);  // more than a key chunk and a tile
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512vnni}) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels == nullptr) continue;
    Setup one(random.model(), *kernels, 1);
    const std::vector<float> whole = run_chunks(one, tokens, {static_cast<int32_t>(tokens.size())});
    CHECK(all_finite(whole));
    const std::vector<float> last(whole.end() - knobs.vocab, whole.end());
    CHECK(same_bits(run_mixed(one, tokens), last));
    for (int threads : {2, 3}) {
      Setup s(random.model(), *kernels, threads);
      CHECK(same_bits(run_chunks(s, tokens, {static_cast<int32_t>(tokens.size())}), whole));
      CHECK(same_bits(run_chunks(s, tokens, {1, 3, 17, 40, 5, 2, 90, 16, 4, 100}), whole));
      CHECK(same_bits(run_mixed(s, tokens), last));
    }
    CHECK(same_bits(run_chunks(one, tokens, {33, 8, 1, 1, 9}), whole));
    const std::vector<int32_t> head(tokens.begin(), tokens.begin() + 40);
    const std::vector<float> expected(whole.begin(), whole.begin() + 40 * knobs.vocab);
    CHECK(same_bits(run_chunks(one, head, {1}), expected));
  }
}

}  // namespace

TEST(f32_and_bf16_llama_are_invariant) {
  check_invariance({.format = Format::F32, .kv = KvFormat::f32});
  check_invariance({.format = Format::BF16});
}

TEST(prompts_in_integers_are_invariant) {
  check_invariance({.format = Format::P4, .group = 32, .int8_attention = true});
  check_invariance({.format = Format::P8, .group = 64, .head_dim = 17, .window = 40, .int8_attention = true});
  check_invariance({.format = Format::F32, .kv_heads = 1, .attention_softcap = 5, .int8_attention = true});
}

TEST(keys_and_values_of_8_bits_are_invariant) {
  const KvFormat kv = KvFormat::i8;
  check_invariance({.format = Format::P4, .group = 32, .int8_attention = true, .kv = kv});
  check_invariance({.format = Format::P8, .group = 64, .head_dim = 17, .window = 40, .kv = kv});
}

TEST(p8_and_p4_llama_are_invariant) {
  check_invariance({.format = Format::P8, .group = 32});
  check_invariance({.format = Format::P4, .group = 32, .hidden = 72});
  check_invariance({.format = Format::P4, .group = 64, .has_zero = true});
}

TEST(gemma_like_models_are_invariant) {
  check_invariance({.format = Format::P4,
                    .group = 32,
                    .kv_heads = 1,
                    .window = 21,
                    .attention_softcap = 5,
                    .final_softcap = 3,
                    .activation = ActivationKind::gelu_tanh,
                    .post_norms = true,
                    .head_norms = true,
                    .tied = true});
}

TEST(neox_and_gpt2_like_models_are_invariant) {
  const Knobs neox{.format = Format::P8,
                   .group = 64,
                   .rotated = 4,
                   .norm = NormKind::layer,
                   .activation = ActivationKind::gelu_erf,
                   .gated = false,
                   .bias = true,
                   .parallel = true};
  check_invariance(neox);
  Knobs gpt2 = neox;
  gpt2.format = Format::F32;
  gpt2.group = 0;
  gpt2.rotated = 0;
  gpt2.parallel = false;
  gpt2.positions = gpt2.tied = true;
  check_invariance(gpt2);
}

TEST(layers_of_different_widths_and_odd_sizes_are_invariant) {
  check_invariance({.format = Format::P4,
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

TEST(samplers_and_targets_see_the_same_logits) {
  ThreadPool pool(2);
  const RandomModel random({.format = Format::BF16, .kv = KvFormat::f32}, pool);
  const Kernels& kernels = *select_kernels();
  Setup s(random.model(), kernels, 2);
  const int32_t vocab = random.model().vocab;
  const std::vector<int32_t> tokens = random_tokens(50, vocab, 1);
  const std::vector<float> logits = run_chunks(s, tokens, {50});
  Sampler greedy(SamplingParams{.temperature = 0, .top_logprobs = 3}, tokens.data(), 50);
  std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
  targets.push_back(-1);
  const std::vector<int32_t> blocks = scattered_blocks(24, 7);
  const SequenceInput input{.tokens = tokens.data(),
                            .num_tokens = 50,
                            .start = 0,
                            .blocks = blocks.data(),
                            .num_blocks = 24,
                            .sampler = &greedy,
                            .targets = targets.data(),
                            .target_top = 4};
  std::vector<SequenceOutput> out;
  s.transformer.step(s.kv, {input}, out);
  CHECK(out[0].drawn.size() == 1 &&
        out[0].drawn[0].token == kernels.argmax(logits.data() + 49 * vocab, vocab));
  CHECK(out[0].drawn.size() == 1 && out[0].drawn[0].top.size() == 3);
  for (int32_t i = 0; i < 49; ++i) {
    double sum = 0;
    int32_t above = 0;
    const float* row = logits.data() + i * vocab;
    for (int32_t t = 0; t < vocab; ++t) sum += std::exp(double{row[t]}), above += row[t] > row[targets[i]];
    CHECK_NEAR(out[0].targets[i].logprob, row[targets[i]] - std::log(sum), 1e-5);
    CHECK(out[0].targets[i].rank == above);
    CHECK(out[0].target_top[i].size() == 4);
    CHECK(out[0].target_top[i][0].token == kernels.argmax(row, vocab));
    CHECK_NEAR(out[0].target_top[i][0].logprob, row[out[0].target_top[i][0].token] - std::log(sum), 1e-5);
  }
  CHECK(out[0].targets[49].token == -1);
}

TEST(an_empty_batch_is_no_work) {
  ThreadPool pool(2);
  const RandomModel random({}, pool);
  Setup s(random.model(), *select_kernels(), 2);
  std::vector<SequenceOutput> out(3);
  s.transformer.step(s.kv, {}, out);
  CHECK(out.empty());
}

TEST(op_times_add_up_and_start_again) {
  ThreadPool pool(1);
  const RandomModel random({}, pool);
  Setup s(random.model(), *select_kernels(), 1);
  run_chunks(s, random_tokens(64, 100, 3), {64});
  double total = 0;
  for (double seconds : s.transformer.take_op_times()) total += seconds;
  CHECK(total > 0);
  for (double seconds : s.transformer.take_op_times()) CHECK(seconds == 0);
}

TEST(kv_pages_do_not_overlap_and_too_many_are_refused) {
  ThreadPool pool(1);
  const RandomModel random({.layers = 3}, pool);
  const Model& model = random.model();
  KvPages kv(model, 4);
  CHECK(kv.bytes() >= 4 * KvPages::block_bytes(model));
  const int64_t head_bytes = int64_t{16} * kKvBlock * 2;
  int tag = 0;
  const auto each = [&](auto&& visit) {
    tag = 0;
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int32_t head = 0; head < 2; ++head) {
        for (int32_t block = 0; block < 4; ++block) {
          const int64_t offset = block * kv.block_stride();
          visit(static_cast<uint8_t*>(kv.k(layer, head)) + offset, ++tag);
          visit(static_cast<uint8_t*>(kv.v(layer, head)) + offset, ++tag);
        }
      }
    }
  };
  each([&](uint8_t* page, int value) { std::memset(page, value, head_bytes); });
  each([&](uint8_t* page, int value) {
    for (int64_t i = 0; i < head_bytes; ++i) CHECK(page[i] == value);
  });
  const RandomModel big({.layers = 3, .kv = KvFormat::f32}, pool);
  bool refused = false;
  try {
    const KvPages huge(big.model(), 2147483647);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  CHECK(refused);
}
