// f16 and bf16 as bit patterns <-> float, in plain C++. `static`: every unit gets its own copy, compiled for
// its own instruction set, so the copies of other units cannot be linked in their place.
#pragma once
#include <cstdint>
#include <cstring>

namespace narrows {

static inline uint32_t float_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
static inline float bits_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

static inline float bf16_to_float(uint16_t h) { return bits_float(uint32_t{h} << 16); }

/// Exact. The multiplication by 2^112 moves the exponent bias and makes f16 subnormals normal; branch-free.
static inline float f16_to_float(uint16_t h) {
  const uint32_t magnitude = uint32_t{h & 0x7fffu} << 13;
  const uint32_t finite = float_bits(bits_float(magnitude) * 0x1p112f);
  const uint32_t u = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return bits_float(u | (uint32_t{h & 0x8000u} << 16));
}

/// Ties to even; overflow gives infinity, NaN stays NaN.
static inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 puts the f16 grid into the low bits of the float
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline uint16_t float_to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

}  // namespace narrows
