#include "sampler.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace narrows::python {
namespace {

using namespace nb::literals;

constexpr int64_t kMaxTop = 1 << 20;

void check_range(double value, double low, double high, const char* name) {
  if (!(value >= low && value <= high)) {
    refuse(std::string(name) + " is " + std::to_string(value) + ", which is out of range");
  }
}

int32_t largest(const std::vector<int32_t>& ids, const char* name) {
  for (int32_t id : ids) {
    if (id < 0) refuse(std::string(name) + " holds the negative token id " + std::to_string(id));
  }
  return ids.empty() ? -1 : *std::max_element(ids.begin(), ids.end());
}

void init_sampler(PySampler* self, float temperature, int64_t top_k, float top_p, float min_p,
                  float repetition_penalty, float presence_penalty, float frequency_penalty, uint64_t seed,
                  std::vector<std::pair<int32_t, float>> logit_bias, int64_t top_logprobs, int64_t min_tokens,
                  std::vector<int32_t> stop_token_ids, const std::vector<int32_t>& prompt_ids) {
  constexpr double kMax = 1e30;
  check_range(temperature, 0, kMax, "temperature");
  check_range(top_p, 1e-30, 1, "top_p");
  check_range(min_p, 0, 1, "min_p");
  check_range(repetition_penalty, 1e-30, kMax, "repetition_penalty");
  check_range(presence_penalty, -kMax, kMax, "presence_penalty");
  check_range(frequency_penalty, -kMax, kMax, "frequency_penalty");
  int32_t max_token = std::max(largest(stop_token_ids, "stop_token_ids"), largest(prompt_ids, "prompt_ids"));
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0) refuse("logit_bias holds the negative token id " + std::to_string(token));
    if (!std::isfinite(bias)) refuse("logit_bias holds a value that is not finite");
    max_token = std::max(max_token, token);
  }
  SamplingParams params{.temperature = temperature,
                        .top_k = checked_int(top_k, 0, kMaxDimension, "top_k"),
                        .top_p = top_p,
                        .min_p = min_p,
                        .repetition_penalty = repetition_penalty,
                        .presence_penalty = presence_penalty,
                        .frequency_penalty = frequency_penalty,
                        .seed = seed,
                        .top_logprobs = checked_int(top_logprobs, -1, kMaxTop, "top_logprobs"),
                        .logit_bias = std::move(logit_bias),
                        .banned_until_min = std::move(stop_token_ids),
                        .min_tokens = checked_int(min_tokens, 0, kMaxDimension, "min_tokens")};
  new (self) PySampler{
      .native = Sampler(std::move(params), prompt_ids.data(), static_cast<int64_t>(prompt_ids.size())),
      .max_token = max_token};
}

void refuse_busy(const PySampler& sampler) {
  if (sampler.busy) throw std::runtime_error("the sampler is in use by a running step");
}

nb::tuple sample(PySampler& self, const Array& logits) {
  refuse_busy(self);
  const float* data = float_data(logits, 1, "logits");
  const int32_t vocab = checked_int(logits.size(), 1, kMaxDimension, "the size of logits");
  if (self.max_token >= vocab) refuse("the sampler names token ids beyond the logits");
  std::vector<float> copy(data, data + vocab);
  const Sampled sampled = self.native.sample(*select_kernels(), copy.data(), vocab);
  return nb::make_tuple(sampled.token, sampled.logprob, top_list(sampled.top));
}

void accept(PySampler& self, int64_t token_id) {
  refuse_busy(self);
  const int32_t token = checked_int(token_id, 0, kMaxDimension, "token_id");
  self.native.accept(token);
  self.max_token = std::max(self.max_token, token);
}

}  // namespace

nb::list top_list(const std::vector<TokenLogprob>& top) {
  nb::list list;
  for (const TokenLogprob& t : top) list.append(nb::make_tuple(t.token, t.logprob));
  return list;
}

void bind_sampler(nb::module_& m) {
  nb::class_<PySampler>(m, "Sampler")
      .def("__init__", &init_sampler, nb::kw_only(), "temperature"_a = 1.0f, "top_k"_a = 0, "top_p"_a = 1.0f,
           "min_p"_a = 0.0f, "repetition_penalty"_a = 1.0f, "presence_penalty"_a = 0.0f,
           "frequency_penalty"_a = 0.0f, "seed"_a = 0, "logit_bias"_a = nb::tuple(), "top_logprobs"_a = -1,
           "min_tokens"_a = 0, "stop_token_ids"_a = nb::tuple(), "prompt_ids"_a = nb::tuple())
      .def("sample", &sample, "logits"_a.noconvert())
      .def("accept", &accept, "token_id"_a);
}

}  // namespace narrows::python
