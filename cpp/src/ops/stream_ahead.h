// How far ahead the streaming kernels prefetch weights.
#pragma once
#include <cstdint>

namespace narrows {

/// Bytes between the line being read and the line asked for; fixed when the library is loaded. Zen's own
/// prefetcher runs ahead by itself and is thrown off by requests far from its stream: with 512 bytes a core
/// reads a quarter more there than with 2048. Intel's streamer stops at the end of a 4 KiB page, so the
/// request has to carry it over (that half is not measured: no such machine was at hand).
extern const int64_t kStreamAhead;

}  // namespace narrows
