// Tables of byte pairs, and text that the tokenizers library has split into bytes and words.
#include "narrows/byte_pairs.h"

#include <nanobind/stl/optional.h>

#include <memory>
#include <string>

#include "checks.h"

namespace narrows::python {
namespace {

using namespace nb::literals;
using Ids = nb::ndarray<const uint32_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;
using BytesIn = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<1>>;
using BytesMade = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

struct PyBytePairs {
  BytesIn data;  // kept alive for the view
  BytePairs native;
};

std::span<const uint32_t> span_of(const Ids& ids) { return {ids.data(), ids.size()}; }

/// Refuses an id that is no token, with the name of its argument.
void check_known(const Ids& ids, const std::vector<bool>& known, const char* name) {
  for (const uint32_t id : span_of(ids)) {
    if (id >= known.size() || !known[id])
      refuse(std::string(name) + " names " + std::to_string(id) + ", which is no token");
  }
}

BytesMade pack_tables(const nb::bytes& texts, const Ids& text_sizes, const Ids& ids, const Ids& merges,
                      const Ids& symbols, const Ids& others, bool whole_words) {
  if (text_sizes.size() != ids.size()) refuse("text_sizes and ids differ in length");
  uint64_t total = 0;
  for (const uint32_t size : span_of(text_sizes)) total += size;
  if (total != texts.size() || total > UINT32_MAX) refuse("text_sizes do not add up to the size of texts");
  std::vector<bool> known;
  for (const uint32_t id : span_of(ids)) {
    if (id >= kMaxTokenIds) refuse("an id is " + std::to_string(id) + ", which is too large");
    if (id >= known.size()) known.resize(id + 1);
    if (known[id]) refuse("two tokens have the id " + std::to_string(id));
    known[id] = true;
  }
  if (merges.size() % 3 != 0 || merges.size() / 3 > kMaxTokenIds) refuse("merges has not three ids a merge");
  if (symbols.size() != kBytes) refuse("symbols has not 256 ids");
  if (others.size() > kMaxTokenIds) refuse("others has too many ids");
  check_known(merges, known, "merges");
  check_known(symbols, known, "symbols");
  auto tables = std::make_unique<std::vector<uint8_t>>();
  {
    const nb::gil_scoped_release release;
    *tables = pack_byte_pairs({.texts = {texts.c_str(), texts.size()},
                               .text_sizes = span_of(text_sizes),
                               .ids = span_of(ids),
                               .merges = span_of(merges),
                               .symbols = span_of(symbols),
                               .others = span_of(others),
                               .whole_words = whole_words});
  }
  uint8_t* data = tables->data();
  const size_t size = tables->size();
  nb::capsule owner(tables.release(), [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
  return BytesMade(data, {size}, owner);
}

void open_tables(PyBytePairs* self, const BytesIn& data) {
  BytePairs native;
  {
    const nb::gil_scoped_release release;
    native = BytePairs(data.data(), static_cast<int64_t>(data.size()));
  }
  new (self) PyBytePairs{data, native};
}

/// A whole number of a list, from 0 to `high`.
int64_t number(PyObject* item, int64_t high, const char* name) {
  if (!PyLong_Check(item))
    throw nb::type_error((std::string(name) + " holds something other than int").c_str());
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(item, &overflow);
  if (overflow != 0 || value < 0 || value > high) refuse(std::string(name) + " holds a number out of range");
  return value;
}

nb::list encode(const PyBytePairs& self, const nb::list& symbols, const nb::list& words) {
  const size_t n = symbols.size();
  if (words.size() != n) refuse("symbols and words differ in length");
  std::vector<uint32_t> numbers(n), ids;
  std::vector<int32_t> places(n);
  for (size_t i = 0; i < n; ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    PyObject* word = PyList_GET_ITEM(words.ptr(), at);
    numbers[i] = static_cast<uint32_t>(number(PyList_GET_ITEM(symbols.ptr(), at), UINT32_MAX, "symbols"));
    places[i] = word == Py_None ? -1 : static_cast<int32_t>(number(word, INT32_MAX, "words"));
  }
  {
    const nb::gil_scoped_release release;
    self.native.encode(numbers, places, ids);
  }
  nb::list out;
  for (const uint32_t id : ids) out.append(nb::int_(id));
  return out;
}

nb::object text_of(const PyBytePairs& self, int64_t id) {
  const auto text = self.native.text(id);
  return text ? nb::object(nb::str(text->data(), text->size())) : nb::none();
}

std::optional<uint32_t> id_of(const PyBytePairs& self, const nb::str& text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw nb::python_error();
  return self.native.id({data, static_cast<size_t>(size)});
}

}  // namespace

void bind_byte_pairs(nb::module_& m) {
  m.def("pack_byte_pairs", &pack_tables, "texts"_a, nb::kw_only(), "text_sizes"_a.noconvert(),
        "ids"_a.noconvert(), "merges"_a.noconvert(), "symbols"_a.noconvert(), "others"_a.noconvert(),
        "whole_words"_a);
  nb::class_<PyBytePairs>(m, "BytePairs")
      .def("__init__", &open_tables, "data"_a.noconvert())
      .def("encode", &encode, "symbols"_a, "words"_a)
      .def("text", &text_of, "id"_a)
      .def("id", &id_of, "text"_a);
}

}  // namespace narrows::python
