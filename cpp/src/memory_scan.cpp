// Passes over memory at the speed of memory: the checksum of the cache and the read-bandwidth probe
// (narrows/pack.h).
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <numeric>

#include "narrows/pack.h"

namespace narrows {
namespace {

constexpr int64_t kBlockBytes = int64_t{1} << 20;  // hashed on its own, so the result knows no thread count
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;
constexpr int kLanes = 8;  // independent multiply chains of one 64-byte line
constexpr int64_t kLineBytes = kLanes * 8;
constexpr int64_t kPageBytes = 4096;

inline uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

/// Every output bit depends on every input bit.
inline uint64_t mix(uint64_t x) {
  x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
  x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
  return x ^ x >> 32;
}

inline void add_line(const uint8_t* line, uint64_t (&lane)[kLanes]) {
  uint64_t words[kLanes];
  std::memcpy(words, line, sizeof words);
  for (int i = 0; i < kLanes; ++i) lane[i] = rotate((lane[i] ^ words[i]) * kPrime, 29);
}

uint64_t hash_block(const uint8_t* data, int64_t bytes) {
  uint64_t lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = mix(kPrime * static_cast<uint64_t>(i + 1));
  int64_t at = 0;
  for (; at + kLineBytes <= bytes; at += kLineBytes) {
    __builtin_prefetch(data + at + 1024);
    add_line(data + at, lane);
  }
  if (at < bytes) {
    uint8_t last[kLineBytes] = {};
    std::memcpy(last, data + at, static_cast<size_t>(bytes - at));
    add_line(last, lane);
  }
  uint64_t hash = mix(static_cast<uint64_t>(bytes));
  for (uint64_t part : lane) hash = mix(hash ^ part) * kPrime;
  return hash;
}

using Wide = uint64_t __attribute__((vector_size(16), aligned(16)));

/// Sum of a 64-byte aligned range, in 8 accumulators: 128 bytes a step keep the load ports the only limit.
template <bool kPrefetch>
uint64_t sum_range(const uint8_t* data, int64_t bytes) {
  Wide sum[8] = {};
  for (int64_t at = 0; at < bytes; at += sizeof sum) {
    const auto* line = reinterpret_cast<const Wide*>(data + at);
    if constexpr (kPrefetch) {
      __builtin_prefetch(data + at + 2048);
      __builtin_prefetch(data + at + 2048 + 64);
    }
    for (int i = 0; i < 8; ++i) sum[i] += line[i];
  }
  uint64_t total = 0;
  for (const Wide& part : sum) total += part[0] + part[1];
  return total;
}

/// Anonymous memory, in huge pages where the system gives them; freed on every way out.
struct Mapping {
  explicit Mapping(int64_t size) : bytes(static_cast<size_t>(size)) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    madvise(p, bytes, MADV_HUGEPAGE);  // advice only: refused means small pages
    data = static_cast<uint8_t*>(p);
  }
  ~Mapping() { munmap(data, bytes); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data = nullptr;
  size_t bytes;
};

}  // namespace

uint64_t checksum(const uint8_t* data, int64_t bytes, ThreadPool& pool) {
  const int64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  std::vector<uint64_t> hashes(static_cast<size_t>(blocks));
  std::atomic<int64_t> next{0};
  pool.run([&](int) {
    for (int64_t b = next++; b < blocks; b = next++) {
      const int64_t size = std::min(kBlockBytes, bytes - b * kBlockBytes);
      hashes[static_cast<size_t>(b)] = hash_block(data + b * kBlockBytes, size);
    }
  });
  uint64_t hash = mix(static_cast<uint64_t>(bytes) + kPrime);
  for (uint64_t block : hashes) hash = mix(rotate(hash, 17) ^ block) * kPrime;
  return hash;
}

double read_bandwidth(int64_t bytes, const ReadPlan& plan, ThreadPool& pool) {
  const int threads = pool.size();
  const int64_t pages = std::max<int64_t>(bytes / threads / kPageBytes, 1);  // of each thread
  const int64_t slice = pages * kPageBytes;
  const int64_t segments = std::clamp<int64_t>(plan.segments, 1, pages);
  const Mapping memory(slice * threads);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);  // a cache line each
  pool.run(
      [&](int thread) { std::memset(memory.data + thread * slice, thread + 1, static_cast<size_t>(slice)); });
  double best_s = 1e30;
  for (const auto sum : {sum_range<false>, sum_range<true>}) {  // prefetching is better on Intel, not on Zen
    std::vector<double> best(static_cast<size_t>(segments), 1e30);
    for (int64_t i = 0; i < std::max(plan.repeats, 1) * segments; ++i) {
      const int64_t segment = i % segments;
      const int64_t begin = pages * segment / segments * kPageBytes;
      const int64_t size = pages * (segment + 1) / segments * kPageBytes - begin;
      const auto start = std::chrono::steady_clock::now();
      pool.run([&](int thread) {
        for (int pass = 0; pass < plan.passes; ++pass) {
          sums[static_cast<size_t>(thread) * 8] += sum(memory.data + thread * slice + begin, size);
          asm volatile("" : : : "memory");  // every pass reads
        }
      });
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best[static_cast<size_t>(segment)] = std::min(best[static_cast<size_t>(segment)], took.count());
    }
    best_s = std::min(best_s, std::accumulate(best.begin(), best.end(), 0.0));
  }
  static std::atomic<uint64_t> keep{0};  // a visible effect, so that the loads are not removed
  for (uint64_t sum : sums) keep.fetch_add(sum, std::memory_order_relaxed);
  return static_cast<double>(slice * threads) * plan.passes / best_s * 1e-9;
}

}  // namespace narrows
