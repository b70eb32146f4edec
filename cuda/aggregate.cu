// What becomes of neighbours: blocks of queries, and for each its neighbours, base outputs, sums
// and probabilities in turn.
#include "aggregate.h"

#include "engine.h"
#include "gate.cuh"
#include "outputs.cuh"
#include "simplex.cuh"
#include "slabs.h"

namespace resmem {
namespace device {
namespace {

// Neighbours of all queries, or a search for them.
struct Source {
  const DeviceSearch* search;
  const GivenNeighbours* given;

  std::size_t k() const { return search != nullptr ? search->k : given->k; }
  bool products() const {
    return search != nullptr ? search->metric == Metric::inner_product : given->products;
  }
};

// The arrays of a block of queries. Those of the caller that lie on the device are used as they
// are.
struct AggregateArrays {
  double* distances;  // values of the metric
  std::int64_t *ids, *positions;
  SummedRows rows;
  Weighed weighed;
  double *strengths, *gated, *base, *sums, *values;
  void* outputs;
  std::int64_t *select, *names;
  double* out;
  std::int64_t* largest;
};

// Works on one block of queries.
class BlockAggregate {
 public:
  BlockAggregate(const DeviceAggregate& request, const Source& source, const DeviceCall& call,
                 std::size_t first, std::size_t count)
      : request_(request), source_(source), call_(call), first_(first), count_(count) {
    Arrays counted;
    lay_out(counted);
    bytes_ = counted.used();
  }

  std::size_t bytes() const { return bytes_; }

  // Throws OutOfDeviceMemory before anything of the caller's is written.
  void run(const std::function<void()>& poll) {
    memory_ = Memory({call_.device, call_.stream}, bytes_);
    Arrays arrays(memory_.of<void>());
    lay_out(arrays);
    fill_zeros(stream(), work_.weighed.refused, count_ * sizeof(std::uint32_t));
    bring_inputs();
    find_neighbours(poll);
    locate();
    weigh();
    make_base();
    gate();
    sum();
    map();
    pick();
  }

  // Copies results to the host. They are there once wait() returns.
  void finish() const {
    if (work_.out != nullptr && !request_.out.on_device)
      copy_out(stream(), request_.out.address + first_ * request_.width(), work_.out,
               count_ * request_.width() * sizeof(double));
    if (work_.largest != nullptr && !request_.largest.on_device)
      copy_out(stream(), request_.largest.address + first_, work_.largest,
               count_ * sizeof(std::int64_t));
  }

 private:
  StreamHandle stream() const { return call_.stream; }
  std::size_t pairs() const { return count_ * source_.k(); }
  std::size_t cells() const { return count_ * request_.columns; }
  bool has_base() const { return request_.output_kind != OutputKind::none; }
  bool finds_largest() const { return request_.largest.address != nullptr; }
  bool looks_at(Feature feature) const {
    return request_.gate != nullptr && request_.gate->looks_at(feature);
  }
  // Tells whether columns are picked after all of them were mapped.
  bool picks() const { return request_.map && request_.select.address != nullptr; }
  // Tells whether base outputs are needed beside what becomes of them.
  bool keeps_base() const {
    return has_base() && (request_.map || request_.select.address != nullptr);
  }

  // Returns the caller's array, from this block's first element on, where it lies on the device, or
  // else room for a copy of the block's part.
  template <class T>
  T* room_for(Arrays& arrays, const Placed<T>& array, std::size_t width) const {
    using Kept = std::remove_const_t<T>;
    if (array.address == nullptr) return nullptr;
    if (array.on_device) return array.address + first_ * width;
    return arrays.next<Kept>(count_ * width);
  }
  template <class T>
  T* mutable_room(Arrays& arrays, const Placed<const T>& array, std::size_t width) const {
    return const_cast<T*>(room_for(arrays, array, width));
  }

