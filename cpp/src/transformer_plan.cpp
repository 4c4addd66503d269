#include "transformer_plan.h"

#include <algorithm>

namespace narrows {
namespace {

// Up to two query tiles attend in the task that stored their keys. Longer chunks are stored first and then
// cut into tiles, so that one long prompt keeps all threads busy to the end.
constexpr int32_t kWholeRows = 2 * kQueryTile;
constexpr int32_t kStoreRows = 64;
constexpr int32_t kAttendRows = 4 * kQueryTile;

bool wants_logits(const SequenceInput& sequence, int32_t index) {
  if (sequence.targets != nullptr && sequence.targets[index] >= 0) return true;
  return sequence.sampler != nullptr && index == sequence.num_tokens - 1;
}

}  // namespace

void StepPlan::build(const std::vector<SequenceInput>& batch, bool all_logits) {
  rows.clear();
  store_parts.clear();
  attend_parts.clear();
  head_rows.clear();
  for (int32_t s = 0; s < static_cast<int32_t>(batch.size()); ++s) {
    const SequenceInput& sequence = batch[s];
    const int32_t row0 = num_rows();
    const int32_t count = sequence.num_tokens;
    for (int32_t i = 0; i < count; ++i) {
      rows.push_back({sequence.tokens[i], sequence.start + i});
      if (all_logits || wants_logits(sequence, i)) head_rows.push_back({s, i, row0 + i});
    }
    const bool whole = count <= kWholeRows;
    for (int32_t i = 0; i < count; i += kStoreRows) {
      store_parts.push_back({s, i, std::min(kStoreRows, count - i), row0 + i, whole});
    }
    for (int32_t i = 0; i < count && !whole; i += kAttendRows) {
      attend_parts.push_back({s, i, std::min(kAttendRows, count - i), row0 + i, true});
    }
  }
  std::reverse(attend_parts.begin(), attend_parts.end());
}

}  // namespace narrows
