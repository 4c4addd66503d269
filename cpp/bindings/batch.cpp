#include "batch.h"

#include <algorithm>

namespace narrows::python {
namespace {

// token_ids, start, block_ids, sampler, targets, target_top, prompt_tokens, num_draft
constexpr Py_ssize_t kFields = 8;

int64_t read_int(PyObject* object, const char* what) {
  const int64_t value = PyLong_AsLongLong(object);
  if (value != -1 || !PyErr_Occurred()) return value;
  if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
    PyErr_Clear();
    refuse(std::string(what) + " is out of range");
  }
  nb::raise_python_error();
}

/// Appends the integers of a sequence, each in [low, high); returns how many.
int32_t append_ids(PyObject* ids, std::vector<int32_t>& out, int64_t low, int64_t high, const char* what) {
  const nb::object list =
      nb::steal(PySequence_Fast(ids, (std::string(what) + " must be a sequence").c_str()));
  if (!list.is_valid()) nb::raise_python_error();
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(list.ptr());
  if (count > kMaxDimension) refuse(std::string(what) + " is too long");
  for (Py_ssize_t i = 0; i < count; ++i) {
    const int64_t id = read_int(PySequence_Fast_GET_ITEM(list.ptr(), i), what);
    if (id < low || id >= high) {
      refuse(std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(id) +
             " but must be at least " + std::to_string(low) + " and below " + std::to_string(high));
    }
    out.push_back(static_cast<int32_t>(id));
  }
  return static_cast<int32_t>(count);
}

}  // namespace

PyKvPages::PyKvPages(const PyModel& model, int32_t num_blocks)
    : native(model.native, num_blocks), written_in(num_blocks) {
  for (const Layer& layer : model.native.layers) {
    shapes.push_back({layer.kv_heads, layer.head_dim, layer.kv});
  }
}

bool PyKvPages::fits(const Model& model) const {
  return std::equal(shapes.begin(), shapes.end(), model.layers.begin(), model.layers.end(),
                    [](const KvShape& shape, const Layer& layer) {
                      return shape.kv_heads == layer.kv_heads && shape.head_dim == layer.head_dim &&
                             shape.format == layer.kv;
                    });
}

void PyBatch::read(nb::handle sequences, const Model& model, PyKvPages& kv, int32_t max_rows) {
  inputs.clear();
  release();
  offsets_.clear();
  tokens_.clear();
  blocks_.clear();
  targets_.clear();
  if (!kv.fits(model)) refuse("kv was made for a model of other layers");
  if (++kv.step == 0) {  // the counter wrapped: forget old marks
    std::fill(kv.written_in.begin(), kv.written_in.end(), 0);
    kv.step = 1;
  }
  const nb::object list = nb::steal(PySequence_Fast(sequences.ptr(), "sequences must be a sequence"));
  if (!list.is_valid()) nb::raise_python_error();
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list.ptr()); ++i) {
    read_sequence(PySequence_Fast_GET_ITEM(list.ptr(), i), model, kv);
  }
  ids_rows_ = tokens_.size();
  if (num_rows() > max_rows) {
    refuse("the sequences have " + std::to_string(num_rows()) + " tokens but max_step_tokens is " +
           std::to_string(max_rows));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {  // only now do the vectors no longer move
    inputs[i].tokens = tokens_.data() + offsets_[i].tokens;
    inputs[i].blocks = blocks_.data() + offsets_[i].blocks;
    inputs[i].targets = offsets_[i].has_targets ? targets_.data() + offsets_[i].targets : nullptr;
  }
}

void PyBatch::read_sequence(PyObject* item, const Model& model, PyKvPages& kv) {
  if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != kFields) {
    throw nb::type_error(
        "a sequence must be (token_ids, start, block_ids, sampler, targets, target_top, prompt_tokens, "
        "num_draft)");
  }
  const auto field = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(item, i); };
  const Offsets offsets{tokens_.size(), blocks_.size(), targets_.size(), false};
  SequenceInput input;
  input.num_tokens = append_ids(field(0), tokens_, 0, model.vocab, "token_ids");
  if (input.num_tokens == 0) refuse("token_ids is empty");
  input.start = checked_int(read_int(field(1), "start"), 0, model.max_positions - 1, "start");
  checked_int(int64_t{input.start} + input.num_tokens, 1, model.max_positions, "start + len(token_ids)");
  input.num_blocks = append_ids(field(2), blocks_, 0, kv.native.num_blocks(), "block_ids");
  claim_blocks(blocks_.data() + offsets.blocks, input.start, input.num_tokens, kv);
  PySampler* sampler = nullptr;
  if (field(3) != Py_None && !nb::try_cast(nb::handle(field(3)), sampler, false)) {
    throw nb::type_error("sampler must be a Sampler or None");
  }
  if (sampler != nullptr) {
    if (sampler->busy) refuse("a sampler is in use by a running step");
    if (std::find(samplers.begin(), samplers.end(), sampler) != samplers.end()) {
      refuse("two sequences share a sampler");
    }
    if (sampler->max_token >= model.vocab) refuse("a sampler names token ids beyond the vocabulary");
    input.sampler = &sampler->native;
    alive_.push_back(nb::borrow(field(3)));
  }
  const int32_t targets = append_ids(field(4), targets_, -1, model.vocab, "targets");
  if (targets != 0 && targets != input.num_tokens) refuse("targets must be empty or as long as token_ids");
  input.target_top = checked_int(read_int(field(5), "target_top"), 0, model.vocab, "target_top");
  input.prompt_tokens =
      checked_int(read_int(field(6), "prompt_tokens"), 0, model.max_positions, "prompt_tokens");
  input.num_draft = checked_int(read_int(field(7), "num_draft"), 0, input.num_tokens - 1, "num_draft");
  offsets_.push_back({offsets.tokens, offsets.blocks, offsets.targets, targets > 0});
  samplers.push_back(sampler);
  inputs.push_back(input);
}

/// A block that two sequences write in one step would be a race between threads.
void PyBatch::claim_blocks(const int32_t* blocks, int32_t start, int32_t num_tokens, PyKvPages& kv) {
  const int64_t have = static_cast<int64_t>(blocks_.size()) - (blocks - blocks_.data());
  const int64_t last = (int64_t{start} + num_tokens - 1) / kKvBlock;
  if (have <= last) {
    refuse("block_ids has " + std::to_string(have) + " blocks but start + len(token_ids) needs " +
           std::to_string(last + 1));
  }
  for (int64_t i = start / kKvBlock; i <= last; ++i) {
    uint32_t& mark = kv.written_in[blocks[i]];
    if (mark == kv.step) refuse("block " + std::to_string(blocks[i]) + " would be written twice in one step");
    mark = kv.step;
  }
}

void PyBatch::release() {
  samplers.clear();
  alive_.clear();
}

void PyBatch::drop_outputs() {
  release();
  for (SequenceInput& input : inputs) {
    input.sampler = nullptr;
    input.targets = nullptr;
  }
}

}  // namespace narrows::python