  void lay_out(Arrays& arrays) {
    work_ = {};
    lay_out_neighbours(arrays);
    work_.weighed.counts = arrays.next<std::uint32_t>(count_);
    work_.weighed.refused = arrays.next<std::uint32_t>(count_);
    work_.weighed.totals = arrays.next<double>(count_);
    work_.weighed.nearest = arrays.next<double>(count_);
    work_.strengths = mutable_room(arrays, request_.strengths, 1);
    if (request_.gate != nullptr) work_.gated = arrays.next<double>(count_);
    lay_out_outputs(arrays);
    const std::size_t selected = request_.select_shared ? 0 : request_.selected;
    if (request_.select.address != nullptr)
      work_.select = request_.select.on_device
                         ? const_cast<std::int64_t*>(request_.select.address) + first_ * selected
                         : arrays.next<std::int64_t>(select_count());
    if (request_.names.address != nullptr)
      work_.names = request_.names.on_device ? const_cast<std::int64_t*>(request_.names.address)
                                             : arrays.next<std::int64_t>(request_.columns);
    work_.out = room_for(arrays, request_.out, request_.width());
    work_.largest = room_for(arrays, request_.largest, 1);
    if (request_.dense.empty()) work_.sums = arrays.next<double>(cells());
    const bool apart = picks() || finds_largest();
    work_.values = apart ? arrays.next<double>(cells()) : work_.out;
    if (has_base()) work_.base = keeps_base() ? arrays.next<double>(cells()) : work_.values;
  }
  void lay_out_neighbours(Arrays& arrays) {
    if (source_.search != nullptr) {
      work_.distances = arrays.next<double>(pairs());
      work_.ids = arrays.next<std::int64_t>(pairs());
      work_.positions = arrays.next<std::int64_t>(pairs());
    } else {
      work_.distances = mutable_room(arrays, source_.given->values, source_.k());
      work_.positions = mutable_room(arrays, source_.given->positions, source_.k());
    }
    work_.rows.rows = arrays.next<const char*>(pairs());
    if (!request_.sparse.empty()) {
      work_.rows.values = arrays.next<const char*>(pairs());
      work_.rows.rest = arrays.next<float>(pairs());
    }
    if (looks_at(Feature::agreement)) work_.rows.classes = arrays.next<std::int64_t>(pairs());
    work_.rows.weights = arrays.next<double>(pairs());
  }
  void lay_out_outputs(Arrays& arrays) {
    if (request_.outputs.address == nullptr) return;
    const std::size_t row = request_.columns * bytes_of(request_.output_type);
    work_.outputs =
        request_.outputs.on_device
            ? static_cast<char*>(const_cast<void*>(request_.outputs.address)) + first_ * row
            : arrays.next<char>(count_ * row);
  }
  std::size_t select_count() const {
    return request_.select_shared ? request_.selected : count_ * request_.selected;
  }

  template <class T>
  void bring(T* to, const Placed<const T>& array, std::size_t first, std::size_t count) const {
    if (array.address != nullptr && !array.on_device)
      copy_in(stream(), to, array.address + first, count * sizeof(T));
  }
  void bring_inputs() const {
    if (source_.given != nullptr) {
      bring(work_.distances, source_.given->values, first_ * source_.k(), pairs());
      bring(work_.positions, source_.given->positions, first_ * source_.k(), pairs());
    }
    bring(work_.strengths, request_.strengths, first_, count_);
    const std::size_t row = request_.columns * bytes_of(request_.output_type);
    bring(static_cast<char*>(work_.outputs),
          {static_cast<const char*>(request_.outputs.address), request_.outputs.on_device},
          first_ * row, count_ * row);
    bring(work_.select, request_.select, request_.select_shared ? 0 : first_ * request_.selected,
          select_count());
    bring(work_.names, request_.names, 0, request_.columns);
  }

  void find_neighbours(const std::function<void()>& poll) const {
    if (source_.search == nullptr) return;
    DeviceSearch search = source_.search->of_queries(first_, count_);
    search.values = work_.distances;
    search.ids = work_.ids;
    search.positions = work_.positions;
    search.output_on_device = true;
    device::search(search, poll, nullptr);
    if (search.queries_on_device) refuse(search);
  }
  void refuse(const DeviceSearch& search) const {
    const simt::Launch how = by_warps("refuse_queries");
    if (search.query_type == NumberType::float64)
      simt::launch(how, stream(), &refuse_queries<double>,
                   static_cast<const double*>(search.queries), count_, search.d,
                   work_.weighed.refused);
    else
      simt::launch(how, stream(), &refuse_queries<float>, static_cast<const float*>(search.queries),
                   count_, search.d, work_.weighed.refused);
  }

  // Returns an array of rows, which stays as it is while this block is worked on.
  template <class T>
  const T* held(const RowArrays& rows, std::size_t array) {
    held_.push_back(rows.now());
    return static_cast<const T*>(held_.back()->arrays[array]);
  }

  // Fills the entry of a table with the rows of a segment.
  void describe(std::size_t s, LocatedSegment& segment) {
    if (!request_.dense.empty()) {
      const DenseResiduals& dense = *request_.dense[s];
      segment.rows = held<char>(dense, 0);
      segment.row_bytes = dense.columns() * bytes_of(dense.type());
    } else if (!request_.sparse.empty()) {
      const SparseResiduals& sparse = *request_.sparse[s];
      segment.rows = held<char>(sparse, 0);
      segment.row_bytes = sparse.width() * sizeof(std::int32_t);
      segment.values = held<char>(sparse, 1);
      segment.value_bytes = sparse.width() * bytes_of(sparse.type());
      segment.rest = held<float>(sparse, 2);
    } else {
      segment.rows = held<char>(*request_.labels[s], 0);
      segment.row_bytes = sizeof(std::int64_t);
    }
    if (looks_at(Feature::agreement)) segment.classes = held<std::int64_t>(*request_.classes[s], 0);
    if (!request_.weights.empty() && request_.weights[s] != nullptr)
      segment.weights = held<double>(*request_.weights[s], 0);
  }

