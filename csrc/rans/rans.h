// rANS entropy coder: 64-bit states, 32-bit words, 16-bit probabilities, 1, 2, 4 or 8 interleaved lanes.
//
// The stream format is specified in dkic/coding/rans.py. This code is independent of Python and torch. Every read of coded data
// is bounds-checked. For any data, a pull ends after one step (and at most one bounded escape) for each index, or throws Damaged.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace dkic::rans {

// The coded data was not written by encode() with these tables and indexes.
struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr int probability_bits = 16;
inline constexpr std::uint32_t probability_one = 1u << probability_bits;
// States are in [state_min, state_min << 32); the encoder starts, and the decoder ends, at state_min.
inline constexpr std::uint64_t state_min = std::uint64_t{1} << 31;
inline constexpr std::size_t max_lanes = 8;
inline constexpr std::size_t max_tables = 256;  // an index is one byte
inline constexpr int max_escape_bits = 33;      // bits that follow the unary prefix of an escaped value

// A row of frequencies prepared for encoding and decoding. Symbols are numbered from 0 within their table; the last number,
// `escape`, represents all values outside [offset, offset + escape).
struct alignas(32) Table {
  std::int32_t offset;
  std::uint32_t escape;
  std::uint32_t first;         // index of its first entry in TableSet::encode_entries
  std::uint32_t first_start;   // ... in TableSet::starts, which has one more for each table: the end, 2^16
  std::uint32_t first_bucket;  // ... in TableSet::buckets
  std::uint8_t bucket_shift;   // slot >> bucket_shift is the bucket
  std::uint8_t escape_order;   // k of the Exp-Golomb code of escaped values
};

// Division by the frequency as a multiplication (Granlund and Montgomery, the way of F. Giesen's rans64):
// exact for every state below 2^63.
struct EncodeEntry {
  std::uint64_t reciprocal;
  std::uint32_t bias;
  std::uint16_t complement;  // 2^16 - frequency, which is below 2^16 as no frequency is 0
  std::uint8_t shift;
};

// Frequency tables, checked and prepared once. They are immutable, so coders and threads may share them.
class TableSet {
 public:
  // frequencies: rows x columns; row t holds length[t] frequencies, each at least 1, with the sum 2^16; the last one is that of
  // the escape symbol. Throws std::invalid_argument.
  TableSet(std::span<const std::int32_t> frequencies, std::size_t columns, std::span<const std::int32_t> length,
           std::span<const std::int32_t> offset);

  std::size_t count() const { return count_; }

  // Tables beyond count() repeat table 0, so that no index is out of range.
  std::array<Table, max_tables> tables;
  std::vector<EncodeEntry> encode_entries;
  std::vector<std::uint16_t> costs;    // bits of each entry in 1/2048, rounded down
  std::vector<std::uint32_t> starts;   // cumulative frequencies
  std::vector<std::uint16_t> buckets;  // first symbol whose interval overlaps the bucket

 private:
  std::size_t count_;
  void add(std::size_t row, std::span<const std::int32_t> frequencies, std::int32_t offset);
};

// Symbols to code with the table of each; exactly one of the two symbol pointers is set.
struct Chunk {
  const std::int16_t* narrow;
  const std::int32_t* wide;
  const std::uint8_t* indexes;
  std::size_t count;
};

// Encodes the symbols of the chunks, in order, as one stream. lanes: 1, 2, 4, 8, or 0 to choose by the coded size.
// Throws std::invalid_argument for an index >= tables.count() or another number of lanes.
std::string encode(const TableSet& tables, std::span<const Chunk> chunks, std::size_t lanes = 0);

// Decodes the symbols of a stream in the order of encoding, in one or more calls.
class Decoder {
 public:
  // Copies data. Throws Damaged.
  Decoder(std::span<const std::uint8_t> data, std::shared_ptr<const TableSet> tables);

  // Decodes indexes.size() symbols. Throws Damaged; std::invalid_argument for an index >= tables.count().
  void pull(std::span<const std::uint8_t> indexes, std::int32_t* symbols);

  // Throws Damaged unless exactly the symbols of the stream have been decoded.
  void finish() const;

 private:
  std::shared_ptr<const TableSet> tables_;
  std::array<std::uint64_t, max_lanes> states_;
  std::size_t lanes_ = 1;
  std::size_t position_ = 0;          // number of decoded symbols; the next symbol's lane is position_ % lanes_
  std::vector<std::uint32_t> words_;  // followed by max_lanes zeros, so that a round of all lanes needs one bounds check
  std::size_t next_ = 0;              // next word to read
  std::size_t end_ = 0;               // number of words in the stream

  template <std::size_t lanes>
  void pull_lanes(std::span<const std::uint8_t> indexes, std::int32_t* symbols);
  std::int32_t pull_escape(std::uint64_t& state, std::size_t& next, const Table& table) const;
};

}  // namespace dkic::rans
