// Counts the global memory traffic of a kernel on the emulator with the model of the hardware: the lanes of a warp that execute
// an access together make one request, and a request transfers each 32-byte sector that it touches once.
//
// Fibers run sequentially, so requests are assembled afterwards: the k-th execution of an access by a lane since the last warp
// barrier belongs to the same request as the k-th execution by the other lanes. If lanes skip different executions of an access,
// requests differ from the hardware until the next warp barrier; the number of sectors differs only if lanes of different
// executions share sectors.
#pragma once
#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <source_location>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace simt {

constexpr int kSectorBytes = 32, kLineSectors = 4;  // a cache line has 128 bytes

enum class Access { load, store, atomic };

class Traffic {
  using Where = std::source_location;

 public:
  // All accesses of one kind by a kernel to a tensor.
  struct Counts {
    int64_t requests = 0;
    int64_t bytes = 0;                         // requested by lanes
    int64_t sectors = 0;                       // of all requests
    int64_t lines = 0;                         // of all requests
    int64_t block_sectors = 0;                 // distinct per block: traffic behind a cache that keeps all sectors of a block
    std::unordered_set<uint64_t> all_sectors;  // distinct in total: minimum memory traffic
  };
  using Key = std::pair<std::string, std::pair<int, Access>>;  // kernel, tensor, kind

  // Every access must be inside a registered tensor.
  void name(const char* tensor, const void* begin, size_t bytes) {
    if (bytes) tensors_.push_back({tensor, reinterpret_cast<uintptr_t>(begin), bytes});
  }

  void begin_block(const char* kernel, int warps) {
    kernel_ = kernel;
    warps_.assign(size_t(warps), {});
  }

  // Returns false if the address is not in a tensor.
  [[nodiscard]] bool note(int thread, Access access, const void* p, int bytes, const Where& where) {
    const auto address = reinterpret_cast<uintptr_t>(p);
    int tensor = 0;
    for (; tensor < int(tensors_.size()); ++tensor)
      if (address - tensors_[tensor].begin < tensors_[tensor].bytes) break;
    if (tensor == int(tensors_.size())) return false;
    Site& site = site_of(warps_[size_t(thread / kLanes)], {tensor, access, where.file_name(), where.line(), where.column()});
    const size_t time = size_t(site.times[size_t(thread % kLanes)]++);
    if (time == site.requests.size()) site.requests.emplace_back();
    Request& request = site.requests[time];
    request.bytes += bytes;
    const uint64_t sector = address / kSectorBytes;  // a single sector, because accesses are aligned to their size
    for (int i = 0; i < request.count; ++i)
      if (request.sectors[size_t(i)] == sector) return true;
    request.sectors[size_t(request.count++)] = sector;
    return true;
  }

  // Warp barrier: completes all pending requests.
  void warp_together(int warp) {
    for (const Site& site : warps_[size_t(warp)]) {
      Counts& counts = counts_[{kernel_, {site.place.tensor, site.place.access}}];
      auto& of_block = block_sectors_[{site.place.tensor, site.place.access}];
      for (const Request& request : site.requests) {
        counts.requests += 1, counts.bytes += request.bytes, counts.sectors += request.count;
        counts.lines += lines_of(request);
        of_block.insert(request.sectors.begin(), request.sectors.begin() + request.count);
      }
    }
    warps_[size_t(warp)].clear();
  }

  void block_together() {
    for (int warp = 0; warp < int(warps_.size()); ++warp) warp_together(warp);
  }

  void end_block() {
    block_together();
    for (auto& [key, sectors] : block_sectors_) {
      Counts& counts = counts_[{kernel_, key}];
      counts.block_sectors += int64_t(sectors.size());
      counts.all_sectors.merge(sectors);
    }
    block_sectors_.clear();
  }

  // One line for each kernel, tensor and kind: `kernel tensor kind requests bytes sectors lines block_sectors all_sectors`.
  void print(std::FILE* to) const {
    constexpr std::array kinds = {"load", "store", "atomic"};
    for (const auto& [key, counts] : counts_) {
      const auto& [kernel, what] = key;
      std::fprintf(to, "%s %s %s", kernel.c_str(), tensors_[size_t(what.first)].name.c_str(), kinds[size_t(what.second)]);
      for (const int64_t n : {counts.requests, counts.bytes, counts.sectors, counts.lines, counts.block_sectors,
                              int64_t(counts.all_sectors.size())})
        std::fprintf(to, " %lld", (long long)(n));
      std::fprintf(to, "\n");
    }
  }

 private:
  static constexpr int kLanes = 32;

  struct Tensor {
    std::string name;
    uintptr_t begin;
    size_t bytes;
  };
  struct Place {
    int tensor;
    Access access;
    const char* file;
    unsigned line, column;
    bool operator==(const Place&) const = default;
  };
  struct Request {
    int64_t bytes = 0;
    int count = 0;
    std::array<uint64_t, kLanes> sectors;
  };
  struct Site {
    Place place;
    std::array<int, kLanes> times{};  // executions by each lane
    std::vector<Request> requests;
  };

  static int lines_of(const Request& request) {
    int lines = 0;
    for (int i = 0; i < request.count; ++i) {
      bool is_first = true;
      for (int j = 0; j < i; ++j)
        is_first &= request.sectors[size_t(i)] / kLineSectors != request.sectors[size_t(j)] / kLineSectors;
      lines += is_first;
    }
    return lines;
  }

  static Site& site_of(std::vector<Site>& sites, const Place& place) {
    for (Site& site : sites)
      if (site.place == place) return site;
    return sites.emplace_back(Site{place, {}, {}});
  }

  std::vector<Tensor> tensors_;
  const char* kernel_ = "";
  std::vector<std::vector<Site>> warps_;
  std::map<std::pair<int, Access>, std::unordered_set<uint64_t>> block_sectors_;
  std::map<Key, Counts> counts_;
};

}  // namespace simt
