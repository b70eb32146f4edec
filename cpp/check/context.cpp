#include "context.h"

#include <cstdio>

namespace resmem {
namespace {

constexpr std::size_t kFailuresShown = 20;  // per table

}  // namespace

bool Context::fail(const std::string& message) {
  if (++shown <= kFailuresShown)
    std::printf("FAILED %s, %s, %s: %s\n", kernels.name, name.c_str(), path.c_str(),
                message.c_str());
  return false;
}

}  // namespace resmem
