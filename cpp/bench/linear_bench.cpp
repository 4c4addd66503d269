// Linear kernels on the shapes of Qwen3-0.6B: decode (1..16 rows over weights far larger than the last cache)
// as a fraction of the memory bandwidth, prefill (64..512 rows) as a fraction of the multipliers, both
// measured in the same run and interleaved with the kernels. Best of all rounds, segment by segment. Last
// line: JSON.
//   linear_bench [f32|f16|bf16|p8|p44|upper|p4|p4z] [group=128] [rounds=7]     NARROWS_ISA chooses the
//   kernels
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "narrows/pack.h"
#include "peaks.h"

namespace {

using namespace narrows;
using bench::now_s;

constexpr int64_t kWeightBytes = 400 << 20;
constexpr int32_t kShapes[][2] = {
    {4096, 1024}, {1024, 2048}, {6144, 1024}, {1024, 3072}};  // qkv, o, gate/up, down
constexpr int32_t kDecodeRows[] = {1, 2, 4, 8, 16};
constexpr int kDecodeSegments = 8, kPrefillLayers = 2;
constexpr int64_t kProbeBytes = int64_t{256} << 20;  // far larger than the last cache
constexpr int32_t kPrefillRows[] = {64, 256, 512};

/// In huge pages where the system gives them, as the engine keeps its weights; lives as long as the process.
template <typename T>
T* aligned(int64_t count) {
  constexpr size_t kHugePageBytes = size_t{2} << 20;
  const size_t bytes =
      (static_cast<size_t>(count) * sizeof(T) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* p = ::operator new(bytes, std::align_val_t{kHugePageBytes});
  madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<T*>(p);
}

struct Options {
  std::string format = "p4";
  int32_t group = 128;
  int rounds = 7;
};

/// Layers of four matrices one after the other in memory, filled with arbitrary codes and small scales.
struct WeightSet {
  WeightSet(const Options& options, ThreadPool& pool) {
    for (const auto& [n, k] : kShapes) {
      PackedMatrix w;
      w.n = n;
      w.k = k;
      const std::string& f = options.format;
      w.format = f == "f32"     ? Format::F32
                 : f == "f16"   ? Format::F16
                 : f == "bf16"  ? Format::BF16
                 : f == "p8"    ? Format::P8
                 : f == "p44"   ? Format::P44
                 : f == "upper" ? Format::P44
                                : Format::P4;
      w.group = w.quantized() ? options.group : 0;
      w.has_zero = f == "p4z";
      shapes.push_back(w);
      layer_bytes += w.bytes();
      read_bytes += f == "upper" ? w.panel_bytes() * w.panels() : w.bytes();
      layer_mac += int64_t{n} * k;
    }
    upper = options.format == "upper";
    layers = static_cast<int>(kWeightBytes / layer_bytes) + 1;
    data = aligned<uint8_t>(layer_bytes * layers);
    pool.run([&](int thread) {
      for (int i = thread; i < layers; i += pool.size()) fill(i);
    });
  }
  void fill(int layer) {
    uint64_t state = static_cast<uint64_t>(layer) + 1;
    auto* words = reinterpret_cast<uint64_t*>(data + layer * layer_bytes);
    for (int64_t i = 0; i < layer_bytes / 8; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      words[i] = (state ^ state >> 33) & 0x3f0f3f0f3f0f3f0fu;  // finite in every float format
    }
  }
  PackedMatrix matrix(int layer, size_t i) const {
    PackedMatrix w = shapes[i];
    w.data = data + layer * layer_bytes;
    for (size_t j = 0; j < i; ++j) w.data += shapes[j].bytes();
    return w;
  }
  std::vector<PackedMatrix> shapes;
  int64_t layer_bytes = 0, read_bytes = 0, layer_mac = 0;
  bool upper = false;
  int layers = 0;
  uint8_t* data = nullptr;
};

/// Activations of `rows` rows for every shape, and room for the results.
struct Batch {
  Batch(const WeightSet& set, const Kernels& kernels, int32_t rows) : rows(rows) {
    for (const PackedMatrix& w : set.shapes) {
      auto* x = aligned<float>(int64_t{rows} * w.k);
      for (int64_t i = 0; i < int64_t{rows} * w.k; ++i)
        x[i] = static_cast<float>(i * 2654435761u % 1000) * 1e-3f - 0.5f;
      Activations a;
      a.rows = rows;
      a.k = w.k;
      a.group = w.group;
      a.f32 = x;
      a.ld = w.k;
      if (w.quantized()) {
        a.codes = aligned<int8_t>(rows * w.padded_k());
        a.scale = aligned<float>(rows * w.groups());
        a.sum = aligned<int32_t>(rows * w.groups());
        kernels.quantize(x, w.k, 0, rows, a);
      }
      activations.push_back(a);
      out.push_back(aligned<float>(int64_t{rows} * w.n));
    }
  }
  int32_t rows;
  std::vector<Activations> activations;
  std::vector<float*> out;
};

/// A batch over the layers [begin, end), each thread its slice of every matrix; seconds on the wall or of
/// CPU. Without the barriers of a real step: they are the pool's cost, and on a shared machine they would
/// hide the kernels.
double run_s(const WeightSet& set, int begin, int end, const Batch& batch, const Kernels& kernels,
             ThreadPool& pool, const std::vector<uint8_t*>& scratch, bool cpu_time) {
  const double start = now_s();
  std::vector<double> busy_s(static_cast<size_t>(pool.size()) * 8);  // a cache line each
  pool.run([&](int thread) {
    const double thread_start = bench::thread_cpu_s();
    for (int layer = begin; layer < end; ++layer) {
      for (size_t i = 0; i < set.shapes.size(); ++i) {
        const PackedMatrix w = set.matrix(layer, i);
        const int32_t units = (w.panels() + 2) / 3, threads = pool.size();
        const int32_t p = units * thread / threads * 3;
        const int32_t p_end = std::min(w.panels(), units * (thread + 1) / threads * 3);
        (set.upper ? kernels.linear_upper : kernels.linear)(w, p, p_end, batch.activations[i],
                                                            batch.out[i] + p * kPanel, w.n,
                                                            scratch[static_cast<size_t>(thread)]);
      }
    }
    busy_s[static_cast<size_t>(thread) * 8] = bench::thread_cpu_s() - thread_start;
  });
  return cpu_time ? *std::max_element(busy_s.begin(), busy_s.end()) : now_s() - start;
}

struct Line {
  int32_t rows;
  double best_s = 0.0;
};
using Probe = double (*)(const Kernels&, bool, ThreadPool&);

/// Every round measures the ceiling once and every batch over `layers` layers in segments of a few
/// milliseconds. The time of a batch is the sum of the best of each segment: on a shared machine a whole pass
/// is never undisturbed.
std::vector<Line> measure(const WeightSet& set, int layers, int segments, const std::vector<Batch>& batches,
                          int rounds, const Kernels& kernels, ThreadPool& pool, double* ceiling,
                          Probe probe) {
  std::vector<uint8_t*> scratch;
  for (int i = 0; i < pool.size(); ++i) scratch.push_back(aligned<uint8_t>(kLinearScratchBytes));
  std::vector<std::vector<double>> best(batches.size(),
                                        std::vector<double>(static_cast<size_t>(segments), 1e30));
  for (int round = 0; round < rounds; ++round) {
    *ceiling = std::max(*ceiling, probe(kernels, set.shapes[0].quantized(), pool));
    for (size_t i = 0; i < batches.size(); ++i) {
      for (int segment = 0; segment < segments; ++segment) {
        double& s = best[i][static_cast<size_t>(segment)];
        s = std::min(s, run_s(set, layers * segment / segments, layers * (segment + 1) / segments, batches[i],
                              kernels, pool, scratch, probe == bench::peak_gmac_per_s));
      }
    }
  }
  std::vector<Line> lines;
  for (size_t i = 0; i < batches.size(); ++i) {
    lines.push_back({batches[i].rows});
    for (double s : best[i]) lines.back().best_s += s;
  }
  return lines;
}

double probe_memory(const Kernels&, bool, ThreadPool& pool) {
  return read_bandwidth(kProbeBytes, {.repeats = 8}, pool);
}

template <size_t kCount>
std::vector<Batch> batches_of(const WeightSet& set, const Kernels& kernels, const int32_t (&rows)[kCount]) {
  std::vector<Batch> batches;
  for (int32_t m : rows) batches.emplace_back(set, kernels, m);
  return batches;
}

void report(const Options& options, const Kernels& kernels, ThreadPool& pool) {
  const WeightSet set(options, pool);
  std::string json = "{\"bench\": \"linear\", \"isa\": \"" + std::string(kernels.name) +
                     "\", \"format\": \"" + options.format +
                     "\", \"group\": " + std::to_string(options.group) +
                     ", \"threads\": " + std::to_string(pool.size());
  char text[256];
  double bandwidth = 0.0, peak = 0.0;
  const auto decode = measure(set, set.layers, kDecodeSegments, batches_of(set, kernels, kDecodeRows),
                              options.rounds, kernels, pool, &bandwidth, probe_memory);
  std::printf("%s, %s group %d, %d threads, %.0f MB of weights; memory read %.1f GB/s\n", kernels.name,
              options.format.c_str(), options.group, pool.size(),
              static_cast<double>(set.read_bytes) * set.layers * 1e-6, bandwidth);
  std::printf("%6s %10s %8s %10s %8s\n", "rows", "ms", "GB/s", "of memory", "T(m)/T(1)");
  std::snprintf(text, sizeof text, ", \"read_gb_per_s\": %.2f, \"decode\": [", bandwidth);
  json += text;
  for (const Line& line : decode) {
    const double gb_per_s = static_cast<double>(set.read_bytes) * set.layers / line.best_s * 1e-9;
    std::printf("%6d %10.2f %8.2f %9.1f%% %8.2f\n", line.rows, line.best_s * 1e3, gb_per_s,
                100 * gb_per_s / bandwidth, line.best_s / decode[0].best_s);
    std::snprintf(text, sizeof text, "%s{\"rows\": %d, \"ms\": %.3f, \"fraction\": %.4f}",
                  line.rows == kDecodeRows[0] ? "" : ", ", line.rows, line.best_s * 1e3,
                  gb_per_s / bandwidth);
    json += text;
  }
  const auto prefill = measure(set, kPrefillLayers, kPrefillLayers, batches_of(set, kernels, kPrefillRows),
                               options.rounds, kernels, pool, &peak, bench::peak_gmac_per_s);
  std::printf("multipliers, register only: %.1f GMAC/s\n%6s %10s %8s %8s\n", peak, "rows", "ms", "GMAC/s",
              "of peak");
  std::snprintf(text, sizeof text, "], \"peak_gmac_per_s\": %.1f, \"prefill\": [", peak);
  json += text;
  for (const Line& line : prefill) {
    const double gmac_per_s =
        static_cast<double>(set.layer_mac) * kPrefillLayers * line.rows / line.best_s * 1e-9;
    const double fraction = peak > 0.0 ? gmac_per_s / peak : 0.0;
    std::printf("%6d %10.2f %8.1f %7.1f%%\n", line.rows, line.best_s * 1e3, gmac_per_s, 100 * fraction);
    std::snprintf(text, sizeof text, "%s{\"rows\": %d, \"gmac_per_s\": %.1f, \"fraction\": %.4f}",
                  line.rows == kPrefillRows[0] ? "" : ", ", line.rows, gmac_per_s, fraction);
    json += text;
  }
  std::printf("%s]}\n", json.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc > 1) options.format = argv[1];
  if (argc > 2) options.group = std::atoi(argv[2]);
  if (argc > 3) options.rounds = std::atoi(argv[3]);
  const bool group_ok = options.group == 32 || options.group == 64 || options.group == 128;
  const std::string formats = " f32 f16 bf16 p8 p44 upper p4 p4z ";
  if (formats.find(" " + options.format + " ") == std::string::npos || !group_ok || options.rounds < 1) {
    std::fprintf(stderr,
                 "usage: linear_bench [f32|f16|bf16|p8|p44|upper|p4|p4z] [32|64|128] [rounds >= 1]\n");
    return 2;
  }
  ThreadPool pool(effective_cpus());
  report(options, *select_kernels(), pool);
  return 0;
}
