// The rANS coder of rans.h: preparing tables, encoding backwards, decoding forwards.
#include "rans/rans.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace dkic::rans {

static_assert(std::endian::native == std::endian::little, "words are copied to and from the stream as they lie in memory");

namespace {

constexpr std::uint32_t slot_mask = probability_one - 1;
constexpr int cost_one_bit = 2048;
// The 8-byte states of the lanes are at most 0.05 % of the stream.
constexpr std::size_t bytes_per_lane = 16000;
// An upper bound of the coding steps of an escaped value, each of which emits at most one word.
constexpr std::size_t max_escape_words = 64;

// std::bit_width, whose result is int in newer standard libraries only.
int bit_width(std::uint64_t value) { return 64 - std::countl_zero(value); }

std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<uint128>(a) * b) >> 64);
}

EncodeEntry make_entry(std::uint32_t start, std::uint32_t frequency) {
  EncodeEntry entry{};
  entry.complement = static_cast<std::uint16_t>(probability_one - frequency);
  if (frequency == 1) {  // the quotient comes out as state - 1; the bias makes up for it
    entry.reciprocal = std::numeric_limits<std::uint64_t>::max();
    entry.bias = start + probability_one - 1;
    return entry;
  }
  const int shift = bit_width(frequency - 1);
  __extension__ using uint128 = unsigned __int128;
  entry.reciprocal = static_cast<std::uint64_t>(((static_cast<uint128>(1) << (shift + 63)) + frequency - 1) / frequency);
  entry.bias = start;
  entry.shift = static_cast<std::uint8_t>(shift - 1);
  return entry;
}

// 32-bit words written from high to low addresses, so that the decoder reads them in ascending order.
class WordStack {
 public:
  explicit WordStack(std::size_t capacity)
      : words_(std::make_unique_for_overwrite<std::uint32_t[]>(capacity)), capacity_(capacity), top(end()) {}

  std::size_t size() const { return static_cast<std::size_t>(end() - top); }

  // Makes room for `count` more words.
  void reserve(std::size_t count) {
    if (static_cast<std::size_t>(top - words_.get()) >= count) return;
    WordStack larger(2 * capacity_ + count);
    larger.top -= size();
    std::copy(top, end(), larger.top);
    *this = std::move(larger);
  }

 private:
  std::uint32_t* end() const { return words_.get() + capacity_; }

  std::unique_ptr<std::uint32_t[]> words_;
  std::size_t capacity_;

 public:
  std::uint32_t* top;  // the newest word; callers ensure that there is room below it
};

// Codes the low `bits` (<= 16) bits of value with uniform probability.
void push_bits(std::uint64_t& state, WordStack& words, std::uint64_t value, int bits) {
  const int rest = probability_bits - bits;
  const std::uint64_t low = (1ull << rest) - 1;
  if (state >= 1ull << (rest + 47)) {
    *--words.top = static_cast<std::uint32_t>(state);
    state >>= 32;
  }
  const std::uint64_t bits_only = value & ((1ull << bits) - 1);
  state = ((state >> rest) << probability_bits) | (bits_only << rest) | (state & low);
}

// Codes the value that follows an escape symbol, in reverse: an Exp-Golomb code of the distance from the table and the side.
std::uint64_t push_escape(std::uint64_t state, WordStack& words, const Table& table, std::int32_t symbol) {
  const std::int64_t above = std::int64_t{symbol} - table.offset - table.escape;  // >= 0 above the table
  const std::int64_t below = std::int64_t{table.offset} - 1 - symbol;             // >= 0 below it
  const auto distance = static_cast<std::uint64_t>(above >= 0 ? 2 * above : 2 * below + 1);
  const std::uint64_t value = distance + (1ull << table.escape_order);
  const int bits = bit_width(value) - 1;
  for (int done = 0; done < bits; done += 16) push_bits(state, words, value >> done, std::min(16, bits - done));
  push_bits(state, words, 0, 1);
  for (int one = table.escape_order; one < bits; ++one) push_bits(state, words, 1, 1);
  return state;
}