  // Finds the rows of neighbours, of as many segments at once as a kernel's table has.
  void locate() {
    std::int64_t position = 0;
    for (std::size_t s = 0; s < request_.rows.size();) {
      LocateArgs args = {};
      args.positions = work_.positions;
      args.count = pairs();
      args.out = work_.rows;
      for (; s < request_.rows.size() && args.segments < kLocatedSegments; ++s) {
        LocatedSegment& segment = args.segment[args.segments++];
        segment.first = position;
        segment.n = static_cast<std::int64_t>(request_.rows[s]);
        position += segment.n;
        describe(s, segment);
      }
      if (pairs() > 0)
        simt::launch(threads_for("locate_rows", pairs(), kLocateThreads), stream(), &locate_rows,
                     args);
    }
  }

  void weigh() const {
    WeighArgs args = {};
    args.values = work_.distances;
    args.positions = work_.positions;
    args.queries = count_;
    args.k = source_.k();
    for (const std::size_t n : request_.rows) args.rows += static_cast<std::int64_t>(n);
    args.sigma = request_.sigma;
    args.products = source_.products();
    args.weights = work_.rows.weights;
    args.out = work_.weighed;
    simt::launch(by_warps("weigh_neighbours"), stream(), &weigh_neighbours, args);
  }

  void make_base() const {
    if (has_base()) with_type(request_.output_type, [&](const auto* none) { make_base_of(none); });
  }
  template <class T>
  void make_base_of(const T*) const {
    OutputArgs<T> args = {};
    args.outputs = static_cast<const T*>(work_.outputs);
    args.columns = request_.columns;
    args.kind = request_.output_kind;
    args.temperature = request_.temperature;
    args.value = request_.output_value;
    args.base = work_.base;
    args.refused = work_.weighed.refused;
    if (request_.output_kind == OutputKind::logits)
      simt::launch(by_rows("soften_logits"), stream(), &soften_logits<T>, args);
    else
      simt::launch(by_rows("take_outputs"), stream(), &take_outputs<T>, args);
  }

  void gate() const {
    if (request_.gate == nullptr) return;
    GateArgs args = {};
    for (const GateStep& step : request_.gate->steps()) args.steps[args.count++] = step;
    args.strength = request_.strength;
    args.weighed = work_.weighed;
    args.base = work_.base;
    args.columns = request_.columns;
    args.k = source_.k();
    args.classes = work_.rows.classes;
    args.weights = work_.rows.weights;
    args.strengths = work_.gated;
    simt::launch(by_rows("gate_queries"), stream(), &gate_queries, args);
  }

  SumArgs sum_arguments() const {
    SumArgs args = {};
    args.rows = work_.rows;
    args.queries = count_;
    args.k = source_.k();
    args.weighed = work_.weighed;
    args.wanted = request_.map ? all_columns() : wanted();
    args.base = work_.base;
    args.interpolate = request_.interpolate;
    args.strength = request_.strength;
    args.strengths = work_.gated != nullptr ? work_.gated : work_.strengths;
    args.values = work_.values;
    args.sums = work_.sums;
    return args;
  }
  Wanted all_columns() const { return {nullptr, false, request_.columns, request_.columns}; }
  Wanted wanted() const {
    return {work_.select, request_.select_shared, request_.width(), request_.columns};
  }

  void sum() const {
    SumArgs args = sum_arguments();
    if (args.wanted.width == 0) return;
    if (!request_.labels.empty())
      sum_by_entries<OneHotEntries>(args);
    else if (!request_.sparse.empty())
      sum_sparse(args);
    else
      with_type(request_.dense.empty() ? NumberType::float32 : request_.dense[0]->type(),
                [&](const auto* none) {
                  using T = std::remove_const_t<std::remove_pointer_t<decltype(none)>>;
                  if constexpr (!std::is_same_v<T, Bfloat16>) sum_by_columns<T>(args);
                });
  }
  template <class T>
  void sum_by_columns(SumArgs args) const {
    args.tile = 1;
    while (args.tile < kSumThreads && args.tile < args.wanted.width) args.tile *= 2;
    const unsigned tiles = blocks_for(args.wanted.width, args.tile);
    simt::launch({"sum_rows", {tiles * blocks_for(count_, kSumThreads / args.tile)}, kSumThreads},
                 stream(), &sum_rows<T>, args);
  }
  void sum_sparse(SumArgs args) const {
    args.entries = request_.sparse[0]->width();
    args.together = simt::kWarp;
    for (const SparseResiduals* each : request_.sparse)
      if (each->repeats()) args.together = 1;
    if (request_.sparse[0]->type() == NumberType::float16)
      sum_by_entries<SparseEntries<Float16>>(args);
    else
      sum_by_entries<SparseEntries<float>>(args);
  }
  template <class Entries>
  void sum_by_entries(const SumArgs& args) const {
    simt::Launch how = by_rows("sum_entries");
    how.shared_bytes = sizeof(double);
    simt::launch(how, stream(), &sum_entries<Entries>, args);
  }

