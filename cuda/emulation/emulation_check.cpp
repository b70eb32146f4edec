// Checks the emulation itself: kernels that keep the rules give what the model promises, in any
// order of threads, and kernels that break a rule are told which.
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "../launch.h"
#include "../ptx.h"

namespace resmem {
namespace {

using namespace simt;

int failures = 0;

void expect(bool right, const std::string& what) {
  std::printf("%s  %s\n", right ? "passed" : "FAILED", what.c_str());
  failures += right ? 0 : 1;
}

// The kernel breaks a rule, and the message says so.
void expect_broken(const std::function<void()>& run, const std::string& message) {
  std::string told = "nothing was told";
  try {
    run();
  } catch (const emulation::RuleBroken& broken) {
    told = broken.what();
  }
  expect(told.find(message) != std::string::npos, message + " <- " + told);
}

// ---- Kernels that keep the rules
// -----------------------------------------------------------------

// Every block sums its numbers in shared memory, by halves.
void sum_by_halves(const std::uint32_t* numbers, std::uint32_t* sums) {
  auto* part = shared_memory<std::uint32_t>();
  part[thread()] = numbers[block_x() * threads() + thread()];
  for (unsigned half = threads() / 2; half > 0; half /= 2) {
    sync_block();
    if (thread() < half) part[thread()] += part[thread() + half];
  }
  if (thread() == 0) sums[block_x()] = part[0];
}

void check_barriers() {
  std::vector<std::uint32_t> numbers(5 * 128), sums(5);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i * i);
  run_grid(&sum_by_halves, Grid{5, 1}, 128, 128 * sizeof(std::uint32_t), numbers.data(),
           sums.data());
  bool right = true;
  for (std::size_t b = 0; b < sums.size(); ++b) {
    std::uint32_t wanted = 0;
    for (std::size_t i = b * 128; i < (b + 1) * 128; ++i) wanted += numbers[i];
    right = right && sums[b] == wanted;
  }
  expect(right, "sums by halves between barriers");
}

void exchange_lanes(std::uint32_t* out) {
  const std::uint32_t mine = 100 + thread();
  const std::uint32_t votes = vote(lane() % 3 == 0);
  const std::uint32_t neighbour = shuffle_xor(mine, 1), first = shuffle(mine, 0);
  const double sum = shuffle_xor(0.5 * lane(), 16) + 0.5 * lane();
  const bool any = sync_block_any(thread() == 70);
  out[thread()] =
      (votes == 0x49249249 && neighbour == 100 + (thread() ^ 1) &&
       first == 100 + thread() / 32 * 32 && sum == 0.5 * (lane() + (lane() ^ 16)) && any)
          ? 1
          : 0;
}

void check_exchanges() {
  std::vector<std::uint32_t> out(96);
  run_grid(&exchange_lanes, Grid{}, 96, 0, out.data());
  expect(out == std::vector<std::uint32_t>(96, 1), "votes and shuffles of three warps");
}

void note_order(std::uint32_t* next, std::uint32_t* order) {
  order[atomic_add(next, 1)] = thread();
}

void check_order_is_random() {
  std::set<std::vector<std::uint32_t>> orders;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    emulation_seed() = seed;
    std::uint32_t next = 0;
    std::vector<std::uint32_t> order(64);
    run_grid(&note_order, Grid{}, 64, 0, &next, order.data());
    orders.insert(order);
  }
  emulation_seed() = 1;
  expect(orders.size() == 8, "each seed runs threads in an order of its own");
}

// One warp multiplies a (16, 32) by b (32, 8), both loaded from shared memory.
void multiply_once(const std::int8_t* a, const std::int8_t* b_by_column, std::int32_t* product) {
  auto* a_shared = shared_memory<std::int8_t>();
  std::int8_t* b_shared = a_shared + 16 * 32;
  copy_async(a_shared + 16 * lane(), a + 16 * lane(), 16);
  if (lane() < 16) copy_async(b_shared + 16 * lane(), b_by_column + 16 * lane(), 16);
  commit_copies();
  wait_for_copies<0>();
  sync_warp();
  std::uint32_t words[4], right[4];
  load_tiles(words, a_shared + (lane() % 16) * 32 + lane() / 16 * 16);
  load_tiles(right, b_shared + (lane() % 8) * 32 + lane() / 8 % 2 * 16);
  const std::uint32_t column[2] = {right[0], right[1]};
  std::int32_t sum[4] = {1, 1, 1, 1};
  multiply_bytes(sum, words, column);
  for (unsigned i = 0; i < 4; ++i)
    product[(lane() / 4 + 8 * (i / 2)) * 8 + 2 * (lane() % 4) + i % 2] = sum[i];
}

