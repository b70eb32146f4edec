#include "threads.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fp_guard.h"
#include "platform.h"

namespace resmem {
namespace {

// A job is one parallel_for. Helpers join it while there are tasks and seats left.
struct Job {
  std::size_t tasks = 0;
  const std::function<void(std::size_t, bool)>* body = nullptr;
  Interrupt* interrupt = nullptr;
  std::atomic<std::size_t> next{0};

  std::mutex mutex;
  std::condition_variable idle;
  std::size_t seats = 0;    // helpers that may still join; guarded by the pool's mutex
  std::size_t working = 0;  // helpers inside; guarded by `mutex`
  std::exception_ptr error;

  void work(bool calling_thread) noexcept {
    const FpGuard guard;
    try {
      for (std::size_t i = next++; i < tasks; i = next++) {
        interrupt->poll(calling_thread);
        (*body)(i, calling_thread);
      }
    } catch (...) {
      next = tasks;
      // The others stop too, and an Interrupted that this makes them throw is not reported.
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      interrupt->stop();
    }
  }
};

class Pool {
 public:
  explicit Pool(unsigned made_after) : forks(made_after) {}

  const unsigned forks;  // fork_count() of the process that its helpers belong to

  void run(Job& job, std::size_t helpers) {
    if (helpers > 0) enlist(&job, helpers);
    job.work(true);
    if (helpers > 0) dismiss(&job);
    std::unique_lock<std::mutex> lock(job.mutex);
    while (job.working > 0) {  // `job` lives until every helper has left
      if (job.idle.wait_for(lock, Interrupt::kPeriod) == std::cv_status::timeout) {
        lock.unlock();
        try {
          job.interrupt->poll(true);
        } catch (const Interrupted&) {
          job.next = job.tasks;  // helpers see the stop themselves, and are waited for
          const std::lock_guard<std::mutex> again(job.mutex);
          if (!job.error) job.error = std::current_exception();
        }
        lock.lock();
      }
    }
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  void enlist(Job* job, std::size_t helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    // Helpers never exit, so a larger request later finds them waiting.
    while (workers_ < helpers && start_helper(lock)) {
    }
    job->seats = helpers;
    jobs_.push_back(job);
    work_.notify_all();
  }

  // Returns once the helper has what it needs, or false if there is no thread or no memory for one:
  // then the caller and the helpers that there are do all the work.
  bool start_helper(std::unique_lock<std::mutex>& lock) {
    if (!room_for_a_thread()) return false;
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {
      return false;
    }
    const std::size_t number = ++workers_;
    ready_.wait(lock, [&] { return begun_ >= number; });
    return true;
  }

  // After this no helper joins. Those that are inside are counted in job->working.
  void dismiss(Job* job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    job->seats = 0;
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
  }

  void serve() {
    reserve_exceptions();
    std::unique_lock<std::mutex> lock(mutex_);
    ++begun_;
    ready_.notify_all();
    for (;;) {
      work_.wait(lock, [this] { return !jobs_.empty(); });
      Job* const job = jobs_.front();
      {
        const std::lock_guard<std::mutex> inside(job->mutex);
        ++job->working;
      }
      if (--job->seats == 0) jobs_.pop_front();
      lock.unlock();
      job->work(false);
      {
        const std::lock_guard<std::mutex> inside(job->mutex);
        --job->working;
        job->idle.notify_all();
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, ready_;
  std::deque<Job*> jobs_;
  std::size_t workers_ = 0, begun_ = 0;  // helpers started, and those that have come to serve()
};

// The pool is leaked on purpose: helpers may still be waiting when the process ends, and a forked
// child, which starts a new pool, may find locks of its parent's held.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  const unsigned forks = fork_count();
  Pool* current = the_pool.load();
  if (current == nullptr || current->forks != forks) {
    auto fresh = std::make_unique<Pool>(forks);
    if (the_pool.compare_exchange_strong(current, fresh.get())) current = fresh.release();
  }
  return *current;
}

// Reads a positive whole number, perhaps the first of a list as in "4,2". Anything else gives 0.
std::size_t first_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  while (*end == ' ' || *end == '\t') ++end;
  return value > 0 && (*end == '\0' || *end == ',') ? static_cast<std::size_t>(value) : 0;
}

}  // namespace

std::size_t default_threads() {
  if (const char* text = std::getenv("RESMEM_NUM_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long long value = std::strtoll(text, &end, 10);
    if (*end != '\0' || value < 1)
      throw std::invalid_argument("RESMEM_NUM_THREADS must be a whole number of at least 1, got '" +
                                  std::string(text) + "'");
    return static_cast<std::size_t>(value);
  }
  std::size_t threads = usable_cpus();
  // Whoever starts several processes sets these, so that each takes its share.
  for (const char* name : {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT"})
    if (const std::size_t most = first_number(name); most > 0) threads = std::min(threads, most);
  return threads;
}

void reserve_exceptions() {
  const volatile int asked = std::uncaught_exceptions();  // a call that nobody needs is left out
  (void)asked;
}

void parallel_for(std::size_t tasks, std::size_t threads, Interrupt& interrupt,
                  const std::function<void(std::size_t, bool)>& body) {
  Job job;
  job.tasks = tasks;
  job.body = &body;
  job.interrupt = &interrupt;
  pool().run(job, tasks == 0 ? 0 : std::min(threads, tasks) - 1);
}

void parallel_for_rows(std::size_t n, std::size_t row_cost, std::size_t threads,
                       Interrupt& interrupt,
                       const std::function<void(std::size_t, std::size_t, bool)>& body) {
  constexpr std::size_t kTaskCost = std::size_t{1} << 16;
  const std::size_t block =
      std::max<std::size_t>(1, kTaskCost / std::max<std::size_t>(1, row_cost));
  parallel_for((n + block - 1) / block, threads, interrupt, [&](std::size_t task, bool calling) {
    body(task * block, std::min(n, (task + 1) * block), calling);
  });
}

}  // namespace resmem
