// A file of packed weights as a read-only array that keeps its memory alive.
#include "narrows/weight_file.h"

#include <new>
#include <string>
#include <system_error>

#include "checks.h"

namespace narrows::python {
namespace {

using namespace nb::literals;
using BytesView = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;

/// OSError for what WeightFile throws.
void open_file(WeightFile* self, int file, int64_t offset, int64_t num_bytes) {
  std::string reason;
  {
    const nb::gil_scoped_release release;
    try {
      new (self) WeightFile(file, offset, num_bytes);
      return;
    } catch (const std::system_error& error) {
      reason = error.what();
    }
  }
  PyErr_SetString(PyExc_OSError, reason.c_str());
  throw nb::python_error();
}

}  // namespace

void bind_weight_file(nb::module_& m) {
  nb::class_<WeightFile>(m, "WeightFile")
      .def("__init__", &open_file, "file"_a, nb::kw_only(), "offset"_a, "num_bytes"_a)
      .def_prop_ro("data",
                   [](WeightFile& self) {
                     return BytesView(self.data(), {static_cast<size_t>(self.bytes())}, nb::find(self));
                   })
      .def("start_moving", &WeightFile::start_moving)
      .def("finish_moving", &WeightFile::finish_moving, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("moved_bytes", &WeightFile::moved_bytes);
}

}  // namespace narrows::python
