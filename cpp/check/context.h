// Every check shares these: the kernels and the case that run now, how outputs are compared, and
// the counts of checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "../base/execution.h"

namespace resmem {

inline constexpr std::size_t kThreads[] = {1, 2, 7};
// Outputs are filled with this first: it is neither padding nor a result of any case.
inline constexpr std::int8_t kBlank = -77;

// Every table of kernels has a context of its own.
struct Context {
  explicit Context(const KernelTable& table) : kernels(table) {}
  // Tells whether `got` has the bits of `wanted`, and prints where not. Both have the same size.
  template <class T>
  bool same(const std::vector<T>& got, const std::vector<T>& wanted, const char* what) {
    if (got.empty() || std::memcmp(got.data(), wanted.data(), got.size() * sizeof(T)) == 0)
      return true;
    std::size_t at = 0;
    while (std::memcmp(&got[at], &wanted[at], sizeof(T)) == 0) ++at;
    std::ostringstream message;
    message.precision(std::numeric_limits<T>::max_digits10);
    // The plus makes numbers of bytes, which would come out as characters.
    message << what << '[' << at << "] is " << +got[at] << ", wanted " << +wanted[at];
    return fail(message.str());
  }
  // Prints what failed, and returns false.
  bool fail(const std::string& message);
  void count(bool good) { ++(good ? passed : failed); }

  const KernelTable& kernels;
  std::string name, path;  // of the case, and of the way through the core that it takes now
  std::size_t number = 0;  // of the case
  std::size_t passed = 0, failed = 0, shown = 0;
  std::map<std::string, std::size_t> searches;  // by the strategy that ran
};

// Counts body(execution), which returns whether all was well, at each number of threads.
template <class Body>
void for_threads(Context& context, Body&& body) {
  for (const std::size_t threads : kThreads) {
    context.path = std::to_string(threads) + " threads";
    Interrupt never;
    context.count(body(Execution{context.kernels, threads, never}));
  }
}

// Calls body(execution, out), which must make `out` what is wanted, at each number of threads.
template <class T, class Body>
void check_output(Context& context, const std::vector<T>& wanted, Body&& body) {
  for_threads(context, [&](const Execution& execution) {
    std::vector<T> out(wanted.size(), T{kBlank});
    body(execution, out);
    return context.same(out, wanted, "output");
  });
}

}  // namespace resmem
