// Searches in the emulation as Python does, and compares what is found with a plain loop over all
// rows. Shapes, numbers and orders are random, and chosen by a seed; what a search forces is too,
// so that all paths are taken.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "../device.h"
#include "../launch.h"

namespace resmem {
namespace {

using Random = std::mt19937_64;

template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}

// ---- Numbers -----------------------------------------------------------------------------------

enum class Family { gaussian, integers, duplicates, mixed_norms, zeros };

std::vector<double> numbers(Random& random, Family family, std::size_t n, std::size_t d) {
  std::normal_distribution<double> normal;
  std::vector<double> made(n * d), three(3 * d);
  for (double& each : three) each = normal(random);
  for (std::size_t i = 0; i < n; ++i) {
    const double size = std::ldexp(1.0, static_cast<int>(random() % 25) - 12);
    const std::size_t copied = random() % 3;
    for (std::size_t j = 0; j < d; ++j) {
      double& each = made[i * d + j];
      each = normal(random);
      if (family == Family::integers) each = static_cast<double>(random() % 5) - 2;
      if (family == Family::duplicates) each = three[copied * d + j];
      if (family == Family::mixed_norms) each *= size;
      if (family == Family::zeros) each = 0;
    }
  }
  return made;
}

// Keys as they are stored, and the numbers that these stand for.
struct Keys {
  NumberType type;
  std::vector<unsigned char> stored;
  std::vector<double> read;
};

template <class T>
void store(Keys& keys, std::size_t i, T number) {
  std::memcpy(keys.stored.data() + i * sizeof number, &number, sizeof number);
}

// Stores numbers, cut off to fewer bits where the type has fewer.
Keys keys_of(NumberType type, const std::vector<double>& numbers) {
  Keys keys{type, std::vector<unsigned char>(Numbers{nullptr, type}.bytes(numbers.size())),
            numbers};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    double& read = keys.read[i];
    if (type == NumberType::float64) {
      store(keys, i, read);
      continue;
    }
    const auto narrow = static_cast<float>(read);
    read = static_cast<double>(narrow);
    if (type == NumberType::float32) {
      store(keys, i, narrow);
    } else if (type == NumberType::bfloat16) {
      std::uint32_t bits;
      std::memcpy(&bits, &narrow, sizeof bits);
      store(keys, i, static_cast<std::uint16_t>(bits >> 16));
      bits &= 0xFFFF0000;
      float cut;
      std::memcpy(&cut, &bits, sizeof cut);
      read = static_cast<double>(cut);
    } else {
      // A float16 is a multiple of 2^-24, and of its own last bit.
      const double size = std::min(std::fabs(read), 65504.0);
      int exponent = 0;
      std::frexp(size, &exponent);
      const int last = std::max(exponent - 11, -24);
      const auto units = static_cast<unsigned>(std::ldexp(size, -last));
      const unsigned sign = read < 0 ? 0x8000 : 0;
      const unsigned field = units < 1024 ? 0U : static_cast<unsigned>(last + 25);
      store(keys, i, static_cast<std::uint16_t>(sign | field << 10 | (units & 1023)));
      read = std::copysign(std::ldexp(units, last), read);
    }
  }
  return keys;
}

// ---- The plain loop ----------------------------------------------------------------------------

