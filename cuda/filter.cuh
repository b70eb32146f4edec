// The kernel that compares tiles of 128 queries with tiles of 128 rows and notes the pairs that may
// be within reach.
//
// A block has 8 warps; each multiplies 64 queries by 32 rows. Codes come through shared memory in
// steps of 64 dimensions, three steps deep: while one is multiplied, two are on their way.
//
//             rows                  shared memory of a step of one operand:
//           32 32 32 32             128 vectors of 64 bytes, vector v at 64 v,
//   64   | w0 w2 w4 w6              its 16 bytes number c at 16 (c xor v / 2 % 4)
//   64   | w1 w3 w5 w7
//
// With these places the 8 vectors of a tile that load_tiles() reads lie in different banks.
#pragma once

#include "hits.cuh"
#include "ptx.h"

namespace resmem {
namespace device {

inline constexpr unsigned kFilterThreads = 256;
inline constexpr unsigned kStep = 64;  // dimensions, and bytes
inline constexpr unsigned kStages = 3;
inline constexpr unsigned kStageBytes = 2 * kTile * kStep;
// Beside the stages lie the least score of each query and the term of each row.
inline constexpr std::size_t kFilterShared = kStages * kStageBytes + 2 * kTile * 4;

struct FilterArgs {
  const std::int8_t* query_codes;  // (queries, depth), by place
  const QueryState* queries;
  unsigned query_count;
  const std::int8_t* row_codes;  // (rows, depth), by place
  const CodeFacts* rows;
  const TileFacts* row_tiles;
  unsigned row_count;
  unsigned first_tile;  // of the rows
  unsigned depth;
  Hidden hidden;
  HitLists hits;
};

RESMEM_DEVICE unsigned swizzled(unsigned vector, unsigned sixteen) {
  return vector * kStep + ((sixteen ^ (vector / 2 % 4)) * 16);
}

RESMEM_DEVICE unsigned smaller(unsigned a, unsigned b) { return a < b ? a : b; }

// Brings the codes of a block's two tiles, step by step. A thread copies 16 bytes of vectors
// thread / 4 and thread / 4 + 64 of each; vectors beyond the last are zeros.
class CodeStream {
 public:
  RESMEM_DEVICE CodeStream(const FilterArgs& args, unsigned first_query, unsigned first_row,
                           unsigned char* stages)
      : stages_(stages),
        depth_(args.depth),
        queries_(vectors(args.query_codes, first_query, args.query_count)),
        rows_(vectors(args.row_codes, first_row, args.row_count)) {}

  RESMEM_DEVICE void begin(unsigned step) const {
    if (step * kStep < depth_) {
      bring(queries_, stage(step), step);
      bring(rows_, stage(step) + kTile * kStep, step);
    }
    simt::commit_copies();
  }
  RESMEM_DEVICE unsigned char* stage(unsigned step) const {
    return stages_ + step % kStages * kStageBytes;
  }

 private:
  struct Vectors {
    const std::int8_t* at;  // this thread's bytes of the first step
    unsigned left;          // vectors from this thread's first one on
  };
  RESMEM_DEVICE Vectors vectors(const std::int8_t* codes, unsigned first, unsigned count) const {
    const unsigned mine = first + simt::thread() / 4;
    const std::size_t at = std::size_t{smaller(mine, count - 1)} * depth_;
    return {codes + at + simt::thread() % 4 * 16, count > mine ? count - mine : 0};
  }
  RESMEM_DEVICE void bring(const Vectors& from, unsigned char* to, unsigned step) const {
    constexpr unsigned kHalf = kTile / 2;
    unsigned char* place = to + swizzled(simt::thread() / 4, simt::thread() % 4);
    const std::int8_t* codes = from.at + step * kStep;
    simt::copy_async(place, codes, from.left > 0 ? 16 : 0);
    const bool there = from.left > kHalf;
    simt::copy_async(place + kHalf * kStep, codes + (there ? std::size_t{kHalf} * depth_ : 0),
                     there ? 16 : 0);
  }

