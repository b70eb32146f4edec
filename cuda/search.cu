// The search on one device: rounds of queries; for each the parts of all segments in turn, first
// those that stay there and then slabs; and for each of these blocks of the round's queries.
#include "search.h"

#include <algorithm>

#include <algorithm>

#include "among.h"
#include "coding.h"
#include "compare.cuh"
#include "failures.h"
#include "filter.cuh"
#include "rescore.cuh"
#include "slabs.h"
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

// Rows that are searched together: a part of a segment, or a slab of it.
struct SearchedPart {
  std::shared_ptr<const ResidentRows> resident;
  const Part* part;  // with their codes; of a slab, those of the slab that came last
  NumberType type;
  std::size_t first, rows;  // of the segment
  std::size_t n;            // rows that count
  std::size_t position;     // of the first row, among all
  bool coded;
  const void* keys;   // of the first row: on the device, or of a slab on the host
  RowMask among;      // no query sees any other row
  ListedRows listed;  // if there are any, none of the other rows is compared

  const void* keys_at(std::size_t row, std::size_t d) const {
    return static_cast<const char*>(keys) + row * d * bytes_of(type);
  }
  // Returns how many rows a query is compared with where no filter is.
  std::size_t compared() const { return listed.count > 0 ? listed.count : rows; }
};

