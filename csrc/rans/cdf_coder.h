// Entropy coding with quantized CDFs, in the stream format of CompressAI 1.2 (compressai.ans). Torch-free.
//
// A stream is a sequence of 32-bit little-endian words: the final coder state (low word, high word), then the words that the
// decoder reads to renormalize. The coder is rANS with a 64-bit state in [2^31, 2^63) and probabilities out of 2^16 (Duda 2013).
//
// A symbol x of row r is coded as v = x - offset[r]. With n = length[r] and the sentinel m = n - 2, a v in [0, m) is coded with
// the interval [cdf[v], cdf[v + 1]). Any other v is coded as the interval of m, followed by plain nibbles: their number k
// (15, 15, ... and a rest below 15), then k nibbles, lowest first, of 2 (v - m) for v >= m and of -2 v - 1 for v < 0.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dkic::cdf_coder {

// The rows of a CDF tensor, as a view. A row is validated when it is first used, since there may be as many rows as symbols.
class Tables {
 public:
  struct Row {
    const int32_t* cdf = nullptr;  // nullptr: not validated yet
    int32_t sentinel = 0, offset = 0;
    uint32_t first_bucket = 0;
    uint8_t bucket_shift = 16;
  };

  // cdf: rows x columns. indexed: build a bucket index for each row, which pays off if rows are used often.
  // Throws std::invalid_argument where the sizes do not match.
  Tables(std::span<const int32_t> cdf, std::size_t columns, std::span<const int32_t> length, std::span<const int32_t> offset,
         bool indexed);

  // Throws std::invalid_argument where there is no such row or it is not a CDF.
  const Row& row(int64_t index) {
    if (index < 0 || index >= int64_t(rows_.size())) reject(index);
    const Row& found = rows_[std::size_t(index)];
    return found.cdf ? found : validated(std::size_t(index));
  }

  // The number s with cdf[s] <= slot < cdf[s + 1].
  uint32_t find(const Row& row, uint32_t slot) const;

 private:
  const Row& validated(std::size_t index);
  [[noreturn]] void reject(int64_t index) const;

  std::span<const int32_t> cdf_, length_, offset_;
  std::size_t columns_;
  bool indexed_;
  std::vector<Row> rows_;
  std::vector<uint16_t> buckets_;  // of all rows: the number whose interval contains the bucket's first slot
};

// Encodes symbols, the last one first. Index is uint8_t or int32_t.
// Throws std::invalid_argument: an index without a row, a row that is not a CDF, a symbol whose probability is 0.
template <class Index>
std::string encode(Tables& tables, std::span<const int32_t> symbols, const Index* indexes);

// A decoder's position in a stream.
struct State {
  uint64_t x = 0;
  int64_t next = 0;  // word
};

class Decoder {
 public:
  // Views data. A stream is damaged if it is shorter than a state, or does not consist of whole words.
  explicit Decoder(std::span<const uint8_t> data);
  Decoder(std::span<const uint8_t> data, State state);

  // Decodes `count` symbols. Returns false if the stream is damaged or ends too early; `symbols` then contains those decoded
  // before. Throws std::invalid_argument as encode does.
  template <class Index>
  bool decode(Tables& tables, const Index* indexes, std::size_t count, int32_t* symbols);

  // Whether the stream has been decoded completely: no word is left and the state is the encoder's initial state.
  bool finished() const;
  State state() const { return state_; }

 private:
  bool next_word();
  bool nibble(uint32_t& value);
  bool escaped(int64_t sentinel, int64_t& value);

  std::span<const uint8_t> data_;
  State state_;
  bool damaged_ = false;
};

}  // namespace dkic::cdf_coder
