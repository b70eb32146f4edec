// Measures what one core can do at most, for `threads` cores at once: fused multiply-adds in
// float32 (GFLOP/s, two operations each) and bytes read from memory (GB/s).
// Prints "gflops gbytes"; the best of several passes, as a peak should be.
//
// Build: g++ -O3 -march=native -ffp-contract=fast -pthread probe.cpp -o probe

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float Vector __attribute__((vector_size(kVectorBytes)));

constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr int kChains = 10;  // latency 5 x 2 per cycle; with two operands, 12 of 16 registers
constexpr long kSteps = 20'000'000;
constexpr int kPasses = 5;
constexpr size_t kBytes = size_t{256} << 20;  // per thread: far beyond any cache
constexpr int kStreams = 8;

double Seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Keeps `value` from being optimised away.
void Consume(Vector value) {
  asm volatile("" : : "m"(value));
}

void MultiplyAdd() {
  Vector chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = Vector{} + float(c);
  Vector factor = Vector{} + 0.999F;
  Vector term = Vector{} + 0.001F;
  asm volatile("" : "+x"(factor), "+x"(term));
  for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (int c = 0; c < kChains; ++c) chains[c] = chains[c] * factor + term;
  }
  for (const Vector& chain : chains) Consume(chain);
}

void Read(const char* memory) {
  Vector sums[kStreams] = {};
  for (size_t at = 0; at < kBytes; at += sizeof(sums)) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {
      Vector next;
      std::memcpy(&next, memory + at + s * kVectorBytes, kVectorBytes);
      sums[s] += next;
    }
  }
  for (const Vector& sum : sums) Consume(sum);
}

// The shortest of `kPasses` passes in which all threads run `work(thread)` at once: from the first
// start to the last end, as the threads saw them (this thread may be woken late).
template <class Work>
double BestPass(int threads, Work work) {
  std::barrier gate(threads);
  std::vector<std::array<double, kPasses>> start(threads), end(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (int pass = 0; pass < kPasses; ++pass) {
        gate.arrive_and_wait();
        start[t][pass] = Seconds();
        work(t);
        end[t][pass] = Seconds();
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    double first = start[0][pass], last = end[0][pass];
    for (int t = 1; t < threads; ++t) {
      first = std::min(first, start[t][pass]);
      last = std::max(last, end[t][pass]);
    }
    best = std::min(best, last - first);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double flops = 2.0 * kSteps * kChains * kLanes * threads;
  const double gflops = flops / BestPass(threads, [](int) { MultiplyAdd(); }) / 1e9;
  std::vector<std::vector<char>> memory(threads, std::vector<char>(kBytes, 1));
  const double seconds = BestPass(threads, [&](int t) { Read(memory[t].data()); });
  std::printf("%.1f %.1f\n", gflops, double(kBytes) * threads / seconds / 1e9);
}
