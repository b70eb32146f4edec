"""Compaction: which neighbouring segments of a snapshot are worth copying into one."""

from __future__ import annotations

from typing import TypeAlias

from resmem._rows.segment import Segment

_FEW_SEGMENTS = 8  # segments; more of similar size are merged into one
_MOST_COPIED = 64 << 20  # bytes of borrowed rows that a compaction may take into memory

Segments: TypeAlias = tuple[Segment, ...]


def worth_compacting(segments: Segments, most: int | None = None) -> slice | None:
    """Return segments to compact into one: mostly dead ones, or many of similar size.

    ``most``: the rows that a segment of a limited memory may have. Its first segment is left as
    it is: the rest of it is about to go.
    """
    for i, segment in enumerate(segments):
        if i == 0 and most is not None and segment.n <= 2 * most:
            continue
        if 2 * segment.dead > segment.n and segment.copied_bytes <= _MOST_COPIED:
            return _mostly_dead_around(segments, i)
    if most is not None:
        return _small_neighbours(segments, most)
    return _of_similar_size(segments)


def _of_similar_size(segments: Segments) -> slice | None:
    """Return the last segments of similar size, if they are many."""
    if len(segments) <= _FEW_SEGMENTS:
        return None
    for stop in range(len(segments), 0, -1):
        start, rows, largest, taken = None, 0, 0, 0
        for first in range(stop - 1, -1, -1):
            segment = segments[first]
            taken += segment.copied_bytes
            if (rows and segment.n > 2 * rows) or taken > _MOST_COPIED:
                break
            rows, largest = rows + segment.n, max(largest, segment.n)
            # A few small segments are not worth copying a large one: segments double in size.
            if stop - first > _FEW_SEGMENTS and rows >= 4 * largest:
                start = first
        if start is not None:
            return slice(start, stop)
    return None


def _small_neighbours(segments: Segments, most: int) -> slice | None:
    """Return the most neighbouring segments that have up to ``most`` rows together, once there
    are many segments. After that any two neighbours have more."""
    if len(segments) <= 4 * _FEW_SEGMENTS:
        return None
    best, first, rows, taken = slice(0, 1), 0, 0, 0
    for stop, segment in enumerate(segments, 1):
        rows, taken = rows + segment.n, taken + segment.copied_bytes
        while rows > most or taken > _MOST_COPIED:
            rows -= segments[first].n
            taken -= segments[first].copied_bytes
            first += 1
        if stop - first > best.stop - best.start:
            best = slice(first, stop)
    return best if best.stop - best.start > 1 else None


def _mostly_dead_around(segments: Segments, i: int) -> slice:
    """Return the segment ``i``, which is mostly dead, and neighbours that leave all of them so.

    Without these, every update might leave one more small segment. Copying a living row is
    still paid by the removal of a dead one.
    """

    def pays(first: int, stop: int) -> bool:
        some = segments[first:stop]
        copied = sum(segment.copied_bytes for segment in some)
        dead, n = sum(segment.dead for segment in some), sum(segment.n for segment in some)
        return 2 * dead >= n and copied <= _MOST_COPIED

    first, stop = i, i + 1
    ends = len(segments) - segments[-1].growing  # new rows live longest
    while stop < ends and pays(first, stop + 1):
        stop += 1
    while first > 0 and pays(first - 1, stop):
        first -= 1
    return slice(first, stop)
