#include "platform.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace resmem {

#if defined(__APPLE__)
// Returns the whole number that the kernel knows under this name, or 0 if it knows none.
static std::size_t kernel_number(const char* name) {
  std::int64_t number = 0;  // a kernel's number of 32 bits fills the lower half
  std::size_t bytes = sizeof number;
  return sysctlbyname(name, &number, &bytes, nullptr, 0) == 0 && number > 0
             ? static_cast<std::size_t>(number)
             : 0;
}
#endif

// ---- The CPU ----

#if defined(__x86_64__)

// Tells by the bits of XCR0 which registers the system saves.
static std::uint32_t saved_registers() {
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// The libraries of some compilers leave __builtin_cpu_supports without an answer, so the CPU itself
// is asked.
CpuFeatures cpu_features() {
  constexpr std::uint32_t kVectors256 = 0x06, kVectors512 = 0xE6;
  constexpr unsigned kFirst = bit_OSXSAVE | bit_FMA | bit_F16C;
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const auto has_all = [](unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; };
  unsigned a = 0, b = 0, c = 0, d = 0;
  CpuFeatures found;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has_all(c, kFirst)) return found;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  const std::uint32_t saved = saved_registers();
  found.avx2 = has_all(saved, kVectors256) && has_all(b, bit_AVX2);
  found.avx512 = found.avx2 && has_all(saved, kVectors512) && has_all(b, kAvx512);
  found.avx512_vnni = found.avx512 && has_all(c, bit_AVX512VNNI);
  return found;
}

#elif defined(__aarch64__)

CpuFeatures cpu_features() {
  CpuFeatures found;
#if defined(__linux__)
  found.neon_dot_products = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  found.neon_dot_products = kernel_number("hw.optional.arm.FEAT_DotProd") != 0;
#elif defined(_WIN32)
  constexpr DWORD kDotProducts = 43;  // older headers lack PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  found.neon_dot_products = IsProcessorFeaturePresent(kDotProducts) != 0;
#endif
  return found;
}

#endif

#if defined(_SC_LEVEL2_CACHE_SIZE)

std::size_t level2_cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

#elif defined(__linux__)

// musl knows no caches, but the kernel does, in the form "1024K".
std::size_t level2_cache_bytes() {
  std::size_t number = 0;
  char unit = 0;
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index2/size");
  return file >> number >> unit && unit == 'K' ? number << 10 : 0;
}

#elif defined(__APPLE__)

std::size_t level2_cache_bytes() { return kernel_number("hw.l2cachesize"); }

#elif defined(_WIN32)

std::size_t level2_cache_bytes() {
  DWORD bytes = 0;
  GetLogicalProcessorInformation(nullptr, &bytes);  // it fails, but tells how many bytes it needs
  std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> parts(bytes / sizeof parts[0]);
  if (parts.empty() || GetLogicalProcessorInformation(parts.data(), &bytes) == 0) return 0;
  for (const auto& part : parts)
    if (part.Relationship == RelationCache && part.Cache.Level == 2) return part.Cache.Size;
  return 0;
}

#else

std::size_t level2_cache_bytes() { return 0; }

#endif

// ---- CPUs that a process may use ----

#if defined(__linux__)

static std::size_t affinity_count() {
  for (std::size_t cpus = 1024; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    const int failed = sched_getaffinity(0, bytes, set);
    const int count = failed ? 0 : CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    if (!failed) return static_cast<std::size_t>(count);
    if (errno != EINVAL) break;  // EINVAL: this machine may have more CPUs
  }
  return 0;
}

#elif defined(_WIN32)

// The masks are 0 where a process has threads in several groups of 64 CPUs.
static std::size_t affinity_count() {
  DWORD_PTR mine = 0, all = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) == 0) return 0;
  std::size_t count = 0;
  for (; mine != 0; mine &= mine - 1) ++count;
  return count;
}

#else

