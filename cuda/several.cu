// The search on several devices: each searches its own rows at the same time as the others, and
// what they find comes to the device of the results and is merged there by (key, id).
#include <atomic>
#include <exception>
#include <map>
#include <thread>

#include "failures.h"
#include "merge.cuh"
#include "search.h"
#include "slabs.h"
#include "states.cuh"

namespace resmem {
namespace device {
namespace {

using Poll = std::function<void()>;

// Lists of nearest rows in memory of their own.
class KeptNearest {
 public:
  KeptNearest(const MemorySource& source, std::size_t count, bool positions)
      : keys_(source, count * sizeof(double)),
        ids_(source, count * sizeof(std::int64_t)),
        positions_(source, positions ? count * sizeof(std::int64_t) : 0) {}

  Nearest lists() const {
    return {keys_.of<double>(), ids_.of<std::int64_t>(), positions_.of<std::int64_t>()};
  }

 private:
  Memory keys_, ids_, positions_;
};

void write_to(DeviceSearch& request, const Nearest& nearest) {
  request.values = nearest.keys;
  request.ids = nearest.ids;
  request.positions = nearest.positions;
  request.output_on_device = request.raw_keys = true;
}

// Calls copy(to, from, bytes) for the arrays of lists of so many rows.
template <class Copy>
void copy_lists(const Nearest& to, const Nearest& from, std::size_t count, const Copy& copy) {
  copy(to.keys, from.keys, count * sizeof(double));
  copy(to.ids, from.ids, count * sizeof(std::int64_t));
  if (to.positions != nullptr) copy(to.positions, from.positions, count * sizeof(std::int64_t));
}

// The search of another device than that of the results, on a thread of its own.
class Elsewhere {
 public:
  // `all` asks for everything; its stream makes the memory for what is found here.
  Elsewhere(const DeviceSearch& all, int device, std::vector<DeviceSearch::Searched> segments)
      : all_(all),
        device_(device),
        segments_(std::move(segments)),
        came_({all.device, all.stream}, all.q * all.k, all.positions != nullptr) {
    record(ready_.handle(), all.stream);
  }

  void start(const Poll& poll, bool counted) {
    thread_ = std::thread([this, poll, counted] {
      try {
        search(poll, counted);
      } catch (...) {
        error_ = std::current_exception();
      }
    });
  }
  // Waits until the devices have been asked for everything, which the stream of the results then
  // waits for, and throws what went wrong.
  void join() {
    if (thread_.joinable()) thread_.join();
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
    wait_for(all_.stream, came_here_->handle());
  }
  // What is copied here is no other's memory before it has come.
  ~Elsewhere() {
    if (thread_.joinable()) thread_.join();
    try {
      if (came_here_ != nullptr) wait_for(all_.stream, came_here_->handle());
    } catch (const DeviceError&) {  // of which the search tells
    }
  }
  Elsewhere(const Elsewhere&) = delete;
  Elsewhere& operator=(const Elsewhere&) = delete;

  Nearest found() const { return came_.lists(); }
  const DeviceStats& stats() const { return stats_; }

 private:
  void search(const Poll& poll, bool counted) {
    const OnDevice here(device_);
    const Stream stream(device_);
    came_here_ = std::make_unique<Event>();
    wait_for(stream.handle(), ready_.handle());
    try {
      search_on(stream.handle(), poll, counted);
    } catch (...) {
      record(came_here_->handle(), stream.handle());
      throw;
    }
    record(came_here_->handle(), stream.handle());
  }
  void search_on(StreamHandle stream, const Poll& poll, bool counted) {
    const MemorySource source{device_, stream};
    const KeptNearest nearest(source, all_.q * all_.k, all_.positions != nullptr);
    DeviceSearch own = all_;
    own.device = device_;
    own.stream = stream;
    own.segments = segments_;
    const Memory queries = brought(own.queries, own.queries_on_device, query_bytes(), source);
    const Memory excluded = brought(own.excluded, source);
    const Memory groups = brought(own.excluded_groups, source);
    const Memory before = brought(own.before, source);
    write_to(own, nearest.lists());
    search_here(own, poll, counted ? &stats_ : nullptr);
    copy_lists(came_.lists(), nearest.lists(), all_.q * all_.k,
               [&](void* to, const void* from, std::size_t bytes) {
                 copy_across(own.stream, to, all_.device, from, device_, bytes);
               });
  }
  std::size_t query_bytes() const { return all_.q * device::query_bytes(all_); }
  // Copies an array of the other device here, and returns memory with it.
  template <class T>
  Memory brought(const T*& array, bool on_device, std::size_t bytes,
                 const MemorySource& source) const {
    if (array == nullptr || !on_device) return {};
    Memory copy(source, bytes);
    copy_across(*source.stream, copy.of<void>(), device_, array, all_.device, bytes);
    array = copy.of<T>();
    return copy;
  }
  Memory brought(QueryNumbers& given, const MemorySource& source) const {
    return brought(given.numbers, given.on_device, all_.q * given.width * sizeof(std::int64_t),
                   source);
  }