// Sums terms as cpp/CONTRACT.md says.
template <class Term>
double canonical_sum(std::size_t d, const Term& term) {
  double p[8] = {};
  for (std::size_t i = 0; i < d; ++i) p[i % 8] += term(i);
  return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

double plain_dot(const double* a, const double* b, std::size_t d) {
  return canonical_sum(d, [&](std::size_t i) { return a[i] * b[i]; });
}

double plain_key(Metric metric, const double* q, const double* x, std::size_t d) {
  if (is_euclidean(metric))
    return canonical_sum(d, [&](std::size_t i) { return (q[i] - x[i]) * (q[i] - x[i]); });
  if (metric == Metric::inner_product) return -plain_dot(q, x, d);
  const double product = plain_dot(q, q, d) * plain_dot(x, x, d);
  if (product == 0) return 1;
  const double c = 1 - plain_dot(q, x, d) / std::sqrt(product);
  return c < 0 ? 0 : c;
}

double value_of(Metric metric, double key) {
  return metric == Metric::euclidean       ? std::sqrt(key)
         : metric == Metric::inner_product ? 0 - key
                                           : key;
}

// ---- Cases -------------------------------------------------------------------------------------

struct PlainSegment {
  Keys keys;
  std::size_t n, counted;  // rows, and those that count
  std::vector<std::int64_t> ids, died, times, groups;
  bool has_ids, has_groups;
  std::size_t least_coded;
  int device;
  std::optional<std::size_t> most_bytes;  // of the device; the rest comes in slabs
};

struct Case {
  Metric metric;
  std::size_t d, q, k, width, group_width;
  Keys queries;
  std::vector<PlainSegment> segments;
  std::vector<std::int64_t> excluded, excluded_groups;
  std::vector<std::int64_t> before;  // none: times do not matter
  std::vector<bool> among;           // by position; none: all rows
  bool among_bits;                   // whether they are given as bits
  bool on_device;  // whether the arrays of the search are, and rows are read where they lie
  device::ForcedSearch forced;
};

constexpr std::int64_t kVersion = 5;

struct Found {
  std::vector<double> values;
  std::vector<std::int64_t> ids, positions;
};

PlainSegment segment_of(Random& random, Family family, NumberType type, std::size_t d,
                        std::int64_t first_id) {
  PlainSegment made;
  made.n = one_of<std::size_t>(random, {0, 1, 129, 260, 300, 300});
  made.counted = made.n - (random() % 3 == 0 ? std::min<std::size_t>(made.n, random() % 9) : 0);
  std::vector<double> rows = numbers(random, family, made.n, d);
  if (made.n > 0 && type != NumberType::float16 && random() % 3 == 0)
    rows[random() % rows.size()] = random() % 2 == 0 ? HUGE_VAL : std::nan("");
  made.keys = keys_of(type, rows);
  made.has_ids = random() % 2 == 0;
  for (std::size_t i = 0; i < made.n; ++i) {
    made.ids.push_back(first_id + static_cast<std::int64_t>(i));
    made.died.push_back(random() % 3 == 0 ? one_of<std::int64_t>(random, {0, 3, 5, 6}) : 0);
    made.times.push_back(static_cast<std::int64_t>(random() % 20) - 10);
    made.groups.push_back(static_cast<std::int64_t>(random() % 8) - 1);
  }
  made.has_groups = random() % 4 != 0;
  if (made.has_ids) std::shuffle(made.ids.begin(), made.ids.end(), random);
  made.least_coded = random() % 6 == 0 ? 1000 : 1;
  made.device = random() % 3 == 0 ? 1 : 0;
  // Room for a tile that passes through, and perhaps for some rows that stay.
  const std::size_t key = made.keys.stored.size() / std::max<std::size_t>(1, made.n);
  const std::size_t others = d + 64 + 16 + 64;
  if (random() % 2 == 0)
    made.most_bytes = 128 * (2 * key + others) + random() % 3 * 70 * (key + others) + 32 * made.n;
  return made;
}

// Chooses which rows queries see.
void restrict(Random& random, Case& of) {
  of.group_width = random() % 2 * (1 + random() % 3);
  for (std::size_t i = 0; i < of.q * of.group_width; ++i)
    of.excluded_groups.push_back(static_cast<std::int64_t>(random() % 8) - 1);
  if (random() % 3 == 0)
    for (std::size_t i = 0; i < of.q; ++i)
      of.before.push_back(static_cast<std::int64_t>(random() % 24) - 12);
  if (random() % 2 == 0) return;
  const std::uint64_t share = one_of<std::uint64_t>(random, {0, 10, 50, 90, 100});
  for (const PlainSegment& segment : of.segments)
    for (std::size_t r = 0; r < segment.counted; ++r) of.among.push_back(random() % 100 < share);
  of.among_bits = random() % 2 == 0;
  of.forced.listed = random() % 2;  // 1: there is a bit of each row
}

Case case_of(Random& random) {
  Case made;
  made.metric = one_of(
      random, {Metric::euclidean, Metric::sqeuclidean, Metric::cosine, Metric::inner_product});
  made.d = one_of<std::size_t>(random, {1, 3, 8, 33, 64, 65, 130});
  made.q = random() % 16 == 0 ? 130 : one_of<std::size_t>(random, {1, 2, 5, 16, 17, 19});
  made.k = made.q > 20 ? 9 : one_of<std::size_t>(random, {1, 2, 9, 40, 150, 400});
  const Family family = one_of(random, {Family::gaussian, Family::integers, Family::duplicates,
                                        Family::mixed_norms, Family::zeros, Family::gaussian});
  const NumberType type = one_of(random, {NumberType::float32, NumberType::float16,
                                          NumberType::bfloat16, NumberType::float64});
  const std::size_t segments = 1 + random() % 2;
  for (std::size_t s = 0; s < segments; ++s)
    made.segments.push_back(
        segment_of(random, family, type, made.d, 1000 * static_cast<std::int64_t>(s)));
  made.queries = keys_of(type == NumberType::float64 ? type : NumberType::float32,
                         numbers(random, family, made.q, made.d));
  made.width = random() % 3;
  for (std::size_t i = 0; i < made.q * made.width; ++i)
    made.excluded.push_back(static_cast<std::int64_t>(random() % 600) - 1);
  made.on_device = random() % 3 == 0;
  made.forced = {one_of<std::size_t>(random, {0, 128, 128, 128, 256}),
                 made.k + (made.q < 3 ? 1 : one_of<std::size_t>(random, {30, 60, 400})),
                 one_of<std::size_t>(random, {0, 0, 7}), 0, 128};
  made.among_bits = false;
  restrict(random, made);
  return made;
}

Found plainly_found(const Case& of) {
  Found found;
  for (std::size_t i = 0; i < of.q; ++i) {
    struct Row {
      double key;
      std::int64_t id, position;
    };
    std::vector<Row> rows;
    std::int64_t position = 0;
    const auto* excluded = of.excluded.data() + i * of.width;
    for (const PlainSegment& segment : of.segments)
      for (std::size_t r = 0; r < segment.counted; ++r, ++position) {
        const double key = plain_key(of.metric, of.queries.read.data() + i * of.d,
                                     segment.keys.read.data() + r * of.d, of.d);
        const bool removed = segment.died[r] > 0 && segment.died[r] <= kVersion;
        bool hidden =
            std::find(excluded, excluded + of.width, segment.ids[r]) != excluded + of.width;
        for (std::size_t j = 0; j < of.group_width; ++j)
          hidden = hidden || (segment.has_groups && segment.groups[r] >= 0 &&
                              segment.groups[r] == of.excluded_groups[i * of.group_width + j]);
        if (!of.before.empty()) hidden = hidden || segment.times[r] >= of.before[i];
        if (!of.among.empty()) hidden = hidden || !of.among[static_cast<std::size_t>(position)];
        if (std::isfinite(key) && !removed && !hidden)
          rows.push_back({key, segment.ids[r], position});
      }
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
      return a.key < b.key || (a.key == b.key && a.id < b.id);
    });
    rows.resize(of.k, {HUGE_VAL, -1, -1});
    for (const Row& row : rows) {
      found.values.push_back(value_of(of.metric, row.key));
      found.ids.push_back(row.id);
      found.positions.push_back(row.position);
    }
  }
  return found;
}

