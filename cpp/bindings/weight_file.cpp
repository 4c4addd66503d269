// A file of packed weights as a read-only array that keeps its memory alive.
#include "narrows/weight_file.h"

#include <cerrno>
#include <new>
#include <system_error>

#include "checks.h"

namespace narrows::python {
namespace {

using namespace nb::literals;
using BytesView = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;

/// OSError for what WeightFile throws.
void open_file(WeightFile* self, int file, int64_t offset, int64_t num_bytes) {
  try {
    new (self) WeightFile(file, offset, num_bytes);
    return;
  } catch (const std::system_error& error) {
    errno = error.code().value();
  }
  PyErr_SetFromErrno(PyExc_OSError);
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
