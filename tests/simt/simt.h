// Runs the body of a CUDA kernel on the CPU, block by block, with one fiber per thread, so that kernels can be tested without a
// GPU and with sanitizers.
//
// A fiber runs until it waits (at a barrier or in a warp collective) or ends; Order selects the fiber that runs next. Undefined
// behavior of the hardware throws Error: deadlocks, threads at different barriers, lanes of a mask in different collectives,
// misaligned vectors. The shared memory of each block is a separate heap block filled with 0xff (NaN), which exposes reads of
// uninitialized memory and out-of-bounds accesses. x86-64 only, because the stack switch is assembly.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/pack.h"
#include "traffic.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee-saved registers and the stack pointer in *save, and switches to the stack `load`.
extern "C" void dkic_simt_switch(void** save, void* load);
asm(R"(
.text
.weak dkic_simt_switch
.type dkic_simt_switch, @function
dkic_simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size dkic_simt_switch, .-dkic_simt_switch
)");

namespace simt {

constexpr int kWarp = 32;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { forward, reverse, shuffled };

struct Launch {
  const char* kernel;  // its name, for messages
  int64_t blocks;
  int threads;
  size_t shared_bytes = 0;
  Order order = Order::forward;
  unsigned seed = 1;           // of Order::shuffled
  bool vector_atomics = true;  // as GPUs of compute capability 9.0 have
  Traffic* traffic = nullptr;  // counts accesses to global memory
};

enum class State { ready, at_barrier, in_collective, ended };
enum class Collective { shuffle, ballot };

struct Fiber {
  int index;
  std::unique_ptr<char[]> stack;
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // ASan's
  State state = State::ready;
  unsigned line = 0;  // where it waits
  // State of the collective in which it waits.
  Collective collective{};
  unsigned mask = 0;
  uint64_t value = 0, result = 0;
  int source = 0;
};

class Thread;

// The state of a running launch.
class Grid {
 public:
  Grid(const Launch& launch, std::function<void(const Thread&)> body) : launch_(launch), body_(std::move(body)) {
    if (launch.threads < 1 || launch.threads > 1024) throw Error(std::string(launch.kernel) + ": a block has 1 to 1024 threads");
    for (int i = 0; i < launch.threads; ++i) {
      fibers_.push_back({.index = i, .stack = std::unique_ptr<char[]>(new char[kStack])});
    }
  }

  void run() {
    for (block_ = 0; block_ < launch_.blocks; ++block_) {
      const std::unique_ptr<char[]> memory(new char[launch_.shared_bytes]);  // aligned to 16
      shared_ = memory.get();
      std::memset(shared_, 0xff, launch_.shared_bytes);
      if (launch_.traffic) launch_.traffic->begin_block(launch_.kernel, (launch_.threads + kWarp - 1) / kWarp);
      run_block();
      if (launch_.traffic) launch_.traffic->end_block();
    }
  }

  const Launch& launch() const { return launch_; }
  int64_t block() const { return block_; }
  char* shared() const { return shared_; }

  [[noreturn]] void fail(const Fiber& fiber, unsigned line, const std::string& what) const {
    throw Error(std::string(launch_.kernel) + ", block " + std::to_string(block_) + ", thread " + std::to_string(fiber.index) +
                ", line " + std::to_string(line) + ": " + what);
  }

  // An access of the fiber to shared or global memory.
  void note(const Fiber& fiber, Access access, const void* p, size_t bytes, const std::source_location& at) const {
    if (!launch_.traffic || reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(shared_) < launch_.shared_bytes) return;
    if (!launch_.traffic->note(fiber.index, access, p, int(bytes), at)) fail(fiber, at.line(), "an access to no named tensor");
  }

  void barrier(Fiber& fiber, unsigned line) {
    fiber.state = State::at_barrier;
    fiber.line = line;
    leave(fiber);
  }