  unsigned char* const stages_;
  const unsigned depth_;
  const Vectors queries_, rows_;
};

// Holds the products of 64 queries and 32 rows, 16 queries and 8 rows at a time.
struct Products {
  std::int32_t sum[4][4][4];
};

RESMEM_DEVICE void multiply_step(const unsigned char* stage, unsigned first_query,
                                 unsigned first_row, Products& products) {
  const unsigned lane = simt::lane();
  RESMEM_UNROLL
  for (unsigned half = 0; half < kStep / 32; ++half) {
    std::uint32_t queries[4][4], rows[4][2];
    RESMEM_UNROLL
    for (unsigned i = 0; i < 4; ++i)
      simt::load_tiles(queries[i],
                       stage + swizzled(first_query + 16 * i + lane % 16, 2 * half + lane / 16));
    RESMEM_UNROLL
    for (unsigned j = 0; j < 4; j += 2) {
      std::uint32_t two[4];
      simt::load_tiles(
          two, stage + kTile * kStep +
                   swizzled(first_row + 8 * j + lane % 8 + lane / 16 * 8, 2 * half + lane / 8 % 2));
      rows[j][0] = two[0];
      rows[j][1] = two[1];
      rows[j + 1][0] = two[2];
      rows[j + 1][1] = two[3];
    }
    RESMEM_UNROLL
    for (unsigned i = 0; i < 4; ++i) RESMEM_UNROLL
    for (unsigned j = 0; j < 4; ++j) simt::multiply_bytes(products.sum[i][j], queries[i], rows[j]);
  }
}

// Return where product e of queries i and rows j of a lane belongs, within the 64 queries and 32
// rows of its warp (multiply_bytes()).
RESMEM_DEVICE unsigned query_of(unsigned i, unsigned e) {
  return 16 * i + simt::lane() / 4 + 8 * (e / 2);
}
RESMEM_DEVICE unsigned row_of(unsigned j, unsigned e) {
  return 8 * j + 2 * (simt::lane() % 4) + e % 2;
}

RESMEM_DEVICE void note_hit(const FilterArgs& args, unsigned query, unsigned row,
                            std::int32_t product) {
  if (query >= args.query_count || row >= args.row_count) return;
  if (args.hidden.from(args.queries[query].query, args.rows[row].vector)) return;
  const std::uint32_t at = simt::atomic_add(args.hits.counts + query, 1);
  if (at >= args.hits.capacity) return;
  args.hits.places_of(query)[at] = row;
  args.hits.known_of(query)[at] = Known::product(product);
}

// Notes the hits of tiles whose rows have one exponent, and whose queries have one, close enough
// for 32 bits. Most warps have none, so all pairs are looked at together first.
RESMEM_DEVICE void note_integer_hits(const FilterArgs& args, Products& products,
                                     const std::int32_t* least, const std::int32_t* terms,
                                     unsigned first_query, unsigned first_row) {
  bool any = false;
  RESMEM_UNROLL
  for (unsigned i = 0; i < 4; ++i) RESMEM_UNROLL
  for (unsigned j = 0; j < 4; ++j) RESMEM_UNROLL
  for (unsigned e = 0; e < 4; ++e) {
    products.sum[i][j][e] -= terms[row_of(j, e)];
    any |= products.sum[i][j][e] >= least[query_of(i, e)];
  }
  if (!any) return;
  RESMEM_UNROLL
  for (unsigned i = 0; i < 4; ++i) RESMEM_UNROLL
  for (unsigned j = 0; j < 4; ++j) RESMEM_UNROLL
  for (unsigned e = 0; e < 4; ++e)
    if (products.sum[i][j][e] >= least[query_of(i, e)])
      note_hit(args, first_query + query_of(i, e), first_row + row_of(j, e),
               products.sum[i][j][e] + terms[row_of(j, e)]);
}

// What equation (5) asks of the tiles' queries and rows.
struct WideTerms {
  double query_side[kTile], query_unit[kTile], row_side[kTile], row_unit[kTile];
};

RESMEM_DEVICE void describe_wide(const FilterArgs& args, unsigned first_query, unsigned first_row,
                                 float error, WideTerms& terms) {
  const unsigned i = simt::thread(), query = first_query + i, row = first_row + i;
  if (i >= kTile) return;
  const bool asked = query < args.query_count && args.queries[query].kept <= args.hits.capacity;
  terms.query_side[i] = asked ? query_side(args.queries[query], error) : __builtin_inf();
  terms.query_unit[i] = asked ? power_of_two(1 - args.queries[query].exponent) : 0;
  terms.row_side[i] = row < args.row_count ? row_side(args.rows[row]) : 0;
  terms.row_unit[i] = row < args.row_count ? power_of_two(-args.rows[row].exponent) : 0;
}

// Notes the hits of all other tiles, in double precision.
RESMEM_DEVICE void note_wide_hits(const FilterArgs& args, const Products& products,
                                  const WideTerms& terms, unsigned warp_query, unsigned warp_row,
                                  unsigned first_query, unsigned first_row) {
  RESMEM_UNROLL
  for (unsigned i = 0; i < 4; ++i) RESMEM_UNROLL
  for (unsigned j = 0; j < 4; ++j) RESMEM_UNROLL
  for (unsigned e = 0; e < 4; ++e) {
    const unsigned query = warp_query + query_of(i, e), row = warp_row + row_of(j, e);
    const double unit = terms.query_unit[query] * terms.row_unit[row];
    if (products.sum[i][j][e] * unit >= terms.query_side[query] + terms.row_side[row])
      note_hit(args, first_query + query, first_row + row, products.sum[i][j][e]);
  }
}

// Makes the least score of each query and the term of each row. A query whose list has overflowed
// is looked for elsewhere.
RESMEM_DEVICE void describe_integers(const FilterArgs& args, unsigned first_query,
                                     unsigned first_row, const TileFacts& rows, int query_exponent,
                                     std::int32_t* least, std::int32_t* terms) {
  const unsigned i = simt::thread(), query = first_query + i, row = first_row + i;
  if (i >= kTile) return;
  const bool asked = query < args.query_count && args.queries[query].kept <= args.hits.capacity;
  least[i] = asked ? least_integer_score(least_score(args.queries[query], rows)) : INT32_MAX;
  terms[i] =
      row < args.row_count ? row_term(args.rows[row].square, rows.exponent, query_exponent) : 0;
}

// Blocks are pairs of tiles: those of all queries with one tile of rows, then with the next one,
// so that rows are read from memory once. Only the last tile of either may be filled in part, as
// nothing but the counts tells which vectors are there.
RESMEM_KERNEL void RESMEM_BOUNDS(kFilterThreads, 2) filter_tiles(const FilterArgs args) {
  auto* stages = simt::shared_memory<unsigned char>();
  auto* least = reinterpret_cast<std::int32_t*>(stages + kStages * kStageBytes);
  std::int32_t* terms = least + kTile;
  const unsigned query_tiles = (args.query_count + kTile - 1) / kTile;
  const unsigned row_tile = args.first_tile + simt::block_x() / query_tiles;
  const unsigned first_query = simt::block_x() % query_tiles * kTile, first_row = row_tile * kTile;
  const CodeStream codes(args, first_query, first_row, stages);
  for (unsigned step = 0; step < kStages - 1; ++step) codes.begin(step);

  const TileFacts rows = args.row_tiles[row_tile];
  const int query_exponent = args.queries[first_query].exponent;
  const unsigned mine = smaller(first_query + simt::thread() % kTile, args.query_count - 1);
  const bool integers = !simt::sync_block_any(args.queries[mine].exponent != query_exponent) &&
                        rows.uniform && fits_integers(rows.exponent, query_exponent, args.depth);
  if (integers) describe_integers(args, first_query, first_row, rows, query_exponent, least, terms);

  const unsigned warp = simt::thread() / simt::kWarp;
  const unsigned warp_query = warp % 2 * 64, warp_row = warp / 2 * 32;
  Products products = {};
  for (unsigned step = 0; step * kStep < args.depth; ++step) {
    simt::wait_for_copies<kStages - 2>();
    simt::sync_block();  // this step has come for all, and all are done with the one before
    codes.begin(step + kStages - 1);
    multiply_step(codes.stage(step), warp_query, warp_row, products);
  }
  simt::wait_for_copies<0>();
  simt::sync_block();  // all are done with the stages, and least and terms have come
  if (integers) {
    note_integer_hits(args, products, least + warp_query, terms + warp_row,
                      first_query + warp_query, first_row + warp_row);
    return;
  }
  auto& wide_terms = *reinterpret_cast<WideTerms*>(stages);
  describe_wide(args, first_query, first_row, rows.error, wide_terms);
  simt::sync_block();
  note_wide_hits(args, products, wide_terms, warp_query, warp_row, first_query, first_row);
}

}  // namespace device
}  // namespace resmem
