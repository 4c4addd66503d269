// Weight formats and packed layouts: what the bytes of a matrix mean. Knows no kernels and no threads.
//
// Every matrix W[n][k] is stored in panels of 16 output channels ("N16"); panel p holds channels
// [16p, 16p+16), rows past n are padding. Panels are contiguous, each a multiple of 64 bytes, 64-byte
// aligned.
//
//   F32/F16/BF16  for each k: 16 values, one per channel.                       (padding rows are 0)
//   P8            f32 scale[16]; then padded_k/4 lines of 64 B: byte 4c+i = q[c][4j+i] + 128 (unsigned).
//   P4            f16 scale[groups][16], padded to 64 B; if has_zero: u8 zero[groups][16], padded to 64 B;
//                 then padded_k/8 lines of 64 B: byte 4c+i = q[c][8j+i] | q[c][8j+4+i] << 4, q in 0..15.
//                 value = scale * (q - zero), zero = 8 where has_zero is false.
//   P44           the codes of P8 in two planes, one behind the other. The upper plane has for each panel
//                 f32 scale[16]; f32 rest, padded to 64 B; then padded_k/8 lines as P4 has them, of code >>
//                 4; the lower plane only padded_k/8 lines, of code & 15. The upper plane alone says scale *
//                 (16 * upper - 120.5): the middle of the 16 codes it may be. rest = the largest of the 16
//                 channels' scale * root mean square over k of what is then missing, lower - 7.5.
//   padded_k = k rounded up to `group` (P8, P44, P4); padding codes mean 0 (128, or the zero point).
#pragma once
#include <cstddef>
#include <cstdint>

namespace narrows {

enum class Format : uint8_t { F32 = 0, F16 = 1, BF16 = 2, P8 = 3, P4 = 4, P44 = 5 };
inline constexpr int kPanel = 16;         // output channels in a panel: one AVX-512 vector of int32 or float
inline constexpr int kRowBlock = 8;       // activation rows packed together: the height of the prefill tile
inline constexpr int kLayoutVersion = 2;  // part of the cache key: raise it whenever the bytes change

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// A read-only view of a packed matrix; `data` is 64-byte aligned and owned by the caller.
struct PackedMatrix {
  const uint8_t* data = nullptr;
  Format format = Format::F32;
  int32_t n = 0;      // output channels
  int32_t k = 0;      // input channels
  int32_t group = 0;  // k per scale of weights (P4) and activations (P8, P44, P4): 32, 64 or 128; 0: floats
  bool has_zero = false;  // P4 only: a zero point per (group, channel)

  bool quantized() const { return format == Format::P8 || format == Format::P4 || format == Format::P44; }
  int32_t panels() const { return (n + kPanel - 1) / kPanel; }
  int64_t padded_k() const { return group > 0 ? round_up(k, group) : k; }
  int64_t groups() const { return group > 0 ? padded_k() / group : 0; }
  int64_t scale_bytes() const;  // bytes before the zero points (P4) or codes
  int64_t zero_bytes() const;
  int64_t panel_bytes() const;  // from one panel to the next; P44: in the upper plane
  int64_t lower_bytes() const { return format == Format::P44 ? padded_k() * kPanel / 2 : 0; }  // of a panel
  int64_t bytes() const { return (panel_bytes() + lower_bytes()) * panels(); }
  /// P44: the `rest` of a panel.
  float rest(int64_t panel) const {
    return reinterpret_cast<const float*>(data + panel_bytes() * panel)[kPanel];
  }
  /// P44: where the lower nibbles of a panel begin in `data`.
  int64_t lower_begin(int64_t panel) const { return panel_bytes() * panels() + lower_bytes() * panel; }
};

inline int64_t PackedMatrix::scale_bytes() const {
  if (format == Format::P8) return 64;
  if (format == Format::P44) return 128;
  return format == Format::P4 ? round_up(groups() * kPanel * 2, 64) : 0;
}
inline int64_t PackedMatrix::zero_bytes() const {
  return format == Format::P4 && has_zero ? round_up(groups() * kPanel, 64) : 0;
}
inline int64_t PackedMatrix::panel_bytes() const {
  switch (format) {
    case Format::F32: return round_up(int64_t{k} * kPanel * 4, 64);
    case Format::F16:
    case Format::BF16: return round_up(int64_t{k} * kPanel * 2, 64);
    case Format::P8: return scale_bytes() + padded_k() * kPanel;
    case Format::P44: return scale_bytes() + padded_k() * kPanel / 2;
    case Format::P4: return scale_bytes() + zero_bytes() + padded_k() * kPanel / 2;
  }
  return 0;
}

inline constexpr int kKvBlock = 16;  // tokens in a KV block

/// How keys and values lie in their pages, one page per block and kv head.
///   f16, f32: K [head_dim][16 tokens], V [16 tokens][head_dim].
///   i8:       f32 scale[16 tokens], then codes (x ~ scale * (code - 128)) of 4 in a word:
///             K [head_dim/4][16 tokens][4 dimensions], the panel that a product of integers reads;
///             V [head_dim/16][16/4][16 dimensions][4 tokens]; head_dim padded to 4 and to 16.
enum class KvFormat : uint8_t { f16 = 0, f32 = 1, i8 = 2 };

inline int64_t kv_key_bytes(KvFormat format, int64_t head_dim) {
  if (format == KvFormat::i8) return 64 + round_up(head_dim, 4) * kKvBlock;
  return round_up(head_dim * kKvBlock * (format == KvFormat::f32 ? 4 : 2), 64);
}
inline int64_t kv_value_bytes(KvFormat format, int64_t head_dim) {
  if (format == KvFormat::i8) return 64 + round_up(head_dim, kPanel) * kKvBlock;
  return kv_key_bytes(format, head_dim);
}

/// Activations of `rows` tokens as the linear kernels read them.
///   float path:  f32[row * ld + k].
///   int8 path :  rows in blocks of kRowBlock; block b has rb = min(8, rows - 8b) rows. Within a block
///                codes[8b*padded_k + ((k/4)*rb + r)*4 + k%4], scale/sum[8b*groups + g*rb + r];
///                x ~ scale * code, |code| <= 127, codes past k are 0, sum = sum of the group's codes.
struct Activations {
  int32_t rows = 0;
  int32_t k = 0;
  int32_t group = 0;  // 0: only the float view is valid
  const float* f32 = nullptr;
  int64_t ld = 0;
  int8_t* codes = nullptr;  // [rows, padded_k], 64-byte aligned
  float* scale = nullptr;   // [rows, groups]
  int32_t* sum = nullptr;   // [rows, groups]
};

}  // namespace narrows
