// Speed of attention and sampling on one thread: prefill in GMAC/s against a register-only loop of the same
// run, decode in GB/s of keys and values, sampling in microseconds. The last line is JSON.
//   attention_bench [generic|avx2|avx512vnni]   (default: the best of this CPU)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "narrows/kernels.h"
#include "narrows/sampling.h"
#include "peaks.h"

namespace {

using namespace narrows;

constexpr int kRepeats = 7;

double seconds(const std::function<void()>& body) {
  const double begin = bench::thread_cpu_s();
  body();
  return bench::thread_cpu_s() - begin;
}

struct Times {
  double best, median;
};

Times measure(const std::function<void()>& body) {
  body();
  std::vector<double> t;
  for (int i = 0; i < kRepeats; ++i) t.push_back(seconds(body));
  std::sort(t.begin(), t.end());
  return {t.front(), t[t.size() / 2]};
}

constexpr const char* kFormats[] = {"f16", "f32", "i8"};
const char* name_of(KvFormat kv) { return kFormats[static_cast<int>(kv)]; }

// Pages of one kv head and `rows` queries at its end.
struct Problem {
  Problem(const Kernels& kernels, int keys_, int rows_, int heads_, int head_dim_, KvFormat kv_, bool int8_)
      : keys(keys_), rows(rows_), heads(heads_), head_dim(head_dim_), kv(kv_), int8(int8_) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    k.resize(static_cast<size_t>(keys / kKvBlock * key_bytes()));
    v.resize(static_cast<size_t>(keys / kKvBlock * value_bytes()));
    std::vector<float> x(static_cast<size_t>(head_dim) * 64);
    for (float& value : x) value = normal(random);
    for (int token = 0; token < keys; ++token) {
      const float* from = x.data() + token % 63 * head_dim;
      const int64_t block = token / kKvBlock;
      kernels.store_kv(from, from + head_dim, head_dim, token % kKvBlock, kv, k.data() + block * key_bytes(),
                       v.data() + block * value_bytes());
    }
    for (int i = 0; i < keys / kKvBlock; ++i) blocks.push_back(i);
    q.resize(static_cast<size_t>(rows) * heads * head_dim);
    for (float& value : q) value = normal(random);
    out.resize(q.size());
    const size_t floats = static_cast<size_t>(attention_scratch_floats(heads, head_dim));
    scratch = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
  }
  ~Problem() { std::free(scratch); }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  int64_t key_bytes() const { return kv_key_bytes(kv, head_dim); }
  int64_t value_bytes() const { return kv_value_bytes(kv, head_dim); }
  AttentionArgs args() {
    AttentionArgs a;
    a.q = q.data();
    a.q_ld = a.out_ld = static_cast<int64_t>(heads) * head_dim;
    a.out = out.data();
    a.k_pages = k.data();
    a.v_pages = v.data();
    a.block_stride = key_bytes();  // as many as of values: head_dim is a multiple of 16
    a.blocks = blocks.data();
    a.rows = rows;
    a.heads = heads;
    a.head_dim = head_dim;
    a.start = keys - rows;
    a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    a.kv = kv;
    a.int8 = int8;
    a.scratch = scratch;
    return a;
  }

  int keys, rows, heads, head_dim;
  KvFormat kv;
  bool int8;
  std::vector<uint8_t> k, v;
  std::vector<int32_t> blocks;
  std::vector<float> q, out;
  float* scratch = nullptr;
};

std::string json;

void record(const std::string& name, double value) {
  char text[160];
  std::snprintf(text, sizeof text, "%s\"%s\": %.4g", json.empty() ? "" : ", ", name.c_str(), value);
  json += text;
}

// A prompt of `keys` tokens, its rows as many at a time as a step gives to a task. The ceiling is that of the
// products: multiply-adds of bytes for attention in integers, of floats otherwise.
void bench_prefill(const Kernels& kernels, int keys, int head_dim, int heads, KvFormat kv, bool int8) {
  Problem p(kernels, keys, keys, heads, head_dim, kv, int8);
  const double macs = 1.0 * keys * (keys + 1.0) * heads * head_dim;  // pairs under the causal mask only
  const auto run = [&] {
    for (int row = 0; row < keys; row += 64) {
      AttentionArgs a = p.args();
      a.q += row * a.q_ld;
      a.out += row * a.out_ld;
      a.start = row;
      a.rows = std::min(64, keys - row);
      kernels.attention(a);
    }
  };
  std::vector<double> rates, fractions;
  run();
  for (int i = 0; i < kRepeats; ++i) {  // the ceiling is measured beside every run: the clock moves
    const double peak = int8 ? kernels.int8_peak(0.01) : bench::fp32_peak(kernels);
    rates.push_back(macs / seconds(run));
    fractions.push_back(peak > 0.0 ? rates.back() / peak : 0.0);
  }
  std::sort(rates.begin(), rates.end());
  std::sort(fractions.begin(), fractions.end());
  const double rate = rates[kRepeats / 2], fraction = fractions[kRepeats / 2];
  const std::string way = std::string(name_of(kv)) + (int8 ? "_int8" : "");
  std::printf("prefill keys %5d head_dim %3d heads %d %-8s  %7.1f GMAC/s", keys, head_dim, heads, way.c_str(),
              rate / 1e9);
  if (fraction > 0.0) {
    std::printf("  %.2f of the peak (%.2f..%.2f)", fraction, fractions.front(), fractions.back());
  }
  std::printf("\n");
  const std::string name = "prefill_" + std::to_string(keys) + "_d" + std::to_string(head_dim) + "_h" +
                           std::to_string(heads) + "_" + way;
  record(name + "_gmacs", rate / 1e9);
  if (fraction > 0.0) record(name + "_fraction", fraction);
}

