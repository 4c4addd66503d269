// Python's Drafter, RecentOutputs and Chances.
#include "narrows/drafter.h"

#include "checks.h"

namespace narrows::python {
namespace {

using namespace nb::literals;

/// Token ids of a Python sequence.
std::vector<int32_t> read_tokens(nb::handle ids) {
  const nb::object list = nb::steal(PySequence_Fast(ids.ptr(), "token_ids must be a sequence"));
  if (!list.is_valid()) nb::raise_python_error();
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(list.ptr());
  if (count > kMaxDimension) refuse("token_ids is too long");
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    const int64_t id = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(list.ptr(), i));
    if (id == -1 && PyErr_Occurred()) nb::raise_python_error();
    tokens[static_cast<size_t>(i)] = checked_int(id, 0, kMaxDimension, "a token id");
  }
  return tokens;
}

/// The text of one request may not outgrow the counters of its automaton.
struct PyDrafter {
  PyDrafter(Chances* everyone, const RecentOutputs* recent) : native(everyone, recent) {}
  std::vector<int32_t> take(nb::handle ids) {
    std::vector<int32_t> tokens = read_tokens(ids);
    if (size + static_cast<int64_t>(tokens.size()) > kMaxDimension) refuse("the text is too long");
    size += static_cast<int64_t>(tokens.size());
    return tokens;
  }
  void read(nb::handle ids) {
    const std::vector<int32_t> tokens = take(ids);
    native.read(tokens.data(), static_cast<int64_t>(tokens.size()));
  }
  double follow(nb::handle ids, int64_t most) {
    const int32_t limit = checked_int(most, 0, kMaxDimension, "most");
    const std::vector<int32_t> tokens = take(ids);
    return native.follow(tokens.data(), static_cast<int64_t>(tokens.size()), limit);
  }
  nb::tuple draft(int64_t most) const {
    std::vector<double> chances;
    nb::list tokens, reached;
    for (int32_t token : native.draft(checked_int(most, 0, kMaxDimension, "most"), chances)) {
      tokens.append(token);
    }
    for (double chance : chances) reached.append(chance);
    return nb::make_tuple(tokens, reached);
  }

  Drafter native;
  int64_t size = 0;
};

}  // namespace

void bind_drafter(nb::module_& m) {
  nb::class_<RecentOutputs>(m, "RecentOutputs")
      .def(
          "__init__",
          [](RecentOutputs* self, int64_t capacity) {
            new (self) RecentOutputs(checked_int(capacity, 8, 1 << 26, "capacity"));
          },
          "capacity"_a)
      .def(
          "add",
          [](RecentOutputs& self, nb::handle ids) {
            const std::vector<int32_t> tokens = read_tokens(ids);
            self.add(tokens.data(), static_cast<int64_t>(tokens.size()));
          },
          "token_ids"_a)
      .def_prop_ro("bytes", &RecentOutputs::bytes);
  nb::class_<Chances>(m, "Chances")
      .def(
          "__init__",
          [](Chances* self, double memory) {
            if (!(memory > 0 && memory < 1)) refuse("memory must lie between 0 and 1");
            new (self) Chances(memory);
          },
          "memory"_a);
  nb::class_<PyDrafter>(m, "Drafter")
      .def(nb::init<Chances*, const RecentOutputs*>(), "everyone"_a.none() = nb::none(),
           "recent"_a.none() = nb::none(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
      .def("read", &PyDrafter::read, "token_ids"_a)
      .def("follow", &PyDrafter::follow, "token_ids"_a, "most"_a)
      .def("draft", &PyDrafter::draft, "most"_a)
      .def_prop_ro("match_length", [](const PyDrafter& self) { return self.native.match_length(); })
      .def_prop_ro("bytes", [](const PyDrafter& self) { return self.native.bytes(); });
}

}  // namespace narrows::python
