// The search: blocks of queries, and for each the parts of all segments in turn.
#include <algorithm>
#include <chrono>
#include <thread>

#include "among.h"
#include "compare.cuh"
#include "engine.h"
#include "filter.cuh"
#include "rescore.cuh"
#include "states.cuh"
#include "stream.cuh"

namespace resmem {
namespace device {
namespace {

constexpr std::size_t kLeastCapacity = 16384;  // hits
constexpr std::size_t kLeastShare = 4096;      // rows that a block compares, where queries are few
constexpr std::size_t kMostShares = 512;       // blocks that compare, where queries are few
constexpr std::size_t kDefaultWorkspace = std::size_t{1} << 30;
constexpr std::size_t kMostBlocks = INT32_MAX;  // of a kernel
constexpr unsigned kSettledPhase = 3;  // the phase after which the nearest hits get their keys

// A part of a segment, as a search sees it.
struct SearchedPart {
  std::shared_ptr<const ResidentRows> resident;
  const Part* part;
  NumberType type;
  std::size_t n;         // rows that count
  std::size_t position;  // of the part's first row, among all
  RowMask among;         // no query sees any other row
  ListedRows listed;     // if there are any, none of the other rows is compared

  // Returns how many rows a query is compared with where no filter is.
  std::size_t compared() const { return listed.count > 0 ? listed.count : part->n; }
};

// Where the phases of a search end, in rows. There is one alone where filtering cannot pay: all of
// the first one's rows get through.
std::vector<std::size_t> phase_ends(const SearchedPart& part, const DeviceSearch& request) {
  const std::size_t n = part.part->n, least = std::max(kFirstPhase, 2 * request.k);
  std::vector<std::size_t> ends;
  if (request.forced.first_phase > 0) {
    std::size_t rows = request.forced.first_phase;
    for (std::size_t end = rows; end < n; rows *= kPhaseGrowth, end += rows) ends.push_back(end);
  } else {
    for (unsigned phase = 0; phase_end(phase) < n; ++phase)
      if (phase_end(phase) >= least) ends.push_back(phase_end(phase));
  }
  ends.push_back(n);
  return ends;
}

bool is_filtered(const SearchedPart& part, const DeviceSearch& request) {
  return part.listed.count == 0 && part.part->coded && request.k <= part.part->n &&
         phase_ends(part, request).size() > 1;
}

// Returns how many hits of a query are kept. All of the first phase are hit. Of a later one, about
// kPhaseGrowth * k are nearer than the k-th before it, and codes may let through a few times that.
std::size_t capacity_for(const std::vector<SearchedPart>& parts, const DeviceSearch& request) {
  if (request.forced.capacity > 0) return std::max(request.forced.capacity, request.k + 1);
  std::size_t capacity = request.k + kLeastCapacity, most = 1;
  for (const SearchedPart& part : parts) {
    most = std::max(most, part.compared());
    if (is_filtered(part, request))
      capacity =
          std::max({capacity, 2 * phase_ends(part, request).front(), 4 * kPhaseGrowth * request.k});
  }
  return std::min(most + 1, capacity);
}

// Returns into how many shares the rows are divided that a query is compared with where no filter
// is. Each share has a list of at least k rows, so it has no fewer rows than that.
std::size_t shares_for(const std::vector<SearchedPart>& parts, const DeviceSearch& request,
                       std::size_t queries) {
  std::size_t most = 1;
  for (const SearchedPart& part : parts)
    if (!is_filtered(part, request)) most = std::max(most, part.compared());
  const std::size_t share = std::max(kLeastShare, request.k);
  return std::max<std::size_t>(1, std::min((most + share - 1) / share, kMostShares / queries));
}

// The arrays of a block of queries.
struct Workspace {
  // Those of the caller's that are on the host: queries (count, d), and numbers of each.
  void* queries;
  std::int64_t *excluded, *excluded_groups, *before;
  std::int8_t* codes;
  CodeFacts *unordered, *facts;
  double* squares;
  QueryState* states;
  HitLists hits;
  Nearest nearest, spare;
  std::uint32_t* compared;
  Sorting sorting;
  Counters* counters;
};

// Searches one block of queries.
class BlockSearch {
 public:
  BlockSearch(const DeviceSearch& request, const std::vector<SearchedPart>& parts,
              std::size_t capacity, std::size_t first, std::size_t count)
      : request_(request),
        parts_(parts),
        capacity_(capacity),
        first_(first),
        count_(count),
        shares_(shares_for(parts, request, count)),
        d_(static_cast<unsigned>(request.d)),
        kind_(kind_of(request.metric)),
        depth_(depth_of(point_dimensions(kind_, d_))) {
    Arrays counted;
    lay_out(counted);
    bytes_ = counted.used();
  }