void check_matrix_products() {
  std::mt19937 random(3);
  alignas(16) std::int8_t a[16 * 32], b[8 * 32];
  for (std::int8_t& each : a) each = static_cast<std::int8_t>(random());
  for (std::int8_t& each : b) each = static_cast<std::int8_t>(random());
  std::vector<std::int32_t> product(16 * 8);
  run_grid(&multiply_once, Grid{}, 32, sizeof a + sizeof b, a, b, product.data());
  bool right = true, four_at_a_time = true;
  for (unsigned row = 0; row < 16; ++row)
    for (unsigned column = 0; column < 8; ++column) {
      std::int32_t wanted = 1, by_fours = 1;
      for (unsigned i = 0; i < 32; ++i) wanted += a[row * 32 + i] * b[column * 32 + i];
      for (unsigned i = 0; i < 32; i += 4) {
        std::uint32_t x, y;
        std::memcpy(&x, a + row * 32 + i, 4);
        std::memcpy(&y, b + column * 32 + i, 4);
        by_fours = multiply_four_bytes(x, y, by_fours);
      }
      four_at_a_time = four_at_a_time && by_fours == wanted;
      right = right && product[row * 8 + column] == wanted;
    }
  expect(right, "a matrix product of bytes, loaded by tiles");
  expect(four_at_a_time, "products of four bytes");
}

void copy_some(const std::uint32_t* from, std::uint32_t* out) {
  auto* here = shared_memory<std::uint32_t>();
  std::uint32_t* mine = here + 8 * thread();
  copy_async(mine, from, 16);
  commit_copies();
  copy_async(mine + 4, from, 8);
  commit_copies();
  wait_for_copies<1>();
  const bool first = mine[0] == from[0] && mine[3] == from[3], second = mine[4] == from[0];
  wait_for_copies<0>();
  const bool filled = mine[4] == from[0] && mine[5] == from[1] && mine[6] == 0 && mine[7] == 0;
  out[thread()] = first && !second && filled ? 1 : 0;
}

void check_copies() {
  alignas(16) const std::uint32_t from[4] = {7, 8, 9, 10};
  std::vector<std::uint32_t> out(32);
  run_grid(&copy_some, Grid{}, 32, 32 * 32, from, out.data());
  expect(out == std::vector<std::uint32_t>(32, 1), "copies come at their wait, with zeros behind");
}

// ---- Kernels that break a rule
// -------------------------------------------------------------------

void early_return(bool*) {
  if (thread() == 5) return;
  sync_block();
}
void two_barriers(bool*) {
  if (thread() < 16)
    sync_block();
  else
    sync_block();
}
void half_a_warp(bool*) {
  if (lane() < 16) vote(true);
}
void two_exchanges(bool*) {
  if (lane() < 16)
    vote(true);
  else
    shuffle(1, 0);
}
void exchange_after_return(bool*) {
  if (lane() == 9) return;
  vote(true);
}
void unwaited_copy(const void* from) {
  copy_async(shared_memory<char>() + 16 * thread(), from, 16);
  commit_copies();
}
void crooked_copy(const void* from) { copy_async(shared_memory<char>() + 4 * thread(), from, 16); }
void wait_for_nobody(bool*) {
  if (thread() == 0)
    sync_block();
  else
    vote(true);
}

void check_broken_rules() {
  bool flag = false;
  alignas(16) const char bytes[16] = {};
  const auto run = [&](void (*kernel)(bool*)) {
    return [=, &flag] { run_grid(kernel, Grid{}, 64, 0, &flag); };
  };
  const auto run_copy = [&](void (*kernel)(const void*)) {
    return [=, &bytes] { run_grid(kernel, Grid{}, 32, 512, static_cast<const void*>(bytes)); };
  };
  expect_broken(run(&early_return), "another thread has ended");
  expect_broken(run(&two_barriers), "threads are at two barriers");
  expect_broken(run(&half_a_warp), "another lane has ended");
  expect_broken(run(&two_exchanges), "lanes are at two places");
  expect_broken(run(&exchange_after_return), "another lane has ended");
  expect_broken(run(&wait_for_nobody), "threads wait for ever");
  expect_broken(run_copy(&unwaited_copy), "ended before its copies came");
  expect_broken(run_copy(&crooked_copy), "multiples of 16 bytes");
  expect_broken([] { emulation::Block(40, 0, 1); }, "a multiple of 32 threads");
}

// ---- A race, which ThreadSanitizer has to find
// ---------------------------------------------------

void race(bool* flag) {
  auto* part = shared_memory<unsigned>();
  part[thread()] = thread();
  *flag = part[threads() - 1 - thread()] > 0;  // a barrier is missing before this line
}

}  // namespace
}  // namespace resmem

// With the argument "race" it runs a kernel with a race instead; a build without ThreadSanitizer
// does not notice.
int main(int count, char**) {
  if (count > 1) {
    bool flag = false;
    resmem::simt::run_grid(&resmem::race, resmem::simt::Grid{}, 64, 64 * sizeof(unsigned), &flag);
    return 0;
  }
  resmem::check_barriers();
  resmem::check_exchanges();
  resmem::check_order_is_random();
  resmem::check_matrix_products();
  resmem::check_copies();
  resmem::check_broken_rules();
  return resmem::failures == 0 ? 0 : 1;
}
