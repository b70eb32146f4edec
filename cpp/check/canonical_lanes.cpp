#include "canonical_lanes.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../kernels/body/canonical_functions-inl.h"
#include "../kernels/float64_bits.h"

namespace resmem {
namespace {

// This lane type has just what the canonical headers ask of one, in plain C++. A device would use a
// single lane.
template <int kCount>
struct Lanes {
  double v[kCount];
  static constexpr int kLanes = kCount;
  static Lanes set1(double x) {
    return made([&](int) { return x; });
  }
  static Lanes load(const double* p) { return widen(p); }
  template <class T>
  static Lanes widen(const T* p) {
    return made([&](int i) { return static_cast<double>(p[i]); });
  }
  void store(double* p) const {
    for (int i = 0; i < kCount; ++i) p[i] = v[i];
  }
  template <class Lane>
  static Lanes made(const Lane& lane) {
    Lanes lanes;
    for (int i = 0; i < kCount; ++i) lanes.v[i] = lane(i);
    return lanes;
  }
  friend Lanes add(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Lanes sub(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Lanes mul(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Lanes div(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] / b.v[i]; });
  }
  friend Lanes min(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend Lanes max(Lanes a, Lanes b) {
    return made([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend Lanes pow2_of_shifted(Lanes s) {
    return made([&](int i) { return pow2_of_shifted(s.v[i]); });
  }
  friend LogParts<Lanes> log_parts(Lanes x) {
    return {made([&](int i) { return log_parts(x.v[i]).exponent; }),
            made([&](int i) { return log_parts(x.v[i]).mantissa; })};
  }
};

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

constexpr std::size_t kLengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 31, 64, 100, 1000};

// Makes finite numbers of all exponents that T has, or of `exponents` about 1, with zeros among
// them.
template <class T>
std::vector<T> random_numbers(std::mt19937_64& random, std::size_t n, int exponents) {
  std::vector<T> numbers(n);
  for (T& x : numbers) {
    const auto bits = random();
    const double fraction = 1 + static_cast<double>(bits >> 12) * 0x1p-52;
    const int exponent = static_cast<int>(random() % static_cast<std::uint64_t>(exponents));
    const double size = bits % 17 == 0 ? 0.0 : std::ldexp(fraction, exponent - exponents / 2);
    x = static_cast<T>((bits & 32) != 0 ? -size : size);
  }
  return numbers;
}

class Comparison {
 public:
  explicit Comparison(const KernelTable& kernels) : kernels_(kernels) {}

  template <class V>
  void run() {
    std::mt19937_64 random(V::kLanes);
    special_values<V>();
    for (const std::size_t n : kLengths)
      for (const int exponents : {4, 60, 250}) {
        sums<V, float>(random_numbers<float>(random, n, exponents),
                       random_numbers<float>(random, n, exponents));
        sums<V, double>(random_numbers<double>(random, n, 8 * exponents),
                        random_numbers<double>(random, n, 8 * exponents));
        functions<V>(random_numbers<double>(random, n, exponents));
        neighbours<V>(random_numbers<double>(random, n, exponents));
        softmaxes<V>(random_numbers<float>(random, n, exponents));
      }
  }
  const LaneResults& results() const { return results_; }

 private:
  template <class V>
  void same(const char* what, const Doubles& got, const Doubles& wanted) {
    if (std::memcmp(got.data(), wanted.data(), wanted.size() * sizeof(double)) == 0) {
      ++results_.passed;
      return;
    }
    if (results_.failed++ > 0) return;
    results_.first = std::string(what) + " of " + std::to_string(wanted.size()) + " over " +
                     std::to_string(V::kLanes) + " plain lanes";
  }

  template <class V, class T>
  void sums(const std::vector<T>& q, const std::vector<T>& x) {
    const std::size_t d = q.size();
    const ExactKernels& exact = kernels_.exact;
    Doubles wanted;
    if constexpr (sizeof(T) == sizeof(float))
      wanted = {exact.squared_distance(q.data(), x.data(), d), exact.dot(q.data(), x.data(), d)};
    else
      wanted = {exact.squared_distance64(q.data(), x.data(), d), exact.dot64(q.data(), x.data(), d),
                exact.csum(x.data(), d)};
    Doubles got{canonical_distance<V>(q.data(), x.data(), d),
                canonical_dot<V>(q.data(), x.data(), d)};
    if constexpr (sizeof(T) == sizeof(double)) got.push_back(canonical_csum<V>(x.data(), d));
    same<V>("sums", got, wanted);

    const T *queries[3] = {q.data(), x.data(), q.data()}, *rows[3] = {x.data(), x.data(), q.data()};
    Doubles some(3);
    canonical_distances<V, 3>(queries, rows, d, some.data());
    same<V>("distances", some, {got[0], 0.0, 0.0});
  }

  template <class V>
  void functions(const Doubles& x) {
    Doubles got = x, wanted = x;
    apply_in_place<V, canonical_exp<V>>(got.data(), got.size());
    kernels_.exact.exp(wanted.data(), wanted.size());
    same<V>("exp", got, wanted);
    got = x;
    for (double& each : got) each = std::max(std::fabs(each), 0x1p-1022);
    wanted = got;
    apply_in_place<V, canonical_log<V>>(got.data(), got.size());
    kernels_.exact.log(wanted.data(), wanted.size());
    same<V>("log", got, wanted);
  }

  template <class V>
  void special_values() {
    const double infinity = std::numeric_limits<double>::infinity();
    functions<V>({0.0, -0.0, 1.0, infinity, -infinity, 0x1p-1022, 0x1p-1074, 0x1.fffffffffffffp1023,
                  709.782712893384, 709.8, -708.4, -745.1, -745.2, -746.0, 710.0,
                  0x1.6a09e667f3bccp0, 0x1.6a09e667f3bcdp0, 0x1.6a09e667f3bcdp-1});
    neighbours<V>({0.0, 0.0, 0x1p-1074, 1.0, 745.0, 1e300, infinity});
    softmaxes<V>({0.0F, -0.0F, 3e38F, -3e38F, 0x1p-149F, 88.0F});
  }

  template <class V>
  void neighbours(Doubles distances) {
    for (double& each : distances) each = std::fabs(each);
    for (const double sigma : {0.03, 1.0, 1e30}) {
      Doubles got(distances.size() + 1), wanted = got;
      got.back() = canonical_weights<V>(distances.data(), distances.size(), sigma, got.data());
      wanted.back() =
          kernels_.sums.neighbour_weights(distances.data(), distances.size(), sigma, wanted.data());
      same<V>("weights", got, wanted);
    }
  }

  template <class V>
  void softmaxes(const Floats& logits) {
    for (const double temperature : {0.5, 1.0, 1e30}) {
      Doubles got(logits.size()), wanted = got;
      canonical_softmax<V>(logits.data(), temperature, got.data(), got.size());
      kernels_.exact.softmax(logits.data(), temperature, wanted.data(), wanted.size());
      same<V>("softmax", got, wanted);
    }
  }

  const KernelTable& kernels_;
  LaneResults results_;
};

}  // namespace

LaneResults check_canonical_lanes(const KernelTable& kernels) {
  Comparison comparison(kernels);
  comparison.run<Lanes<1>>();
  comparison.run<Lanes<2>>();
  comparison.run<Lanes<4>>();
  comparison.run<Lanes<8>>();
  return comparison.results();
}

}  // namespace resmem
