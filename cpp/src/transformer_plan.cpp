#include "transformer_plan.h"

#include <algorithm>

namespace narrows {
namespace {

// Up to two query tiles attend in the task that stored their keys. Longer chunks are stored first and then
// cut into tiles, so that one long prompt keeps all threads busy to the end.
constexpr int32_t kWholeRows = 2 * kQueryTile;
constexpr int32_t kStoreRows = 64;
constexpr int32_t kAttendRows = 4 * kQueryTile;
constexpr int32_t kInt8AttendRows = 64;  // a packed chunk of keys is shared by more queries

bool wants_logits(const SequenceInput& sequence, int32_t index) {
  if (sequence.targets != nullptr && sequence.targets[index] >= 0) return true;
  return sequence.draws(index);
}

/// Sampler::reach() of a row, where the head can do with less than all logits. A cap on logits can make ties
/// of them, and then those that were not looked at would count.
int32_t reach(const Model& model, const SequenceInput& sequence, int32_t index) {
  if (model.head.w.format != Format::P44 || model.final_softcap > 0) return 0;
  if (sequence.targets != nullptr && sequence.targets[index] >= 0) return 0;
  return sequence.sampler->reach();
}

bool int8_attention(const Model& model) {
  return std::any_of(model.layers.begin(), model.layers.end(),
                     [](const Layer& l) { return l.int8_attention; });
}

}  // namespace

void StepPlan::build(const Model& model, const std::vector<SequenceInput>& batch, bool all_logits) {
  rows.clear();
  store_parts.clear();
  attend_parts.clear();
  head_rows.clear();
  const bool int8 = int8_attention(model);
  for (int32_t s = 0; s < static_cast<int32_t>(batch.size()); ++s) {
    const SequenceInput& sequence = batch[s];
    const int32_t row0 = num_rows();
    const int32_t count = sequence.num_tokens;
    for (int32_t i = 0; i < count; ++i) {
      rows.push_back({sequence.tokens[i], sequence.start + i});
      if (!all_logits && !wants_logits(sequence, i)) continue;
      head_rows.push_back({s, i, row0 + i, all_logits ? 0 : reach(model, sequence, i)});
    }
    const int32_t int8_rows = int8 ? std::clamp(sequence.prompt_tokens - sequence.start, 0, count) : 0;
    const bool whole = count <= kWholeRows && (int8_rows == 0 || int8_rows == count);
    for (int32_t i = 0; i < count; i += kStoreRows) {
      store_parts.push_back({s, i, std::min(kStoreRows, count - i), row0 + i, whole, int8_rows > 0});
    }
    if (whole) continue;
    for (int32_t i = 0, end = 0; i < count; i = end) {
      const bool in_int8 = i < int8_rows;
      end = in_int8 ? std::min(i + kInt8AttendRows, int8_rows) : std::min(i + kAttendRows, count);
      attend_parts.push_back({s, i, end - i, row0 + i, true, in_int8});
    }
  }
  std::reverse(attend_parts.begin(), attend_parts.end());
  head_parts.clear();
  if (narrowed()) part_head_rows(model, batch);
}

/// Runs of head rows that follow one another, as long as they attend alike.
void StepPlan::part_head_rows(const Model& model, const std::vector<SequenceInput>& batch) {
  const bool int8 = int8_attention(model);
  for (int32_t i = 0; i < num_head_rows(); ++i) {
    const PlanHeadRow& row = head_rows[i];
    const SequenceInput& sequence = batch[row.sequence];
    const bool in_int8 = int8 && sequence.start + row.index < sequence.prompt_tokens;
    PlanPart* last = head_parts.empty() ? nullptr : &head_parts.back();
    if (last != nullptr && last->sequence == row.sequence && last->int8 == in_int8 &&
        last->first + last->rows == row.index && last->rows < kAttendRows) {
      ++last->rows;
    } else {
      head_parts.push_back({row.sequence, row.index, 1, i, true, in_int8});
    }
  }
}

}  // namespace narrows