  const DeviceSearch& all_;
  const int device_;
  const std::vector<DeviceSearch::Searched> segments_;
  const KeptNearest came_;
  const Event ready_;
  std::unique_ptr<Event> came_here_;
  DeviceStats stats_;
  std::exception_ptr error_;
  std::thread thread_;
};

// Is thrown by the searches of other devices when the caller's own has ended by an exception.
struct Stopped {};

// Searches all queries of the request at once.
class SeveralSearch {
 public:
  SeveralSearch(const DeviceSearch& request, std::vector<DeviceSearch::Searched> own)
      : request_(request), here_({request.device, request.stream}), own_(std::move(own)) {}

  void add(int device, std::vector<DeviceSearch::Searched> segments) {
    others_.push_back(std::make_unique<Elsewhere>(request_, device, std::move(segments)));
  }

  void run(const Poll& poll, DeviceStats* stats) {
    DeviceStats sums;
    std::atomic<bool> stopped{false};
    const Poll poll_elsewhere = [&stopped] {
      if (stopped) throw Stopped();
    };
    const std::size_t count = request_.q * request_.k;
    const bool positions = request_.positions != nullptr;
    const KeptNearest kept(here_, request_.output_on_device ? 0 : count, positions);
    const KeptNearest spare(here_, count, positions);
    const Nearest nearest = request_.output_on_device
                                ? Nearest{request_.values, request_.ids, request_.positions}
                                : kept.lists();
    const Joined joined{others_, stopped};
    for (const auto& other : others_) other->start(poll_elsewhere, stats != nullptr);
    DeviceSearch own = request_;
    own.segments = own_;
    write_to(own, nearest);
    search_here(own, poll, stats != nullptr ? &sums : nullptr);
    for (const auto& other : others_) {
      other->join();
      sums += other->stats();
      const MergeArgs args = {nearest, other->found(), spare.lists(), request_.k};
      simt::launch({"merge_nearest", {static_cast<unsigned>(request_.q)}, kRankThreads},
                   request_.stream, &merge_nearest, args);
    }
    simt::launch(threads_for("keys_to_values", count, kStateThreads), request_.stream,
                 &keys_to_values, nearest, count, value_kind(request_.metric));
    if (!request_.output_on_device) bring_to_host(nearest, count, poll);
    if (stats != nullptr) *stats += sums;
  }

 private:
  // Ends the other searches, if they have not ended, before anything goes that they use.
  struct Joined {
    ~Joined() {
      stopped = true;
      others.clear();
    }
    std::vector<std::unique_ptr<Elsewhere>>& others;
    std::atomic<bool>& stopped;
  };

  void bring_to_host(const Nearest& nearest, std::size_t count, const Poll& poll) const {
    wait_polling([this] { return is_done(request_.stream); }, poll);
    const Nearest to = {request_.values, request_.ids, request_.positions};
    copy_lists(to, nearest, count, [this](void* host, const void* from, std::size_t bytes) {
      copy_out(request_.stream, host, from, bytes);
    });
    wait(request_.stream);
  }

  const DeviceSearch& request_;
  const MemorySource here_;
  const std::vector<DeviceSearch::Searched> own_;
  std::vector<std::unique_ptr<Elsewhere>> others_;
};

// Returns the request for some of its queries.
DeviceSearch part_of(const DeviceSearch& request, std::size_t first, std::size_t count) {
  DeviceSearch part = request.of_queries(first, count);
  part.values = request.values + first * request.k;
  part.ids = request.ids + first * request.k;
  if (request.positions != nullptr) part.positions = request.positions + first * request.k;
  return part;
}

// Returns how many queries are searched together. Meanwhile one device holds the results of each
// device, and room to merge them in.
std::size_t merged_together(const DeviceSearch& request, std::size_t devices) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 30;
  const std::size_t most = request.workspace_bytes > 0 ? request.workspace_bytes : kMostBytes;
  const std::size_t query = (devices + 1) * request.k * (sizeof(double) + 2 * sizeof(std::int64_t));
  return std::min(request.q, std::max<std::size_t>(kTile, most / query));
}

}  // namespace

void search(const DeviceSearch& request, const std::function<void()>& poll, DeviceStats* stats) {
  if (request.q == 0 || request.k == 0) return;
  std::map<int, std::vector<DeviceSearch::Searched>> by_device;
  for (const DeviceSearch::Searched& each : request.segments)
    by_device[each.rows->device()].push_back(each);
  auto own = std::move(by_device[request.device]);
  by_device.erase(request.device);
  if (by_device.empty()) {
    search_here(request, poll, stats);
    return;
  }
  const OnDevice here(request.device);
  if (is_captured(request.stream)) throw_captured("lie on several devices");
  const std::size_t together = merged_together(request, by_device.size() + 1);
  if (stats != nullptr) *stats = {};
  for (std::size_t first = 0; first < request.q; first += together) {
    const DeviceSearch part = part_of(request, first, std::min(together, request.q - first));
    SeveralSearch several(part, own);
    for (const auto& [device, segments] : by_device) several.add(device, segments);
    several.run(poll, stats);  // adds to them
  }
}

}  // namespace device
}  // namespace resmem