// Copies an array to memory of the device.
template <class T>
device::Memory placed(const std::vector<T>& array, int device = 0) {
  device::Memory memory({device, std::nullopt}, array.size() * sizeof(T));
  const device::OnDevice here(device);
  if (!array.empty()) device::copy_in({}, memory.of<void>(), array.data(), memory.bytes());
  device::wait({});
  return memory;
}

template <class T>
void fetch(std::vector<T>& array, const device::Memory& memory) {
  device::copy_out({}, array.data(), memory.of<void>(), memory.bytes());
  device::wait({});
}

// Rows, and the keys that they borrow.
struct Held {
  device::Memory keys;
  std::unique_ptr<device::DeviceRows> rows;
};

// Brings what a search asks for besides keys, of the first n rows.
void bring_attributes(device::DeviceRows& rows, const Case& of, const PlainSegment& segment,
                      std::size_t n) {
  if (!of.before.empty()) rows.bring(device::Attribute::time, segment.times.data(), n);
  if (of.group_width > 0 && segment.has_groups)
    rows.bring(device::Attribute::group, segment.groups.data(), n);
}

// Brings rows, those that are kept in one to three steps, and removes some after each.
Held brought(Random& random, const Case& of, const PlainSegment& segment) {
  Held held;
  device::MemorySource source{segment.device, std::nullopt};
  if (of.on_device) source.stream = device::StreamHandle{};
  held.rows = std::make_unique<device::DeviceRows>(source, segment.keys.type, of.d, of.metric,
                                                   segment.least_coded);
  device::GivenRows given;
  given.keys = segment.keys.stored.data();
  given.ids = segment.has_ids ? segment.ids.data() : nullptr;
  given.first_id = segment.n > 0 && !segment.has_ids ? segment.ids[0] : 0;
  given.on_device = of.on_device;
  given.most_bytes = segment.most_bytes;
  if (of.on_device) {
    held.keys = placed(segment.keys.stored, segment.device);
    given.keys = held.keys.of<void>();
  }
  std::vector<std::size_t> ends = {segment.n};
  while (!of.on_device && ends.size() < 3 && random() % 2 == 0)
    ends.push_back(random() % (segment.n + 1));
  std::sort(ends.begin(), ends.end());
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    given.n = end;
    held.rows->extend(given);
    std::vector<std::int64_t> gone, stamps;
    for (std::size_t r = begin; r < end; ++r)
      if (segment.died[r] > 0) {
        gone.push_back(static_cast<std::int64_t>(r));
        stamps.push_back(segment.died[r]);
      }
    held.rows->remove(gone.data(), stamps.data(), gone.size());
    if (random() % 2 == 0) bring_attributes(*held.rows, of, segment, end);
    begin = end;
  }
  bring_attributes(*held.rows, of, segment, segment.n);
  const device::OnDevice here(segment.device);
  device::wait({});  // as the search may have another stream there
  return held;
}

