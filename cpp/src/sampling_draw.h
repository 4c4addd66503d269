// A draw from logits by temperature, top-k, top-p and min-p. Exact without sorting the vocabulary: each
// filter keeps a prefix of the order "logit descending, then id ascending", and the end of a prefix is found
// by selection among few. Knows nothing of requests and penalties.
#pragma once
#include <cstdint>

#include "narrows/sampling.h"
#include "sampling_scores.h"

namespace narrows {

/// The number of draw `index` of `seed`, in (0, 1): counter based, any order of calls gives the same.
double uniform_draw(uint64_t seed, int64_t index);

/// The token that `u` in (0, 1) draws by params.temperature (> 0), top_k, top_p and min_p. scores.max() is
/// finite.
int32_t draw_token(const SamplingParams& params, const Scores& scores, double u);

}  // namespace narrows
