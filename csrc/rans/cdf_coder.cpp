#include "rans/cdf_coder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace dkic::cdf_coder {
namespace {

static_assert(std::endian::native == std::endian::little, "words of a stream are little-endian");

constexpr int kPrecision = 16, kNibble = 4;
constexpr uint32_t kOne = 1u << kPrecision, kMostNibble = (1u << kNibble) - 1;
constexpr uint64_t kLeastState = 1ull << 31;
constexpr uint32_t kMostNibbles = 8;  // in a 32-bit value

// Words in the order of writing, which is the reverse of the order in the stream.
class Writer {
 public:
  void put(uint32_t start, uint32_t frequency) {
    renormalize((kLeastState >> kPrecision << 32) * frequency);
    x_ = (x_ / frequency << kPrecision) + x_ % frequency + start;
  }
  void put_nibble(uint32_t value) {
    renormalize(kLeastState >> kNibble << 32);
    x_ = x_ << kNibble | value;
  }
  std::string finish() {
    words_.push_back(uint32_t(x_ >> 32));
    words_.push_back(uint32_t(x_));
    std::reverse(words_.begin(), words_.end());
    return {reinterpret_cast<const char*>(words_.data()), 4 * words_.size()};
  }

 private:
  void renormalize(uint64_t limit) {
    if (x_ < limit) return;
    words_.push_back(uint32_t(x_));
    x_ >>= 32;
  }

  uint64_t x_ = kLeastState;
  std::vector<uint32_t> words_;
};

void put_escaped(Writer& writer, uint32_t value) {
  const uint32_t count = (uint32_t(std::bit_width(value)) + kNibble - 1) / kNibble;  // at most 8, so its own nibble suffices
  for (uint32_t i = count; i-- > 0;) writer.put_nibble(value >> (kNibble * i) & kMostNibble);
  writer.put_nibble(count);
}

}  // namespace

Tables::Tables(std::span<const int32_t> cdf, std::size_t columns, std::span<const int32_t> length,
               std::span<const int32_t> offset, bool indexed)
    : cdf_(cdf), length_(length), offset_(offset), columns_(columns), indexed_(indexed), rows_(length.size()) {
  if (columns == 0 || cdf.size() / columns != length.size() || cdf.size() % columns != 0 || offset.size() != length.size())
    throw std::invalid_argument("cdf_length and offset must have one entry for each row of cdf");
}

void Tables::reject(int64_t index) const {
  throw std::invalid_argument("index " + std::to_string(index) + " has no row in cdf, which has " + std::to_string(rows_.size()));
}

const Tables::Row& Tables::validated(std::size_t index) {
  const int64_t length = length_[index];
  const std::string name = "row " + std::to_string(index) + " of cdf";
  if (length < 2 || length > int64_t(columns_))
    throw std::invalid_argument(name + ": its length must be from 2 to the number of columns, and is " + std::to_string(length));
  const int32_t* const cdf = &cdf_[index * columns_];
  bool valid = cdf[0] == 0 && cdf[length - 1] == int32_t(kOne);
  for (int64_t i = 1; i < length; ++i) valid &= cdf[i - 1] <= cdf[i];
  if (!valid) throw std::invalid_argument(name + ": it must rise from 0 to 65536 within its length");

  Row row{cdf, int32_t(length - 2), offset_[index], 0, kPrecision};
  if (indexed_) {
    // About two buckets a symbol.
    const int bits = std::clamp(int(std::bit_width(uint64_t(length))) + 1, 4, 12);
    row.bucket_shift = uint8_t(kPrecision - bits);
    row.first_bucket = uint32_t(buckets_.size());
    uint32_t number = 0;
    for (uint32_t slot = 0; slot < kOne; slot += 1u << row.bucket_shift) {
      while (uint32_t(cdf[number + 1]) <= slot) ++number;
      buckets_.push_back(uint16_t(number));
    }
  }
  return rows_[index] = row;
}

uint32_t Tables::find(const Row& row, uint32_t slot) const {
  if (!indexed_) return uint32_t(std::upper_bound(row.cdf + 1, row.cdf + row.sentinel + 1, int32_t(slot)) - row.cdf) - 1;
  uint32_t number = buckets_[row.first_bucket + (slot >> row.bucket_shift)];
  while (uint32_t(row.cdf[number + 1]) <= slot) ++number;
  return number;
}

