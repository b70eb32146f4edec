#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

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

// Whether there is address space for one more thread: its stack, and what it asks for before it
// does any work.
bool room_for_a_thread() {
  constexpr std::size_t kFirstSteps = std::size_t{2} << 20;
  std::size_t stack = 0;
  pthread_attr_t usual;
  if (pthread_getattr_default_np(&usual) != 0) return false;
  pthread_attr_getstacksize(&usual, &stack);
  pthread_attr_destroy(&usual);
  const std::size_t bytes = stack + kFirstSteps;
  void* const at =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at != MAP_FAILED && munmap(at, bytes) == 0;
}

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
    std::unique_lock<std::mutex> lock(mutex_);
    // Helpers never exit, so a larger request later finds them waiting.
    while (workers_ < helpers && start_helper(lock)) {
    }
    job->seats = helpers;
    jobs_.push_back(job);
    work_.notify_all();
  }

  // Returns once it has what it needs; false if there is no thread or no memory for one: those
  // there are, and the caller, do it all.
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

  // After this no helper joins; those inside are counted in job->working.
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

// A positive whole number, perhaps the first of a list as in "4,2"; 0 for anything else.
std::size_t first_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  while (*end == ' ' || *end == '\t') ++end;
  return value > 0 && (*end == '\0' || *end == ',') ? static_cast<std::size_t>(value) : 0;
}

std::size_t least_positive(std::size_t a, std::size_t b) {
  return a == 0 ? b : b == 0 ? a : std::min(a, b);
}

std::size_t whole_cpus(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return static_cast<std::size_t>(std::clamp(quota / period + 0.5, 1.0, 1e6));
}

// Of one control group, v2.
std::size_t unified_quota(const std::string& folder) {
  std::string quota;
  double period = 0;
  std::ifstream file(folder + "/cpu.max");
  return file >> quota >> period ? whole_cpus(std::atof(quota.c_str()), period) : 0;  // or "max"
}

// Of one control group, v1.
std::size_t legacy_quota(const std::string& folder) {
  const auto number = [&](const char* name) {
    double value = 0;
    std::ifstream(folder + name) >> value;
    return value;
  };
  return whole_cpus(number("/cpu.cfs_quota_us"), number("/cpu.cfs_period_us"));
}

}  // namespace

std::size_t group_cpus(const std::string& root) {
  std::size_t least = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // number:controllers:group
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string mounted = root + "/sys/fs/cgroup" + (unified ? "" : "/cpu");
    std::string group = line.substr(second + 1);
    for (;;) {  // a group may have no more than those around it
      while (!group.empty() && group.back() == '/') group.pop_back();
      const std::string folder = mounted + group;
      least = least_positive(least, unified ? unified_quota(folder) : legacy_quota(folder));
      if (group.empty()) break;
      const std::size_t parent = group.find_last_of('/');
      group.erase(parent == std::string::npos ? 0 : parent);
    }
  }
  return least;
}

std::size_t default_threads() {
  if (const char* text = std::getenv("RESMEM_NUM_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || value < 1)
      throw std::invalid_argument("RESMEM_NUM_THREADS must be a whole number of at least 1, got '" +
                                  std::string(text) + "'");
    return static_cast<std::size_t>(value);
  }
  std::size_t threads = least_positive(affinity_count(), group_cpus(""));
  // Whoever starts several processes sets these, so that each takes its share.
  for (const char* name : {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT"})
    threads = least_positive(threads, first_number(name));
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
