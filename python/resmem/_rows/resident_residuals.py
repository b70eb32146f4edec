"""What a device sums in corrections: residuals, targets and weights of a memory's rows there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from resmem._base.arrays import F64, I64
from resmem._devices import engine
from resmem._devices.device import Device
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec

# Brings what of a segment is not on a device yet, given columns, device and what is there.
Bring: TypeAlias = Callable[[Segment, int, Device, Any], Any]
# The feature, the edges and the factors of each step of a gate.
Steps: TypeAlias = "Sequence[tuple[str, Sequence[float], Sequence[float]]]"


class ResidentResiduals:
    """Which residuals, targets and weights of a memory's rows are on a device.

    Those of a segment are brought when a correction first needs them; later ones bring what was
    added since. They are dropped with their segment, which is another one when its residuals
    change.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[tuple[int, str], Any] = {}  # by the segments' uids, and what they are
        # Weights that fall with age are other ones in each snapshot: here, and on the device.
        self._decayed: tuple[list[Any], list[Any]] = ([], [])
        self._gate: tuple[Steps, Any] = ((), None)  # what it was made of, and on the device
        self._class_labels: tuple[Any, Any] = (None, None)  # the same
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        others = (each for each in (self._gate[1], self._class_labels[1]) if each is not None)
        held = [*list(self._held.values()), *self._decayed[1], *others]
        return sum(int(each.nbytes) for each in held if not isinstance(each, int))

    def keep(self, snapshot: Snapshot) -> None:
        """Drop what is not of the segments of a snapshot."""
        present = {segment.uid for segment in snapshot.segments}
        with self._lock:
            self._held = {at: held for at, held in self._held.items() if at[0] in present}
            if snapshot.half_life is None:
                self._decayed = ([], [])

    def residuals(self, snapshot: Snapshot, spec: Spec) -> list[Any]:
        """Return the residuals of each segment on the device."""
        return self._of_segments(snapshot, "residuals", spec.store.bring)

    def targets(self, snapshot: Snapshot, spec: Spec) -> list[Any]:
        """Return the targets of each segment on the device, to be summed like residuals."""
        return self._of_segments(snapshot, "targets", spec.bring_targets)

    def weights(self, snapshot: Snapshot) -> list[Any] | None:
        """Return the rows' own weights on the device, or of a segment whose rows all weigh 1 their
        number; None if all do."""
        described = snapshot.weights_for_core()
        if described is None:
            return None
        if snapshot.half_life is None:
            return self._of_segments(snapshot, "weights", _bring_weights)
        with self._lock:
            if self._decayed[0] is not described:
                self._decayed = described, [self._weights_of(part) for part in described]
            return self._decayed[1]

    def gate(self, steps: Steps) -> Any:
        """Return a gate of these steps on the device."""
        with self._lock:
            if self._gate[0] != steps:
                self._gate = steps, engine.gate(self._device, steps)
            return self._gate[1]

    def class_labels(self, labels: I64) -> Any:
        """Return what classes are called, (C,), on the device."""
        with self._lock:
            if self._class_labels[0] is not labels:
                there = engine.numbers(self._device, np.ascontiguousarray(labels, dtype=np.int64))
                self._class_labels = labels, there
            return self._class_labels[1]

    def _of_segments(self, snapshot: Snapshot, what: str, bring: Bring) -> list[Any]:
        """Bring what is not there yet of all segments, and return it all."""
        self.keep(snapshot)
        with self._lock:
            there = []
            for segment in snapshot.segments:
                held = self._held.get((segment.uid, what))
                there.append(bring(segment, snapshot.columns, self._device, held))
                self._held[segment.uid, what] = there[-1]
            return there

    def _weights_of(self, weights: F64) -> Any:
        there = engine.row_weights(self._device)
        there.extend(weights)
        return there


def _bring_weights(segment: Segment, columns: int, device: Device, there: Any) -> Any:
    """Return a segment's weights on a device, or the number of its rows if it has none."""
    if "weights" not in segment.arrays:
        return segment.n
    if there is None:
        there = engine.row_weights(device)
    there.extend(np.ascontiguousarray(segment["weights"]))
    return there
