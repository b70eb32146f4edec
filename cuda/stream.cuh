// The kernel that compares at most 16 queries with rows, which it reads once, as fast as memory
// gives them. A block works on a tile of rows, and each of its warps on 32 of them.
//
// The codes of a step of 64 dimensions are multiplied in another order than they lie in, the same
// for queries and rows: a lane takes 16 bytes of one vector at once, and its words belong to the
// two products of a step as follows. A sum of integers does not depend on the order.
//
//   word 0, 1    columns 4 t .. and 16 + 4 t .. of the first product, with t = lane % 4
//   word 2, 3    the same of the second one
#pragma once

#include "filter.cuh"

namespace resmem {
namespace device {

inline constexpr unsigned kStreamQueries = 16;
inline constexpr unsigned kStreamThreads = kTile;
inline constexpr unsigned kWarpRows = simt::kWarp;

// Holds the products of 16 queries and 32 rows, 8 rows at a time.
struct StreamProducts {
  std::int32_t sum[4][4];
};

RESMEM_DEVICE void multiply_stream(const FilterArgs& args, unsigned first_row,
                                   StreamProducts& products) {
  const unsigned g = simt::lane() / 4, byte = simt::lane() % 4 * 16;
  const std::size_t last_query = args.query_count - 1, last_row = args.row_count - 1;
  const auto at = [&](const std::int8_t* codes, std::size_t vector, std::size_t last) {
    return codes + (vector < last ? vector : last) * args.depth + byte;
  };
  const std::int8_t* low = at(args.query_codes, g, last_query);
  const std::int8_t* high = at(args.query_codes, g + 8, last_query);
  const std::int8_t* rows[4];
  RESMEM_UNROLL
  for (unsigned j = 0; j < 4; ++j) rows[j] = at(args.row_codes, first_row + 8 * j + g, last_row);
  RESMEM_ROLLED
  for (unsigned step = 0; step < args.depth; step += kStep) {
    std::uint32_t a[4], b[4], row[4][4];
    RESMEM_UNROLL
    for (unsigned j = 0; j < 4; ++j) simt::load_words(row[j], rows[j] + step);
    simt::load_words(a, low + step);
    simt::load_words(b, high + step);
    const std::uint32_t first[4] = {a[0], b[0], a[1], b[1]}, second[4] = {a[2], b[2], a[3], b[3]};
    RESMEM_UNROLL
    for (unsigned j = 0; j < 4; ++j) {
      const std::uint32_t left[2] = {row[j][0], row[j][1]}, right[2] = {row[j][2], row[j][3]};
      simt::multiply_bytes(products.sum[j], first, left);
      simt::multiply_bytes(products.sum[j], second, right);
    }
  }
}

// The sides and the unit of equation (5), of a query or a row.
struct Side {
  double side, unit;

  RESMEM_DEVICE Side of_lane(unsigned from) const {
    return {simt::shuffle(side, from), simt::shuffle(unit, from)};
  }
};

RESMEM_DEVICE Side stream_query(const FilterArgs& args, float row_error) {
  const unsigned query = simt::lane();
  if (query >= args.query_count || args.queries[query].kept > args.hits.capacity)
    return {__builtin_inf(), 0};
  const QueryState& state = args.queries[query];
  return {query_side(state, row_error), power_of_two(1 - state.exponent)};
}

RESMEM_DEVICE Side stream_row(const FilterArgs& args, unsigned row) {
  if (row >= args.row_count) return {0, 0};
  return {row_side(args.rows[row]), power_of_two(-args.rows[row].exponent)};
}

// A lane holds the products of queries g and g + 8 with rows 8 j + 2 t and 8 j + 2 t + 1 of its
// warp, with g = lane / 4 and t = lane % 4 (multiply_bytes()).
RESMEM_KERNEL void RESMEM_BOUNDS(kStreamThreads, 6) stream_rows(const FilterArgs args) {
  const unsigned tile = args.first_tile + simt::block_x();
  const unsigned first_row = tile * kTile + simt::thread() / simt::kWarp * kWarpRows;
  StreamProducts products = {};
  multiply_stream(args, first_row, products);
  const Side own = stream_query(args, args.row_tiles[tile].error);
  const Side row_of_lane = stream_row(args, first_row + simt::lane());
  const unsigned g = simt::lane() / 4, t = simt::lane() % 4;
  const Side queries[2] = {own.of_lane(g), own.of_lane(g + 8)};
  RESMEM_UNROLL
  for (unsigned j = 0; j < 4; ++j) RESMEM_UNROLL
  for (unsigned e = 0; e < 4; ++e) {
    const unsigned place = 8 * j + 2 * t + e % 2;
    const Side row = row_of_lane.of_lane(place);
    const Side& query = queries[e / 2];
    if (products.sum[j][e] * (query.unit * row.unit) >= query.side + row.side)
      note_hit(args, g + 8 * (e / 2), first_row + place, products.sum[j][e]);
  }
}

}  // namespace device
}  // namespace resmem
