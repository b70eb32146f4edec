// Checks the core against cases of the oracle, without Python:
//
//   python tests/core_cases.py cases.bin && contract_check cases.bin
//
// Every case runs on every kernel table of this machine, on every path there is to it, and must
// give the oracle's bits. tests/core_cases.py documents the file. Each table's canonical kernels
// are also held against the same arithmetic over plain lanes (canonical_lanes.h).
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "../base/cpu.h"
#include "canonical_lanes.h"
#include "case_reader.h"
#include "check_indexes.h"
#include "checks.h"
#include "context.h"

namespace resmem {
namespace {

using Check = void (*)(Context&, Reader&);
// The kinds of records are numbered from 1 on, in this order.
constexpr Check kChecks[] = {check_search,     check_exp,     check_softmax,   check_residuals,
                             check_simplex,    check_weights, check_aggregate, check_sparse,
                             check_logits,     check_numbers, check_log,       check_sweep,
                             check_wide_search};

void check_records(Context& context, const std::vector<char>& file) {
  Reader reader(file);
  for (const char c : std::string("RESMEM04")) require(reader.value<char>() == c, "no such kind");
  const std::size_t records = reader.size();
  for (context.number = 0; context.number < records; ++context.number) {
    const std::size_t kind = reader.size();
    context.name = reader.text();
    context.path = "all";
    require(kind >= 1 && kind <= std::size(kChecks), "unknown kind of record");
    kChecks[kind - 1](context, reader);
  }
  require(reader.at_end(), "something follows the last record");
}

void check_table(Context& context, const std::vector<char>& file) {
  const KernelTable& table = context.kernels;
  check_records(context, file);
  const LaneResults lanes = check_canonical_lanes(table);
  context.passed += lanes.passed;
  context.failed += lanes.failed;
  if (lanes.failed > 0) std::printf("FAILED %s: %s\n", table.name, lanes.first.c_str());
  std::printf("%s (%s): %zu checks, %zu failed\n", table.name,
              table.emulated ? "emulated" : "native", context.passed + context.failed,
              context.failed);
  require_every_index_served(context);
  for (const auto& [strategy, count] : context.searches)
    std::printf("  %s: %zu searches\n", strategy.c_str(), count);
}

int check_file(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(std::string("cannot read ") + path);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  std::vector<std::string> missing{"scalar",     "avx2", "avx512",
                                   "avx512vnni", "neon", "neon_dotprod"};
  std::size_t passed = 0, failed = 0;
  for (const KernelTable* table : available_kernels()) {
    Context context(*table);
    check_table(context, file);
    passed += context.passed;
    failed += context.failed;
    missing.erase(std::remove(missing.begin(), missing.end(), table->name), missing.end());
  }
  for (const std::string& name : missing) std::printf("%s: not available here\n", name.c_str());
  std::printf("%zu passed, %zu failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace
}  // namespace resmem

int main(int argc, char** argv) {
  try {
    if (argc != 2) throw std::runtime_error("usage: contract_check FILE");
    return resmem::check_file(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
