// Instructions of the hot kernels per unit of their work, on every instruction set of this CPU: a slow-down
// of the code shows here also where neighbours make every clock useless. One JSON object a line.
//   count_kernels [generic|avx2|avx512vnni]...   (default: all of this CPU)       benchmarks/instructions.py
// Sizes are small, as a counted instruction takes microseconds, and smaller for `generic`, which needs many;
// but whole tiles, groups and chunks. Every kernel runs once before it is counted: the loader resolves names
// then.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "narrows/kernels.h"
#include "narrows/sampling.h"
#include "step_counter.h"

namespace {

using namespace narrows;

#if defined(__clang__)
constexpr const char* kCompiler = __VERSION__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

/// Zeroed memory on a cache line, for as long as the process lives.
template <typename T>
T* aligned(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes);
  std::memset(p, 0, bytes);
  return static_cast<T*>(p);
}

float* normal_floats(int64_t count, float spread) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::normal_distribution<float> normal(0.0f, spread);
  float* x = aligned<float>(count);
  for (int64_t i = 0; i < count; ++i) x[i] = normal(random);
  return x;
}

/// Counts on one instruction set.
class Counting {
 public:
  explicit Counting(const Kernels& kernels) : kernels_(kernels), small_(kernels.isa == Isa::generic) {}

  void run() {
    for (const int32_t rows : {1, 8, 64}) {
      linear("p4/64", Format::P4, 64, rows);
      if (!small_) linear("p4/128", Format::P4, 128, rows);
      linear("p8/128", Format::P8, 128, rows);
    }
    linear("bf16", Format::BF16, 0, 1);
    linear("bf16", Format::BF16, 0, 8);
    for (const int32_t head_dim : {64, 128}) {
      if (small_ && head_dim > 64) break;
      attention("decode", small_ ? 64 : 256, 1, head_dim, KvFormat::f16, false);
      attention("decode kv8", small_ ? 64 : 256, 1, head_dim, KvFormat::i8, false);
      attention("prompt", small_ ? 32 : 256, small_ ? 8 : 16, head_dim, KvFormat::f16, false);
      attention("prompt int8", small_ ? 32 : 256, small_ ? 8 : 16, head_dim, KvFormat::f16, true);
      attention("prompt int8 kv8", small_ ? 32 : 256, small_ ? 8 : 16, head_dim, KvFormat::i8, true);
    }
    vectors();
    sample("greedy", [](SamplingParams& p) { p.temperature = 0.0f; });
    sample("temperature", [](SamplingParams&) {});
    sample("top_p 0.9", [](SamplingParams& p) { p.top_p = 0.9f; });
    if (small_) return;
    sample("top_k 50", [](SamplingParams& p) { p.top_k = 50; });
    sample("min_p 0.05", [](SamplingParams& p) { p.min_p = 0.05f; });
    sample("logprobs 5", [](SamplingParams& p) { p.top_logprobs = 5; });
  }

 private:
  template <typename F>
  void report(const std::string& kernel, const char* unit, int64_t units, F&& body) {
    body();
    const int64_t instructions = counter_.count(body);
    std::printf("{\"kernel\": \"%s\", \"isa\": \"%s\", \"unit\": \"%s\", \"units\": %lld, ", kernel.c_str(),
                kernels_.name, unit, static_cast<long long>(units));
    std::printf("\"instructions\": %lld, \"compiler\": \"%s\"}\n", static_cast<long long>(instructions),
                kCompiler);
    std::fflush(stdout);
  }

  /// Three panels, the width of the widest tile.
  void linear(const char* name, Format format, int32_t group, int32_t rows) {
    PackedMatrix w;
    w.format = format;
    w.n = small_ ? kPanel : 3 * kPanel;
    w.k = small_ ? 128 : 512;
    w.group = group;
    auto* data = aligned<uint8_t>(w.bytes());
    std::mt19937 random(1);
    for (int64_t i = 0; i < w.bytes(); ++i) data[i] = random() & 0x3f;  // finite as scale, code and bf16
    w.data = data;
    Activations a;
    a.rows = rows;
    a.k = w.k;
    a.group = group;
    a.f32 = normal_floats(int64_t{rows} * w.k, 1.0f);
    a.ld = w.k;
    if (w.quantized()) {
      a.codes = aligned<int8_t>(rows * w.padded_k());
      a.scale = aligned<float>(rows * w.groups());
      a.sum = aligned<int32_t>(rows * w.groups());
      kernels_.quantize(a.f32, a.ld, 0, rows, a);
    }
    auto* out = aligned<float>(int64_t{rows} * w.n);
    auto* scratch = aligned<uint8_t>(kLinearScratchBytes);
    report(std::string("linear ") + name + ", rows " + std::to_string(rows), "weight byte", w.bytes(),
           [&] { kernels_.linear(w, 0, w.panels(), a, out, w.n, scratch); });
  }