  // The last lane of the mask to arrive computes the results of all lanes.
  uint64_t collective(Fiber& fiber, Collective kind, unsigned mask, uint64_t value, int source, unsigned line) {
    const int first = fiber.index / kWarp * kWarp, lanes = std::min(kWarp, launch_.threads - first);
    if (!(mask >> (fiber.index - first) & 1)) fail(fiber, line, "a lane takes part in a collective whose mask leaves it out");
    if (lanes < kWarp && mask >> lanes) fail(fiber, line, "the mask names lanes that the block does not have");
    fiber.state = State::in_collective;
    fiber.line = line, fiber.collective = kind, fiber.mask = mask, fiber.value = value, fiber.source = source;
    bool all_here = true;
    const unsigned whole = lanes < kWarp ? (1u << lanes) - 1 : ~0u;
    for_mask(first, whole, [&](const Fiber& other) {
      const unsigned bit = 1u << (other.index - first);
      if (other.state == State::in_collective) {
        if (!(other.mask & mask)) return;
        if (other.mask == mask && other.collective == kind && other.line == line) return;
        fail(fiber, line,
             "lane " + std::to_string(other.index - first) + " waits in another collective with lanes of this mask, line " +
                 std::to_string(other.line));
      }
      if (mask & bit && other.state == State::ended) fail(fiber, line, "the mask names a lane that has ended");
      if (mask & bit) all_here = false;
    });
    if (!all_here) {
      leave(fiber);
      return fiber.result;
    }
    if (mask == whole && launch_.traffic) launch_.traffic->warp_together(first / kWarp);
    uint64_t ballot = 0;
    for_mask(first, mask, [&](const Fiber& other) { ballot |= uint64_t(other.value != 0) << (other.index - first); });
    for_mask(first, mask, [&](Fiber& other) {
      // The value of a lane outside the mask is undefined: all bits set, a NaN.
      const bool given = other.source >= 0 && other.source < lanes && mask >> other.source & 1;
      other.result = kind == Collective::ballot ? ballot : given ? fibers_[size_t(first + other.source)].value : ~uint64_t(0);
      other.state = State::ready;
    });
    return fiber.result;
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kStack = 256 << 10;
#else
  static constexpr size_t kStack = 64 << 10;
#endif

  template <class F>
  void for_mask(int first, unsigned mask, const F& f) {
    for (int lane = 0; lane < kWarp; ++lane)
      if (mask >> lane & 1) f(fibers_[size_t(first + lane)]);
  }

  void run_block() {
    for (Fiber& fiber : fibers_) start(fiber);
    std::vector<size_t> turns(fibers_.size());
    std::iota(turns.begin(), turns.end(), size_t(0));
    if (launch_.order == Order::reverse) std::reverse(turns.begin(), turns.end());
    std::mt19937 random(launch_.seed + unsigned(block_));
    for (;;) {
      if (launch_.order == Order::shuffled) std::shuffle(turns.begin(), turns.end(), random);
      bool any = false;
      for (const size_t i : turns) {
        if (fibers_[i].state != State::ready) continue;
        any = true;
        enter(fibers_[i]);
        if (error_) std::rethrow_exception(error_);
      }
      if (!any && !release_barrier()) return;
    }
  }

  // Called if no thread is ready: releases a barrier at which all unfinished threads wait. False if all threads have finished.
  bool release_barrier() {
    const Fiber* waiting = nullptr;
    for (const Fiber& fiber : fibers_) {
      if (fiber.state == State::ended) continue;
      if (fiber.state == State::in_collective) {
        fail(fiber, fiber.line, "deadlock: lanes of the collective's mask never arrive");
      }
      if (waiting && waiting->line != fiber.line) {
        fail(fiber, fiber.line,
             "threads of a block wait at different barriers, here and in line " + std::to_string(waiting->line));
      }
      waiting = &fiber;
    }
    if (launch_.traffic) launch_.traffic->block_together();
    for (Fiber& fiber : fibers_)
      if (fiber.state == State::at_barrier) fiber.state = State::ready;
    return waiting != nullptr;
  }

  // Initializes the stack so that the first switch to it calls `begin`.
  void start(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack.get(), kStack);  // the last block's frames
#endif
    const auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStack) & ~uintptr_t(15);
    auto* slot = reinterpret_cast<void**>(top);
    *--slot = nullptr;
    *--slot = reinterpret_cast<void*>(&Grid::begin);
    for (int saved = 0; saved < 6; ++saved) *--slot = nullptr;
    fiber.stack_pointer = slot;
    fiber.state = State::ready;
  }
  static void begin();

  void enter(Fiber& fiber) {
    running_ = this, current_ = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack_, fiber.stack.get(), kStack);
#endif
    dkic_simt_switch(&stack_pointer_, fiber.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fiber.state == State::ended ? nullptr : &fiber.fake_stack, bottom_, size_);
#endif
    dkic_simt_switch(&fiber.stack_pointer, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &bottom_, &size_);
#endif
  }

  const Launch launch_;
  const std::function<void(const Thread&)> body_;
  std::vector<Fiber> fibers_;
  int64_t block_ = 0;
  char* shared_ = nullptr;
  std::exception_ptr error_;
  // Stack of the scheduler.
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  // Argument of the first function of a fiber, which has no parameters.
  static inline Grid* running_ = nullptr;
  static inline Fiber* current_ = nullptr;
};

// The thread of a kernel body: the emulator's counterpart of dkic::gpu::CudaThread.
class Thread {
  using Where = std::source_location;

 public:
  Thread(Grid& grid, Fiber& fiber) : grid_(grid), fiber_(fiber) {}

