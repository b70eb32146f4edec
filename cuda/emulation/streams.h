// The streams of played devices: what they were asked for, and when it is done.
//
// A stream does its work in order. Between streams nothing but events orders anything, so a stream
// either is prompt, and does at once what it is asked for, or it lags, and does nothing until
// somebody waits for it; the seed of the emulation says which. Whoever relies on an order that was
// not asked for finds memory as it was before, or as it is afterwards.
//
// A stream that is captured does nothing: its work is noted in a graph, which can be replayed. What
// CUDA forbids meanwhile is refused, and ends the capture.
//
// A device that has failed does nothing that it was asked for and had not done: whoever asked may
// have been told, and have given back the memory that the work names.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../driver.h"

namespace resmem {
namespace emulation {

struct Work {
  const char* what;  // a kernel, or a call of driver.h
  std::function<void()> act;
  bool gives_back = false;  // whether it gives memory back, even that of a device that failed
};

// Asks a stream for work. What the work throws comes out of finish().
void enqueue(int device, device::StreamHandle stream, Work work);

// Do what was asked for up to now: of one stream, or of all streams of a device, or of all devices,
// which keep what their work throws for the next one who asks for a stream.
void finish(int device, device::StreamHandle stream);
void finish_all(int device) noexcept;
void finish_all() noexcept;

device::StreamHandle make_stream(int device);
void destroy_stream(int device, device::StreamHandle stream) noexcept;
device::EventHandle make_event();
void destroy_event(device::EventHandle event) noexcept;
void record(device::EventHandle event, int device, device::StreamHandle stream);
void wait_for(int device, device::StreamHandle stream, device::EventHandle event);
void finish(device::EventHandle event);
// Returns how many streams and events were made and not destroyed.
std::size_t handles_in_use();

// What was done, in this order, since the last call with `begin`; nothing is noted before it.
struct Done {
  std::string what;
  int device;
  std::uintptr_t stream;
};
std::vector<Done> what_was_done(bool begin);

// The work that a stream was asked for while it was captured. Memory that was allocated and given
// back meanwhile belongs to the graph.
class Graph {
 public:
  Graph(int device, device::StreamHandle stream) : device_(device), stream_(stream) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void note(Work work) { work_.push_back(std::move(work)); }
  void keep(void* memory) { kept_.push_back(memory); }
  std::size_t size() const { return work_.size(); }
  // Asks the stream of the capture for all of it.
  void replay() const;

 private:
  const int device_;
  const device::StreamHandle stream_;
  std::vector<Work> work_;
  std::vector<void*> kept_;
};

void begin_capture(int device, device::StreamHandle stream);
// Throws DeviceError if a call that is forbidden has ended the capture.
std::unique_ptr<Graph> end_capture(int device, device::StreamHandle stream);
// Returns the graph of a stream that is captured, or null.
Graph* captured(int device, device::StreamHandle stream);
// Throws DeviceError while a stream of any device is captured, whose capture it ends.
void refuse_in_capture(const char* call);

}  // namespace emulation
}  // namespace resmem
