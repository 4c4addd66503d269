// What the small-batch and the tiled int8 kernels of AVX-512 share. Both compute, per group of k, an exact
// int32 sum and then acc = fma(float(sum), scale_w * scale_a, acc); so a row gets the same bits from either.
#pragma once
#include <cstdint>

#include "linear_ops.h"

#if defined(NARROWS_ISA_AVX512VNNI)
namespace narrows::NARROWS_ISA_NAMESPACE {

constexpr int kSmallRows = 16;  // rows the small-batch kernel takes: 16 int32 accumulators and their operands

/// One panel of a quantised matrix.
struct IntPanel {
  const uint8_t* scales;  // P4: f16[groups][16]; P8, P44: f32[16]
  const uint8_t* zeros;   // u8[groups][16], or null: 8 (P4), 128 (P8, P44)
  const uint8_t* codes;   // P44: the upper nibbles
  const uint8_t* lower;   // P44
  int32_t channels;       // 1..16 of them exist
};

/// One row block of activations (codes[(k/4)*rb + r], scale and sum [g*rb + r]).
struct IntBlock {
  const int8_t* codes;
  const float* scale;
  const int32_t* sum;
};

IntPanel int_panel(const PackedMatrix& w, int32_t panel);
IntBlock int_block(const PackedMatrix& w, const Activations& a, int32_t row);

/// Rows [row, row + rows) against one panel; row is a multiple of 8, rows <= 16, and either both blocks are
/// whole or the last one is the tail of `a`.
void int_small(const PackedMatrix& w, int32_t panel, const Activations& a, int32_t row, int32_t rows,
               float* out, int64_t ld_out, uint8_t* scratch);
/// Rows [row, row + rows), a multiple of 8 and at most kTileRows, against panels [panel, panel + 3).
void int_tile(const PackedMatrix& w, int32_t panel, const Activations& a, int32_t row, int32_t rows,
              float* out, int64_t ld_out, uint8_t* scratch);

constexpr int kTilePanels =
    3;  // 8 x 48 tile: 24 accumulators + 3 weight vectors + 5 broadcasts = 32 registers
constexpr int kTileRows = 256;  // fp32 results of one pass: 256 x 48 x 4 = 48 KiB of L2, A slice 32 KiB

}  // namespace narrows::NARROWS_ISA_NAMESPACE
#endif
