// The filter's hot loops: a panel of queries against a block of staged rows.
//
// The numbered loops around the micro-tile (cpp/README.md draws them):
//   5  query blocks, 4  row blocks, 3  query panels      flat/flat_search.cpp, flat/scanner.cpp
//   2  depth blocks of kc, 1  groups of MR rows           scan() below
#pragma once

#include "../table.h"
#include "unroll-inl.h"

namespace resmem {
namespace {

constexpr int kNR = kPanelVectors * F32::kLanes;
static_assert(kNR <= static_cast<int>(kMaxQueryLanes));

template <int MR>
struct Tile {
  F32 acc[MR][kPanelVectors];
};

// acc[i][lane] += rows[i][p] * panel[p][lane], or -= (rows[i][p] - panel[p][lane])^2.
template <bool kDifference, int MR>
RESMEM_INLINE void micro_tile(Tile<MR>& tile, const float* rows, std::size_t ld, const float* panel,
                              std::size_t depth) {
#pragma GCC unroll 4
  for (std::size_t p = 0; p < depth; ++p) {
    F32 b[kPanelVectors];
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      b[v.value] = F32::load(panel + p * kNR + v.value * F32::kLanes);
    });
    unroll<MR>([&](auto i) RESMEM_LAMBDA {
      const F32 a = F32::set1(rows[i.value * ld + p]);
      unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
        F32& acc = tile.acc[i.value][v.value];
        if constexpr (kDifference) {
          const F32 t = sub(a, b[v.value]);
          acc = fnma(t, t, acc);
        } else {
          acc = fma(a, b[v.value], acc);
        }
      });
    });
  }
}

// Appends the pairs of one tile whose score reaches the threshold of their query.
template <int MR>
RESMEM_INLINE std::size_t emit_hits(const Tile<MR>& tile, const F32* thresholds, std::size_t row,
                                    std::size_t row_count, Hit* hits) {
  F32 best[kPanelVectors];  // max(x, best) is best if x is NaN: a damaged row hides no other
  unroll<kPanelVectors>([&](auto v)
                            RESMEM_LAMBDA { best[v.value] = F32::set1(-__builtin_inff()); });
  unroll<MR>([&](auto i) RESMEM_LAMBDA {
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      best[v.value] = max(tile.acc[i.value][v.value], best[v.value]);
    });
  });
  std::uint32_t any = 0;
  unroll<kPanelVectors>([&](auto v)
                            RESMEM_LAMBDA { any |= ge_mask(best[v.value], thresholds[v.value]); });
  if (__builtin_expect(any == 0, 1)) return 0;

  float score[MR][kNR];
  std::uint32_t mask[MR];
  unroll<MR>([&](auto i) RESMEM_LAMBDA {
    mask[i.value] = 0;
    unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
      const F32 acc = tile.acc[i.value][v.value];
      acc.store(&score[i.value][v.value * F32::kLanes]);
      mask[i.value] |= ge_mask(acc, thresholds[v.value]) << (v.value * F32::kLanes);
    });
  });
  std::size_t found = 0;
  for (std::size_t i = 0; i < MR && row + i < row_count; ++i) {
    for (std::uint32_t m = mask[i]; m != 0; m &= m - 1) {
      const auto lane = static_cast<std::uint32_t>(__builtin_ctz(m));
      hits[found++] = {score[i][lane], static_cast<std::uint32_t>(row + i) * kMaxQueryLanes + lane};
    }
  }
  return found;
}

template <bool kDifference, int MR>
std::size_t scan(const ScanArgs& args) {
  F32 thresholds[kPanelVectors];
  unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
    thresholds[v.value] = F32::load(args.thresholds + v.value * F32::kLanes);
  });
  std::size_t found = 0;
  for (std::size_t start = 0; start < args.depth; start += args.depth_block) {  // 2nd loop
    const bool first = start == 0, last = args.depth - start <= args.depth_block;
    const std::size_t depth = last ? args.depth - start : args.depth_block;
    for (std::size_t row = 0; row < args.row_count; row += MR) {  // 1st loop
      Tile<MR> tile;
      float* partial = args.partial + row * kNR;
      unroll<MR>([&](auto i) RESMEM_LAMBDA {
        unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
          tile.acc[i.value][v.value] =
              first ? F32::set1(args.init[row + i.value])
                    : F32::load(partial + i.value * kNR + v.value * F32::kLanes);
        });
      });
      micro_tile<kDifference>(tile, args.rows + row * args.ld + start, args.ld,
                              args.panel + start * kNR, depth);
      if (last) {
        found += emit_hits(tile, thresholds, row, args.row_count, args.hits + found);
      } else {
        unroll<MR>([&](auto i) RESMEM_LAMBDA {
          unroll<kPanelVectors>([&](auto v) RESMEM_LAMBDA {
            tile.acc[i.value][v.value].store(partial + i.value * kNR + v.value * F32::kLanes);
          });
        });
      }
    }
  }
  return found;
}

constexpr void fill_tiles(FilterKernels& kernels) {
  kernels.scan_dot = scan<false, kDotRows>;
  kernels.scan_diff = scan<true, kDiffRows>;
}

}  // namespace
}  // namespace resmem
