// CRC32C (Castagnoli, reflected), as in iSCSI and ext4; eight tables process eight bytes per step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dkic {

namespace detail {

using Crc32cTables = std::array<std::array<std::uint32_t, 256>, 8>;

// tables[0] advances the CRC by one byte; tables[k] advances it by that byte and k zero bytes.
constexpr Crc32cTables make_crc32c_tables() {
  Crc32cTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xFF];
    }
  return tables;
}

inline constexpr Crc32cTables crc32c_tables = make_crc32c_tables();

}  // namespace detail

// CRC32C of the preceding data, whose CRC32C is `crc` (0 if there is none), followed by `data`.
inline std::uint32_t crc32c(std::span<const std::uint8_t> data, std::uint32_t crc = 0) {
  const auto& tables = detail::crc32c_tables;
  crc = ~crc;
  for (; data.size() >= 8; data = data.subspan(8)) {
    std::uint32_t next = tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
    for (std::size_t k = 0; k < 4; ++k) next ^= tables[7 - k][((crc >> (8 * k)) & 0xFF) ^ data[k]];
    crc = next;
  }
  for (const std::uint8_t byte : data) crc = (crc >> 8) ^ tables[0][(crc ^ byte) & 0xFF];
  return ~crc;
}

}  // namespace dkic
