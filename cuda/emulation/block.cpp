#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include "sanitizers.h"

namespace resmem {
namespace emulation {
namespace {

constexpr std::size_t kStackBytes = std::size_t{128} << 10;
constexpr unsigned char kPoison = 0xFF;  // NaN as floats, -1 as integers
constexpr std::size_t kSharedAlignment = 128;

thread_local Block* current_block = nullptr;

// Fibers that no block of this thread of the system has now. To make them takes longer than most
// kernels, under ThreadSanitizer above all.
thread_local std::vector<std::unique_ptr<Fiber>> spare_fibers;

std::unique_ptr<Fiber> some_fiber() {
  if (spare_fibers.empty()) return std::make_unique<Fiber>(kStackBytes);
  std::unique_ptr<Fiber> fiber = std::move(spare_fibers.back());
  spare_fibers.pop_back();
  return fiber;
}

// Ends a thread of a block in which a rule was broken, so that its stack is left in order.
struct Cancelled {};

unsigned char* new_shared(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  // The size is not rounded up, so that AddressSanitizer sees the first byte beyond it.
  void* shared = nullptr;
  if (posix_memalign(&shared, kSharedAlignment, bytes) != 0) throw std::bad_alloc();
  return static_cast<unsigned char*>(shared);
}

std::string named(const Place& place) {
  return std::string(place.what) + " in line " + std::to_string(place.line);
}

}  // namespace

Block::Block(unsigned threads, std::size_t shared_bytes, std::uint64_t seed)
    : threads_(threads),
      shared_bytes_(shared_bytes),
      shared_(new_shared(shared_bytes)),
      random_(seed),
      all_(threads),
      warps_(threads / kWarp) {
  if (threads == 0 || threads % kWarp != 0)
    throw RuleBroken("a block has a multiple of 32 threads, not " + std::to_string(threads));
  const Unwatched unwatched;
  for (Thread& each : all_) each.fiber = some_fiber();
}

Block::~Block() {
  const Unwatched unwatched;
  for (Thread& each : all_) spare_fibers.push_back(std::move(each.fiber));
  std::free(shared_);
}

Block& Block::current() { return *current_block; }

void Block::body(void* argument) {
  auto* block = static_cast<Block*>(argument);
  observe(&block->kernel_);
  try {
    if (!block->cancelled_) (*block->kernel_)();
  } catch (const Cancelled&) {
  } catch (...) {
    const Unwatched unwatched;
    if (block->error_ == nullptr) block->error_ = std::current_exception();
  }
  publish(&block->error_);
  const Unwatched unwatched;
  block->all_[block->running_].state = State::ended;
  ++block->warps_[block->running_ / kWarp].ended;
  --block->living_;
}

void Block::begin() {
  living_ = threads_;
  at_barrier_ = 0;
  error_ = nullptr;
  cancelled_ = false;
  if (shared_ != nullptr) std::memset(shared_, kPoison, shared_bytes_);
  for (Warp& warp : warps_) warp.arrived = warp.ended = 0;
  for (Thread& each : all_) {
    each.state = State::ready;
    each.exchanges = 0;
    each.copies.assign(1, {});
    each.fiber->begin(&Block::body, this);
  }
}

void Block::run(Index grid, Index index, const std::function<void()>& kernel) {
  grid_ = grid;
  index_ = index;
  kernel_ = &kernel;
  {
    const Unwatched unwatched;
    begin();
    publish(&kernel_);
    std::vector<unsigned> order(threads_);
    std::iota(order.begin(), order.end(), 0U);
    current_block = this;
    while (living_ > 0) {
      bool moved = false;
      std::shuffle(order.begin(), order.end(), random_);
      for (const unsigned thread : order) {
        if (cancelled_ || all_[thread].state == State::ready) {
          moved = true;
          resume(thread);
        }
        if (error_ != nullptr) cancelled_ = true;
      }
      if (!moved) error_ = std::make_exception_ptr(RuleBroken(deadlock()));
    }
    current_block = nullptr;
  }
  observe(&error_);
  if (error_ != nullptr) std::rethrow_exception(error_);
  refuse_unwaited_copies();
}

void Block::resume(unsigned thread) {
  if (all_[thread].state == State::ended) return;
  running_ = thread;
  all_[thread].fiber->resume();
}

std::string Block::deadlock() const {
  std::string message = "threads wait for ever:";
  unsigned shown = 0;
  for (unsigned thread = 0; thread < threads_ && shown < 4; ++thread) {
    if (all_[thread].state == State::ended) continue;
    message += " " + std::to_string(thread) + " at " + named(all_[thread].place) + ";";
    ++shown;
  }
  return message;
}

void Block::refuse_unwaited_copies() const {
  for (unsigned thread = 0; thread < threads_; ++thread)
    for (const std::vector<Copy>& group : all_[thread].copies)
      if (!group.empty())
        throw RuleBroken("thread " + std::to_string(thread) + " ended before its copies came");
}

void Block::wait(State state, Place place) {
  Thread& mine = all_[running_];
  mine.state = state;
  mine.place = place;
  mine.fiber->suspend();
  if (cancelled_) throw Cancelled();
}

bool Block::sync(bool said, Place place) {
  const Unwatched unwatched;
  if (living_ != threads_) throw RuleBroken(named(place) + ": another thread has ended");
  if (at_barrier_ == 0) {
    barrier_ = place;
    any_ = false;
  } else if (!(barrier_ == place)) {
    throw RuleBroken("threads are at two barriers, " + named(barrier_) + " and " + named(place));
  }
  any_ = any_ || said;
  publish(&barrier_);
  if (++at_barrier_ == threads_) {
    at_barrier_ = 0;
    any_before_ = any_;
    for (Thread& each : all_)
      if (each.state == State::at_barrier) each.state = State::ready;
  } else {
    wait(State::at_barrier, place);
  }
  observe(&barrier_);
  return any_before_;
}

const void* Block::exchange_bytes(const void* mine, std::size_t bytes, Place place) {
  const Unwatched unwatched;
  Warp& warp = warps_[running_ / kWarp];
  Thread& thread = all_[running_];
  if (warp.ended > 0) throw RuleBroken(named(place) + ": another lane has ended");
  if (warp.arrived == 0)
    warp.place = place;
  else if (!(warp.place == place))
    throw RuleBroken("lanes are at two places, " + named(warp.place) + " and " + named(place));
  unsigned char* values = warp.values[thread.exchanges % 2];
  std::memcpy(values + lane() * bytes, mine, bytes);
  ++thread.exchanges;
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    const unsigned first = running_ / kWarp * kWarp;
    for (unsigned i = first; i < first + kWarp; ++i)
      if (all_[i].state == State::at_exchange) all_[i].state = State::ready;
  } else {
    wait(State::at_exchange, place);
  }
  return values;
}

void Block::sync_warp(Place place) {
  void* tag = &warps_[running_ / kWarp];
  publish(tag);
  exchange(char{}, place);
  observe(tag);
}

void Block::copy_later(void* to, const void* from, std::size_t filled, Place place) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(from) % 16 != 0 || filled > 16)
    throw RuleBroken(named(place) + ": both ends of a copy must be multiples of 16 bytes");
  std::memset(to, kPoison, 16);
  const Unwatched unwatched;
  all_[running_].copies.back().push_back({to, from, filled});
}

void Block::commit_copies() {
  const Unwatched unwatched;
  all_[running_].copies.emplace_back();
}

void Block::wait_for_copies(std::size_t most_pending) {
  std::vector<Copy> arriving;
  {
    const Unwatched unwatched;
    auto& groups = all_[running_].copies;
    while (groups.size() > most_pending + 1) {
      arriving.insert(arriving.end(), groups.front().begin(), groups.front().end());
      groups.erase(groups.begin());
    }
  }
  for (const Copy& copy : arriving) {
    unsigned char bytes[16] = {};
    if (copy.filled > 0) std::memcpy(bytes, copy.from, copy.filled);
    std::memcpy(copy.to, bytes, sizeof bytes);
  }
}

}  // namespace emulation
}  // namespace resmem
