// Codes rows that lie on a device, in the order in which they are searched.
#pragma once

#include <algorithm>

#include "arrange.cuh"
#include "engine.h"

namespace resmem {
namespace device {

// Makes room in a part for the codes of n rows.
inline void reserve_codes(Part& part, const MemorySource& source, std::size_t n, unsigned d,
                          KeyKind kind) {
  const unsigned dimensions = point_dimensions(kind, d);
  part.offset = Memory(source, dimensions * sizeof(double));
  part.largest_square = Memory(source, sizeof(std::uint64_t));
  part.codes = Memory(source, n * depth_of(dimensions));
  part.facts = Memory(source, n * sizeof(CodeFacts));
  part.tiles = Memory(source, blocks_for(n, kTile) * sizeof(TileFacts));
}

// What it takes to code n rows, for as long as that lasts.
struct CodingArrays {
  CodeFacts* facts;
  double* squares;  // of the rows whose mean is the offset
  Sorting sorting;

  static CodingArrays in(Arrays& arrays, std::size_t n) {
    CodingArrays made;
    made.facts = arrays.next<CodeFacts>(n);
    made.squares = arrays.next<double>(std::min<std::size_t>(n, kOffsetRows));
    made.sorting = Sorting::in(arrays, n);
    return made;
  }
  static std::size_t bytes(std::size_t n) {
    Arrays counted;
    in(counted, n);
    return counted.used();
  }
};

// Codes n rows into a part with room for them.
template <class T>
class Coding {
 public:
  Coding(StreamHandle stream, const T* rows, std::size_t n, unsigned d, KeyKind kind)
      : stream_(stream),
        rows_(rows),
        n_(n),
        d_(d),
        kind_(kind),
        depth_(depth_of(point_dimensions(kind, d))) {}

  void fill(const Part& part, const CodingArrays& arrays) const {
    find_offset(part, arrays.squares);
    CodeArgs<T> args = arguments(part);
    args.facts = arrays.facts;
    code(stream_, args);
    args.order = arranged(stream_, arrays.facts, n_, depth_, false, arrays.sorting);
    args.codes = part.codes.of<std::int8_t>();
    args.facts = part.facts.of<CodeFacts>();
    code(stream_, args);
    simt::launch(threads_for("describe_tiles", std::size_t{blocks_for(n_, kTile)} * simt::kWarp,
                             kArrangeThreads),
                 stream_, &describe_tiles, args.facts, static_cast<std::uint32_t>(n_),
                 part.tiles.of<TileFacts>());
  }

 private:
  CodeArgs<T> arguments(const Part& part) const {
    CodeArgs<T> args = {};
    args.vectors = rows_;
    args.n = n_;
    args.d = d_;
    args.kind = kind_;
    args.largest_square = part.largest_square.of<std::uint64_t>();
    args.offset = part.offset.of<double>();
    return args;
  }

  void find_offset(const Part& part, double* squares) const {
    const std::size_t sampled = std::min<std::size_t>(n_, kOffsetRows);
    auto* largest = part.largest_square.of<std::uint64_t>();
    fill_zeros(stream_, largest, sizeof *largest);
    if (kind_ == KeyKind::inner_product) square(n_, nullptr, largest);
    if (kind_ == KeyKind::squared_distance) squares = nullptr;
    if (squares != nullptr) square(sampled, squares, nullptr);
    simt::launch(threads_for("mean_point", point_dimensions(kind_, d_), kCodeThreads), stream_,
                 &mean_point<T>, rows_, n_, sampled, d_, kind_, squares, largest,
                 part.offset.of<double>());
  }
  void square(std::size_t count, double* squares, std::uint64_t* largest) const {
    simt::launch(threads_for("square_rows", count * simt::kWarp, kCodeThreads), stream_,
                 &square_rows<T>, rows_, n_, count, d_, squares, largest);
  }

  const StreamHandle stream_;
  const T* const rows_;
  const std::size_t n_;
  const unsigned d_;
  const KeyKind kind_;
  const unsigned depth_;
};

// Codes n rows of any type.
inline void code_rows(StreamHandle stream, NumberType type, const void* rows, std::size_t n,
                      unsigned d, KeyKind kind, const Part& part, const CodingArrays& arrays) {
  with_type(type, [&](const auto* none) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(none)>>;
    Coding<T>(stream, static_cast<const T*>(rows), n, d, kind).fill(part, arrays);
  });
}

// Tells whether points of so many dimensions can be coded.
inline bool can_code(KeyKind kind, std::size_t d) {
  return depth_of(point_dimensions(kind, static_cast<unsigned>(d))) <= kMostDimensions;
}

// What a row takes: its codes, and what coding it takes meanwhile.
struct RowBytes {
  std::size_t key, codes, coding;

  static RowBytes of(NumberType type, std::size_t d, KeyKind kind) {
    const unsigned dimensions = point_dimensions(kind, static_cast<unsigned>(d));
    if (!can_code(kind, d)) return {d * bytes_of(type), 0, 0};
    const std::size_t tile = CodingArrays::bytes(kTile) + sizeof(TileFacts);
    return {d * bytes_of(type), depth_of(dimensions) + sizeof(CodeFacts), tile / kTile + 1};
  }
};

}  // namespace device
}  // namespace resmem
