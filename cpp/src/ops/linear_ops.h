// The linear operators of one instruction set, as the dispatch table wants them (meaning: narrows/kernels.h).
#pragma once
#include <cstdint>

#include "isa.h"
#include "narrows/formats.h"
#include "narrows/kernels.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

void linear(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a, float* out,
            int64_t ld_out, uint8_t* scratch);
void linear_upper(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out, uint8_t* scratch);
void quantize(const float* x, int64_t ld, int32_t row_begin, int32_t row_end, const Activations& a);
/// codes[i] = round(x[i] * inverse), ties to even; n is a multiple of 16. Returns their sum.
int32_t round_codes(const float* x, int32_t n, float inverse, int8_t* codes);
void unpack_row(const PackedMatrix& w, int32_t row, float* out);
void code_p4(const float* rows, int64_t ld, int32_t group, uint16_t* scales, uint8_t* zeros_or_null,
             uint8_t* lines);

// The two halves of `linear`: int8 activations (P8, P44, P4) and fp32 activations (F32, F16, BF16).
void linear_int(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                float* out, int64_t ld_out, uint8_t* scratch);
void linear_float(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                  float* out, int64_t ld_out);

}  // namespace narrows::NARROWS_ISA_NAMESPACE
