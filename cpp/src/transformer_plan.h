// What one step has to do, as flat lists made once before the threads start. Knows no weights.
#pragma once
#include <cstdint>
#include <vector>

#include "narrows/transformer.h"

namespace narrows {

struct PlanRow {
  int32_t token = 0;
  int32_t position = 0;
};

/// Rows [first, first + rows) of a sequence: row `row` of the step is its row `first`.
struct PlanPart {
  int32_t sequence = 0;
  int32_t first = 0;
  int32_t rows = 0;
  int32_t row = 0;
  bool attend = false;  // of a store part: few enough rows that the same task also attends
  bool int8 = false;    // in integers, where the layer does: rows of a prompt
};

/// A row whose logits are wanted.
struct PlanHeadRow {
  int32_t sequence = 0;
  int32_t index = 0;  // within the sequence
  int32_t row = 0;
  int32_t reach = 0;  // how many of its largest logits are wanted; 0: all
};

class StepPlan {
 public:
  /// Refills the lists; keeps their memory.
  void build(const Model& model, const std::vector<SequenceInput>& batch, bool all_logits);

  std::vector<PlanRow> rows;
  std::vector<PlanPart> store_parts;   // first phase of attention: rope, keys and values into their pages
  std::vector<PlanPart> attend_parts;  // second phase: query tiles of long chunks, the costliest first
  std::vector<PlanHeadRow> head_rows;
  /// The rows of `head_rows` for the attention of the last layer, where it is narrowed: part.row counts head
  /// rows.
  std::vector<PlanPart> head_parts;
  /// Whether the last layer goes on with the head rows alone: of the others only keys and values are needed.
  bool narrowed() const { return head_rows.size() < rows.size(); }
  int32_t num_rows() const { return static_cast<int32_t>(rows.size()); }
  int32_t num_head_rows() const { return static_cast<int32_t>(head_rows.size()); }

 private:
  void part_head_rows(const Model& model, const std::vector<SequenceInput>& batch);
};

}  // namespace narrows