  int index() const { return fiber_.index; }
  int64_t block() const { return grid_.block(); }
  int64_t blocks() const { return grid_.launch().blocks; }
  template <class T>
  T* shared() const {
    return reinterpret_cast<T*>(grid_.shared());
  }

  void barrier(Where at = Where::current()) const { grid_.barrier(fiber_, at.line()); }

  void warp_barrier(Where at = Where::current()) const { grid_.collective(fiber_, Collective::ballot, ~0u, 0, 0, at.line()); }

  unsigned ballot(unsigned mask, bool vote, Where at = Where::current()) const {
    return unsigned(grid_.collective(fiber_, Collective::ballot, mask, vote, 0, at.line()));
  }
  template <class T>
  T shuffle(unsigned mask, T value, int source, int width = kWarp, Where at = Where::current()) const {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const int lane_of_source = lane() / width * width + source % width;
    bits = grid_.collective(fiber_, Collective::shuffle, mask, bits, lane_of_source, at.line());
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  template <class T>
  T shuffle_xor(unsigned mask, T value, int distance, Where at = Where::current()) const {
    return shuffle(mask, value, lane() ^ distance, kWarp, at);
  }
  // A lane too far up for it keeps its value.
  template <class T>
  T shuffle_down(unsigned mask, T value, int distance, Where at = Where::current()) const {
    return shuffle(mask, value, lane() + distance < kWarp ? lane() + distance : lane(), kWarp, at);
  }

  template <int N, class T>
  dkic::Pack<T, N> load(const T* from, Where at = Where::current()) const {
    check(Access::load, from, sizeof(dkic::Pack<T, N>), at);
    return *reinterpret_cast<const dkic::Pack<T, N>*>(from);
  }
  template <int N, class T>
  dkic::Pack<T, N> load_written(const T* from, Where at = Where::current()) const {
    return load<N>(from, at);
  }
  template <int N, class T>
  dkic::Pack<T, N> load_streaming(const T* from, Where at = Where::current()) const {
    return load<N>(from, at);
  }
  template <int N, class T>
  void store(T* to, const dkic::Pack<T, N>& values, Where at = Where::current()) const {
    check(Access::store, to, sizeof values, at);
    *reinterpret_cast<dkic::Pack<T, N>*>(to) = values;
  }
  template <int N, class T>
  void store_streaming(T* to, const dkic::Pack<T, N>& values, Where at = Where::current()) const {
    store<N>(to, values, at);
  }

  // For float, double and 64-bit integers, which wrap around. Atomic, because only one fiber runs at a time.
  template <class T>
  void atomic_add(T* to, T value, Where at = Where::current()) const {
    check(Access::atomic, to, sizeof value, at);
    if constexpr (std::is_integral_v<T>) {
      *to = T(uint64_t(*to) + uint64_t(value));
    } else {
      *to += value;
    }
  }
  void atomic_add(float* to, const dkic::Pack<float, 4>& values, Where at = Where::current()) const {
    if (!has_vector_atomics()) grid_.fail(fiber_, at.line(), "an atomic of four numbers, which the GPU does not have");
    check(Access::atomic, to, sizeof values, at);
    for (int v = 0; v < 4; ++v) to[v] += values.v[v];
  }
  bool has_vector_atomics() const { return grid_.launch().vector_atomics; }
  unsigned atomic_fetch_add(unsigned* to, unsigned value, Where at = Where::current()) const {
    check(Access::atomic, to, sizeof value, at);
    return std::exchange(*to, *to + value);
  }
  void atomic_max(unsigned* to, unsigned value, Where at = Where::current()) const {
    check(Access::atomic, to, sizeof value, at);
    *to = std::max(*to, value);
  }

 private:
  int lane() const { return fiber_.index % kWarp; }
  void check(Access access, const void* p, size_t bytes, const Where& at) const {
    if (reinterpret_cast<uintptr_t>(p) % bytes) {
      grid_.fail(fiber_, at.line(), "an access of " + std::to_string(bytes) + " bytes is not aligned to its size");
    }
    grid_.note(fiber_, access, p, bytes, at);
  }

  Grid& grid_;
  Fiber& fiber_;
};

inline void Grid::begin() {
  Grid& grid = *running_;
  Fiber& fiber = *current_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &grid.bottom_, &grid.size_);
#endif
  try {
    grid.body_(Thread(grid, fiber));
  } catch (...) {
    grid.error_ = std::current_exception();  // an exception cannot unwind past the fiber's stack
  }
  fiber.state = State::ended;
  grid.leave(fiber);
}

// Runs body(thread) for every thread of every block. Throws Error, or rethrows exceptions of the body.
template <class Body>
void launch(const Launch& launch, const Body& body) {
  Grid(launch, body).run();
}

}  // namespace simt
