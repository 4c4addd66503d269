// Python's Sampler: the native state, and whether a step is reading it.
#pragma once
#include "checks.h"
#include "narrows/sampling.h"

namespace narrows::python {

struct PySampler {
  Sampler native;
  int32_t max_token = -1;  // largest id its rules or its history name: must be inside the vocabulary
  bool busy = false;       // a step that has released the GIL is reading it
};

/// (token, logprob) pairs as a Python list.
nb::list top_list(const std::vector<TokenLogprob>& top);

}  // namespace narrows::python
