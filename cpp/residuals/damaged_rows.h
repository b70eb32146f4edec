// Stored rows that make no sense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace resmem {

// Thrown for stored rows that this library cannot have written.
struct DamagedRows : std::invalid_argument {
  DamagedRows(const char* what, std::int64_t got, std::size_t columns)
      : std::invalid_argument("the stored rows are damaged: " + std::string(what) + " " +
                              std::to_string(got) + " is not one of the classes 0 to " +
                              std::to_string(columns - 1)) {}
};

}  // namespace resmem