  std::size_t bytes() const { return bytes_; }

  // Throws OutOfDeviceMemory before anything has begun.
  void reserve() { memory_ = Memory({request_.device, request_.stream}, bytes_); }

  void run(DeviceStats& stats) {
    Arrays arrays(memory_.of<void>());
    lay_out(arrays);
    bring_inputs();
    fill_zeros(stream(), work_.counters, sizeof(Counters));
    simt::launch(threads_for("empty_nearest", count_ * request_.k, kStateThreads), stream(),
                 &empty_nearest, work_.nearest, count_ * request_.k);
    for (const SearchedPart& part : parts_) {
      if (part.type == NumberType::float64)
        search_part<double, double>(part, stats);
      else
        with_type(part.type, [&](const auto* none) {
          using T = std::remove_const_t<std::remove_pointer_t<decltype(none)>>;
          if constexpr (!std::is_same_v<T, double>) search_part<T, float>(part, stats);
        });
    }
    simt::launch(threads_for("keys_to_values", count_ * request_.k, kStateThreads), stream(),
                 &keys_to_values, work_.nearest, count_ * request_.k, value_kind());
    ++stats.query_blocks;
  }

  // Copies results to the host. They, and what is added to `stats`, are there once wait() returns.
  void finish(DeviceStats* stats) {
    if (!request_.output_on_device) {
      const std::size_t count = count_ * request_.k, at = first_ * request_.k;
      copy_out(stream(), request_.values + at, work_.nearest.keys, count * sizeof(double));
      copy_out(stream(), request_.ids + at, work_.nearest.ids, count * sizeof(std::int64_t));
      if (request_.positions != nullptr)
        copy_out(stream(), request_.positions + at, work_.nearest.positions,
                 count * sizeof(std::int64_t));
    }
    if (stats == nullptr) return;
    Counters counters;
    copy_out(stream(), &counters, work_.counters, sizeof counters);
    wait(stream());
    stats->hits += counters.hits;
    stats->rescored += counters.rescored;
    stats->compared += counters.compared;
    stats->given_up += counters.given_up;
  }

 private:
  StreamHandle stream() const { return request_.stream; }
  std::size_t query_bytes() const { return d_ * bytes_of(request_.query_type); }
  ValueKind value_kind() const {
    return request_.metric == Metric::euclidean       ? ValueKind::root
           : request_.metric == Metric::inner_product ? ValueKind::negated_key
                                                      : ValueKind::key;
  }

  void lay_out(Arrays& arrays) {
    work_.counters = arrays.next<Counters>(1);
    work_.queries =
        request_.queries_on_device ? nullptr : arrays.next<char>(count_ * query_bytes());
    work_.excluded = lay_out_numbers(arrays, request_.excluded);
    work_.excluded_groups = lay_out_numbers(arrays, request_.excluded_groups);
    work_.before = lay_out_numbers(arrays, request_.before);
    work_.codes = arrays.next<std::int8_t>(count_ * depth_);
    work_.unordered = arrays.next<CodeFacts>(count_);
    work_.facts = arrays.next<CodeFacts>(count_);
    work_.squares = arrays.next<double>(count_);
    work_.states = arrays.next<QueryState>(count_);
    work_.hits.counts = arrays.next<std::uint32_t>(count_);
    work_.hits.places = arrays.next<std::uint32_t>(count_ * shares_ * capacity_);
    work_.hits.known = arrays.next<Known>(count_ * shares_ * capacity_);
    work_.compared = arrays.next<std::uint32_t>(count_ * shares_);
    work_.hits.capacity = static_cast<unsigned>(capacity_);
    work_.sorting = Sorting::in(arrays, count_);
    work_.spare = lay_out_nearest(arrays);
    work_.nearest = request_.output_on_device ? given_nearest() : lay_out_nearest(arrays);
  }
  std::int64_t* lay_out_numbers(Arrays& arrays, const QueryNumbers& given) const {
    if (given.numbers == nullptr || given.on_device) return nullptr;
    return arrays.next<std::int64_t>(count_ * given.width);
  }
  // Returns the caller's arrays, which lie on the device.
  Nearest given_nearest() const {
    const std::size_t at = first_ * request_.k;
    return {request_.values + at, request_.ids + at,
            request_.positions == nullptr ? nullptr : request_.positions + at};
  }
  Nearest lay_out_nearest(Arrays& arrays) const {
    const std::size_t count = count_ * request_.k;
    Nearest made = {arrays.next<double>(count), arrays.next<std::int64_t>(count), nullptr};
    if (request_.positions != nullptr) made.positions = arrays.next<std::int64_t>(count);
    return made;
  }