void bench_decode(const Kernels& kernels, int keys, int head_dim, int heads, KvFormat kv, const char* where) {
  Problem p(kernels, keys, 1, heads, head_dim, kv, false);
  const AttentionArgs a = p.args();
  const double bytes = static_cast<double>(p.k.size() + p.v.size());
  const int calls = static_cast<int>(std::max(1.0, 64e6 / bytes));
  uint64_t sink = 0;
  const Times t = measure([&] {
    for (int i = 0; i < calls; ++i) kernels.attention(a);
  });
  const Times read = measure([&] {  // the same bytes, only summed
    for (int i = 0; i < calls; ++i) {
      for (const std::vector<uint8_t>* pages : {&p.k, &p.v}) {
        const uint64_t* words = reinterpret_cast<const uint64_t*>(pages->data());
        uint64_t sums[8] = {};
        for (size_t w = 0; w + 8 <= pages->size() / 8; w += 8) {
          for (int lane = 0; lane < 8; ++lane) sums[lane] += words[w + static_cast<size_t>(lane)];
        }
        for (const uint64_t s : sums) sink += s;
      }
    }
  });
  const double rate = bytes * calls / t.median / 1e9, ceiling = bytes * calls / read.median / 1e9;
  std::printf(
      "decode  keys %6d head_dim %3d heads %d %s (%s)  %6.3f us a key, %6.2f GB/s, plain read %.2f%s\n", keys,
      head_dim, heads, name_of(kv), where, t.median * 1e6 / calls / keys, rate, ceiling,
      sink == 42 ? "!" : "");
  const std::string name = std::string("decode_") + where + "_d" + std::to_string(head_dim) + "_h" +
                           std::to_string(heads) + "_" + name_of(kv);
  record(name + "_gb_per_s", rate);
  record(name + "_read_gb_per_s", ceiling);
}

void bench_sampling(const Kernels& kernels, const char* name, const SamplingParams& params, float spread) {
  constexpr int32_t kVocab = 151936;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(kVocab), work;
  for (float& x : logits) x = normal(random);
  const Sampler sampler(params, nullptr, 0);
  work = logits;
  int64_t tokens = 0;
  const Times t = measure([&] {
    for (int i = 0; i < 10; ++i) tokens += sampler.sample(kernels, work.data(), kVocab).token;
  });
  std::printf("sample  %-24s spread %.0f  %7.0f us (checksum %lld)\n", name, static_cast<double>(spread),
              t.median * 1e5, static_cast<long long>(tokens));
  record(std::string("sample_") + name + "_s" + std::to_string(static_cast<int>(spread)) + "_us",
         t.median * 1e5);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) setenv("NARROWS_ISA", argv[1], 1);
  const Kernels* kernels = select_kernels();
  std::printf("isa %s\n", kernels->name);
  for (const int keys : {512, 2048}) {
    for (const int head_dim : {64, 128}) {
      for (const int heads : {2, 4, 8}) {
        bench_prefill(*kernels, keys, head_dim, heads, KvFormat::i8, true);
        bench_prefill(*kernels, keys, head_dim, heads, KvFormat::f16, true);
        bench_prefill(*kernels, keys, head_dim, heads, KvFormat::f16, false);
      }
    }
  }
  bench_prefill(*kernels, 2048, 128, 4, KvFormat::f32, false);
  bench_prefill(*kernels, 2048, 128, 4, KvFormat::i8, false);
  for (const int head_dim : {64, 128}) {
    for (const int heads : {1, 2, 4, 8}) {
      for (const KvFormat kv : {KvFormat::i8, KvFormat::f16}) {
        bench_decode(*kernels, 1024, head_dim, heads, kv, "cache");
        bench_decode(*kernels, 131072, head_dim, heads, kv, "memory");
      }
    }
  }
  for (const float spread : {1.0f, 2.0f, 4.0f}) {
    SamplingParams greedy, plain, top_k, top_p, min_p;
    greedy.temperature = 0.0f;
    top_k.top_k = 50;
    top_p.top_p = 0.9f;
    min_p.min_p = 0.05f;
    bench_sampling(*kernels, "greedy", greedy, spread);
    bench_sampling(*kernels, "temperature", plain, spread);
    bench_sampling(*kernels, "top_k_50", top_k, spread);
    bench_sampling(*kernels, "top_p_0.9", top_p, spread);
    bench_sampling(*kernels, "min_p_0.05", min_p, spread);
  }
  std::printf("{\"bench\": \"attention\", \"isa\": \"%s\", \"threads\": 1, %s}\n", kernels->name,
              json.c_str());
  return 0;
}
