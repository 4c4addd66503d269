// One transformer described by a table, and one step of it: a mixed batch of prefill chunks and decode rows.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "narrows/kernels.h"
#include "narrows/sampling.h"
#include "narrows/thread_pool.h"

namespace narrows {

enum class NormKind : uint8_t { rms = 0, layer = 1 };

struct Norm {  // weight null: this norm is absent
  const float* weight = nullptr;
  const float* bias = nullptr;
};
struct Linear {  // w.data null: absent
  PackedMatrix w;
  const float* bias = nullptr;  // [w.n]
};

/// One layer; widths may differ between layers. Linear shapes: qkv [(heads + 2 kv_heads) head_dim, hidden],
/// out [hidden, heads head_dim], up [intermediate, hidden] or, where gated, gate and up with panels
/// interleaved (panel 2p = gate channels 16p.., panel 2p+1 = up channels 16p..; both padded to 16), down
/// [hidden, intermediate].
struct Layer {
  int32_t heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0;
  int32_t window = 0;  // 0: full attention
  int32_t rope = -1;   // index into Model::ropes, -1: none
  float attention_scale = 1.0f;
  float attention_softcap = 0.0f;
  bool gated = true;
  ActivationKind activation = ActivationKind::silu;
  bool parallel_residual = false;  // x + attn(norm_attn(x)) + mlp(norm_mlp(x)) (GPT-NeoX)
  KvFormat kv = KvFormat::f16;
  /// Attention of prompt rows in integers, over keys and values of 16 or 8 bits. Rows past the prompt stay in
  /// fp32: so a token's result depends on its request alone, not on how steps cut or repeat it.
  bool int8_attention = false;
  Norm norm_attn, norm_mlp;  // before attention and MLP
  Norm post_attn, post_mlp;  // on their outputs, before the residual add (Gemma 2 and 3)
  Norm q_norm, k_norm;       // per head, RMS (Qwen3, Gemma 3)
  Linear qkv, out, up, down;
};

struct Rope {                   // angles = position * inv_freq; cos and sin times `attention_factor`
  std::vector<float> inv_freq;  // [rotated / 2]
  float attention_factor = 1.0f;
};

struct Model {
  int32_t hidden = 0, vocab = 0, max_positions = 0;
  NormKind norm = NormKind::rms;
  float norm_eps = 1e-5f;
  float embedding_scale = 1.0f;
  float final_softcap = 0.0f;
  std::vector<Rope> ropes;
  std::vector<Layer> layers;
  PackedMatrix embedding;  // panels, or rows where embedding_rows is set
  const void* embedding_rows =
      nullptr;  // row-major [vocab, hidden] of embedding.format (F32, F16, BF16): mapped, not packed
  const float* position_rows = nullptr;  // learned positions [max_positions, hidden], or null
  Norm embedding_norm;                   // absent in decoder families of today
  Norm final_norm;
  Linear head;  // may share its bytes with `embedding`
};

/// Paged keys and values of all layers; blocks are numbered 0..num_blocks-1 and handed out by the caller.
class KvPages {
 public:
  KvPages(const Model& model, int32_t num_blocks);  // throws std::bad_alloc
  ~KvPages();
  KvPages(const KvPages&) = delete;
  KvPages& operator=(const KvPages&) = delete;
  int32_t num_blocks() const { return num_blocks_; }
  int64_t bytes() const { return bytes_; }
  int64_t block_stride() const { return stride_; }  // bytes between two blocks of one kv head
  void* k(int32_t layer, int32_t kv_head) const;    // first block of this head
  void* v(int32_t layer, int32_t kv_head) const;
  static int64_t block_bytes(const Model& model);  // of one block over all layers

 private:
  int32_t num_blocks_ = 0;
  int64_t bytes_ = 0;
  uint8_t* data_ = nullptr;
  int64_t stride_ = 0;
  std::vector<int64_t> key_bytes_, head_bytes_, offsets_;  // by layer
};

/// "Run `num_tokens` tokens of one sequence": prefill, chunked prefill and decode are the same thing.
struct SequenceInput {
  const int32_t* tokens = nullptr;
  int32_t num_tokens = 0;
  int32_t start = 0;                // position of the first token = tokens already in the KV pages
  const int32_t* blocks = nullptr;  // enough for start + num_tokens
  int32_t num_blocks = 0;
  int32_t prompt_tokens = 0;   // of the request: rows before this position may use Layer::int8_attention
  Sampler* sampler = nullptr;  // draws after the last row and records the token; null: none wanted
  /// The last `num_draft` tokens are guesses. The sampler draws after the row before them and, as long as the
  /// token drawn is the one the next row was given, after that row too: exactly the draws, from the same
  /// logits and in the same order, that steps of one token would have made.
  int32_t num_draft = 0;
  const int32_t* targets =
      nullptr;             // [num_tokens] token whose log-probability each row shall report, -1: none
  int32_t target_top = 0;  // the n best beside each target

  int32_t first_draw() const { return num_tokens - 1 - num_draft; }  // row
  bool draws(int32_t row) const { return sampler != nullptr && row >= first_draw(); }
};
struct SequenceOutput {
  std::vector<Sampled> drawn;  // where a sampler was given: 1 to num_draft + 1, only the last may be -1
  std::vector<TokenLogprob> targets;  // where targets were given: one per row
  std::vector<std::vector<TokenLogprob>> target_top;
};

enum class OpGroup : uint8_t { attention = 0, qkv, out, up, down, head, other };
inline constexpr int kOpGroups = 7;

class Transformer {
 public:
  /// `max_step_tokens` bounds the rows of a step: all scratch is allocated here. `model` is copied (views,
  /// not bytes).
  Transformer(Model model, ThreadPool& pool, const Kernels& kernels, int32_t max_step_tokens);
  ~Transformer();
  /// Runs one step. Token ids, positions, block ids and sizes have been checked by the caller.
  /// If `all_logits` is not null it receives the float logits of every row [rows, vocab].
  void step(KvPages& kv, const std::vector<SequenceInput>& batch, std::vector<SequenceOutput>& out,
            float* all_logits = nullptr);
  const Model& model() const;
  int32_t max_step_tokens() const;
  /// Bytes of weights one step reads, head included; of a head in two planes the upper one, which is all that
  /// a greedy step reads of it but for the few panels that can hold the token.
  int64_t weight_bytes_per_step() const;
  int64_t scratch_bytes() const;
  /// Seconds thread 0 spent per op group since the last call, indexed by OpGroup. Not during a step.
  std::array<double, kOpGroups> take_op_times();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace narrows
