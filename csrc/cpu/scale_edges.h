// Finds the interval of a scale in a sorted list of edges, which is the index of the entropy coder's table for its symbol.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace dkic {

// Edges indexed by the first bits of a positive double: the exponent and three bits of the mantissa select a bucket, whose width
// is at most a factor of 9/8, so it seldom contains more than one edge.
class ScaleEdges {
 public:
  static bool valid(const std::vector<double>& edges) {
    return !edges.empty() && edges.size() < 65536 && edges.front() > 0 &&
           edges.back() < std::numeric_limits<double>::infinity() &&
           std::none_of(
               edges.begin(), edges.end(), [](double edge) { return edge != edge; }) &&
           std::is_sorted(edges.begin(), edges.end());
  }

  // edges must satisfy `valid`.
  explicit ScaleEdges(std::vector<double> edges) : edges_(std::move(edges)), first_(bucket_of(edges_.front()) - 1) {
    const int64_t last = bucket_of(edges_.back()) + 1;
    size_t below = 0;
    for (int64_t bucket = first_; bucket <= last; ++bucket) {
      while (below < edges_.size() && bucket_of(edges_[below]) < bucket) ++below;
      below_.push_back(int32_t(below));
    }
    edges_.push_back(std::numeric_limits<double>::infinity());
  }

  // NaN is above all edges, whatever its sign: the sign depends on the instruction set (inf - inf is negative on x86).
  int32_t below(double s) const {
    if (s != s) [[unlikely]]
      return int32_t(edges_.size()) - 1;
    const int64_t bucket = std::clamp<int64_t>(bucket_of(s) - first_, 0, int64_t(below_.size()) - 1);
    int32_t number = below_[size_t(bucket)];
    number += s > edges_[size_t(number)];
    while (s > edges_[size_t(number)]) [[unlikely]]
      ++number;
    return number;
  }

 private:
  static int64_t bucket_of(double x) { return std::bit_cast<int64_t>(x) >> 49; }

  std::vector<double> edges_;
  int64_t first_;
  std::vector<int32_t> below_;
};

}  // namespace dkic