device::DeviceSearch request_for(const Case& of, Found& found) {
  device::DeviceSearch request;
  request.queries = of.queries.stored.data();
  request.query_type = of.queries.type;
  request.q = of.q;
  request.d = of.d;
  request.k = of.k;
  request.metric = of.metric;
  if (of.width > 0) request.excluded = {of.excluded.data(), of.width, false};
  if (of.group_width > 0)
    request.excluded_groups = {of.excluded_groups.data(), of.group_width, false};
  if (!of.before.empty()) request.before = {of.before.data(), 1, false};
  request.version = kVersion;
  request.values = found.values.data();
  request.ids = found.ids.data();
  request.positions = found.positions.data();
  request.forced = of.forced;
  return request;
}

// The rows that queries see alone, as a request has them.
struct AmongGiven {
  explicit AmongGiven(const Case& of) : bits(of.among.size() / 8 + 1) {
    if (of.among.empty()) return;
    for (std::size_t i = 0; i < of.among.size(); ++i)
      if (of.among[i]) positions.push_back(static_cast<std::int64_t>(i));
    for (const std::int64_t each : positions)
      bits[static_cast<std::size_t>(each) / 8] |= static_cast<std::uint8_t>(1U << each % 8);
    rows.count = positions.size();
    positions.push_back(0);  // so that there is an address
    if (of.among_bits)
      rows.bits = bits.data();
    else
      rows.positions = positions.data();
  }
  AmongRows rows;

 private:
  std::vector<std::int64_t> positions;
  std::vector<std::uint8_t> bits;
};

