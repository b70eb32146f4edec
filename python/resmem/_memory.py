"""The residual memory: what a model got wrong, and where."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resmem import _arrays, _core
from resmem._arrays import F32, F64, I64
from resmem._errors import NotFittedError
from resmem._rows import Segment, Snapshot, merge

_KINDS = {"classification": ("logits", "probabilities"), "regression": ("values",)}
_SIMPLEX_FLOOR = 1e-6  # CONTRACT.md; smallest probability that predict_proba gives
_LAST_ID = 2**63 - 1
_SIGMA_SAMPLE = 256  # rows that sigma="auto" looks at
_BLOCK_BYTES = 24 << 20  # neighbours and outputs of the queries in hand


class Memory:
    """Residuals of a trained model, kept by embedding, that correct its predictions.

    For a query with embedding ``z`` the ``k`` nearest stored rows are found exactly and their
    residuals ``r`` added to the base model's output:
    ``base(x) + strength * sum_j w_j r_j`` with ``w_j`` proportional to
    ``exp(-||z - z_j|| / sigma)`` and summing to 1 (ResMem, Yang et al., NeurIPS 2023,
    section 3; arXiv:2302.01576). Results have the same bits on every machine.

    Parameters
    ----------
    task : {"classification", "regression"}
    output_kind : {"logits", "probabilities", "values"}
        What ``outputs`` are. Default: "logits" for classification (language modelling
        included), "values" for regression.
    k : int
        Neighbours per query. With fewer rows, the weights run over those there are.
    sigma : float or "auto"
        Length scale of the weights, in units of the embedding distance; ``inf`` weights all
        neighbours alike. "auto": the median over up to 256 stored rows, drawn with a fixed
        seed, each searched without itself, of the mean of ``D_j - D_1`` over its neighbours;
        if that is 0 (duplicates), the mean of the positive ones, or 1 if there are none.
        Computed at ``fit``; see ``sigma_``.
    temperature : float
        Softmax temperature T of the logits: ``base = softmax(logits / T)``.
    strength : float
        1 is the method as published, 0 the base model.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> z = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)
    >>> logits = np.zeros((3, 2), dtype=np.float32)
    >>> mem = resmem.Memory(k=1).fit(z, logits, np.array([0, 1, 1]))
    >>> mem.predict(np.array([[1.9]]), np.array([[0.2, 0.0]]))
    array([1])
    """

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        output_kind: Literal["logits", "probabilities", "values"] | None = None,
        k: int = 50,
        sigma: float | Literal["auto"] = "auto",
        temperature: float = 1.0,
        strength: float = 1.0,
    ) -> None:
        if task not in _KINDS:
            raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
        kind = _KINDS[task][0] if output_kind is None else output_kind
        if kind not in _KINDS[task]:
            names = " or ".join(map(repr, _KINDS[task]))
            raise ValueError(f"output_kind must be {names} for {task}, got {output_kind!r}")
        self._task, self._output_kind = task, kind
        self._snapshot: Snapshot | None = None
        self._flat = False  # regression fitted on one-dimensional targets
        self._auto_sigma: float | None = None
        self._lock = threading.Lock()
        _alive.add(self)
        self.k = k
        self.sigma = sigma
        self.temperature = temperature
        self.strength = strength

    # ---------------------------------------------------------------- parameters

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return self._task

    @property
    def output_kind(self) -> str:
        """What the outputs are: "logits", "probabilities" or "values"."""
        return self._output_kind

    @property
    def k(self) -> int:
        """Neighbours per query; may be set at any time."""
        return self._k

    @k.setter
    def k(self, value: int) -> None:
        self._k = _arrays.count(value, "k")

    @property
    def sigma(self) -> float | Literal["auto"]:
        """Length scale of the weights, or "auto"; may be set at any time."""
        return self._sigma

    @sigma.setter
    @_arrays.float_state()
    def sigma(self, value: float | Literal["auto"]) -> None:
        if isinstance(value, str):
            if value != "auto":
                raise ValueError(f"sigma must be a positive number or 'auto', got {value!r}")
            if self._snapshot is not None and self._auto_sigma is None:
                self._auto_sigma = self._measure_sigma(self._snapshot)
            self._sigma: float | Literal["auto"] = "auto"
        else:
            self._sigma = _positive(value, "sigma", " or 'auto'", infinite=True)

    @property
    def sigma_(self) -> float:
        """The length scale in use: ``sigma``, or what "auto" measured at ``fit``."""
        if self._sigma != "auto":
            return float(self._sigma)
        self._rows()
        assert self._auto_sigma is not None
        return self._auto_sigma

    @property
    def temperature(self) -> float:
        """Softmax temperature; setting it derives the residuals anew."""
        return self._temperature

    @temperature.setter
    @_arrays.float_state()
    def temperature(self, value: float) -> None:
        temperature = _positive(value, "temperature")
        if not 1e-100 <= temperature <= 1e100:  # so that logits / T stays finite
            raise ValueError(f"temperature must lie between 1e-100 and 1e100, got {value!r}")
        if self._output_kind != "logits" and temperature != 1:
            raise ValueError(
                f"temperature must be 1 for {self._output_kind}, got {value!r}: "
                "only logits have one"
            )
        with self._lock:
            rows = self._snapshot
            if rows is not None and self._output_kind == "logits":
                # An interrupt in here leaves the old temperature and its residuals.
                segments = tuple(
                    replace(s, residuals=self._residuals(s.outputs, s.targets, temperature))
                    for s in rows.segments
                )
                self._snapshot = replace(rows, segments=segments)
            self._temperature = temperature

    @property
    def strength(self) -> float:
        """Factor of the correction; may be set at any time."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        strength = _number(value, "strength")
        if not math.isfinite(strength):
            raise ValueError(f"strength must be finite, got {value!r}")
        self._strength = strength

    # ---------------------------------------------------------------- rows

    @_arrays.float_state()
    def fit(
        self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None, copy: bool = True
    ) -> Memory:
        """Store rows, replacing any there were.

        Parameters
        ----------
        embeddings : array (n, d)
            Keys, finite; stored as float32.
        outputs : array (n, C), for regression also (n,)
            The base model's outputs for the same examples, of ``output_kind``. To be honest
            residuals they should be held-out outputs: a model's outputs on examples it was
            trained on have residuals that are too small. Stored as float32
            (classification) or float64 (regression).
        targets : int array (n,) of classes 0 to C-1; for regression array (n,) or (n, C)
        ids : int array (n,), optional
            Unique and non-negative; default 0 to n-1.
        copy : bool
            False borrows arrays that need no conversion; they must not change afterwards.

        Returns
        -------
        self
        """
        segment, flat = self._segment(embeddings, outputs, targets, ids, 0, copy)
        empty = Snapshot((), 0, np.empty(0, dtype=np.int64))
        snapshot = empty.append(segment)
        auto = self._measure_sigma(snapshot) if self._sigma == "auto" else None
        with self._lock:
            self._snapshot, self._flat, self._auto_sigma = snapshot, flat, auto
        return self

    @_arrays.float_state()
    def add(self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None) -> Memory:
        """Store more rows; see ``fit``. Default ids continue after the largest ever used.

        Ids are never reused, not even those of removed rows. ``sigma_`` stays as fitted.
        """
        with self._lock:
            rows = self._rows()
            segment, flat = self._segment(
                embeddings, outputs, targets, ids, rows.next_id, True, rows
            )
            if len(segment) and flat != self._flat:
                expected = "(n,)" if self._flat else "(n, C)"
                raise ValueError(f"targets must have shape {expected} as in fit")
            if segment.ids is not None:
                rows.refuse_used(segment.ids)
            if len(segment):
                self._snapshot = rows.append(segment)
        return self

    def remove(self, ids: Any) -> Memory:
        """Remove rows by id; nothing is removed if one of them is not there."""
        with self._lock:
            rows = self._rows()
            array = _arrays.to_numpy(ids, "ids")
            flat = array[None] if array.ndim == 0 else array
            self._snapshot = rows.without(_arrays.integers(flat, "ids", "(n,)"))
        return self

    def __len__(self) -> int:
        return 0 if self._snapshot is None else len(self._snapshot)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows: keys, outputs, targets, residuals and ids."""
        return 0 if self._snapshot is None else self._snapshot.nbytes

    # ---------------------------------------------------------------- queries

    @_arrays.float_state()
    def kneighbors(
        self,
        embeddings: Any,
        k: int | None = None,
        exclude_ids: Any = None,
        threads: int | None = None,
    ) -> tuple[F64, I64]:
        """Exact Euclidean neighbours of queries (q, d): distances and ids, (q, k) each.

        Ordered by distance, equal distances by id; padding is distance inf and id -1.
        ``exclude_ids`` (q,) or (q, m) are not returned (-1: none).
        """
        rows = self._rows()
        wanted = self._k if k is None else _arrays.count(k, "k")
        workers = _arrays.thread_count(threads)
        queries, largest = _arrays.vectors(embeddings, "embeddings", rows.d, workers)
        excluded = _arrays.excluded_ids(exclude_ids, len(queries))
        distances, ids, _ = self._search(rows, queries, largest, wanted, excluded, workers)
        return distances, ids

    def correction(
        self, embeddings: Any, exclude_ids: Any = None, threads: int | None = None
    ) -> F64:
        """The memory's term ``sum_j w_j r_j`` alone, float64 (q, C)."""
        return self._corrected(embeddings, None, exclude_ids, threads, with_base=False)

    def correct(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
    ) -> F64:
        """The paper's sum ``base + strength * correction``, float64 (q, C).

        For classification the base is a probability vector, but the sum may leave [0, 1];
        ``predict_proba`` maps it back. ``outputs`` (q, C) are the base model's for the
        queries, of ``output_kind``.
        """
        return self._corrected(embeddings, outputs, exclude_ids, threads)

    def predict(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
    ) -> I64 | F64:
        """Class indices (q,), the first of equal ones; for regression corrected values."""
        if self._task == "regression":
            return self._corrected(embeddings, outputs, exclude_ids, threads)
        parts = [
            np.argmax(part, axis=1)
            for part in self._corrected_blocks(embeddings, outputs, exclude_ids, threads)
        ]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def predict_proba(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
    ) -> F64:
        """Corrected class probabilities (q, C): non-negative rows that sum to 1.

        ``correct`` clipped from below at 1e-6 and renormalised.
        """
        if self._task != "classification":
            raise ValueError("predict_proba needs task='classification'; use predict")
        corrected = self._corrected(embeddings, outputs, exclude_ids, threads)
        _core.simplex(corrected, _SIMPLEX_FLOOR, _arrays.thread_count(threads))
        return corrected

    # ---------------------------------------------------------------- inside

    def _rows(self) -> Snapshot:
        if self._snapshot is None:
            raise NotFittedError("this Memory holds no rows yet; call fit first")
        return self._snapshot

    def _segment(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        ids: Any,
        first_id: int,
        copy: bool,
        like: Snapshot | None = None,
    ) -> tuple[Segment, bool]:
        keys, largest = _arrays.vectors(embeddings, "embeddings", like.d if like else None)
        base, values, flat = self._checked(outputs, targets, len(keys), like)
        given = None if ids is None else _arrays.row_ids(ids, len(keys))
        if given is not None:
            first_id = 0
        elif first_id + len(keys) > _LAST_ID + 1:
            raise ValueError(
                f"ids must be given: default ids would continue at {first_id}, past int64"
            )
        if copy:
            keys, base, values = (
                _own(keys, embeddings), _own(base, outputs), _own(values, targets)
            )  # fmt: skip
            given = None if given is None else _own(given, ids)
        residuals = self._residuals(base, values)
        return Segment(keys, largest, base, values, residuals, first_id, given), flat

    def _checked(
        self, outputs: Any, targets: Any, n: int, like: Snapshot | None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], bool]:
        """Outputs and targets of n rows as stored, and whether targets came as (n,)."""
        base = self._base_array(outputs, like)
        _arrays.same_length("outputs", len(base), "embeddings", n)
        if self._task == "classification":
            return base, _arrays.labels(targets, n, base.shape[1]), False
        flat = _arrays.to_numpy(targets, "targets").ndim == 1
        values = _arrays.float64(targets, "targets", "(n,)" if flat else "(n, C)")
        _arrays.same_length("targets", len(values), "embeddings", n)
        values = values[:, None] if flat else values
        if values.shape != base.shape:
            raise ValueError(f"targets {values.shape} and outputs {base.shape} must have one shape")
        return base, values, flat

    def _base_array(
        self, outputs: Any, like: Snapshot | None, first_row: int = 0
    ) -> npt.NDArray[Any]:
        base: npt.NDArray[Any]
        if self._output_kind == "logits":
            base = _arrays.logits(outputs, "outputs", first_row)
        elif self._output_kind == "probabilities":
            base = _arrays.probabilities(outputs, "outputs", first_row)
        else:
            flat = _arrays.to_numpy(outputs, "outputs").ndim == 1
            base = _arrays.float64(outputs, "outputs", "(n,)" if flat else "(n, C)", first_row)
            base = base[:, None] if flat else base
        if base.shape[1] == 0:
            raise ValueError(f"outputs must have at least one column, got shape {base.shape}")
        if like is not None and base.shape[1] != like.columns:
            raise ValueError(
                f"outputs must have {like.columns} columns as in fit, got {base.shape[1]}"
            )
        return base

    def _residuals(
        self, base: npt.NDArray[Any], targets: npt.NDArray[Any], temperature: float | None = None
    ) -> F32:
        if self._task == "regression":
            with np.errstate(over="ignore"):
                residuals = np.ascontiguousarray(targets - base, dtype=np.float32)
            finite = np.isfinite(residuals).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                raise ValueError(
                    f"targets - outputs: row {row} is beyond float32, in which residuals are "
                    "kept; rescale targets and outputs"
                )
            return residuals
        if self._output_kind != "logits":
            return _core.class_residuals(base, targets, 0.0)
        return _core.class_residuals(base, targets, temperature or self._temperature)

    def _search(
        self,
        rows: Snapshot,
        queries: F32,
        largest: float,
        k: int,
        excluded: I64 | None,
        threads: int,
    ) -> tuple[F64, I64, I64]:
        segments = [segment.core() for segment in rows.segments]
        distances, ids, positions, _ = _core.search(
            queries, largest, segments, k, "euclidean", excluded, threads, version=1
        )
        return distances, ids, positions

    def _measure_sigma(self, rows: Snapshot) -> float:
        """The rule of CONTRACT.md, "sigma='auto'", over the living rows in order."""
        segment = rows.segments[0]
        for later in rows.segments[1:]:
            segment = merge(segment, later)
        segment = segment.compact()
        n = len(segment)
        sample = np.arange(n)
        if n > _SIGMA_SAMPLE:
            sample = np.sort(np.random.RandomState(0).permutation(n)[:_SIGMA_SAMPLE])
        k = min(self._k, n - 1)
        if k < 1:
            return 1.0
        excluded = np.ascontiguousarray(segment.all_ids()[sample])[:, None]
        queries = np.ascontiguousarray(segment.keys[sample])
        one = replace(rows, segments=(segment,))
        distances, _, _ = self._search(one, queries, segment.keys_max, k, excluded, 0)
        gaps = np.add.accumulate(distances - distances[:, :1], axis=1)[:, -1] / k
        ordered = np.sort(gaps)
        half = len(ordered) // 2
        median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        if median > 0:
            return float(median)
        positive = gaps[gaps > 0]
        return float(np.add.accumulate(positive)[-1] / len(positive)) if len(positive) else 1.0

    def _corrected(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any,
        threads: int | None,
        with_base: bool = True,
    ) -> F64:
        """Correction (q, C), added to the base unless told otherwise."""
        source = _arrays.real(embeddings, "embeddings", "(q, d)")
        result = np.empty((len(source), self._rows().columns))
        start = 0
        for part in self._corrected_blocks(source, outputs, exclude_ids, threads, with_base):
            result[start : start + len(part)] = part
            start += len(part)
        return result[:, 0] if self._flat else result

    def _corrected_blocks(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any,
        threads: int | None,
        with_base: bool = True,
    ) -> Iterator[F64]:
        """The same, block by block of queries, so that it takes bounded memory."""
        rows, k, sigma = self._rows(), self._k, self.sigma_
        workers = _arrays.thread_count(threads)
        source = _arrays.real(embeddings, "embeddings", "(q, d)")
        excluded = _arrays.excluded_ids(exclude_ids, len(source))
        # Shapes and dtypes are checked here, even of no rows; values block by block.
        _arrays.vectors(source[:0], "embeddings", rows.d)
        given = None
        if with_base:
            given = _arrays.to_numpy(outputs, "outputs")
            if given.ndim == 0:
                raise ValueError("outputs must have shape (n, C), got ()")
            _arrays.same_length("outputs", len(given), "embeddings", len(source))
            self._base_array(given[:0], rows)
        residuals: list[tuple[Literal["dense"], F32]] = [
            ("dense", segment.residuals) for segment in rows.segments
        ]
        # Of a query: distance, id and position of k neighbours; base or sum, and its checks.
        for block in _blocks(len(source), 24 * k + 16 * rows.columns):
            with _arrays.float_state():
                queries, largest = _arrays.vectors(
                    source[block], "embeddings", rows.d, workers, first_row=block.start
                )
                base = None
                if given is not None:
                    base = self._base(given[block], rows, workers, block.start)
                part = None if excluded is None else excluded[block]
                distances, _, positions = self._search(rows, queries, largest, k, part, workers)
                corrected = _core.aggregate(
                    residuals, distances, positions, sigma, rows.columns, self._strength, base,
                    workers,
                )  # fmt: skip
            yield corrected

    def _base(self, outputs: Any, rows: Snapshot, threads: int, first_row: int) -> F64:
        base = self._base_array(outputs, rows, first_row)
        if self._output_kind == "logits":
            return _core.softmax(base, self._temperature, threads)
        return base.astype(np.float64)

    # ---------------------------------------------------------------- object protocol

    def __repr__(self) -> str:
        sigma = f"{self._sigma!r}"
        if self._sigma == "auto" and self._snapshot is not None:
            sigma += f" ({self.sigma_:.4g})"
        text = (
            f"Memory(task={self._task!r}, output_kind={self._output_kind!r}, k={self._k}, "
            f"sigma={sigma}, temperature={self._temperature:g}, strength={self._strength:g})"
        )
        if self._snapshot is None:
            return text + " [not fitted]"
        rows = self._snapshot
        size = self.nbytes / (1 << 20)
        return text + f" [{len(rows)} rows, d={rows.d}, C={rows.columns}, {size:.1f} MiB]"

    def __getstate__(self) -> dict[str, Any]:
        """Everything by value; residuals are derived anew, so they are left out."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        rows = self._snapshot
        if rows is not None:
            none = np.empty((0, 0), dtype=np.float32)
            segments = tuple(replace(s, residuals=none, _order={}) for s in rows.segments)
            state["_snapshot"] = replace(rows, segments=segments)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        _alive.add(self)
        rows = self._snapshot
        if rows is not None:
            segments = tuple(
                replace(s, residuals=self._residuals(s.outputs, s.targets)) for s in rows.segments
            )
            self._snapshot = replace(rows, segments=segments)


# A child forked while another thread was changing a memory would find its lock held for ever.
_alive: weakref.WeakSet[Memory] = weakref.WeakSet()


def _renew_locks() -> None:
    for memory in _alive:
        memory._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


def _blocks(n: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def _own(array: npt.NDArray[Any], source: Any) -> npt.NDArray[Any]:
    """A copy, unless conversion already made one."""
    shares = not isinstance(source, np.ndarray) or np.may_share_memory(array, source)
    return array.copy() if shares else array


def _number(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be within float64, got a larger number") from error
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error


def _positive(value: Any, name: str, more: str = "", infinite: bool = False) -> float:
    number = _number(value, name)
    if not number > 0 or (math.isinf(number) and not infinite):
        raise ValueError(f"{name} must be a positive number{more}, got {value!r}")
    return number
