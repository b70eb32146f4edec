#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fp_guard.h"

namespace resmem {
namespace {

// One parallel_for: helpers join while there are tasks and seats left.
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
      // The others stop too; an Interrupted that follows from it is not the cause.
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      interrupt->stop();
    }
  }
};

class Pool {
 public:
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
          job.next = job.tasks;  // helpers see the stop themselves; wait for them
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
    const std::lock_guard<std::mutex> lock(mutex_);
    // Helpers never exit, so a larger request later finds them waiting.
    while (workers_ < helpers) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::exception&) {
        break;  // no thread or no memory for one: those there are, and the caller, do it all
      }
      ++workers_;
    }
    job->seats = helpers;
    jobs_.push_back(job);
    work_.notify_all();
  }

  // After this no helper joins; those inside are counted in job->working.
  void dismiss(Job* job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    job->seats = 0;
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
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
  std::condition_variable work_;
  std::deque<Job*> jobs_;
  std::size_t workers_ = 0;
};

// Leaked on purpose: helpers may still be waiting when the process ends. A forked child
// has none of the parent's threads and may find its locks held, so it starts a new pool.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool = nullptr; });
  (void)registered;
  Pool* current = the_pool.load();
  if (current == nullptr) {
    auto fresh = std::make_unique<Pool>();
    if (the_pool.compare_exchange_strong(current, fresh.get())) current = fresh.release();
  }
  return *current;
}

std::size_t affinity_count() {
  for (std::size_t cpus = 1024; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    const int failed = sched_getaffinity(0, bytes, set);
    const int count = failed ? 0 : CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (!failed && count > 0) return static_cast<std::size_t>(count);
    if (failed && errno != EINVAL) break;
  }
  return std::max(1U, std::thread::hardware_concurrency());
}

// The quota of the cgroup named by /proc/self/cgroup (v2 and v1), in whole CPUs; 0 if none.
std::size_t cgroup_quota() {
  const auto cpus = [](double quota, double period) -> std::size_t {
    if (!(quota > 0) || !(period > 0)) return 0;
    return std::max<std::size_t>(1, static_cast<std::size_t>(quota / period + 0.5));
  };
  const auto number = [](const std::string& path) {
    double value = 0;
    std::ifstream(path) >> value;
    return value;
  };
  std::size_t least = 0;
  const auto keep = [&least](std::size_t found) {
    if (found > 0) least = least == 0 ? found : std::min(least, found);
  };
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    for (const std::string& inside : {group, std::string("/")}) {
      if (controllers.empty()) {
        std::string quota;
        double period = 0;
        std::ifstream file("/sys/fs/cgroup" + inside + "/cpu.max");
        if (file >> quota >> period && quota != "max") keep(cpus(std::atof(quota.c_str()), period));
      } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
        const std::string folder = "/sys/fs/cgroup/cpu" + inside;
        keep(cpus(number(folder + "/cpu.cfs_quota_us"), number(folder + "/cpu.cfs_period_us")));
      }
    }
  }
  return least;
}

}  // namespace

std::size_t default_threads() {
  if (const char* text = std::getenv("RESMEM_NUM_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || value < 1)
      throw std::invalid_argument("RESMEM_NUM_THREADS must be a whole number of at least 1, got '" +
                                  std::string(text) + "'");
    return static_cast<std::size_t>(value);
  }
  const std::size_t allowed = affinity_count(), quota = cgroup_quota();
  return quota == 0 ? allowed : std::min(allowed, quota);
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
