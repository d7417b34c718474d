// The rANS decoder and the CRC under whatever bytes there can be: a libFuzzer target, or, with standalone.cpp, a program.
//
// An input makes tables, indexes and either a stream or symbols, whose stream is damaged then. Damage may be refused or not,
// but a stream that is accepted is the one that its symbols are coded as. What goes wrong calls abort or a sanitizer.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "rans/crc32c.h"
#include "rans/rans.h"

namespace {

using namespace dkic;
using Bytes = std::vector<std::uint8_t>;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "it does not hold that %s\n", what);
  std::abort();
}

// An input from front to back; what is read behind its end is zero.
struct Input {
  std::span<const std::uint8_t> left;

  std::uint32_t take(int bytes) {
    std::uint32_t value = 0;
    for (; bytes > 0; --bytes) {
      value = value << 8 | (left.empty() ? 0u : left[0]);
      if (!left.empty()) left = left.subspan(1);
    }
    return value;
  }
};

// As many tables as are asked for, each of up to `longest` symbols, or of all the 65,536 there may be.
std::shared_ptr<const rans::TableSet> make_tables(Input& input, std::size_t count, std::uint32_t longest) {
  std::vector<std::vector<std::int32_t>> rows(count);
  std::vector<std::int32_t> length, offset;
  std::size_t columns = 0;
  for (auto& row : rows) {
    row.assign(longest == rans::probability_one ? longest : 1 + input.take(1) % longest, 1);
    auto rest = static_cast<std::int32_t>(rans::probability_one - row.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(row.size(), 8) && rest > 0; ++i) {
      const auto part = static_cast<std::int32_t>(input.take(2)) % (rest + 1);
      row[input.take(1) % row.size()] += part;
      rest -= part;
    }
    row[input.take(1) % row.size()] += rest;
    length.push_back(static_cast<std::int32_t>(row.size()));
    // Mostly about zero, where symbols are; else anywhere, so that sums meet the ends of int32.
    const std::uint32_t place = input.take(1);
    offset.push_back(place < 200 ? static_cast<std::int32_t>(place) - 100 : static_cast<std::int32_t>(input.take(4)));
    columns = std::max(columns, row.size());
  }
  std::vector<std::int32_t> frequencies;
  for (auto& row : rows) {
    row.resize(columns);
    frequencies.insert(frequencies.end(), row.begin(), row.end());
  }
  return std::make_shared<rans::TableSet>(frequencies, columns, length, offset);
}

// nullopt where the stream is refused.
std::optional<std::vector<std::int32_t>> decode(const Bytes& stream, const std::shared_ptr<const rans::TableSet>& tables,
                                                const Bytes& indexes, std::size_t at_a_time) {
  std::vector<std::int32_t> symbols(indexes.size());
  try {
    rans::Decoder decoder(stream, tables);
    for (std::size_t i = 0; i < indexes.size(); i += at_a_time) {
      const std::size_t count = std::min(at_a_time, indexes.size() - i);
      decoder.pull(std::span(indexes).subspan(i, count), symbols.data() + i);
    }
    decoder.finish();
  } catch (const rans::Damaged&) {
    return std::nullopt;
  }
  return symbols;
}

Bytes encode(const rans::TableSet& tables, const std::vector<std::int32_t>& symbols, const Bytes& indexes, std::size_t lanes) {
  const rans::Chunk chunk{nullptr, symbols.data(), indexes.data(), indexes.size()};
  const std::string data = rans::encode(tables, {&chunk, 1}, lanes);
  return {data.begin(), data.end()};
}

void check_stream(const Bytes& stream, const std::shared_ptr<const rans::TableSet>& tables, const Bytes& indexes,
                  std::size_t at_a_time) {
  const auto symbols = decode(stream, tables, indexes, at_a_time);
  if (!symbols || (indexes.empty() && stream.size() > 1)) return;  // of no symbols, no lanes are known to be coded
  const std::size_t lanes = stream.empty() ? 1 : std::size_t{1} << stream[0];
  expect(encode(*tables, *symbols, indexes, lanes) == stream, "an accepted stream is the one its symbols are coded as");
}

void damage(Bytes& stream, Input& input) {
  for (std::uint32_t edits = 1 + input.take(1) % 4; edits > 0 && !stream.empty(); --edits) {
    const std::uint32_t how = input.take(1);
    const auto place = static_cast<std::ptrdiff_t>(input.take(2) % stream.size());
    const auto value = static_cast<std::uint8_t>(input.take(1));
    if (how % 4 == 0) stream.resize(static_cast<std::size_t>(place));
    if (how % 4 == 1) stream[static_cast<std::size_t>(place)] = value;
    if (how % 4 == 2) stream[static_cast<std::size_t>(place)] ^= static_cast<std::uint8_t>(1u << value % 8);
    if (how % 4 == 3) stream.insert(stream.begin() + place, 1 + value % 8, value);
  }
}

void check_coder(Input input) {
  const std::uint32_t mode = input.take(1);
  const bool all_symbols = mode % 32 == 31;
  const auto tables = make_tables(input, all_symbols ? 1 : 1 + input.take(1) % 5, all_symbols ? rans::probability_one : 40);
  Bytes indexes(input.take(2) % 4000);
  const Bytes pattern{static_cast<std::uint8_t>(input.take(1)), static_cast<std::uint8_t>(input.take(1)), 0};
  for (std::size_t i = 0; i < indexes.size(); ++i)
    indexes[i] = static_cast<std::uint8_t>((pattern[i % 3] >> i % 7) % tables->count());
  const std::size_t at_a_time = 1 + input.take(2) % 5000;
  if (mode & 1) {
    check_stream({input.left.begin(), input.left.end()}, tables, indexes, at_a_time);
    return;
  }
  const std::size_t lanes = std::size_t{1} << input.take(1) % 4;
  const Input edits{input.left.first(std::min<std::size_t>(input.left.size(), 17))};
  std::vector<std::int32_t> symbols(indexes.size());
  for (auto& symbol : symbols) {
    const std::uint32_t kind = input.take(1);
    symbol = static_cast<std::int32_t>(kind < 250 ? kind % 8 - 4 + static_cast<std::uint32_t>(tables->tables[0].offset)
                                                  : input.take(4));
  }
  Bytes stream = encode(*tables, symbols, indexes, lanes);
  expect(decode(stream, tables, indexes, at_a_time) == symbols, "symbols come back");
  Input edit = edits;
  damage(stream, edit);
  check_stream(stream, tables, indexes, at_a_time);
}

void check_crc(std::span<const std::uint8_t> data) {
  std::uint32_t bitwise = ~0u;
  for (const std::uint8_t byte : data) {
    bitwise ^= byte;
    for (int bit = 0; bit < 8; ++bit) bitwise = bitwise >> 1 ^ (bitwise & 1 ? 0x82F63B78u : 0u);
  }
  expect(crc32c(data) == ~bitwise, "the CRC is that of the definition");
  const std::size_t cut = data.empty() ? 0 : data[0] % data.size();
  expect(crc32c(data.subspan(cut), crc32c(data.first(cut))) == ~bitwise, "a CRC goes on from another");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::clock_t start = std::clock();
  check_crc({data, size});
  try {
    check_coder({{data, size}});
  } catch (const std::invalid_argument&) {  // tables that can't be
  }
  // Of the processor's time: a busy machine must not look like a slow decoder.
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  expect(seconds < 2.0 * static_cast<double>(1 + size / 1024), "no input takes more than 2 s per KB");
  return 0;
}