  void bring_inputs() {
    if (work_.queries != nullptr)
      copy_in(stream(), work_.queries,
              static_cast<const char*>(request_.queries) + first_ * query_bytes(),
              count_ * query_bytes());
    bring_numbers(work_.excluded, request_.excluded);
    bring_numbers(work_.excluded_groups, request_.excluded_groups);
    bring_numbers(work_.before, request_.before);
  }
  void bring_numbers(std::int64_t* to, const QueryNumbers& given) const {
    if (to != nullptr)
      copy_in(stream(), to, given.numbers + first_ * given.width,
              count_ * given.width * sizeof(std::int64_t));
  }
  // Returns the numbers of the block's queries, which were brought or are on the device.
  const std::int64_t* numbers(const std::int64_t* brought, const QueryNumbers& given) const {
    if (brought != nullptr || given.numbers == nullptr) return brought;
    return given.numbers + first_ * given.width;
  }
  const void* queries() const {
    if (work_.queries != nullptr) return work_.queries;
    return static_cast<const char*>(request_.queries) + first_ * query_bytes();
  }

  Hidden hidden_in(const SearchedPart& part) const {
    const ResidentRows& rows = *part.resident;
    const std::size_t first = part.part->first;
    Hidden hidden = {};
    hidden.rows = static_cast<std::uint32_t>(part.n);
    hidden.ids = rows.ids != nullptr ? rows.ids->of<std::int64_t>() + first : nullptr;
    hidden.first_id = static_cast<std::int64_t>(static_cast<std::uint64_t>(rows.first_id) + first);
    hidden.died = rows.died != nullptr ? rows.died->of<std::int64_t>() + first : nullptr;
    hidden.version = request_.version;
    hidden.among = part.among;
    hidden.times = rows.times.from(first);
    hidden.before = numbers(work_.before, request_.before);
    hidden.groups = rows.groups.from(first);
    hidden.excluded = {numbers(work_.excluded, request_.excluded), request_.excluded.width};
    hidden.excluded_groups = {numbers(work_.excluded_groups, request_.excluded_groups),
                              request_.excluded_groups.width};
    return hidden;
  }

  template <class T, class Q>
  void search_part(const SearchedPart& part, DeviceStats& stats) {
    const auto* rows = static_cast<const T*>(part.resident->keys) + part.part->first * request_.d;
    const auto* own = static_cast<const Q*>(queries());
    const bool filtered = is_filtered(part, request_);
    const CodeFacts* facts = filtered ? part.part->facts.template of<CodeFacts>() : nullptr;
    const RankArgs rank = {
        {facts, part.listed.positions, hidden_in(part), static_cast<std::int64_t>(part.position)},
        filtered ? work_.states : nullptr,
        work_.hits,
        request_.k,
        work_.nearest,
        work_.spare};
    if (filtered) {
      code_queries<Q>(part, own);
      filter_part<T, Q>(part, rows, own, stats);
      rescore<T, Q>(part, rows, own, false);
      simt::launch({"rank_hits", {blocks()}, kRankThreads}, stream(), &rank_hits, rank);
    }
    const auto shares = static_cast<unsigned>(filtered ? 1 : shares_);
    CompareArgs<T, Q> compare = {};
    compare.queries = own;
    compare.rows = rows;
    compare.row_count = static_cast<std::uint32_t>(part.compared());
    compare.d = d_;
    compare.kind = kind_;
    compare.all = !filtered;
    compare.shares = shares;
    compare.query_codes = filtered ? work_.codes : nullptr;
    compare.row_codes = filtered ? part.part->codes.template of<std::int8_t>() : nullptr;
    compare.depth = depth_;
    compare.rank = rank;
    compare.compared = work_.compared;
    compare.counters = work_.counters;
    simt::launch({"compare_rows", {blocks() * shares}, kCompareThreads, sizeof(std::uint32_t)},
                 stream(), &compare_rows<T, Q>, compare);
    simt::launch({"merge_shares", {blocks()}, kRankThreads}, stream(), &merge_shares<T, Q>,
                 compare);
  }