// Where the phases of a search end, in rows. There is one alone where filtering cannot pay: all of
// the first one's rows get through.
std::vector<std::size_t> phase_ends(const SearchedPart& part, const DeviceSearch& request) {
  const std::size_t n = part.rows, least = std::max(kFirstPhase, 2 * request.k);
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
  return part.listed.count == 0 && part.coded && request.k <= part.rows &&
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

// The arrays of a round of queries,
struct Round {
  // Those of the caller's that are on the host: queries (count, d), and numbers of each.
  void* queries;
  std::int64_t *excluded, *excluded_groups, *before;
  Nearest nearest;
  Counters* counters;
};

// and those of a block of them.
struct Workspace {
  std::int8_t* codes;
  CodeFacts *unordered, *facts;
  double* squares;
  QueryState* states;
  HitLists hits;
  Nearest spare;
  std::uint32_t* compared;
  Sorting sorting;
};

// How many queries are searched together: those of a round, whose nearest rows so far are kept
// while rows come, and those of a block, which have lists of hits.
struct Together {
  std::size_t round, block;
};

// Searches one round of queries.
class RoundSearch {
 public:
  RoundSearch(const DeviceSearch& request, const std::vector<SearchedPart>& parts,
              std::size_t capacity, std::size_t first, Together together)
      : request_(request),
        capacity_(capacity),
        first_(first),
        count_(together.round),
        most_(std::min(together.round, together.block)),
        shares_(shares_for(parts, request, most_)),
        d_(static_cast<unsigned>(request.d)),
        kind_(kind_of(request.metric)),
        depth_(depth_of(point_dimensions(kind_, d_))) {
    Arrays round, block;
    lay_out_round(round);
    lay_out_block(block);
    round_bytes_ = round.used();
    block_bytes_ = block.used();
  }

  std::size_t bytes() const { return round_bytes_ + block_bytes_; }
  std::size_t round_bytes() const { return round_bytes_; }

  // Throws OutOfDeviceMemory before anything has begun.
  void reserve() { memory_ = Memory({request_.device, request_.stream}, bytes()); }

  void begin(DeviceStats& stats) {
    Arrays arrays(memory_.of<void>());
    lay_out_round(arrays);
    lay_out_block(arrays);
    bring_inputs();
    fill_zeros(stream(), round_.counters, sizeof(Counters));
    simt::launch(threads_for("empty_nearest", count_ * request_.k, kStateThreads), stream(),
                 &empty_nearest, round_.nearest, count_ * request_.k);
    stats.query_blocks += (count_ + most_ - 1) / most_;
  }

  // Searches some rows, to which the nearest ones so far are added.
  void run(const SearchedPart& part, DeviceStats& stats) {
    for (begun_ = 0; begun_ < count_; begun_ += now_) {
      now_ = std::min(most_, count_ - begun_);
      if (part.type == NumberType::float64)
        search_part<double, double>(part, stats);
      else
        with_type(part.type, [&](const auto* none) {
          using T = std::remove_const_t<std::remove_pointer_t<decltype(none)>>;
          if constexpr (!std::is_same_v<T, double>) search_part<T, float>(part, stats);
        });
    }
  }

  void end() {
    if (!request_.raw_keys)
      simt::launch(threads_for("keys_to_values", count_ * request_.k, kStateThreads), stream(),
                   &keys_to_values, round_.nearest, count_ * request_.k,
                   value_kind(request_.metric));
  }

  // Copies results to the host. They, and what is added to `stats`, are there once wait() returns.
  void finish(DeviceStats* stats) {
    if (!request_.output_on_device) {
      const std::size_t count = count_ * request_.k, at = first_ * request_.k;
      copy_out(stream(), request_.values + at, round_.nearest.keys, count * sizeof(double));
      copy_out(stream(), request_.ids + at, round_.nearest.ids, count * sizeof(std::int64_t));
      if (request_.positions != nullptr)
        copy_out(stream(), request_.positions + at, round_.nearest.positions,
                 count * sizeof(std::int64_t));
    }
    if (stats == nullptr) return;
    Counters counters;
    copy_out(stream(), &counters, round_.counters, sizeof counters);
    wait(stream());
    stats->hits += counters.hits;
    stats->rescored += counters.rescored;
    stats->compared += counters.compared;
    stats->given_up += counters.given_up;
  }

 private:
  StreamHandle stream() const { return request_.stream; }
  std::size_t query_bytes() const { return device::query_bytes(request_); }

  void lay_out_round(Arrays& arrays) {
    round_.counters = arrays.next<Counters>(1);
    round_.queries =
        request_.queries_on_device ? nullptr : arrays.next<char>(count_ * query_bytes());
    round_.excluded = lay_out_numbers(arrays, request_.excluded);
    round_.excluded_groups = lay_out_numbers(arrays, request_.excluded_groups);
    round_.before = lay_out_numbers(arrays, request_.before);
    round_.nearest = request_.output_on_device ? given_nearest() : lay_out_nearest(arrays, count_);
  }
  void lay_out_block(Arrays& arrays) {
    work_.codes = arrays.next<std::int8_t>(most_ * depth_);
    work_.unordered = arrays.next<CodeFacts>(most_);
    work_.facts = arrays.next<CodeFacts>(most_);
    work_.squares = arrays.next<double>(most_);
    work_.states = arrays.next<QueryState>(most_);
    work_.hits.counts = arrays.next<std::uint32_t>(most_);
    work_.hits.places = arrays.next<std::uint32_t>(most_ * shares_ * capacity_);
    work_.hits.known = arrays.next<Known>(most_ * shares_ * capacity_);
    work_.compared = arrays.next<std::uint32_t>(most_ * shares_);
    work_.hits.capacity = static_cast<unsigned>(capacity_);
    work_.sorting = Sorting::in(arrays, most_);
    work_.spare = lay_out_nearest(arrays, most_);
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
  Nearest lay_out_nearest(Arrays& arrays, std::size_t queries) const {
    const std::size_t count = queries * request_.k;
    Nearest made = {arrays.next<double>(count), arrays.next<std::int64_t>(count), nullptr};
    if (request_.positions != nullptr) made.positions = arrays.next<std::int64_t>(count);
    return made;
  }

  void bring_inputs() {
    if (round_.queries != nullptr)
      copy_in(stream(), round_.queries,
              static_cast<const char*>(request_.queries) + first_ * query_bytes(),
              count_ * query_bytes());
    bring_numbers(round_.excluded, request_.excluded);
    bring_numbers(round_.excluded_groups, request_.excluded_groups);
    bring_numbers(round_.before, request_.before);
  }
  void bring_numbers(std::int64_t* to, const QueryNumbers& given) const {
    if (to != nullptr)
      copy_in(stream(), to, given.from(first_).numbers,
              count_ * given.width * sizeof(std::int64_t));
  }

  // Return what the block's queries have of the round's, or of the caller's.
  const void* queries() const {
    if (round_.queries != nullptr)
      return static_cast<const char*>(round_.queries) + begun_ * query_bytes();
    return static_cast<const char*>(request_.queries) + (first_ + begun_) * query_bytes();
  }
  const std::int64_t* numbers(const std::int64_t* brought, const QueryNumbers& given) const {
    return brought != nullptr ? brought + begun_ * given.width
                              : given.from(first_ + begun_).numbers;
  }
  Nearest nearest() const {
    const Nearest& all = round_.nearest;
    const std::size_t at = begun_ * request_.k;
    return {all.keys + at, all.ids + at, all.positions != nullptr ? all.positions + at : nullptr};
  }

  Hidden hidden_in(const SearchedPart& part) const {
    const ResidentRows& rows = *part.resident;
    const std::size_t first = part.first;
    Hidden hidden = {};
    hidden.rows = static_cast<std::uint32_t>(part.n);
    hidden.ids = rows.ids != nullptr ? rows.ids->of<std::int64_t>() + first : nullptr;
    hidden.first_id = static_cast<std::int64_t>(static_cast<std::uint64_t>(rows.first_id) + first);
    hidden.died = rows.died != nullptr ? rows.died->of<std::int64_t>() + first : nullptr;
    hidden.version = request_.version;
    hidden.among = part.among;
    hidden.times = rows.times.from(first);
    hidden.before = numbers(round_.before, request_.before);
    hidden.groups = rows.groups.from(first);
    hidden.excluded = {numbers(round_.excluded, request_.excluded), request_.excluded.width};
    hidden.excluded_groups = {numbers(round_.excluded_groups, request_.excluded_groups),
                              request_.excluded_groups.width};
    return hidden;
  }

  template <class T, class Q>
  void search_part(const SearchedPart& part, DeviceStats& stats) {
    const auto* rows = static_cast<const T*>(part.keys);
    const auto* own = static_cast<const Q*>(queries());
    const bool filtered = is_filtered(part, request_);
    const CodeFacts* facts = filtered ? part.part->facts.template of<CodeFacts>() : nullptr;
    const RankArgs rank = {
        {facts, part.listed.positions, hidden_in(part), static_cast<std::int64_t>(part.position)},
        filtered ? work_.states : nullptr,
        work_.hits,
        request_.k,
        nearest(),
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
    compare.counters = round_.counters;
    simt::launch({"compare_rows", {blocks() * shares}, kCompareThreads, sizeof(std::uint32_t)},
                 stream(), &compare_rows<T, Q>, compare);
    simt::launch({"merge_shares", {blocks()}, kRankThreads}, stream(), &merge_shares<T, Q>,
                 compare);
  }

  unsigned blocks() const { return static_cast<unsigned>(now_); }

  // Codes the queries as the part's rows are. More than a tile of them are put into an order in
  // which those of a tile have one exponent, mostly.
  template <class Q>
  void code_queries(const SearchedPart& part, const Q* own) {
    CodeArgs<Q> args = {};
    args.vectors = own;
    args.n = now_;
    args.d = d_;
    args.kind = kind_;
    args.queries = true;
    args.largest_square = part.part->largest_square.of<std::uint64_t>();
    args.offset = part.part->offset.of<double>();
    if (now_ > kTile) {
      args.facts = work_.unordered;
      code(stream(), args);
      args.order = arranged(stream(), args.facts, now_, depth_, true, work_.sorting);
    }
    args.codes = work_.codes;
    args.facts = work_.facts;
    args.squares = work_.squares;
    code(stream(), args);
    const StateArgs state = {work_.facts,
                             work_.squares,
                             static_cast<std::uint32_t>(now_),
                             d_,
                             kind_,
                             args.largest_square,
                             nearest(),
                             request_.k,
                             work_.states,
                             work_.hits.counts};
    simt::launch(threads_for("begin_queries", now_, kStateThreads), stream(), &begin_queries,
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
    (now_ <= kStreamQueries ? stats.pairs_streamed : stats.pairs_filtered) +=
        std::uint64_t{now_} * part.rows;
  }

  void filter(const SearchedPart& part, std::size_t begin, std::size_t end) {
    FilterArgs args = {};
    args.query_codes = work_.codes;
    args.queries = work_.states;
    args.query_count = static_cast<unsigned>(now_);
    args.row_codes = part.part->codes.of<std::int8_t>();
    args.rows = part.part->facts.of<CodeFacts>();
    args.row_tiles = part.part->tiles.of<TileFacts>();
    args.row_count = static_cast<unsigned>(part.rows);
    args.first_tile = static_cast<unsigned>(begin / kTile);
    args.depth = depth_;
    args.hidden = hidden_in(part);
    args.hits = work_.hits;
    const unsigned tiles = blocks_for(end - begin, kTile);
    if (now_ <= kStreamQueries)
      simt::launch({"stream_rows", {tiles}, kStreamThreads}, stream(), &stream_rows, args);
    else
      simt::launch(
          {"filter_tiles", {tiles * blocks_for(now_, kTile)}, kFilterThreads, kFilterShared},
          stream(), &filter_tiles, args);
  }

  void tighten(const SearchedPart& part) {
    const SelectArgs args = {work_.states, part.part->facts.of<CodeFacts>(), request_.k, work_.hits,
                             round_.counters};
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
                                    round_.counters};
    simt::launch({"rescore_hits", {blocks()}, kRescoreThreads, sizeof(std::uint32_t)}, stream(),
                 &rescore_hits<T, Q>, args);
  }

  const DeviceSearch& request_;
  const std::size_t capacity_, first_, count_, most_, shares_;
  const unsigned d_;
  const KeyKind kind_;
  const unsigned depth_;
  std::size_t round_bytes_ = 0, block_bytes_ = 0;
  Memory memory_;
  Round round_ = {};
  Workspace work_ = {};
  std::size_t begun_ = 0, now_ = 0;  // the block: queries of the round before it, and its own
};

// A segment, and what is there of it when the search begins.
struct Shown {
  DeviceSearch::Searched segment;
  std::shared_ptr<const ResidentRows> resident;

  bool comes_in_slabs() const { return resident->staying < segment.n; }
  // Returns some of the rows, whose first one is at `keys` of all.
  SearchedPart part(std::size_t first, std::size_t rows, const void* keys, std::size_t d,
                    const AmongOnDevice& among) const {
    SearchedPart made = {};
    made.resident = resident;
    made.type = segment.rows->type();
    made.first = first;
    made.rows = rows;
    made.n = std::min(rows, segment.n - first);
    made.position = segment.position + first;
    made.keys = keys;
    made.keys = made.keys_at(first, d);
    made.among = among.mask(made.position);
    made.listed = among.of(made.position, made.n);
    return made;
  }
};

std::vector<Shown> shown(const DeviceSearch& request) {
  std::vector<Shown> segments;
  for (const DeviceSearch::Searched& segment : request.segments)
    segments.push_back({segment, segment.rows->resident()});
  return segments;
}

// Returns between which positions the rows lie that are searched here.
Positions span_of(const DeviceSearch& request) {
  Positions all = {SIZE_MAX, 0};
  for (const DeviceSearch::Searched& each : request.segments)
    all = {std::min(all.begin, each.position), std::max(all.end, each.position + each.n)};
  return {std::min(all.begin, all.end), all.end};
}

// Tells whether some row of a part may be seen.
bool is_searched(const SearchedPart& part, const AmongOnDevice& among) {
  return !among.listed() || part.listed.count > 0;
}

std::vector<SearchedPart> resident_parts(const DeviceSearch& request,
                                         const std::vector<Shown>& segments,
                                         const AmongOnDevice& among) {
  std::vector<SearchedPart> parts;
  for (const Shown& each : segments)
    for (const auto& part : each.resident->parts) {
      if (part->first >= each.segment.n) continue;
      SearchedPart made = each.part(part->first, part->n, each.resident->keys, request.d, among);
      made.part = part.get();
      made.coded = part->coded;
      if (is_searched(made, among)) parts.push_back(std::move(made));
    }
  return parts;
}

// The rows that are brought for a search, in slabs: those of which some may be seen. Their keys are
// coded if that pays.
class Slabs {
 public:
  Slabs(const DeviceSearch& request, const std::vector<Shown>& segments, const AmongOnDevice& among,
        std::size_t rows)
      : request_(request), kind_(kind_of(request.metric)) {
    for (const Shown& each : segments)
      if (each.comes_in_slabs()) list(each, among, rows);
    for (const SearchedPart& slab : all_) {
      most_rows_ = std::max(most_rows_, slab.rows);
      most_bytes_ = std::max(most_bytes_, bytes_in(slab));
      coded_ = coded_ || slab.coded;
    }
  }

  const std::vector<SearchedPart>& all() const { return all_; }

  // Throws OutOfDeviceMemory before anything has begun.
  void reserve(Lanes& lanes, const std::function<void()>& poll) {
    if (all_.empty()) return;
    const MemorySource source{request_.device, request_.stream};
    const auto d = static_cast<unsigned>(request_.d);
    if (coded_) {
      reserve_codes(part_, source, most_rows_, d, kind_);
      coding_ = Memory(source, CodingArrays::bytes(most_rows_));
    }
    copies_ =
        std::make_unique<SlabCopies>(request_.device, request_.stream, lanes, most_bytes_, poll);
  }

  // Begins to bring the first slab; then searches each while the next one comes.
  void begin() {
    if (!all_.empty()) begin(0);
  }
  void run(RoundSearch& round, DeviceStats& stats) {
    for (std::size_t i = 0; i < all_.size(); ++i) {
      if (i + 1 < all_.size()) begin(i + 1);
      SearchedPart slab = all_[i];
      slab.keys = copies_->arrived();
      if (slab.coded) code(slab);
      round.run(slab, stats);
      copies_->searched();
      ++stats.slabs;
      stats.slab_bytes += bytes_in(slab);
    }
  }
  void finish() {
    if (copies_ != nullptr) copies_->finish();
  }

 private:
  void list(const Shown& each, const AmongOnDevice& among, std::size_t rows) {
    const std::size_t n = each.segment.n, least = each.segment.rows->least_coded();
    const bool coded =
        !among.listed() && request_.q > kStreamQueries && can_code(kind_, request_.d);
    for (std::size_t first = each.resident->staying; first < n; first += rows) {
      const std::size_t count = std::min(rows, n - first);
      SearchedPart made = each.part(first, count, each.resident->host_keys, request_.d, among);
      made.part = &part_;
      made.coded = coded && count >= least;
      if (is_searched(made, among)) all_.push_back(std::move(made));
    }
  }
  std::size_t bytes_in(const SearchedPart& slab) const {
    return slab.rows * request_.d * bytes_of(slab.type);
  }
  void begin(std::size_t slab) { copies_->begin(all_[slab].keys, bytes_in(all_[slab])); }
  void code(const SearchedPart& slab) const {
    Arrays arrays(coding_.of<void>());
    code_rows(request_.stream, slab.type, slab.keys, slab.rows, static_cast<unsigned>(request_.d),
              kind_, part_, CodingArrays::in(arrays, slab.rows));
  }

  const DeviceSearch& request_;
  const KeyKind kind_;
  std::vector<SearchedPart> all_;
  std::size_t most_rows_ = 0, most_bytes_ = 0;
  bool coded_ = false;
  Part part_;
  Memory coding_;
  std::unique_ptr<SlabCopies> copies_;
};

// Returns how many rows a slab has at first; 0 if none is needed.
std::size_t slab_rows(const DeviceSearch& request, const std::vector<Shown>& segments) {
  std::size_t row = 0;
  for (const Shown& each : segments) {
    if (!each.comes_in_slabs()) continue;
    const NumberType type = each.segment.rows->type();
    const RowBytes bytes = RowBytes::of(type, request.d, kind_of(request.metric));
    row = std::max(row, kSlabs * bytes.key + bytes.codes + bytes.coding);
  }
  if (row == 0) return 0;
  if (request.forced.slab_rows > 0) return request.forced.slab_rows;
  const std::size_t most =
      request.slab_bytes > 0 ? request.slab_bytes : std::min(free_memory() / 8, kMostSlabBytes);
  return std::min(std::max<std::size_t>(1, most / row / kTile) * kTile, kMostPartRows);
}

// Returns the slabs with memory for them, of fewer rows where that lacks.
std::unique_ptr<Slabs> reserved_slabs(const DeviceSearch& request,
                                      const std::vector<Shown>& segments,
                                      const AmongOnDevice& among, Lanes& lanes,
                                      const std::function<void()>& poll) {
  for (std::size_t rows = slab_rows(request, segments);; rows = rows / 2 / kTile * kTile) {
    auto slabs = std::make_unique<Slabs>(request, segments, among, rows);
    try {
      slabs->reserve(lanes, poll);
      return slabs;
    } catch (const OutOfDeviceMemory&) {
      if (rows < 2 * kTile) throw;
    }
  }
}

// Returns how many queries are searched together at first: whole tiles of them. Where rows come
// from the host, a round has as many as may be, as the rows come once for each.
Together queries_together(const DeviceSearch& request, const std::vector<SearchedPart>& parts,
                          std::size_t capacity, bool slabs) {
  const auto sized = [&](Together together) {
    return RoundSearch(request, parts, capacity, 0, together);
  };
  if (request.forced.queries > 0) {
    const std::size_t block = std::min(request.q, request.forced.queries);
    return {slabs ? request.q : block, block};
  }
  if (request.workspace_bytes == 0 && sized({request.q, request.q}).bytes() <= kSmallWorkspace)
    return {request.q, request.q};
  const std::size_t most_bytes = workspace_bytes(request.workspace_bytes) / (slabs ? 2 : 1);
  const auto tiles = [&](std::size_t bytes) {
    return std::max<std::size_t>(1, most_bytes / bytes);
  };
  std::size_t most_rows = 1;
  for (const SearchedPart& part : parts) most_rows = std::max(most_rows, part.rows);
  const std::size_t most = kMostBlocks / blocks_for(most_rows, kTile);  // filter_tiles()
  const RoundSearch tile = sized({kTile, kTile});
  const std::size_t block = std::min(request.q, std::min(tiles(tile.bytes()), most) * kTile);
  if (!slabs) return {block, block};
  return {std::min(request.q, std::max(block, tiles(tile.round_bytes()) * kTile)), block};
}

// Makes a round, or else its blocks, half as large, and tells whether that can be done.
bool halve(Together& together) {
  const bool one_block = together.round == together.block;
  std::size_t& larger = together.block > kTile ? together.block : together.round;
  if (larger <= kTile) return false;
  larger = std::max<std::size_t>(kTile, larger / 2 / kTile * kTile);
  if (one_block) together.round = together.block = larger;
  return true;
}

}  // namespace

std::size_t workspace_bytes(std::size_t asked) {
  return asked > 0 ? asked : std::min(free_memory() / 8, kDefaultWorkspace);
}

std::size_t DeviceSearch::rows() const {
  std::size_t rows = 0;
  for (const Searched& each : segments) rows = std::max(rows, each.position + each.n);
  return rows;
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

void search_here(const DeviceSearch& request, const std::function<void()>& poll,
                 DeviceStats* stats) {
  DeviceStats done;
  const OnDevice here(request.device);
  Lanes own;
  const std::vector<Shown> segments = shown(request);
  for (const Shown& each : segments)
    if (each.comes_in_slabs() && is_captured(request.stream)) throw_captured("come in slabs");
  const Positions span = span_of(request);
  const std::size_t listed =
      request.forced.listed > 0 ? request.forced.listed : most_listed(span.end - span.begin);
  const AmongOnDevice among(request.among, span, listed, {request.device, request.stream});
  const auto slabs = reserved_slabs(request, segments, among,
                                    request.lanes != nullptr ? *request.lanes : own, poll);
  const std::vector<SearchedPart> resident = resident_parts(request, segments, among);
  std::vector<SearchedPart> parts = resident;
  parts.insert(parts.end(), slabs->all().begin(), slabs->all().end());
  const std::size_t capacity = capacity_for(parts, request);
  Together together = queries_together(request, parts, capacity, !slabs->all().empty());
  for (std::size_t first = 0; first < request.q;) {
    const std::size_t count = std::min(together.round, request.q - first);
    RoundSearch round(request, parts, capacity, first, {count, together.block});
    try {
      round.reserve();
    } catch (const OutOfDeviceMemory&) {
      if (!halve(together)) throw;
      continue;
    }
    round.begin(done);
    slabs->begin();
    for (const SearchedPart& part : resident) round.run(part, done);
    slabs->run(round, done);
    round.end();
    if (!request.output_on_device) wait_polling([&] { return is_done(request.stream); }, poll);
    round.finish(stats != nullptr ? &done : nullptr);
    if (!request.output_on_device) wait(request.stream);
    first += count;
  }
  slabs->finish();
  done.devices = 1;
  if (stats != nullptr) *stats = done;
}

}  // namespace device
}  // namespace resmem
