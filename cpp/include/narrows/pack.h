// From checkpoint rows to packed panels, and the checksum of the cache.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "narrows/formats.h"
#include "narrows/kernels.h"
#include "narrows/thread_pool.h"

namespace narrows {

enum class DType : uint8_t { f32 = 0, f16 = 1, bf16 = 2 };

/// Rows [0, n) of a row-major matrix with `ld` elements between rows.
struct SourceRows {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t n = 0, k = 0, ld = 0;
};

struct PackResult {
  int64_t non_finite = 0;  // NaN or infinite source values seen; the caller refuses the tensor
  double max_abs = 0.0;
};

/// Packs the sources one below the other (or, with `interleave` and exactly two sources of equal n, panel by
/// panel: 2p from the first, 2p+1 from the second) into dst[0, shape.bytes()). shape gives format, n, k,
/// group, has_zero; shape.n is the number of packed output channels (interleaved: 2 * round_up(n, 16)). P8:
/// symmetric, scale = max|w|/127 per channel, rounded to nearest. P4: scales and zero points of the least
/// squared error that Kernels::code_p4 finds; the same bytes whatever the kernels.
PackResult pack(const std::vector<SourceRows>& sources, bool interleave, const PackedMatrix& shape,
                uint8_t* dst, ThreadPool& pool, const Kernels& kernels);

/// 64-bit checksum of a byte range; independent of the number of threads. Reads at memory speed.
uint64_t checksum(const uint8_t* data, int64_t bytes, ThreadPool& pool);

/// How read_bandwidth reads.
struct ReadPlan {
  int repeats = 1;  // the best counts
  /// A repeat reads the bytes so many times over: few bytes, as of a cache, need several to be longer than
  /// waking the threads.
  int passes = 1;
  /// A repeat is timed in so many pieces, and the best of each counts: on a busy machine no whole repeat is
  /// undisturbed. All threads read each piece together.
  int64_t segments = 1;
};

/// GB/s at which `pool` reads `bytes` of memory.
double read_bandwidth(int64_t bytes, const ReadPlan& plan, ThreadPool& pool);

}  // namespace narrows