  unsigned blocks() const { return static_cast<unsigned>(count_); }

  // Codes the queries as the part's rows are. More than a tile of them are put into an order in
  // which those of a tile have one exponent, mostly.
  template <class Q>
  void code_queries(const SearchedPart& part, const Q* own) {
    CodeArgs<Q> args = {};
    args.vectors = own;
    args.n = count_;
    args.d = d_;
    args.kind = kind_;
    args.queries = true;
    args.largest_square = part.part->largest_square.of<std::uint64_t>();
    args.offset = part.part->offset.of<double>();
    if (count_ > kTile) {
      args.facts = work_.unordered;
      code(stream(), args);
      args.order = arranged(stream(), args.facts, count_, depth_, true, work_.sorting);
    }
    args.codes = work_.codes;
    args.facts = work_.facts;
    args.squares = work_.squares;
    code(stream(), args);
    const StateArgs state = {work_.facts,
                             work_.squares,
                             static_cast<std::uint32_t>(count_),
                             d_,
                             kind_,
                             args.largest_square,
                             work_.nearest,
                             request_.k,
                             work_.states,
                             work_.hits.counts};
    simt::launch(threads_for("begin_queries", count_, kStateThreads), stream(), &begin_queries,
                 state);
  }

  template <class T, class Q>
  void filter_part(const SearchedPart& part, const T* rows, const Q* own, DeviceStats& stats) {
    const std::vector<std::size_t> ends = phase_ends(part, request_);
    std::size_t begin = 0;
    for (std::size_t phase = 0; phase < ends.size(); ++phase) {
      filter(part, begin, ends[phase]);
      tighten(part);
      if (phase == kSettledPhase || phase + 1 == ends.size()) {
        rescore<T, Q>(part, rows, own, true);
        tighten(part);
      }
      begin = ends[phase];
    }
    (count_ <= kStreamQueries ? stats.pairs_streamed : stats.pairs_filtered) +=
        std::uint64_t{count_} * part.part->n;
  }

  void filter(const SearchedPart& part, std::size_t begin, std::size_t end) {
    FilterArgs args = {};
    args.query_codes = work_.codes;
    args.queries = work_.states;
    args.query_count = static_cast<unsigned>(count_);
    args.row_codes = part.part->codes.of<std::int8_t>();
    args.rows = part.part->facts.of<CodeFacts>();
    args.row_tiles = part.part->tiles.of<TileFacts>();
    args.row_count = static_cast<unsigned>(part.part->n);
    args.first_tile = static_cast<unsigned>(begin / kTile);
    args.depth = depth_;
    args.hidden = hidden_in(part);
    args.hits = work_.hits;
    const unsigned tiles = blocks_for(end - begin, kTile);
    if (count_ <= kStreamQueries)
      simt::launch({"stream_rows", {tiles}, kStreamThreads}, stream(), &stream_rows, args);
    else
      simt::launch(
          {"filter_tiles", {tiles * blocks_for(count_, kTile)}, kFilterThreads, kFilterShared},
          stream(), &filter_tiles, args);
  }

  void tighten(const SearchedPart& part) {
    const SelectArgs args = {work_.states, part.part->facts.of<CodeFacts>(), request_.k, work_.hits,
                             work_.counters};
    simt::launch({"tighten_reach", {blocks()}, kSelectThreads, kSelectShared}, stream(),
                 &tighten_reach, args);
  }

  template <class T, class Q>
  void rescore(const SearchedPart& part, const T* rows, const Q* own, bool near_alone) {
    const RescoreArgs<T, Q> args = {own,
                                    rows,
                                    d_,
                                    kind_,
                                    near_alone,
                                    work_.states,
                                    part.part->facts.of<CodeFacts>(),
                                    work_.hits,
                                    work_.counters};
    simt::launch({"rescore_hits", {blocks()}, kRescoreThreads, sizeof(std::uint32_t)}, stream(),
                 &rescore_hits<T, Q>, args);
  }