template <class Index>
std::string encode(Tables& tables, std::span<const int32_t> symbols, const Index* indexes) {
  Writer writer;
  for (std::size_t i = symbols.size(); i-- > 0;) {
    const Tables::Row& row = tables.row(indexes[i]);
    int64_t value = int64_t(symbols[i]) - row.offset;
    if (value < 0 || value >= row.sentinel) {
      const int64_t distance = value < 0 ? -2 * value - 1 : 2 * (value - row.sentinel);
      if (distance > int64_t(std::numeric_limits<uint32_t>::max()))
        throw std::invalid_argument("symbol " + std::to_string(symbols[i]) + " is too far from its row's range to be coded");
      put_escaped(writer, uint32_t(distance));
      value = row.sentinel;
    }
    const uint32_t start = uint32_t(row.cdf[value]), frequency = uint32_t(row.cdf[value + 1]) - start;
    if (frequency == 0)
      throw std::invalid_argument("symbol " + std::to_string(symbols[i]) + " has probability 0 in row " +
                                  std::to_string(indexes[i]) + " of cdf");
    writer.put(start, frequency);
  }
  return writer.finish();
}

template std::string encode(Tables&, std::span<const int32_t>, const uint8_t*);
template std::string encode(Tables&, std::span<const int32_t>, const int32_t*);

Decoder::Decoder(std::span<const uint8_t> data) : data_(data) {
  damaged_ = data.size() < 8 || data.size() % 4 != 0;
  if (damaged_) return;
  std::memcpy(&state_.x, data.data(), 8);
  state_.next = 2;
  damaged_ = state_.x < kLeastState || state_.x >> 63;
}

Decoder::Decoder(std::span<const uint8_t> data, State state) : data_(data), state_(state) {
  damaged_ =
      data.size() % 4 != 0 || state.next < 2 || state.next > int64_t(data.size() / 4) || state.x < kLeastState || state.x >> 63;
}

bool Decoder::next_word() {
  if (state_.x >= kLeastState) return true;
  if (4 * uint64_t(state_.next) + 4 > data_.size()) return false;
  uint32_t word;
  std::memcpy(&word, data_.data() + 4 * state_.next++, 4);
  state_.x = state_.x << 32 | word;
  return true;
}

bool Decoder::nibble(uint32_t& value) {
  value = uint32_t(state_.x) & kMostNibble;
  state_.x >>= kNibble;
  return next_word();
}

bool Decoder::escaped(int64_t sentinel, int64_t& value) {
  uint32_t count = 0, digit = kMostNibble;
  while (digit == kMostNibble) {
    if (!nibble(digit)) return false;
    count += digit;
    if (count > kMostNibbles) return false;
  }
  uint64_t distance = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (!nibble(digit)) return false;
    distance |= uint64_t(digit) << (kNibble * i);
  }
  const int64_t away = int64_t(distance >> 1);
  value = distance & 1 ? -away - 1 : away + sentinel;
  return true;
}

template <class Index>
bool Decoder::decode(Tables& tables, const Index* indexes, std::size_t count, int32_t* symbols) {
  if (damaged_) return false;
  for (std::size_t i = 0; i < count; ++i) {
    const Tables::Row& row = tables.row(indexes[i]);
    const uint32_t slot = uint32_t(state_.x) & (kOne - 1), number = tables.find(row, slot);
    const uint32_t start = uint32_t(row.cdf[number]);
    state_.x = (state_.x >> kPrecision) * (uint32_t(row.cdf[number + 1]) - start) + (slot - start);
    int64_t value = number;
    damaged_ = !next_word() || (value == row.sentinel && !escaped(row.sentinel, value));
    value += row.offset;
    damaged_ |= value != int32_t(value);
    if (damaged_) return false;
    symbols[i] = int32_t(value);
  }
  return true;
}

template bool Decoder::decode(Tables&, const uint8_t*, std::size_t, int32_t*);
template bool Decoder::decode(Tables&, const int32_t*, std::size_t, int32_t*);

bool Decoder::finished() const { return !damaged_ && state_.x == kLeastState && 4 * uint64_t(state_.next) == data_.size(); }

}  // namespace dkic::cdf_coder