static std::size_t affinity_count() { return 0; }

#endif

#if defined(__linux__)
// Returns the lesser of two limits, of which 0 means no limit.
static std::size_t stricter(std::size_t a, std::size_t b) {
  return a == 0 ? b : b == 0 ? a : std::min(a, b);
}

static std::size_t whole_cpus(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return static_cast<std::size_t>(std::clamp(quota / period + 0.5, 1.0, 1e6));
}

// Returns the CPUs that one control group of version 2 leaves, or 0 if it sets no limit: it says
// "max" then, which reads as 0.
static std::size_t unified_quota(const std::string& folder) {
  std::string quota;
  double period = 0;
  std::ifstream file(folder + "/cpu.max");
  return file >> quota >> period ? whole_cpus(std::atof(quota.c_str()), period) : 0;
}

// Returns the same for a control group of version 1.
static std::size_t legacy_quota(const std::string& folder) {
  const auto number = [&](const char* name) {
    double value = 0;
    std::ifstream(folder + name) >> value;
    return value;
  };
  return whole_cpus(number("/cpu.cfs_quota_us"), number("/cpu.cfs_period_us"));
}

std::size_t group_cpus(const std::string& root) {
  std::size_t least = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // a line is number:controllers:group
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
      least = stricter(least, unified ? unified_quota(folder) : legacy_quota(folder));
      if (group.empty()) break;
      const std::size_t parent = group.find_last_of('/');
      group.erase(parent == std::string::npos ? 0 : parent);
    }
  }
  return least;
}

#else

std::size_t group_cpus(const std::string&) { return 0; }

#endif

std::size_t usable_cpus() {
  std::size_t cpus = affinity_count();
  if (cpus == 0) cpus = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t quota = group_cpus("");
  return quota > 0 ? std::min(cpus, quota) : cpus;
}

// ---- Memory ----

static constexpr std::size_t kCacheLine = 64;

#if defined(_WIN32)

void* allocate_array(std::size_t bytes) { return _aligned_malloc(bytes, kCacheLine); }

void free_array(void* array) noexcept { _aligned_free(array); }

#else

void* allocate_array(std::size_t bytes) {
  constexpr std::size_t kLargePage = std::size_t{2} << 20;
  const bool large = bytes >= 2 * kLargePage;
  const std::size_t alignment = large ? kLargePage : kCacheLine;
  void* array = nullptr;
  if (posix_memalign(&array, alignment, (bytes + alignment - 1) / alignment * alignment) != 0)
    return nullptr;
#if defined(MADV_HUGEPAGE)
  // Large pages spare random rows a walk through page tables. If the system has none to give,
  // nothing changes.
  if (large) madvise(array, bytes, MADV_HUGEPAGE);
#endif
  return array;
}

void free_array(void* array) noexcept { std::free(array); }

#endif

// ---- Threads and processes ----

#if defined(_WIN32)

bool room_for_a_thread() { return true; }

unsigned fork_count() { return 0; }

#else

bool room_for_a_thread() {
  constexpr std::size_t kFirstSteps = std::size_t{2} << 20;
  std::size_t stack = 0;
  pthread_attr_t usual;  // a thread that asks for no stack size gets this one's
  if (pthread_attr_init(&usual) != 0) return false;
  pthread_attr_getstacksize(&usual, &stack);
  pthread_attr_destroy(&usual);
  const std::size_t bytes = stack + kFirstSteps;
  void* const at =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at != MAP_FAILED && munmap(at, bytes) == 0;
}

unsigned fork_count() {
  static std::atomic<unsigned> count{0};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++count; });
  (void)registered;
  return count;
}

#endif

#if defined(__linux__)

bool on_main_thread() { return syscall(SYS_gettid) == getpid(); }

#elif defined(__APPLE__)

bool on_main_thread() { return pthread_main_np() != 0; }

#else

bool on_main_thread() { return true; }

#endif

}  // namespace resmem
