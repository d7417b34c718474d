// Runs a libFuzzer target without libFuzzer, which only clang has: PROGRAM SECONDS SEED, or PROGRAM FILE to run one input again.
//
// Random inputs, and changes of those before; nothing guides them. The input being run is kept in ./last-input.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  if (argc == 2) {
    std::ifstream file(argv[1], std::ios::binary);
    const std::vector<std::uint8_t> input{std::istreambuf_iterator<char>(file), {}};
    return LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  if (argc != 3) return 2;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(std::atof(argv[1]));
  std::mt19937_64 random(std::strtoull(argv[2], nullptr, 10));
  std::vector<std::uint8_t> input;
  std::uint64_t runs = 0;
  for (; Clock::now() < end; ++runs) {
    if (random() % 4 == 0) input.assign(random() % 600, 0);
    const std::size_t changes = input.empty() ? 0 : random() % 4 == 0 ? 2 * input.size() : 1 + random() % 8;
    for (std::size_t i = 0; i < changes; ++i) input[random() % input.size()] = static_cast<std::uint8_t>(random());
    std::ofstream("last-input", std::ios::binary).write(reinterpret_cast<const char*>(input.data()), std::ssize(input));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::remove("last-input");
  std::printf("%llu inputs\n", static_cast<unsigned long long>(runs));
  return 0;
}
