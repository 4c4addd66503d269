// The float operators of one instruction set: the functions that its table of struct Kernels points to. What
// each one means is said in narrows/kernels.h.
#pragma once
#include <cstdint>

#include "narrows/kernels.h"
#include "ops/isa.h"

namespace narrows::NARROWS_ISA_NAMESPACE {

void rms_norm(const float* x, const float* weight, float eps, float* out, int32_t n);
void layer_norm(const float* x, const float* weight, const float* bias_or_null, float eps, float* out,
                int32_t n);

void activate(ActivationKind kind, float* x, int32_t n);
void activate_gated(ActivationKind kind, const float* panels, float* out, int32_t pairs);
void add(float* x, const float* y, int32_t n);
void scale(float* x, float factor, int32_t n);
void softcap(float* x, float cap, int32_t n);

void rope(float* head, const float* cos, const float* sin, int32_t half);

void store_kv(const float* k, const float* v, int32_t head_dim, int32_t slot, KvFormat kv, void* k_block,
              void* v_block);
void attention(const AttentionArgs& args);

void log_sum_exp(const float* x, int32_t n, float* max, float* lse, bool* finite);
int32_t argmax(const float* x, int32_t n);
void panel_max(const float* x, int32_t panels, float* best);

}  // namespace narrows::NARROWS_ISA_NAMESPACE