template <std::size_t lanes, typename Symbol>
void push_chunk(const TableSet& set, const Symbol* symbols, const Chunk& chunk, std::size_t position,
                std::array<std::uint64_t, max_lanes>& all_states, WordStack& words) {
  std::array<std::uint64_t, max_lanes> states = all_states;
  std::uint32_t* top = words.top;
  const auto push = [&](std::uint64_t state, std::size_t i) {
    const std::int32_t symbol = symbols[i];
    const Table& table = set.tables[chunk.indexes[i]];
    std::uint32_t number = static_cast<std::uint32_t>(symbol) - static_cast<std::uint32_t>(table.offset);
    if (number >= table.escape) [[unlikely]] {
      words.top = top;
      words.reserve(position + i + max_escape_words);
      state = push_escape(state, words, table, symbol);
      top = words.top;
      number = table.escape;
    }
    const EncodeEntry& entry = set.encode_entries[table.first + number];
    // One word per symbol is reserved, and one more for this store, which happens even if no word is emitted.
    const bool full = state >= static_cast<std::uint64_t>(probability_one - entry.complement) << 47;
    top[-1] = static_cast<std::uint32_t>(state);
    top -= full;
    state = full ? state >> 32 : state;
    const std::uint64_t quotient = multiply_high(state, entry.reciprocal) >> entry.shift;
    return state + entry.bias + quotient * entry.complement;
  };
  const auto push_alone = [&](std::size_t i) {
    std::uint64_t& state = states[(position + i) % lanes];
    state = push(state, i);
  };
  std::size_t i = chunk.count;
  while (i > 0 && (position + i) % lanes != 0) push_alone(--i);
  for (; i >= lanes; i -= lanes)
    for (std::size_t lane = lanes; lane-- > 0;) states[lane] = push(states[lane], i - lanes + lane);
  while (i > 0) push_alone(--i);
  all_states = states;
  words.top = top;
}

template <std::size_t lanes>
void push_chunks(const TableSet& set, std::span<const Chunk> chunks, std::size_t position,
                 std::array<std::uint64_t, max_lanes>& states, WordStack& words) {
  for (std::size_t c = chunks.size(); c-- > 0;) {
    position -= chunks[c].count;
    if (chunks[c].wide)
      push_chunk<lanes>(set, chunks[c].wide, chunks[c], position, states, words);
    else
      push_chunk<lanes>(set, chunks[c].narrow, chunks[c], position, states, words);
  }
}

template <typename Symbol>
std::uint64_t chunk_cost(const TableSet& set, const Symbol* symbols, const Chunk& chunk, std::uint64_t enough) {
  std::uint64_t cost = 0;
  for (std::size_t i = 0; i < chunk.count && cost < enough; ++i) {
    const Table& table = set.tables[chunk.indexes[i]];
    const std::uint32_t number = static_cast<std::uint32_t>(std::int32_t{symbols[i]}) - static_cast<std::uint32_t>(table.offset);
    cost += set.costs[table.first + std::min(number, table.escape)];
  }
  return cost;
}

// The largest number of lanes whose states are a small part of the stream; stops as soon as the size decides it.
std::size_t choose_lanes(const TableSet& set, std::span<const Chunk> chunks) {
  constexpr std::uint64_t cost_per_lane = std::uint64_t{bytes_per_lane} * 8 * cost_one_bit;
  std::uint64_t cost = 0;
  for (const Chunk& chunk : chunks) {
    const std::uint64_t enough = max_lanes * cost_per_lane - cost;
    cost += chunk.wide ? chunk_cost(set, chunk.wide, chunk, enough) : chunk_cost(set, chunk.narrow, chunk, enough);
    if (cost >= max_lanes * cost_per_lane) return max_lanes;
  }
  return std::bit_floor(std::max<std::uint64_t>(1, cost / cost_per_lane));
}

void check_indexes(std::span<const std::uint8_t> indexes, std::size_t count) {
  if (indexes.empty()) return;
  const std::size_t largest = *std::max_element(indexes.begin(), indexes.end());
  if (largest >= count)
    throw std::invalid_argument("indexes must be below the number of tables, " + std::to_string(count) + ", got " +
                                std::to_string(largest));
}

}  // namespace

TableSet::TableSet(std::span<const std::int32_t> frequencies, std::size_t columns, std::span<const std::int32_t> length,
                   std::span<const std::int32_t> offset)
    : count_(length.size()) {
  if (count_ == 0 || count_ > max_tables || offset.size() != count_ || columns > probability_one ||
      frequencies.size() != count_ * columns)
    throw std::invalid_argument("1 to 256 tables are needed, with a length, an offset and a row of frequencies each");
  for (std::size_t row = 0; row < count_; ++row) {
    if (length[row] < 1 || static_cast<std::size_t>(length[row]) > columns)
      throw std::invalid_argument("the length of table " + std::to_string(row) + " must be 1 to the row's size");
    add(row, frequencies.subspan(row * columns, static_cast<std::size_t>(length[row])), offset[row]);
  }
  std::fill(tables.begin() + static_cast<std::ptrdiff_t>(count_), tables.end(), tables[0]);
}

