// dkic._native._rans: the rANS coder and CRC32C for Python. Buffers are not copied, and the GIL is released. The checks here
// guard memory accesses; dkic/coding/rans.py checks first, with error messages for users.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <mutex>

#include "rans/crc32c.h"
#include "rans/rans.h"

namespace py = pybind11;
namespace rans = dkic::rans;

namespace {

template <typename Value>
bool is_flat(const py::array& array) {
  return py::isinstance<py::array_t<Value, py::array::c_style>>(array) && array.ndim() == 1;
}

template <typename Value>
std::span<const Value> flat_span(const py::array& array, const char* what) {
  if (!is_flat<Value>(array)) throw py::type_error(what);
  return {static_cast<const Value*>(array.data()), static_cast<std::size_t>(array.size())};
}

std::span<const std::uint8_t> byte_span(const py::buffer_info& info) {
  if (info.itemsize != 1 || info.ndim != 1 || info.strides[0] != 1) throw py::type_error("data must be contiguous bytes");
  return {static_cast<const std::uint8_t*>(info.ptr), static_cast<std::size_t>(info.size)};
}

std::shared_ptr<rans::TableSet> make_tables(const py::array& frequencies, const py::array& length, const py::array& offset) {
  if (!py::isinstance<py::array_t<std::int32_t, py::array::c_style>>(frequencies) || frequencies.ndim() != 2)
    throw py::type_error("frequencies must be a contiguous int32 array of two dimensions");
  return std::make_shared<rans::TableSet>(
      std::span(static_cast<const std::int32_t*>(frequencies.data()), static_cast<std::size_t>(frequencies.size())),
      static_cast<std::size_t>(frequencies.shape(1)),
      flat_span<std::int32_t>(length, "length must be a contiguous 1-d int32 array"),
      flat_span<std::int32_t>(offset, "offset must be a contiguous 1-d int32 array"));
}

rans::Chunk make_chunk(const py::array& symbols, const py::array& indexes) {
  const auto index_span = flat_span<std::uint8_t>(indexes, "indexes must be a contiguous 1-d uint8 array");
  if (symbols.size() != indexes.size()) throw std::invalid_argument("symbols and indexes must have the same length");
  if (is_flat<std::int16_t>(symbols))
    return {static_cast<const std::int16_t*>(symbols.data()), nullptr, index_span.data(), index_span.size()};
  return {nullptr, flat_span<std::int32_t>(symbols, "symbols must be a contiguous 1-d int16 or int32 array").data(),
          index_span.data(), index_span.size()};
}

py::bytes encode(const rans::TableSet& tables, const py::list& pairs, std::size_t lanes) {
  std::vector<rans::Chunk> chunks;
  std::vector<py::array> kept;  // keeps the arrays alive while the GIL is released, even if the list changes
  for (const auto& pair : pairs) {
    auto [symbols, indexes] = pair.cast<std::pair<py::array, py::array>>();
    chunks.push_back(make_chunk(symbols, indexes));
    kept.push_back(std::move(symbols));
    kept.push_back(std::move(indexes));
  }
  std::string data;
  {
    const py::gil_scoped_release release;
    data = rans::encode(tables, chunks, lanes);
  }
  return data;
}

class Decoder {
 public:
  Decoder(const py::buffer& data, std::shared_ptr<rans::TableSet> tables)
      : decoder_(byte_span(data.request()), std::move(tables)) {}

  py::array_t<std::int32_t> pull(const py::array& indexes) {
    const auto index_span = flat_span<std::uint8_t>(indexes, "indexes must be a contiguous 1-d uint8 array");
    py::array_t<std::int32_t> symbols(indexes.size());
    std::int32_t* const out = symbols.mutable_data();
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      decoder_.pull(index_span, out);
    }
    return symbols;
  }

  void finish() {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(mutex_);
    decoder_.finish();
  }

 private:
  rans::Decoder decoder_;
  std::mutex mutex_;  // threads that share a decoder get symbols in an arbitrary order, but its state stays consistent
};

std::uint32_t crc32c(const py::buffer& data, std::uint32_t crc) {
  const py::buffer_info info = data.request();
  const auto bytes = byte_span(info);
  const py::gil_scoped_release release;
  return dkic::crc32c(bytes, crc);
}

}  // namespace

PYBIND11_MODULE(_rans, module) {
  module.doc() = "rANS coder and CRC32C; use dkic.coding.rans and dkic.coding.container.";
  py::register_exception<rans::Damaged>(module, "Damaged", PyExc_ValueError);
  py::class_<rans::TableSet, std::shared_ptr<rans::TableSet>>(module, "TableSet")
      .def(py::init(&make_tables), py::arg("frequencies"), py::arg("length"), py::arg("offset"));
  module.def("encode", &encode, py::arg("tables"), py::arg("chunks"), py::arg("lanes") = 0);
  py::class_<Decoder>(module, "Decoder")
      .def(py::init<const py::buffer&, std::shared_ptr<rans::TableSet>>(), py::arg("data"), py::arg("tables"))
      .def("pull", &Decoder::pull, py::arg("indexes"))
      .def("finish", &Decoder::finish);
  module.def("crc32c", &crc32c, py::arg("data"), py::arg("crc") = 0);
}