  /// The last `rows` of `keys` positions of one kv head with two query heads, causal.
  void attention(const char* name, int32_t keys, int32_t rows, int32_t head_dim, KvFormat kv, bool int8) {
    constexpr int32_t kHeads = 2;
    const int64_t block = kv_key_bytes(kv, head_dim);  // as many as of values: heads are multiples of 16
    auto* k = aligned<uint8_t>(keys / kKvBlock * block);
    auto* v = aligned<uint8_t>(keys / kKvBlock * block);
    const float* values = normal_floats(int64_t{keys} * head_dim * 2, 1.0f);
    for (int32_t i = 0; i < keys; ++i) {
      kernels_.store_kv(values + 2 * i * head_dim, values + (2 * i + 1) * head_dim, head_dim, i % kKvBlock,
                        kv, k + i / kKvBlock * block, v + i / kKvBlock * block);
    }
    std::vector<int32_t> blocks;
    for (int32_t i = 0; i < keys / kKvBlock; ++i) blocks.push_back(i);
    AttentionArgs a;
    a.q = normal_floats(int64_t{rows} * kHeads * head_dim, 1.0f);
    a.q_ld = a.out_ld = int64_t{kHeads} * head_dim;
    a.out = aligned<float>(rows * a.out_ld);
    a.k_pages = k;
    a.v_pages = v;
    a.block_stride = block;
    a.blocks = blocks.data();
    a.rows = rows;
    a.heads = kHeads;
    a.head_dim = head_dim;
    a.start = keys - rows;
    a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    a.kv = kv;
    a.int8 = int8;
    a.scratch = aligned<float>(attention_scratch_floats(kHeads, head_dim));
    const int64_t scores = (int64_t{rows} * a.start + int64_t{rows} * (rows + 1) / 2) * kHeads;
    report(std::string("attention ") + name + ", head " + std::to_string(head_dim), "score", scores,
           [&] { kernels_.attention(a); });
  }

  /// What stands between the matrices of a layer.
  void vectors() {
    const int32_t n = small_ ? 256 : 1024, pairs = n / 2 / kPanel, head_dim = 128;
    const float* x = normal_floats(n, 1.0f);
    auto* out = aligned<float>(n);
    Activations a;
    a.rows = 1;
    a.k = n;
    a.group = 64;
    a.codes = aligned<int8_t>(n);
    a.scale = aligned<float>(n / 64);
    a.sum = aligned<int32_t>(n / 64);
    report("quantize/64", "float", n, [&] { kernels_.quantize(x, n, 0, 1, a); });
    report("rms_norm", "float", n, [&] { kernels_.rms_norm(x, x, 1e-6f, out, n); });
    report("activate_gated silu", "float", n / 2,
           [&] { kernels_.activate_gated(ActivationKind::silu, x, out, pairs); });
    report("rope", "float", head_dim, [&] { kernels_.rope(out, x, x + head_dim, head_dim / 2); });
    for (const KvFormat kv : {KvFormat::f16, KvFormat::i8}) {
      const int64_t keys = kv_key_bytes(kv, head_dim);
      auto* block = aligned<uint8_t>(keys + kv_value_bytes(kv, head_dim));
      report(kv == KvFormat::f16 ? "store_kv f16" : "store_kv i8", "float", 2 * head_dim,
             [&] { kernels_.store_kv(x, x + head_dim, head_dim, 5, kv, block, block + keys); });
    }
  }

  template <typename F>
  void sample(const char* name, F&& choose) {
    constexpr int32_t kVocab = 8192;
    SamplingParams params;
    choose(params);
    const Sampler sampler(params, nullptr, 0);
    const float* logits = normal_floats(kVocab, 2.0f);
    std::vector<float> work(logits, logits + kVocab), again = work;  // a draw may overwrite what it is given
    int64_t drawn = 0;
    report(std::string("sample ") + name + ", vocab 8192", "token", 1, [&] {
      drawn += sampler.sample(kernels_, work.data(), kVocab).token;
      work.swap(again);
    });
    if (drawn < 0) std::abort();
  }

  const Kernels& kernels_;
  const bool small_;
  bench::StepCounter counter_;
};

}  // namespace

int main(int argc, char** argv) {
  if (!bench::StepCounter::kSupported) {
    std::fprintf(stderr, "counting by single steps is written for x86-64 Linux only\n");
    return 2;
  }
  const std::vector<std::string> asked(argv + 1, argv + argc);
  bool found = false;
  for (const Isa isa : {Isa::avx512vnni, Isa::avx2, Isa::generic}) {
    const Kernels* kernels = kernels_for(isa);
    if (kernels == nullptr) continue;
    if (!asked.empty() && std::find(asked.begin(), asked.end(), kernels->name) == asked.end()) continue;
    Counting(*kernels).run();
    found = true;
  }
  if (!found) std::fprintf(stderr, "this CPU runs none of the instruction sets asked for\n");
  return found ? 0 : 2;
}
