#include "streams.h"

#include <algorithm>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "../../cpp/base/fp_guard.h"
#include "../failures.h"
#include "../launch.h"

namespace resmem {
namespace emulation {
namespace {

using device::DeviceError;
using device::EventHandle;
using device::StreamHandle;
using Key = std::pair<int, std::uintptr_t>;  // of a stream: its device and its address

struct Stream {
  std::deque<Work> waiting;
  std::uint64_t asked = 0, done = 0;
  std::exception_ptr error;  // what its work has thrown first
  std::unique_ptr<Graph> capture;
  bool capture_ended = false;  // by a call that is forbidden
};

struct Event {
  bool recorded = false;
  Key stream;
  std::uint64_t asked = 0;  // how much the stream had been asked for
};

Key key_of(int device, StreamHandle stream) { return {device, stream.address}; }

// All streams of all devices. Work of any stream is done by whichever thread asks for it, under one
// lock that the work itself may take again.
class Streams {
 public:
  void enqueue(const Key& key, Work work) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Stream& stream = all_[key];
    if (stream.capture != nullptr) {
      stream.capture->note(std::move(work));
      return;
    }
    stream.waiting.push_back(std::move(work));
    ++stream.asked;
    if (!lags(key)) run(key, stream, stream.asked);
  }

  void finish(const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Stream& stream = all_[key];
    run(key, stream, stream.asked);
    if (stream.error != nullptr) std::rethrow_exception(std::exchange(stream.error, nullptr));
  }
  void finish_all(int device) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    for (auto& [key, stream] : all_)
      if (key.first == device || device < 0) run(key, stream, stream.asked);
  }

  StreamHandle make(int device) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    std::uintptr_t address = kFirstStream;
    while (made_.count({device, address}) > 0) ++address;
    made_.insert({device, address});
    return {address};
  }
  void destroy(const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Stream& stream = all_[key];
    run(key, stream, stream.asked);
    all_.erase(key);
    made_.erase(key);
  }
  EventHandle make_event() {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    auto made = std::make_unique<Event>();
    const EventHandle handle{reinterpret_cast<std::uintptr_t>(made.get())};
    events_[handle.address] = std::move(made);
    return handle;
  }
  void destroy_event(EventHandle event) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    events_.erase(event.address);
  }

  void record(EventHandle event, const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    *events_.at(event.address) = {true, key, all_[key].asked};
  }
  void wait_for(const Key& key, EventHandle handle) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const Event event = *events_.at(handle.address);
    if (!event.recorded || event.stream == key) return;
    if (all_[key].capture != nullptr) end_captures();
    enqueue(key, {"wait_for", [this, event] { reach(event); }});
  }
  void finish(EventHandle handle) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    reach(*events_.at(handle.address));
  }
  std::size_t handles() const {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    return made_.size() + events_.size();
  }

  std::vector<Done> what_was_done(bool begin) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    noting_ = begin;
    return std::exchange(done_, {});
  }

  void begin_capture(const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (key.second == 0)
      throw DeviceError(
          "cudaStreamBeginCapture failed: operation not permitted on the legacy "
          "default stream (cudaErrorStreamCaptureUnsupported)");
    finish(key);
    all_[key].capture = std::make_unique<Graph>(key.first, StreamHandle{key.second});
    all_[key].capture_ended = false;
  }
  std::unique_ptr<Graph> end_capture(const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Stream& stream = all_[key];
    std::unique_ptr<Graph> graph = std::move(stream.capture);
    if (graph == nullptr || stream.capture_ended)
      throw DeviceError(
          "cudaStreamEndCapture failed: operation failed due to a previous error "
          "during capture (cudaErrorStreamCaptureInvalidated)");
    return graph;
  }
  Graph* captured(const Key& key) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const auto found = all_.find(key);
    return found == all_.end() ? nullptr : found->second.capture.get();
  }
  // Ends all captures, and tells whether there was one.
  bool end_captures() {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    bool any = false;
    for (auto& [key, stream] : all_)
      if (stream.capture != nullptr) any = stream.capture_ended = true;
    return any;
  }

 private:
  static constexpr std::uintptr_t kFirstStream = 0x5000;  // no address that tests call a stream

  static bool lags(const Key& key) {
    std::uint64_t mixed = simt::emulation_seed() * 0x9E3779B97F4A7C15U + key.second * 31 +
                          static_cast<std::uint64_t>(key.first);
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
    return (mixed >> 63) != 0;
  }
  void run(const Key& key, Stream& stream, std::uint64_t until) {
    const FpGuard guard;  // the work computes as a device does, whoever asked for it
    while (stream.done < until && !stream.waiting.empty()) {
      const Work work = std::move(stream.waiting.front());
      stream.waiting.pop_front();
      ++stream.done;
      if (device::has_failed(key.first) && !work.gives_back) continue;
      try {
        work.act();
        if (noting_) done_.push_back({work.what, key.first, key.second});
      } catch (...) {
        if (stream.error == nullptr) stream.error = std::current_exception();
      }
    }
  }
  // A stream that was destroyed has done everything.
  void reach(const Event& event) {
    const auto found = all_.find(event.stream);
    if (event.recorded && found != all_.end()) run(found->first, found->second, event.asked);
  }

  mutable std::recursive_mutex mutex_;
  bool noting_ = false;
  std::vector<Done> done_;
  std::map<Key, Stream> all_;
  std::set<Key> made_;
  std::map<std::uintptr_t, std::unique_ptr<Event>> events_;
};

Streams& streams() {
  static Streams all;
  return all;
}

}  // namespace

void enqueue(int device, StreamHandle stream, Work work) {
  streams().enqueue(key_of(device, stream), std::move(work));
}
void finish(int device, StreamHandle stream) { streams().finish(key_of(device, stream)); }
void finish_all(int device) noexcept { streams().finish_all(device); }
void finish_all() noexcept { streams().finish_all(-1); }

StreamHandle make_stream(int device) { return streams().make(device); }
void destroy_stream(int device, StreamHandle stream) noexcept {
  streams().destroy(key_of(device, stream));
}
EventHandle make_event() { return streams().make_event(); }
void destroy_event(EventHandle event) noexcept { streams().destroy_event(event); }
void record(EventHandle event, int device, StreamHandle stream) {
  streams().record(event, key_of(device, stream));
}
void wait_for(int device, StreamHandle stream, EventHandle event) {
  streams().wait_for(key_of(device, stream), event);
}
void finish(EventHandle event) { streams().finish(event); }
std::size_t handles_in_use() { return streams().handles(); }

std::vector<Done> what_was_done(bool begin) { return streams().what_was_done(begin); }

Graph::~Graph() {
  for (void* memory : kept_) device::release(device_, memory);
}

void Graph::replay() const {
  for (const Work& work : work_) enqueue(device_, stream_, work);
}

void begin_capture(int device, StreamHandle stream) {
  streams().begin_capture(key_of(device, stream));
}
std::unique_ptr<Graph> end_capture(int device, StreamHandle stream) {
  return streams().end_capture(key_of(device, stream));
}
Graph* captured(int device, StreamHandle stream) {
  return streams().captured(key_of(device, stream));
}
void refuse_in_capture(const char* call) {
  if (streams().end_captures())
    throw DeviceError(std::string(call) +
                      " failed: operation not permitted when stream is capturing "
                      "(cudaErrorStreamCaptureUnsupported)");
}

}  // namespace emulation
}  // namespace resmem