Found found_on_device(Random& random, const Case& of, device::DeviceStats& stats) {
  const std::size_t size = of.q * of.k;
  Found found{std::vector<double>(size), std::vector<std::int64_t>(size),
              std::vector<std::int64_t>(size)};
  device::DeviceSearch request = request_for(of, found);
  std::vector<Held> held;
  std::size_t position = 0;
  for (const PlainSegment& segment : of.segments) {
    held.push_back(brought(random, of, segment));
    request.segments.push_back({held.back().rows.get(), segment.counted, position});
    position += segment.counted;
  }
  const AmongGiven among(of);
  request.among = among.rows;
  const auto search = [&] {
    device::search(
        request, [] {}, &stats);
  };
  if (!of.on_device) {
    search();
    return found;
  }
  const device::Memory queries = placed(of.queries.stored), excluded = placed(of.excluded),
                       groups = placed(of.excluded_groups), before = placed(of.before),
                       values = placed(found.values), ids = placed(found.ids),
                       positions = placed(found.positions);
  request.queries_on_device = request.output_on_device = true;
  request.queries = queries.of<void>();
  request.excluded = {excluded.of<std::int64_t>(), of.width, true};
  request.excluded_groups = {groups.of<std::int64_t>(), of.group_width, true};
  request.before = {before.of<std::int64_t>(), 1, true};
  request.values = values.of<double>();
  request.ids = ids.of<std::int64_t>();
  request.positions = positions.of<std::int64_t>();
  search();
  fetch(found.values, values);
  fetch(found.ids, ids);
  fetch(found.positions, positions);
  return found;
}

// What ran in all searches, and how many pairs were compared while rows were hidden.
struct Sums {
  device::DeviceStats stats;
  std::uint64_t divided = 0, listed = 0, masked = 0, timed = 0, grouped = 0;

  void add(const Case& of, const device::DeviceStats& more) {
    stats += more;
    if (more.devices > 1) ++divided;
    const std::uint64_t pairs = more.pairs_filtered + more.pairs_streamed;
    if (!of.among.empty()) (of.forced.listed == 0 ? listed : masked) += pairs + more.compared;
    if (!of.before.empty()) timed += pairs;
    if (of.group_width > 0) grouped += pairs;
  }
  bool by_all_paths() const {
    const std::uint64_t paths[] = {stats.pairs_filtered,
                                   stats.pairs_streamed,
                                   stats.rescored,
                                   stats.compared,
                                   stats.given_up,
                                   stats.slabs,
                                   divided,
                                   listed,
                                   masked,
                                   timed,
                                   grouped};
    return std::count(std::begin(paths), std::end(paths), 0U) == 0;
  }
};

bool is_found(std::uint64_t seed, Sums& sums) {
  Random random(seed);
  const Case made = case_of(random);
  simt::emulation_seed() = seed;
  device::DeviceStats stats;
  const Found wanted = plainly_found(made), found = found_on_device(random, made, stats);
  sums.add(made, stats);
  const bool same = std::memcmp(wanted.values.data(), found.values.data(),
                                wanted.values.size() * sizeof(double)) == 0 &&
                    wanted.ids == found.ids && wanted.positions == found.positions;
  if (!same)
    std::printf("FAILED  the search of seed %llu\n", static_cast<unsigned long long>(seed));
  return same;
}

}  // namespace
}  // namespace resmem

// search_check FIRST COUNT: searches with that many seeds from the first one on.
int main(int count, char** arguments) {
  const std::uint64_t first = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  const std::uint64_t cases = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 100;
  resmem::emulation::faults().devices = 2;
  resmem::Sums sums;
  std::uint64_t failed = 0;
  for (std::uint64_t seed = first; seed < first + cases; ++seed)
    failed += resmem::is_found(seed, sums) ? 0 : 1;
  const bool all_paths = sums.by_all_paths();
  if (!all_paths) std::printf("FAILED  to take all paths\n");
  if (failed > 0 || !all_paths) return 1;
  std::printf("passed  %llu searches, by all paths\n", static_cast<unsigned long long>(cases));
  return 0;
}