void TableSet::add(std::size_t row, std::span<const std::int32_t> frequencies, std::int32_t offset) {
  const auto escape = static_cast<std::uint32_t>(frequencies.size() - 1);
  if (std::int64_t{offset} + escape - 1 > std::numeric_limits<std::int32_t>::max())
    throw std::invalid_argument("the symbols of table " + std::to_string(row) + " must lie in int32");
  Table& table = tables[row];
  table.offset = offset;
  table.escape = escape;
  table.first = static_cast<std::uint32_t>(encode_entries.size());
  table.first_start = static_cast<std::uint32_t>(starts.size());
  table.first_bucket = static_cast<std::uint32_t>(buckets.size());
  const int length_bits = bit_width(frequencies.size());
  table.escape_order = static_cast<std::uint8_t>(std::max(1, length_bits - 5));

  std::uint32_t start = 0;
  for (const std::int32_t frequency : frequencies) {
    if (frequency < 1 || static_cast<std::uint32_t>(frequency) > probability_one - start)
      throw std::invalid_argument("the frequencies of table " + std::to_string(row) + " must be at least 1 and sum to 65536");
    starts.push_back(start);
    encode_entries.push_back(make_entry(start, static_cast<std::uint32_t>(frequency)));
    costs.push_back(static_cast<std::uint16_t>((probability_bits - std::log2(frequency)) * cost_one_bit));
    start += static_cast<std::uint32_t>(frequency);
  }
  if (start != probability_one)
    throw std::invalid_argument("the frequencies of table " + std::to_string(row) + " must sum to 65536");
  starts.push_back(start);

  // About four buckets per symbol: then few buckets contain more than two symbols, and these are improbable.
  table.bucket_shift = static_cast<std::uint8_t>(probability_bits - std::clamp(length_bits + 2, 6, 16));
  std::uint32_t number = 0;
  for (std::uint32_t slot = 0; slot < probability_one; slot += 1u << table.bucket_shift) {
    while (starts[table.first_start + number + 1] <= slot) ++number;
    buckets.push_back(static_cast<std::uint16_t>(number));
  }
}

std::string encode(const TableSet& tables, std::span<const Chunk> chunks, std::size_t lanes) {
  std::size_t count = 0;
  for (const Chunk& chunk : chunks) {
    check_indexes({chunk.indexes, chunk.count}, tables.count());
    count += chunk.count;
  }
  if (lanes != 0 && (lanes > max_lanes || !std::has_single_bit(lanes)))
    throw std::invalid_argument("lanes must be 1, 2, 4 or 8, or 0 to choose by the coded size");
  if (count == 0) return {};
  if (lanes == 0) lanes = choose_lanes(tables, chunks);

  WordStack words(count + max_escape_words);
  std::array<std::uint64_t, max_lanes> states;
  states.fill(state_min);
  if (lanes == 8) push_chunks<8>(tables, chunks, count, states, words);
  if (lanes == 4) push_chunks<4>(tables, chunks, count, states, words);
  if (lanes == 2) push_chunks<2>(tables, chunks, count, states, words);
  if (lanes == 1) push_chunks<1>(tables, chunks, count, states, words);

  const auto first_bytes = static_cast<std::size_t>(std::max(5, (bit_width(states[0]) + 7) / 8));
  std::string data;
  data.reserve(1 + first_bytes + 8 * (lanes - 1) + 4 * words.size());
  data.push_back(static_cast<char>(std::countr_zero(lanes)));
  data.append(reinterpret_cast<const char*>(states.data()), first_bytes);
  data.append(reinterpret_cast<const char*>(states.data() + 1), 8 * (lanes - 1));
  data.append(reinterpret_cast<const char*>(words.top), 4 * words.size());
  return data;
}

Decoder::Decoder(std::span<const std::uint8_t> data, std::shared_ptr<const TableSet> tables) : tables_(std::move(tables)) {
  states_.fill(0);
  states_[0] = state_min;
  if (!data.empty()) {
    if (data[0] > std::countr_zero(max_lanes)) throw Damaged("its first byte must be 0, 1, 2 or 3");
    lanes_ = std::size_t{1} << data[0];
    const std::size_t fixed = 1 + 8 * (lanes_ - 1);
    if (data.size() < fixed + 5) throw Damaged("it is shorter than its coder states");
    const std::size_t first_bytes = 5 + (data.size() - fixed - 5) % 4;
    states_[0] = 0;
    std::memcpy(states_.data(), &data[1], first_bytes);
    std::memcpy(states_.data() + 1, data.data() + 1 + first_bytes, 8 * (lanes_ - 1));
    const bool padded = first_bytes > 5 && states_[0] >> (8 * (first_bytes - 1)) == 0;
    for (std::size_t lane = 0; lane < lanes_; ++lane)
      if (padded || states_[lane] < state_min || states_[lane] >> 63) throw Damaged("a coder state is out of range");
    data = data.subspan(fixed + first_bytes);
    end_ = data.size() / 4;
  }
  words_.resize(end_ + max_lanes);
  if (end_ > 0) std::memcpy(words_.data(), data.data(), 4 * end_);
}

