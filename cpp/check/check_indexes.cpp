#include "check_indexes.h"

#include <memory>
#include <string>
#include <vector>

#include "../index/cascade/cascade.h"
#include "../index/tree/tree.h"

namespace resmem {
namespace {

// Each of these indexes a segment of float32 rows for a request in its own way.
struct IndexBuild {
  const char* kind;  // IndexKind::name
  const char* path;
  // Returns null where the segment cannot be indexed in this way.
  std::unique_ptr<RowIndex> (*build)(const Segment& segment, const SearchRequest& request,
                                     const KernelTable& kernels);
};

template <bool kCodedRows>
std::unique_ptr<RowIndex> make_cascade(const Segment& segment, const SearchRequest& request,
                                       const KernelTable& kernels) {
  if (!can_be_coded(segment.max_abs)) return nullptr;
  Interrupt never;
  return std::make_unique<Cascade>(build_cascade(
      segment, request.d, {request.metric, 8, 3, kCodedRows}, Execution{kernels, 2, never}));
}

template <std::size_t kLeaf>
std::unique_ptr<RowIndex> make_tree(const Segment& segment, const SearchRequest& request,
                                    const KernelTable& kernels) {
  if (request.d > kMostTreeDimensions) return nullptr;
  Interrupt never;
  return std::make_unique<Tree>(
      build_tree(segment, request.d, kLeaf, Execution{kernels, 2, never}));
}

constexpr IndexBuild kIndexBuilds[] = {
    {"cascade", "cascade", make_cascade<false>},
    {"cascade", "cascade with coded rows", make_cascade<true>},
    {"tree", "tree with leaves of 1", make_tree<1>},
    {"tree", "tree with leaves of 16", make_tree<16>},
};

}  // namespace

void check_indexes(Context& context, const SearchCase& search_case) {
  for (const IndexBuild& way : kIndexBuilds) {
    context.path = way.path;
    SearchRequest request = search_case.request;
    std::vector<std::unique_ptr<RowIndex>> indexes;
    for (Segment& segment : request.segments) {
      if (segment.n == 0) continue;
      auto index = way.build(segment, request, context.kernels);
      if (index == nullptr || !index->serves(request)) continue;
      segment.index = index.get();
      indexes.push_back(std::move(index));
    }
    if (indexes.empty()) continue;
    for (const std::size_t threads : kThreads) {
      context.count(search_once(context, search_case, request, threads, nullptr));
    }
  }
}

void require_every_index_served(const Context& context) {
  for (const IndexBuild& way : kIndexBuilds) {
    const auto found = context.searches.find(way.kind);
    require(found != context.searches.end() && found->second > 0,
            (std::string("no case was searched through a ") + way.kind).c_str());
  }
}

}  // namespace resmem
