// Python's KvPages and Transformer. A step reads its arguments, releases the GIL, computes, and hands tuples
// back.
#include "narrows/transformer.h"

#include <nanobind/stl/string.h>

#include "batch.h"

namespace narrows::python {
namespace {

using namespace nb::literals;

constexpr int64_t kMaxStepTokens = 1 << 20;
constexpr const char* kOpNames[kOpGroups] = {"attention", "qkv", "out", "up", "down", "head", "other"};

class PyTransformer {
 public:
  PyTransformer(const PyModel& model, ThreadPool& pool, int64_t max_step_tokens, const std::string& isa)
      : native_(model.native, pool, parse_isa(isa),
                checked_int(max_step_tokens, 1, kMaxStepTokens, "max_step_tokens")) {}

  nb::list step(PyKvPages& kv, nb::handle sequences);
  FloatsOut step_logits(PyKvPages& kv, nb::handle sequences);
  nb::dict op_times();
  const Transformer& native() const { return native_; }

 private:
  /// Marks the transformer and its samplers as busy while the GIL is released.
  class Busy {
   public:
    explicit Busy(PyTransformer& owner) : owner_(owner) { set(true); }
    ~Busy() { set(false); }

   private:
    void set(bool busy) {
      owner_.busy_ = busy;
      for (PySampler* sampler : owner_.batch_.samplers) {
        if (sampler != nullptr) sampler->busy = busy;
      }
    }
    PyTransformer& owner_;
  };

  void refuse_busy() const {
    if (busy_) throw std::runtime_error("the transformer is already running a step in another thread");
  }
  nb::tuple result(size_t sequence) const;

  Transformer native_;
  PyBatch batch_;
  std::vector<SequenceOutput> outputs_;
  bool busy_ = false;
};

nb::tuple PyTransformer::result(size_t sequence) const {
  const SequenceOutput& out = outputs_[sequence];
  nb::list targets;
  for (size_t i = 0; i < out.targets.size(); ++i) {
    targets.append(nb::make_tuple(out.targets[i].logprob, top_list(out.target_top[i])));
  }
  nb::list drawn;
  for (const Sampled& sampled : out.drawn) {
    drawn.append(nb::make_tuple(sampled.token, sampled.logprob, top_list(sampled.top)));
  }
  return nb::make_tuple(drawn, targets);
}

nb::list PyTransformer::step(PyKvPages& kv, nb::handle sequences) {
  refuse_busy();
  batch_.read(sequences, native_.model(), kv, native_.max_step_tokens());
  {
    const Busy busy(*this);
    const nb::gil_scoped_release release;
    native_.step(kv.native, batch_.inputs, outputs_);
  }
  nb::list results;
  for (size_t i = 0; i < outputs_.size(); ++i) results.append(result(i));
  batch_.release();
  return results;
}

FloatsOut PyTransformer::step_logits(PyKvPages& kv, nb::handle sequences) {
  refuse_busy();
  batch_.read(sequences, native_.model(), kv, native_.max_step_tokens());
  batch_.drop_outputs();
  FloatsOut logits = make_floats(batch_.num_rows(), native_.model().vocab);
  const Busy busy(*this);
  const nb::gil_scoped_release release;
  native_.step(kv.native, batch_.inputs, outputs_, logits.data());
  return logits;
}

nb::dict PyTransformer::op_times() {
  refuse_busy();  // the lock inside would otherwise be waited for with the GIL held
  const std::array<double, kOpGroups> seconds = native_.take_op_times();
  nb::dict times;
  for (int i = 0; i < kOpGroups; ++i) times[kOpNames[i]] = seconds[i];
  return times;
}

}  // namespace

void bind_transformer(nb::module_& m) {
  nb::class_<PyKvPages>(m, "KvPages")
      .def(
          "__init__",
          [](PyKvPages* self, const PyModel& model, int64_t num_blocks) {
            new (self) PyKvPages(model, checked_int(num_blocks, 1, kMaxDimension, "num_blocks"));
          },
          "model"_a, "num_blocks"_a)
      .def_prop_ro("num_blocks", [](const PyKvPages& self) { return self.native.num_blocks(); })
      .def_prop_ro("bytes", [](const PyKvPages& self) { return self.native.bytes(); })
      .def_static(
          "block_bytes", [](const PyModel& model) { return KvPages::block_bytes(model.native); }, "model"_a);
  nb::class_<PyTransformer>(m, "Transformer")
      .def(nb::init<const PyModel&, ThreadPool&, int64_t, const std::string&>(), "model"_a, "pool"_a,
           "max_step_tokens"_a, "isa"_a = "", nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
      .def("step", &PyTransformer::step, "kv"_a, "sequences"_a)
      .def("step_logits", &PyTransformer::step_logits, "kv"_a, "sequences"_a)
      .def_prop_ro("max_step_tokens",
                   [](const PyTransformer& self) { return self.native().max_step_tokens(); })
      .def_prop_ro("weight_bytes_per_step",
                   [](const PyTransformer& self) { return self.native().weight_bytes_per_step(); })
      .def_prop_ro("scratch_bytes", [](const PyTransformer& self) { return self.native().scratch_bytes(); })
      .def("op_times", &PyTransformer::op_times);
}

}  // namespace narrows::python
