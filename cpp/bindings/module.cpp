// The module narrows._core; src/narrows/_core.pyi is its contract.
#include "checks.h"

NB_MODULE(_core, m) {
  m.doc() = "The native core of Narrows.";
  // Objects alive at interpreter exit are the interpreter's business: reporting them would scare users.
  nanobind::set_leak_warnings(false);
  narrows::python::bind_weights(m);
  narrows::python::bind_weight_file(m);
  narrows::python::bind_byte_pairs(m);
  narrows::python::bind_model(m);
  narrows::python::bind_sampler(m);
  narrows::python::bind_drafter(m);
  narrows::python::bind_transformer(m);
}
