// From the residual stream to logits, tokens and log-probabilities, for the rows that need them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "transformer_step.h"

namespace narrows {
namespace {

/// The n largest logits as log-probabilities, best first; the lower index wins a tie.
std::vector<TokenLogprob> best_tokens(const float* logits, int32_t vocab, float lse, int32_t n) {
  std::vector<TokenLogprob> best;
  best.reserve(n + 1);
  for (int32_t i = 0; i < vocab && n > 0; ++i) {
    if (static_cast<int32_t>(best.size()) == n && !(logits[i] > best.back().logprob)) continue;
    const auto place = std::upper_bound(best.begin(), best.end(), logits[i],
                                        [](float x, const TokenLogprob& t) { return x > t.logprob; });
    best.insert(place, {i, logits[i], 0});
    if (static_cast<int32_t>(best.size()) > n) best.pop_back();
  }
  for (size_t i = 0; i < best.size(); ++i) {
    best[i].logprob -= lse;
    best[i].rank = static_cast<int32_t>(i);
  }
  return best;
}

int32_t rank_of(const float* logits, int32_t vocab, int32_t token) {
  int32_t above = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    above += logits[i] > logits[token] || (logits[i] == logits[token] && i < token);
  }
  return above;
}

}  // namespace

void StepWorker::head() {
  const std::vector<PlanHeadRow>& wanted = c_.plan.head_rows;
  const StepBuffers& b = c_.buffers;
  for (size_t first = 0; first < wanted.size(); first += kHeadRows) {
    const int32_t rows = static_cast<int32_t>(std::min<size_t>(kHeadRows, wanted.size() - first));
    const RowRange mine = share(rows);
    for (int32_t i = mine.begin; i < mine.end; ++i) {
      const int64_t row = c_.plan.narrowed() ? static_cast<int64_t>(first) + i : wanted[first + i].row;
      const float* x = b.x + row * b.hidden_ld;
      float* y = b.y + i * b.hidden_ld;
      if (c_.model.final_norm.weight != nullptr) {
        normalize(c_.model.final_norm, x, y, c_.model.hidden);
      } else {
        std::memcpy(y, x, c_.model.hidden * sizeof(float));
      }
    }
    barrier();
    const Activations a = input(c_.model.head, b.y, b.hidden_ld, rows);
    PlaneSearch found;
    const PlaneSearch* search = by_planes(first, rows) ? &found : nullptr;
    if (search != nullptr) {
      search_planes(first, a, &found);
    } else {
      linear(c_.model.head, a, {.dst = b.logits, .ld = b.logits_ld, .columns = c_.model.head.w.n});
      barrier();
    }
    lap(OpGroup::head);
    share_units(rows, Take::single, [&](UnitRange u) {
      if (follows_draw(first, u.begin)) return;  // whoever draws before it draws after it
      int32_t i = u.begin;
      do {
        finish_row(first, i, search);
      } while (++i < rows && follows_draw(first, i));
    });
    if (first + kHeadRows < wanted.size()) barrier();  // before the logits are overwritten
    lap(OpGroup::other);
  }
}

/// Whether row `index` of the rows of logits that begin at head row `first` belongs to the draws of the row
/// before it: a sampler draws in order, so one thread takes them all.
bool StepWorker::follows_draw(size_t first, int32_t index) const {
  if (index == 0) return false;
  const PlanHeadRow& row = c_.plan.head_rows[first + index];
  const PlanHeadRow& before = c_.plan.head_rows[first + index - 1];
  return row.sequence == before.sequence && c_.batch[row.sequence].draws(before.index);
}

/// Whether the sampler draws after this row: the first, or one whose token is what was drawn before it.
bool StepWorker::is_drawn(const PlanHeadRow& row) const {
  const SequenceInput& sequence = c_.batch[row.sequence];
  if (!sequence.draws(row.index)) return false;
  const std::vector<Sampled>& drawn = c_.out[row.sequence].drawn;
  const int32_t earlier = row.index - sequence.first_draw();
  if (static_cast<int32_t>(drawn.size()) != earlier) return false;
  return earlier == 0 || drawn.back().token == sequence.tokens[row.index];
}

/// `search` is null where all logits of the rows are there.
void StepWorker::finish_row(size_t first, int32_t index, const PlaneSearch* search) {
  const PlanHeadRow& row = c_.plan.head_rows[first + index];
  if (search == nullptr || search->threshold[index] == -std::numeric_limits<float>::infinity()) {
    return finish_logits(row, c_.buffers.logits + index * c_.buffers.logits_ld);
  }
  if (!is_drawn(row)) return;
  Sampler& sampler = *c_.batch[row.sequence].sampler;
  const Sampled sampled = draw_likely(sampler, index, *search);
  if (sampled.token >= 0) sampler.accept(sampled.token);
  c_.out[row.sequence].drawn.push_back(sampled);
}

void StepWorker::finish_logits(const PlanHeadRow& row, float* logits) {
  const SequenceInput& sequence = c_.batch[row.sequence];
  const int32_t vocab = c_.model.vocab;
  const bool drawn = is_drawn(row);
  if (!drawn && c_.all_logits == nullptr && sequence.targets == nullptr) return;  // a guess that was wrong
  if (c_.model.final_softcap > 0) c_.kernels.softcap(logits, c_.model.final_softcap, vocab);
  if (c_.all_logits != nullptr) {
    std::memcpy(c_.all_logits + int64_t{row.row} * vocab, logits, vocab * sizeof(float));
  }
  if (sequence.targets != nullptr && sequence.targets[row.index] >= 0) score_target(row, logits);
  if (!drawn) return;
  const Sampled sampled = sequence.sampler->sample(c_.kernels, logits, vocab);  // may overwrite them
  if (sampled.token >= 0) sequence.sampler->accept(sampled.token);
  c_.out[row.sequence].drawn.push_back(sampled);
}

void StepWorker::score_target(const PlanHeadRow& row, const float* logits) {
  const SequenceInput& sequence = c_.batch[row.sequence];
  SequenceOutput& out = c_.out[row.sequence];
  const int32_t token = sequence.targets[row.index];
  float max = 0, lse = 0;
  bool finite = false;
  c_.kernels.log_sum_exp(logits, c_.model.vocab, &max, &lse, &finite);
  if (!finite) {
    out.targets[row.index] = {token, std::numeric_limits<float>::quiet_NaN(), 0};
    return;
  }
  out.targets[row.index] = {token, logits[token] - lse, rank_of(logits, c_.model.vocab, token)};
  out.target_top[row.index] = best_tokens(logits, c_.model.vocab, lse, sequence.target_top);
}

}  // namespace narrows
