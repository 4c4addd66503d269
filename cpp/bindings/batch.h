// Reads the sequences of a step from Python into flat memory that is kept between steps, checking every
// number once.
#pragma once
#include <vector>

#include "model.h"
#include "sampler.h"

namespace narrows::python {

struct KvShape {
  int32_t kv_heads, head_dim;
  KvFormat format;
};

struct PyKvPages {
  PyKvPages(const PyModel& model, int32_t num_blocks);

  KvPages native;
  std::vector<KvShape> shapes;       // per layer
  std::vector<uint32_t> written_in;  // last step that wrote a block
  uint32_t step = 0;

  bool fits(const Model& model) const;
};

class PyBatch {
 public:
  /// ValueError or TypeError for anything a step could not run.
  void read(nb::handle sequences, const Model& model, PyKvPages& kv, int32_t max_rows);
  /// Samples nothing and scores nothing.
  void drop_outputs();
  /// Lets go of the samplers.
  void release();
  int64_t num_rows() const { return static_cast<int64_t>(ids_rows_); }

  std::vector<SequenceInput> inputs;
  std::vector<PySampler*> samplers;  // null: none

 private:
  struct Offsets {
    size_t tokens, blocks, targets;
    bool has_targets;
  };
  void read_sequence(PyObject* item, const Model& model, PyKvPages& kv);
  void claim_blocks(const int32_t* blocks, int32_t start, int32_t num_tokens, PyKvPages& kv);

  std::vector<int32_t> tokens_, blocks_, targets_;
  std::vector<nb::object> alive_;  // the samplers: another thread may empty the caller's list while we run
  std::vector<Offsets> offsets_;
  size_t ids_rows_ = 0;
};

}  // namespace narrows::python
