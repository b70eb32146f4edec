// Finds the order in which rows and queries are coded, by sorting.
#include "arrange.cuh"
#include "engine.h"

namespace resmem {
namespace device {

Sorting Sorting::in(Arrays& arrays, std::size_t n) {
  Sorting made;
  made.keys = arrays.next<std::uint32_t>(n);
  made.values = arrays.next<std::uint32_t>(n);
  made.other_keys = arrays.next<std::uint32_t>(n);
  made.other_values = arrays.next<std::uint32_t>(n);
  made.counts = arrays.next<std::uint32_t>(std::size_t{kSortDigits} * blocks_for(n, kSortChunk));
  return made;
}

Sorting sorted_by(StreamHandle stream, Sorting sorting, std::size_t n, unsigned bits) {
  const unsigned blocks = blocks_for(n, kSortChunk);
  for (unsigned shift = 0; shift < bits; shift += 8) {
    const SortArgs args = {sorting.keys,
                           sorting.values,
                           sorting.other_keys,
                           sorting.other_values,
                           static_cast<std::uint32_t>(n),
                           shift,
                           sorting.counts};
    simt::launch({"count_chunks", {blocks}, kSortThreads, sizeof(SortShared)}, stream,
                 &count_chunks, args);
    simt::launch({"sums_before", {1}, kSortThreads, kSortThreads * sizeof(std::uint32_t)}, stream,
                 &sums_before, sorting.counts, std::size_t{kSortDigits} * blocks);
    simt::launch({"scatter_chunks", {blocks}, kSortThreads, sizeof(SortShared)}, stream,
                 &scatter_chunks, args);
    std::swap(sorting.keys, sorting.other_keys);
    std::swap(sorting.values, sorting.other_values);
  }
  return sorting;
}

const std::uint32_t* arranged(StreamHandle stream, const CodeFacts* facts, std::size_t n,
                              unsigned depth, bool queries, Sorting sorting) {
  simt::launch(threads_for("order_keys", n, kArrangeThreads), stream, &order_keys, facts,
               static_cast<std::uint32_t>(n), depth, queries, sorting.keys, sorting.values);
  return sorted_by(stream, sorting, n, queries ? kQueryKeyBits : kRowKeyBits).values;
}

}  // namespace device
}  // namespace resmem