  const DeviceSearch& request_;
  const std::vector<SearchedPart>& parts_;
  const std::size_t capacity_, first_, count_, shares_;
  const unsigned d_;
  const KeyKind kind_;
  const unsigned depth_;
  std::size_t bytes_ = 0;
  Memory memory_;
  Workspace work_ = {};
};

std::size_t rows_of(const DeviceSearch& request) {
  std::size_t rows = 0;
  for (const DeviceSearch::Searched& segment : request.segments) rows += segment.n;
  return rows;
}

// Returns the parts that are searched. Of those whose rows are listed, some may have none.
std::vector<SearchedPart> searched_parts(const DeviceSearch& request, const AmongOnDevice& among) {
  std::vector<SearchedPart> parts;
  std::size_t position = 0;
  for (const DeviceSearch::Searched& segment : request.segments) {
    const auto resident = segment.rows->resident();
    for (const auto& part : resident->parts) {
      if (part->first >= segment.n) continue;
      const std::size_t n = std::min(part->n, segment.n - part->first);
      const std::size_t first = position + part->first;
      const ListedRows listed = among.listed() ? among.of(first, n) : ListedRows{};
      if (!among.listed() || listed.count > 0)
        parts.push_back(
            {resident, part.get(), segment.rows->type(), n, first, among.mask(first), listed});
    }
    position += segment.n;
  }
  return parts;
}

// Returns how many queries are searched together at first: whole tiles of them.
std::size_t queries_together(const DeviceSearch& request, const std::vector<SearchedPart>& parts,
                             std::size_t capacity) {
  if (request.forced.queries > 0) return std::min(request.q, request.forced.queries);
  if (request.workspace_bytes == 0 &&
      BlockSearch(request, parts, capacity, 0, request.q).bytes() <= kSmallWorkspace)
    return request.q;
  const std::size_t tile = BlockSearch(request, parts, capacity, 0, kTile).bytes();
  const std::size_t tiles =
      std::max<std::size_t>(1, workspace_bytes(request.workspace_bytes) / tile);
  std::size_t most_rows = 1;
  for (const SearchedPart& part : parts) most_rows = std::max(most_rows, part.part->n);
  const std::size_t most = kMostBlocks / blocks_for(most_rows, kTile);  // filter_tiles()
  return std::min(request.q, std::min(tiles, most) * kTile);
}

}  // namespace

std::size_t workspace_bytes(std::size_t asked) {
  return asked > 0 ? asked : std::min(free_memory() / 8, kDefaultWorkspace);
}

void wait_polling(StreamHandle stream, const std::function<void()>& poll) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kBetweenPolls = std::chrono::milliseconds(20);
  auto next = Clock::now();
  while (!is_done(stream)) {
    if (Clock::now() >= next) {
      poll();
      next = Clock::now() + kBetweenPolls;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  poll();
}

DeviceSearch DeviceSearch::of_queries(std::size_t first, std::size_t count) const {
  DeviceSearch some = *this;
  some.q = count;
  some.queries = static_cast<const char*>(queries) + first * d * bytes_of(query_type);
  some.excluded = excluded.from(first);
  some.excluded_groups = excluded_groups.from(first);
  some.before = before.from(first);
  some.values = nullptr;
  some.ids = some.positions = nullptr;
  return some;
}

void search(const DeviceSearch& request, const std::function<void()>& poll, DeviceStats* stats) {
  DeviceStats done;
  if (request.q == 0 || request.k == 0) return;
  const OnDevice here(request.device);
  const std::size_t rows = rows_of(request);
  const AmongOnDevice among(request.among, rows,
                            request.forced.listed > 0 ? request.forced.listed : most_listed(rows),
                            {request.device, request.stream});
  const std::vector<SearchedPart> parts = searched_parts(request, among);
  const std::size_t capacity = capacity_for(parts, request);
  std::size_t together = queries_together(request, parts, capacity);
  for (std::size_t first = 0; first < request.q;) {
    BlockSearch block(request, parts, capacity, first, std::min(together, request.q - first));
    try {
      block.reserve();
    } catch (const OutOfDeviceMemory&) {
      if (together <= kTile) throw;
      together = std::max<std::size_t>(kTile, together / 2 / kTile * kTile);
      continue;
    }
    block.run(done);
    if (!request.output_on_device) wait_polling(request.stream, poll);
    block.finish(stats != nullptr ? &done : nullptr);
    if (!request.output_on_device) wait(request.stream);
    first += std::min(together, request.q - first);
  }
  if (stats != nullptr) *stats = done;
}

}  // namespace device
}  // namespace resmem