  void map() const {
    if (!request_.map) return;
    const MapArgs args = {request_.map->fitted(request_.columns),
                          request_.strength,
                          request_.columns,
                          work_.base,
                          work_.values,
                          work_.weighed.refused};
    simt::launch(by_rows("map_rows"), stream(), &map_rows, args);
  }

  void pick() const {
    if (finds_largest()) {
      const ArgmaxArgs args = {work_.values, request_.columns, work_.weighed.refused, work_.names,
                               work_.largest};
      simt::Launch how = by_rows("find_largest");
      how.shared_bytes = sizeof(ArgmaxShared);
      simt::launch(how, stream(), &find_largest, args);
    } else if (picks() && request_.width() > 0) {
      const PickArgs args = {work_.values, count_, wanted(), work_.out};
      simt::launch(threads_for("pick_columns", count_ * request_.width(), kSumThreads), stream(),
                   &pick_columns, args);
    }
  }

  // Return how kernels are started of which a warp, or a block, works on a query.
  simt::Launch by_warps(const char* name) const {
    return threads_for(name, count_ * simt::kWarp, kWeighThreads);
  }
  simt::Launch by_rows(const char* name) const {
    unsigned threads = simt::kWarp;
    while (threads < kRowThreads && threads < request_.columns / 2) threads *= 2;
    return {name, {static_cast<unsigned>(count_)}, threads, sizeof(RowShared)};
  }

  const DeviceAggregate& request_;
  const Source& source_;
  const DeviceCall& call_;
  const std::size_t first_, count_;
  std::size_t bytes_ = 0;
  Memory memory_;
  AggregateArrays work_ = {};
  // What kernels are asked to read: another thread may extend the rows meanwhile.
  std::vector<std::shared_ptr<const RowArrays::State>> held_;
};

// Returns how many queries are worked on together at first.
std::size_t queries_together(const DeviceAggregate& request, const Source& source,
                             const DeviceCall& call) {
  if (call.forced_queries > 0) return std::min(request.q, call.forced_queries);
  const auto bytes_for = [&](std::size_t queries) {
    return BlockAggregate(request, source, call, 0, queries).bytes();
  };
  if (call.workspace_bytes == 0 && bytes_for(request.q) <= kSmallWorkspace) return request.q;
  std::size_t together = request.q;
  const std::size_t allowed = workspace_bytes(call.workspace_bytes);
  while (together > 1 && bytes_for(together) > allowed) together = (together + 1) / 2;
  return together;
}

void aggregate_blocks(const DeviceAggregate& request, const Source& source, const DeviceCall& call,
                      const std::function<void()>& poll) {
  if (request.q == 0) return;
  const OnDevice here(call.device);
  std::size_t together = queries_together(request, source, call);
  for (std::size_t first = 0; first < request.q;) {
    const std::size_t count = std::min(together, request.q - first);
    BlockAggregate block(request, source, call, first, count);
    try {
      block.run(poll);
    } catch (const OutOfDeviceMemory&) {
      if (count == 1) throw;
      together = (count + 1) / 2;
      continue;
    }
    if (!request.out_on_device()) {
      wait_polling([&] { return is_done(call.stream); }, poll);
      block.finish();
      wait(call.stream);
    }
    first += count;
  }
}

}  // namespace

void aggregate(const DeviceAggregate& request, const GivenNeighbours& neighbours,
               const DeviceCall& call, const std::function<void()>& poll) {
  aggregate_blocks(request, {nullptr, &neighbours}, call, poll);
}

void correct(const DeviceSearch& search, const DeviceAggregate& request, std::size_t forced_queries,
             const std::function<void()>& poll) {
  const DeviceCall call = {search.device, search.stream, search.workspace_bytes, forced_queries};
  aggregate_blocks(request, {&search, nullptr}, call, poll);
}

}  // namespace device
}  // namespace resmem