std::int32_t Decoder::pull_escape(std::uint64_t& state, std::size_t& next, const Table& table) const {
  const auto pull_bits = [&](int bits) {
    const int rest = probability_bits - bits;
    const std::uint64_t slot = state & slot_mask;
    state = ((state >> probability_bits) << rest) | (slot & ((1ull << rest) - 1));
    if (state < state_min) {
      if (next >= end_) throw Damaged("it ends before its last symbol");
      state = state << 32 | words_[next++];
    }
    return slot >> rest;
  };
  int bits = table.escape_order;
  while (pull_bits(1))
    if (++bits > max_escape_bits) throw Damaged("an escaped symbol is too long");
  std::uint64_t value = 1;
  for (int left = bits; left > 0;) {  // the highest piece first; only this one may be shorter than 16 bits
    const int piece = (left - 1) % 16 + 1;
    value = value << piece | pull_bits(piece);
    left -= piece;
  }
  const std::uint64_t distance = value - (1ull << table.escape_order);
  const auto away = static_cast<std::int64_t>(distance >> 1);
  const std::int64_t symbol =
      distance & 1 ? std::int64_t{table.offset} - 1 - away : std::int64_t{table.offset} + table.escape + away;
  if (symbol < std::numeric_limits<std::int32_t>::min() || symbol > std::numeric_limits<std::int32_t>::max())
    throw Damaged("an escaped symbol is outside int32");
  return static_cast<std::int32_t>(symbol);
}

template <std::size_t lanes>
void Decoder::pull_lanes(std::span<const std::uint8_t> indexes, std::int32_t* symbols) {
  const TableSet& set = *tables_;
  const std::uint32_t* const words = words_.data();
  std::array<std::uint64_t, max_lanes> states = states_;
  std::size_t next = next_;
  // Always reads one word, needed or not; escapes read only existing words. So max_lanes of these reads, starting at next <=
  // end_, stay within words_.
  const auto pull = [&](std::uint64_t state, std::size_t i) {
    const Table& table = set.tables[indexes[i]];
    const std::uint32_t* const starts = &set.starts[table.first_start];
    const std::uint32_t slot = static_cast<std::uint32_t>(state) & slot_mask;
    std::uint32_t number = set.buckets[table.first_bucket + (slot >> table.bucket_shift)];
    number += slot >= starts[number + 1];
    while (slot >= starts[number + 1]) [[unlikely]]
      ++number;
    const std::uint32_t start = starts[number];
    state = (state >> probability_bits) * (starts[number + 1] - start) + (slot - start);
    const bool low = state < state_min;
    const std::uint64_t refilled = state << 32 | words[next];
    state = low ? refilled : state;
    next += low;
    symbols[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(table.offset) + number);
    if (number == table.escape) [[unlikely]] {
      std::uint64_t escaped = state;
      std::size_t after = next;
      symbols[i] = pull_escape(escaped, after, table);
      next = after;
      return escaped;
    }
    return state;
  };
  const auto check_end = [&] {
    if (next > end_) throw Damaged("it ends before its last symbol");
  };
  const auto pull_alone = [&](std::size_t i) {
    std::uint64_t& state = states[(position_ + i) % lanes];
    state = pull(state, i);
    check_end();
  };
  std::size_t i = 0;
  while (i < indexes.size() && (position_ + i) % lanes != 0) pull_alone(i++);
  for (; indexes.size() - i >= lanes; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) states[lane] = pull(states[lane], i + lane);
    check_end();
  }
  while (i < indexes.size()) pull_alone(i++);
  states_ = states;
  next_ = next;
  position_ += indexes.size();
}

void Decoder::pull(std::span<const std::uint8_t> indexes, std::int32_t* symbols) {
  check_indexes(indexes, tables_->count());
  if (lanes_ == 8) pull_lanes<8>(indexes, symbols);
  if (lanes_ == 4) pull_lanes<4>(indexes, symbols);
  if (lanes_ == 2) pull_lanes<2>(indexes, symbols);
  if (lanes_ == 1) pull_lanes<1>(indexes, symbols);
}

void Decoder::finish() const {
  if (next_ != end_) throw Damaged(std::to_string(4 * (end_ - next_)) + " bytes are left after its last symbol");
  for (std::size_t lane = 0; lane < lanes_; ++lane)
    if (states_[lane] != state_min) throw Damaged("a coder state does not end where coding began");
}

}  // namespace dkic::rans
