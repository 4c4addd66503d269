// The operators of the core, one table of function pointers per instruction set. Each table is compiled from
// the same sources (src/ops/*.cpp) with other flags; `generic` is the scalar twin and the meaning of every
// operator. Kernels trust their arguments: the bindings have checked every size. No kernel allocates, throws
// or locks.
#pragma once
#include <cstdint>
#include <stdexcept>

#include "narrows/formats.h"

namespace narrows {

enum class Isa : uint8_t { generic = 0, avx2 = 1, avx512vnni = 2 };
enum class ActivationKind : uint8_t { silu = 0, gelu_tanh = 1, gelu_erf = 2, relu = 3, relu2 = 4 };

/// One sequence and one kv head: `rows` consecutive query positions starting at `start`, keys [0,
/// start+rows), in pages of `kv`. Page j of the sequence begins at k_pages + blocks[j]*block_stride bytes
/// (likewise V). Results do not depend on `rows`, i.e. on how a prompt was cut into chunks: fixed chunks of
/// keys, fixed order.
struct AttentionArgs {
  const float* q = nullptr;  // q[row*q_ld + h*head_dim + d], h in [0, heads): the query heads of this kv head
  int64_t q_ld = 0;
  float* out = nullptr;  // out[row*out_ld + h*head_dim + d]
  int64_t out_ld = 0;
  const void* k_pages = nullptr;  // already offset to this layer and kv head
  const void* v_pages = nullptr;
  int64_t block_stride = 0;  // bytes between blocks of one kv head
  const int32_t* blocks = nullptr;
  int32_t rows = 0, heads = 0, head_dim = 0, start = 0;
  int32_t window = 0;    // 0: all keys; else query p sees keys (p - window, p]
  float scale = 1.0f;    // multiplies q.k
  float softcap = 0.0f;  // 0: none; else scores = cap * tanh(scores / cap)
  KvFormat kv = KvFormat::f16;
  bool causal = true;
  bool int8 = false;  // not over f32 pages: Q, K, P and V rounded to 8 bits (attention_int8.cpp)
  float* scratch =
      nullptr;  // attention_scratch_floats(...) floats owned by the calling thread, 64-byte aligned
};
inline constexpr int kKeyChunk = 256;  // keys merged at a time by the online softmax, aligned to position 0
inline constexpr int kQueryTile = 8;   // query rows handled together in prefill
/// Scratch of one attention call: converted K/V blocks, scores and accumulators; an upper bound for any
/// `rows`.
int64_t attention_scratch_floats(int32_t heads, int32_t head_dim);

struct Kernels {
  Isa isa;
  const char* name;

  // ---- linear_*.cpp
  /// out[r*ld_out + (p-panel_begin)*16 + c] = sum_k W[16p+c][k] * x[r][k] for panels [panel_begin,
  /// panel_end), every row of `a`. Each (row, channel) is summed in the same order whatever rows and panels
  /// share the call, so results are bit-identical for any batch size and any split. `scratch`:
  /// kLinearScratchBytes per thread, 64-byte aligned.
  void (*linear)(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                 float* out, int64_t ld_out, uint8_t* scratch);
  /// The same sums over the upper plane of P44 alone. Given exactly those codes, x and the exact result, the
  /// difference is sum_k scale * (lower - 7.5) * x[k].
  void (*linear_upper)(const PackedMatrix& w, int32_t panel_begin, int32_t panel_end, const Activations& a,
                       float* out, int64_t ld_out, uint8_t* scratch);
  /// Quantizes rows [row_begin, row_end), which are x[(row - row_begin)*ld + k], into the codes, scales and
  /// sums of `a` (int8 symmetric per (row, group): scale = max|x|/127, ties to even; an all-zero group has
  /// scale 0 and codes 0).
  void (*quantize)(const float* x, int64_t ld, int32_t row_begin, int32_t row_end, const Activations& a);
  /// out[k] = row `row` of W in float: the embedding lookup of a packed matrix.
  void (*unpack_row)(const PackedMatrix& w, int32_t row, float* out);
  /// Packs one group of P4: rows[c*ld + k] of 16 channels, k in [0, group), into 16 scales, 16 zero points
  /// (null: none are stored, and zero is 8) and group/8 lines of 64 bytes. Bit-identical on every instruction
  /// set.
  void (*code_p4)(const float* rows, int64_t ld, int32_t group, uint16_t* scales, uint8_t* zeros_or_null,
                  uint8_t* lines);

  // ---- norm.cpp, activation.cpp, rope.cpp: one row of n floats; in == out is allowed
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, int32_t n);
  void (*layer_norm)(const float* x, const float* weight, const float* bias_or_null, float eps, float* out,
                     int32_t n);
  void (*activate)(ActivationKind kind, float* x, int32_t n);  // x = f(x)
  /// out[16p + c] = f(panels[32p + c]) * panels[32p + 16 + c]: panels of gates and of their factors in turn.
  void (*activate_gated)(ActivationKind kind, const float* panels, float* out, int32_t pairs);
  void (*add)(float* x, const float* y, int32_t n);  // x += y
  void (*scale)(float* x, float factor, int32_t n);
  void (*softcap)(float* x, float cap, int32_t n);  // cap*tanh(x/cap)
  /// Rotates the first 2*half entries of a head as pairs (i, i+half) by cos/sin[half] (the rotate-half
  /// convention).
  void (*rope)(float* head, const float* cos, const float* sin, int32_t half);

  // ---- attention_paged.cpp
  void (*store_kv)(const float* k, const float* v, int32_t head_dim, int32_t slot, KvFormat kv, void* k_block,
                   void* v_block);  // one token into slot 0..15 of a block
  void (*attention)(const AttentionArgs& args);

  // ---- sample.cpp
  /// Max and log(sum(exp(x))) of n logits; *finite is false where any is NaN or +inf.
  void (*log_sum_exp)(const float* x, int32_t n, float* max, float* lse, bool* finite);
  int32_t (*argmax)(const float* x, int32_t n);  // the lowest index among equal maxima
  /// best[p] = the largest of x[16p, 16p + 16); +inf where one of them is NaN or +inf.
  void (*panel_max)(const float* x, int32_t panels, float* best);

  // ---- peak.cpp
  /// Multiply-accumulates per second of the calling thread, registers only, over about `seconds`: int8 as the
  /// quantized kernels issue them, fp32 as the float kernels and attention do.
  double (*int8_peak)(double seconds);
  double (*fp32_peak)(double seconds);
};
inline constexpr int64_t kLinearScratchBytes = 256 * 1024;

struct UnsupportedIsa : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// The table of `isa`, or null where it was not built in or this CPU lacks it.
const Kernels* kernels_for(Isa isa);
/// The best table of this CPU, or the one forced by NARROWS_ISA (generic | avx2 | avx512vnni).
/// Throws UnsupportedIsa for an unknown name or one this CPU lacks.
const Kernels* select_kernels();

}  // namespace narrows
