"""The residual memory: what a model got wrong, and where."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resmem import _arrays, _container, _evaluate, _explain, _persist, _sigma, _tuning
from resmem._arrays import F64, I64
from resmem._correct import Corrector, given_neighbours, search
from resmem._estimate import Estimate, estimate
from resmem._evaluate import Evaluation
from resmem._explain import Explanation
from resmem._ingest import Incoming
from resmem._rows import Snapshot
from resmem._state import SETTINGS, State, identity, positive
from resmem._stores import Head
from resmem._tuning.grid import Settings
from resmem._tuning.result import TuneResult

_LAST_ID = 2**63 - 1


class Memory(State):
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
    key_dtype : {"float32", "float16", "bfloat16"}
        How embeddings are stored. The half-width types round them once; search is exact with
        respect to what is stored.
    residual_dtype : {"float32", "float16"}
        How residual values are stored.
    store : "dense", "sparse:m" or "head"
        What is kept of the residuals. "dense": all ``C`` of them, and the outputs. "sparse:m",
        such as "sparse:32", for classification: the class and the ``m`` largest other
        probabilities, the rest of the probability spread evenly over the other classes;
        ``residual_error_`` tells by how much that can be off, and the temperature stays that of
        ``fit``. "head", for logits: the classes alone; the residuals of the neighbours found
        are computed again from the base model's last layer, so ``outputs`` are not needed.
        ``Memory.estimate`` tells what each would take.
    head : (weight, bias) or a linear layer, for store="head"
        Weight (C, d) and bias (C,) or None; the embeddings are what this layer reads.
    preprocess : {"none", "center", "standardize", "unit", "pca:m", "whiten:m"}
        What is done to embeddings, the queries' too, before they are compared. Fitted by ``fit``
        to its rows, or to 65,536 of them drawn with a fixed seed: "center" takes the mean off;
        "standardize" also divides by the standard deviation of each column (by 1 where that is
        0); "pca:m", such as "pca:64", keeps the ``m`` directions of largest variance, which takes
        8 d^2 bytes and d^3 steps; "whiten:m" also scales them to variance 1 (to 0 where it is no
        more than 2^-40 of the largest). "unit" divides each embedding by its length. ``add``
        leaves all this as fitted. store="head" needs "none".
    base : str or dict, optional
        What made the outputs and embeddings, such as a model's name, layer and fingerprint.
        Kept with the memory; ``correct`` and its like check it when asked to.
    probability_map : str
        How ``predict_proba`` makes probabilities of the corrected sum, which may leave [0, 1], and
        which then are divided by their total: "clip" moves what is below 1e-6 up to it;
        "project" takes the nearest point of the simplex (Euclidean), no coordinate below 1e-6;
        "keep" leaves every class at least a tenth of what the base model gives it, so that no
        neighbours can rule out what the model thinks likely. "clip:0.001", "project:0.001",
        "keep:0.3": other numbers.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> z = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)
    >>> logits = np.zeros((3, 2), dtype=np.float32)
    >>> mem = resmem.Memory(k=1).fit(z, logits, np.array([0, 1, 1]))
    >>> mem.predict(np.array([[1.9]]), np.array([[0.2, 0.0]]))
    array([1])
    """

    # ---------------------------------------------------------------- rows

    @_arrays.float_state()
    def fit(
        self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None, copy: bool = True
    ) -> Memory:
        """Store rows, replacing any there were.

        Parameters
        ----------
        embeddings : array (n, d)
            Finite; their keys, which ``preprocess`` makes, are stored as ``key_dtype``.
        outputs : array (n, C), for regression also (n,); None for store="head"
            The base model's outputs for the same examples, of ``output_kind``. To be honest
            residuals they should be held-out outputs: a model's outputs on examples it was
            trained on have residuals that are too small. Stored as float32
            (classification) or float64 (regression) by store="dense".
        targets : int array (n,) of classes 0 to C-1; for regression array (n,) or (n, C)
        ids : int array (n,), optional
            Unique and non-negative; default 0 to n-1.
        copy : bool
            False borrows arrays that need no conversion; they must not change afterwards.
            Embeddings are borrowed with preprocess="none" only.

        Arrays mapped from files, and data sets that are sliced like arrays, are read block by
        block, so that they may be larger than memory.

        Returns
        -------
        self
        """
        rows = Incoming(self._spec, embeddings, outputs, targets, ids)
        snapshot = Snapshot(
            (), rows.d, rows.columns, self._temperature, rows.flat, preprocess=rows.fitted()
        )
        arrays = {} if copy else rows.borrowable()
        if not copy and rows.ids is not None and isinstance(ids, np.ndarray):
            as_kept = ids.dtype == np.int64 and ids.flags.c_contiguous
            arrays["ids"] = ids if as_kept else rows.ids
        if rows.n:
            snapshot = self._with(snapshot, rows, arrays)
        if self._sigma == "auto":
            snapshot = replace(snapshot, auto_sigma=_sigma.measure(snapshot, self._k))
        with self._change():
            if self._spec is rows.spec:
                if self._temperature != snapshot.temperature:  # somebody has set it meanwhile
                    snapshot = self._at_temperature(snapshot, self._temperature)
                self._snapshot, self._file = snapshot, None
                return self
        return self.fit(embeddings, outputs, targets, ids, copy)  # keys are kept otherwise by now

    @_arrays.float_state()
    def add(self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None) -> Memory:
        """Store more rows; see ``fit``. Default ids continue after the largest ever used.

        Ids are never reused, not even those of removed rows. ``sigma_`` and ``preprocess`` stay
        as fitted. Rows that are already there are not copied. Where most of a part of the memory
        has been removed, a thread of its own gives that space back (of rows that are mapped or
        borrowed only if few of them are left).
        """
        with self._change():
            before = self._rows()
            rows = Incoming(self._spec, embeddings, outputs, targets, ids, before)
            if rows.n == 0:
                return self
            if rows.flat != before.flat:
                expected = "(n,)" if before.flat else "(n, C)"
                raise ValueError(f"targets must have shape {expected} as in fit")
            if rows.ids is not None:
                before.refuse_used(rows.ids)
            self._publish(before, self._with(before, rows))
        return self

    def _with(
        self, before: Snapshot, rows: Incoming, borrowed: dict[str, npt.NDArray[Any]] | None = None
    ) -> Snapshot:
        """The snapshot after these rows came."""
        if rows.ids is None and before.next_id + rows.n > _LAST_ID + 1:
            raise ValueError(
                f"ids must be given: default ids would continue at {before.next_id}, past int64"
            )
        schema = rows.spec.schema(rows.d, rows.columns)
        if borrowed is not None:
            tail = before.first(schema, rows.n, rows.ids is not None, borrowed)
        else:
            tail = before.tail(schema, rows.n, rows.ids is not None)
        if tail.has_ids and "ids" not in (borrowed or ()):
            ids = rows.ids
            if ids is None:
                ids = np.arange(before.next_id, before.next_id + rows.n)
            tail.arrays["ids"][tail.n : tail.n + rows.n] = ids
        largest, error = rows.write(tail.arrays, tail.n, before, frozenset(borrowed or ()))
        return before.grown(tail, rows.n, largest, error)

    def remove(self, ids: Any) -> Memory:
        """Remove rows by id; nothing is removed if one of them is not there.

        The time it takes does not depend on the number of rows, but for the first call on rows
        with given ids, which hashes those.
        """
        array = _arrays.to_numpy(ids, "ids")
        flat = _arrays.integers(array[None] if array.ndim == 0 else array, "ids", "(n,)")
        with self._change():
            before = self._rows()
            try:
                self._snapshot = before.without(flat)
            except BaseException:
                if self._snapshot is before:
                    before.withdraw_later()
                raise
        return self

    def __len__(self) -> int:
        return 0 if self._snapshot is None else len(self._snapshot)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows: keys, outputs, targets, residuals and ids."""
        return 0 if self._snapshot is None else self._snapshot.nbytes

    @staticmethod
    def estimate(
        n: int,
        d: int,
        C: int,
        task: Literal["classification", "regression"] = "classification",
        key_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        budget: int | None = None,
    ) -> Estimate:
        """What a memory of ``n`` rows would take with every store, before it is built.

        Printed, it is a table that marks the store to start with: the first that fits into
        ``budget`` bytes (default: half of the memory that the system has available).
        """
        return estimate(n, d, C, task, key_dtype, budget)

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

        Distances are those of the keys that ``preprocess`` makes. Ordered by distance, equal
        distances by id; padding is distance inf and id -1.
        ``exclude_ids`` (q,) or (q, m) are not returned (-1: none).
        """
        rows = self._rows()
        wanted = self._k if k is None else _arrays.count(k, "k")
        workers = _arrays.thread_count(threads)
        source = _arrays.rows_of(embeddings, "embeddings")
        _arrays.embedding_layout(source, "embeddings", rows.d, "(q, d)")
        part = _arrays.block_of(source, slice(0, source.shape[0]), "embeddings")
        queries, largest = rows.keys(part, workers)
        excluded = _arrays.excluded_ids(exclude_ids, len(queries))
        distances, ids, _ = search(rows, queries, largest, wanted, excluded, workers)
        return distances, ids

    @_arrays.float_state()
    def prepare(self, threads: int | None = None) -> Memory:
        """Build now what makes search fast, instead of after some 6,000 queries.

        A *cascade* holds every row in a few bytes and finds, with proven bounds, the few rows
        that exact distances must decide between; in up to 16 dimensions a *tree* of boxes may do
        so sooner. Results keep their bits. For every 8,192 rows or more a few shapes are built,
        measured beside search without them on 512 of the rows, and the fastest is kept if it is
        faster. It takes at most 40 % of the memory of float32 keys, from 3 dimensions on, and
        ``save`` keeps it, unless removed rows stay out of the file. Rows added later are searched
        without it until they are a quarter of all.
        Returns self; ``plan_`` tells what came of it.
        """
        workers = _arrays.thread_count(threads)
        self._rows().plan(0, self._k, workers, at_once=True)
        return self

    @property
    def plan_(self) -> list[dict[str, Any]]:
        """How each segment of rows is searched: what was built and what was measured.

        ``search`` is "cascade", "tree" or "float32", for 16 queries and more, ``search_few`` for
        fewer; ``tried`` lists what was measured, what share of all rows ``passed`` the projection
        of a cascade, and how fast it was beside float32. Empty tables are of segments for which
        nothing has been decided yet.
        """
        return [
            {} if segment.planner.decision is None else segment.planner.decision.described()
            for segment in self._rows().segments
        ]

    def _search_described(self) -> str:
        built = [plan for plan in self.plan_ if plan.get("bytes")]
        if not built:
            return "float32"
        rows, size = sum(plan["rows"] for plan in built), sum(plan["bytes"] for plan in built)
        kinds = {plan[each] for plan in built for each in ("search", "search_few")} - {"float32"}
        return f"{' and '.join(sorted(kinds))} over {rows} rows, {size} bytes: " + "; ".join(
            plan["reason"] for plan in built
        )

    def correction(
        self,
        embeddings: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
        columns: Any = None,
    ) -> F64:
        """The memory's term ``sum_j w_j r_j`` alone, float64 (q, C).

        ``columns``: as in ``correct``.
        """
        corrector = self._corrector()
        queries = corrector.searched(embeddings, exclude_ids, threads)
        return corrector.whole(queries, None, threads, columns, with_base=False)

    def correct(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        columns: Any = None,
        base: str | dict[str, Any] | None = None,
    ) -> F64:
        """The paper's sum ``base + strength * correction``, float64 (q, C).

        For classification the base is a probability vector, but the sum may leave [0, 1];
        ``predict_proba`` maps it back.

        Parameters
        ----------
        embeddings : array (q, d)
        outputs : array (q, C), for regression also (q,)
            The base model's for the queries, of ``output_kind``. May be left out with
            store="head", which computes them.
        exclude_ids : int array (q,) or (q, m), optional
            Rows a query must not be corrected by; -1 for none.
        threads : int, optional
        columns : int array (t,) or (q, t), optional
            Output columns wanted, for all queries alike or for each; the result is (q, t).
        base : str or dict, optional
            What made these outputs and embeddings: refused unless the memory was made by the
            same.
        """
        corrector = self._corrector(base)
        queries = corrector.searched(embeddings, exclude_ids, threads)
        return corrector.whole(queries, outputs, threads, columns)

    def aggregate(
        self,
        distances: Any,
        ids: Any,
        outputs: Any = None,
        metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
        threads: int | None = None,
        columns: Any = None,
    ) -> F64:
        """``correct`` by neighbours that are known already, from another index for example.

        Neighbours of ``kneighbors`` give the bits of ``correct``. All that are given are used,
        whatever ``k`` is.

        Parameters
        ----------
        distances : array (q, k)
            Finite, ascending in each row.
        ids : int array (q, k)
            Of rows in this memory; -1 is padding, behind all others.
        outputs : array (q, C), for regression also (q,), optional
            The base model's for the queries. Left out, the result is the correction alone.
        metric : {"euclidean", "sqeuclidean"}
            What the distances are. FAISS's indexes give squared ones.
        threads, columns
            As for ``correct``.

        Returns
        -------
        float64 array (q, C) or (q, t)
        """
        corrector = self._corrector()
        queries = given_neighbours(corrector.rows, distances, ids, metric)
        return corrector.whole(queries, outputs, threads, columns, with_base=outputs is not None)

    def predict(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        base: str | dict[str, Any] | None = None,
    ) -> I64 | F64:
        """Class indices (q,), the most probable and of equal ones the first; for regression
        corrected values.

        Arguments as for ``correct``.
        """
        corrector = self._corrector(base)
        queries = corrector.searched(embeddings, exclude_ids, threads)
        if self.task == "regression":
            return corrector.whole(queries, outputs, threads)
        to = self._map if self._map.keeps else None  # the other maps keep the order
        blocks = corrector.blocks(queries, outputs, threads, to=to)
        parts = [np.argmax(part, axis=1) for part in blocks]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def predict_proba(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        base: str | dict[str, Any] | None = None,
    ) -> F64:
        """Corrected class probabilities (q, C): non-negative rows that sum to 1.

        ``correct`` mapped by ``probability_map``. Arguments as for ``correct``.
        """
        if self.task != "classification":
            raise ValueError("predict_proba needs task='classification'; use predict")
        corrector = self._corrector(base)
        queries = corrector.searched(embeddings, exclude_ids, threads)
        return corrector.whole(queries, outputs, threads, to=self._map)

    # ---------------------------------------------------------------- tuning and proof

    @_arrays.float_state()
    def tune(
        self,
        embeddings: Any = None,
        outputs: Any = None,
        targets: Any = None,
        *,
        k: Any = None,
        sigma: Any = None,
        temperature: Any = None,
        strength: Any = None,
        probability_map: Any = None,
        preprocess: Any = None,
        key_dtype: Any = None,
        score: str | Callable[[Any, Any], float] | None = None,
        greater_is_better: bool | None = None,
        folds: Any = 5,
        rule: Literal["best", "one_se"] = "best",
        confidence: float = 0.95,
        seed: int = 0,
        exclude_ids: Any = None,
        loo: bool = False,
        apply: bool = True,
        threads: int | None = None,
        progress: bool | Callable[[int], None] | None = None,
    ) -> TuneResult:
        """Choose settings on validation rows, and switch the memory off where it does not help.

        One search at the largest ``k`` serves all settings. Rows are cut into folds; for each, the
        others choose settings, and the fold's own rows compare them with the base model, whose
        temperature the others chose as well. Where the interval of this gain is not clear of 0, or
        stand-ins for the neighbours would gain as much (the mean residual of all rows, the
        neighbours of other validation rows), ``strength`` becomes 0 and the result says so.

        Time grows with rows x settings x columns: with tens of thousands of columns, try few
        values on few rows.

        Parameters
        ----------
        embeddings, outputs, targets
            Of rows that neither the base model was trained on nor the memory holds; as in ``fit``.
            They should not be test rows. ``outputs`` may be left out with store="head".
        k, sigma, temperature, strength, probability_map : value or list, optional
            What to try. Defaults: ``k`` 1, 2, 4 to 128; ``sigma`` from 0.01 to 2 times the median
            distance of the farthest neighbour, and inf; ``temperature`` 0.5 to 4 and the present
            one; ``strength`` 0 to 1, of which 0 (the base model) and 1 (as published) are always
            tried; ``probability_map`` "clip", "clip" and "project" with a floor of 0.1 / C,
            "keep" with 0.1 and 0.3.
        preprocess, key_dtype : str or list, optional
            Other ways of keeping keys, beside the present one; each takes a search. They need a
            memory with preprocess="none" and key_dtype="float32".
        score : str or callable, optional
            Classification: "log_loss" (default), "accuracy", "brier", "calibration_error".
            Regression: "rmse" (default), "mae", "r2". Or f(predictions, targets) -> float, which is
            called with the predictions of every setting, with ``greater_is_better``.
        folds : int or int array (q,)
            How many, or the fold of each row, so that rows that belong together stay together.
        rule : {"best", "one_se"}
            "one_se": the simplest setting (least strength first) that is not worse than the best
            by more than a standard error of their difference over folds.
        confidence : float
            Of the interval.
        seed : int
            Of the folds.
        exclude_ids : int array (q,) or (q, m), optional
            Rows a validation row must not be corrected by; -1 for none.
        loo : bool
            Tune on (at most 10,000 of) the memory's own rows, each without itself. A base model
            that was trained on them has residuals too small to learn from: a warning says so.
        apply : bool
            Use ``TuneResult.best`` from now on.
        threads : int, optional
        progress : True or callable, optional
            A bar (needs tqdm), or a function that is told of rows done.

        Returns
        -------
        TuneResult

        Warns
        -----
        UserWarning
            The notes of the result: the best is at the edge of what was tried, or the memory's
            residuals are smaller than those of fresh rows.
        """
        result = _tuning.tune(
            self, embeddings, outputs, targets, k=k, sigma=sigma, temperature=temperature,
            strength=strength, probability_map=probability_map, preprocess=preprocess,
            key_dtype=key_dtype, score=score, greater_is_better=greater_is_better, folds=folds,
            rule=rule, confidence=confidence, seed=seed, exclude_ids=exclude_ids, loo=loo,
            threads=threads, progress=progress,
        )  # fmt: skip
        if apply:
            self.use(result.best)
        return result

    def use(self, settings: Settings) -> Memory:
        """Use these settings, such as those of a ``TuneResult``, from now on.

        Where they keep keys in another way, the rows are written anew and the embeddings as they
        came are gone; so other ways cannot be tried any more. Nothing changes if one is refused.
        """
        self._check_weighing(settings)
        if (settings.preprocess, settings.key_dtype) != (self.preprocess, self.key_dtype):
            self._rekey(settings.preprocess, settings.key_dtype)
        self.temperature = settings.temperature
        self.k, self.sigma = settings.k, settings.sigma
        self.strength, self.probability_map = settings.strength, settings.probability_map
        return self

    # ---------------------------------------------------------------- judgement

    @_arrays.float_state()
    def evaluate(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        exclude_ids: Any = None,
        knn: Any = None,
        buckets: int = 10,
        bins: int = 15,
        threads: int | None = None,
    ) -> Evaluation:
        """What the memory does for rows whose targets are known, beside what it should beat.

        The base model as it is, the neighbours' targets alone, and the memory are scored on the
        same rows, which should be neither in the memory nor those it was tuned on (or
        ``exclude_ids`` must name them). Printed, the result is a table.

        Parameters
        ----------
        embeddings : array (q, d)
        outputs : array (q, C), for regression also (q,); None with store="head"
        targets : int array (q,) of classes; for regression array (q,) or (q, C)
        exclude_ids : as for ``correct``
        knn : TuneResult or Settings, optional
            Whose ``k`` and ``sigma`` the neighbours alone are weighted with. Default: the
            memory's.
        buckets : int
            Of distance to the nearest row, for ``by_distance``.
        bins : int
            Of confidence, for the calibration error and ``reliability``.
        threads : int, optional

        Returns
        -------
        Evaluation
            Computed block by block of queries: some numbers a row stay in memory.
        """
        return _evaluate.evaluate(
            self, embeddings, outputs, targets, exclude_ids, knn, buckets, bins, threads
        )

    @_arrays.float_state()
    def explain(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        columns: Any = None,
        top: int = 5,
        threads: int | None = None,
    ) -> Explanation:
        """Which rows correct each query, and what each of them adds.

        Parameters
        ----------
        embeddings, outputs, exclude_ids, threads
            As for ``correct``. Without outputs the corrections alone are explained.
        columns : int array (t,) or (q, t), optional
            Output columns to explain, for all queries alike or for each. Default: of each
            query the ``top`` columns that are corrected most, largest first, equal ones by
            number.
        top : int

        Returns
        -------
        Explanation
            Contributions (q, k, t) and more; see there. Takes memory for them all.
        """
        corrector = self._corrector()
        return _explain.explain(corrector, embeddings, outputs, exclude_ids, columns, top, threads)

    # ---------------------------------------------------------------- files

    def save(
        self,
        path: str | os.PathLike[str],
        append: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """Write everything to one file; ``load`` reads it. The format is in FORMAT.md.

        The file is written beside and put in place when it is safe on disk: whatever happens,
        ``path`` is the old file or the new one. Rows of a part of the memory from which some were
        removed are mapped from the new file afterwards.

        Parameters
        ----------
        path : path
        append : bool
            Add only what is new since this memory was loaded from or saved to ``path``: rows,
            removals, settings. A file that changed since then is refused. A new temperature
            writes the residuals of all rows again. Removed rows stay in the file until a save
            without ``append``, which leaves them out.
        progress : callable, optional
            Called with numbers of bytes as they are written.

        Raises
        ------
        OSError
            As the system gives it (disk full, no permission); the old file is unharmed.
        ValueError
            ``append`` and the file is not the one this memory continues.
        """
        if os.fspath(path).lower().endswith(_persist.EXPORTS):
            raise ValueError(
                f"path must not end in .npz or .safetensors, got {os.fspath(path)!r}; "
                "export writes such files"
            )
        with self._saving:
            file = self._file if append else None
            if append and (file is None or file.path != os.path.abspath(os.fspath(path))):
                last = "no file yet" if self._file is None else f"{self._file.path!r}"
                raise ValueError(
                    "append=True continues the file that this memory was loaded from or last "
                    f"saved to ({last}), got {os.fspath(path)!r}; save without append"
                )
            if self._compactor is not None and not self._changing:
                self._compactor.join()  # what it merges need not be written twice
            with self._lock:
                rows, settings = self._rows().sealed(), self._settings()
                if not self._changing:
                    self._snapshot = rows
            saved = _persist.save(path, settings, self._head(), rows, file, progress)
            with self._lock:
                if self._snapshot is not None:
                    self._snapshot = saved.followed_by(self._snapshot)
                self._file = saved.file
        return self

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        verify: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """The memory in a file that ``save`` or ``export`` wrote.

        Rows are mapped, not read: they take no memory until they are needed, and processes that
        load one file share it. A mapped file must not be cut short by other programs;
        ``save`` and ``append`` never do that.

        Parameters
        ----------
        path : path
        verify : bool
            Check every block of the rows against its checksum, which reads the whole file.
            Headers are always checked. Of an export: what checksums a .npz has, and that its
            values make sense.
        progress : callable, optional
            Called with numbers of bytes as they are checked.

        Raises
        ------
        FileFormatError
            The file is damaged, or no such file at all.
        OSError
            The file cannot be read.
        """
        named = os.fspath(path).lower().endswith(_persist.EXPORTS)
        if named and not _container.is_container(path):
            from resmem import _export  # which is seldom needed

            saved = _export.load(path, verify, progress)
        else:
            saved = _persist.load(path, verify, progress)
        given: dict[str, Any] = {name: saved.settings.get(name) for name in SETTINGS}
        given["probability_map"] = saved.settings.get("probability_map", "clip")  # older files
        if given["sigma"] == "inf":
            given["sigma"] = math.inf
        flat, sigma = saved.settings.get("flat"), saved.settings.get("sigma_")
        try:
            memory = cls(**given, head=Head(**saved.head) if saved.head else None)
            auto = None if sigma is None else positive(sigma, "sigma_")
        except (TypeError, ValueError) as error:
            raise saved.bad(f"its settings make no sense: {error}") from error
        if type(flat) is not bool or (sigma is None and memory.sigma == "auto"):
            raise saved.bad("flat or sigma_ is missing")
        rows, memory._file = saved.rows(memory._spec.schema)
        memory._snapshot = replace(
            rows,
            temperature=memory._temperature,
            flat=flat,
            auto_sigma=auto,
            preprocess=saved.preprocess,
        )
        return memory

    def export(
        self,
        path: str | os.PathLike[str],
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """Write the living rows as plain arrays, to a .npz or .safetensors file.

        Arrays "embeddings" (the keys, as ``preprocess`` made them), "targets" and "ids", those of
        the store ("outputs" and "residuals"; "index", "value" and "rest"), "head_weight" and
        "head_bias", what a preprocess was fitted to be ("preprocess_mean", "preprocess_scale";
        "preprocess_weight", "preprocess_bias"), "retired" (runs of ids of removed rows, first and
        last), and "resmem", the settings as JSON. ``load`` reads such a file too. In a .npz,
        bfloat16 keys are float32.
        """
        from resmem import _export  # which is seldom needed

        with self._lock:
            rows, settings = self._rows(), self._settings()
        _export.save(path, settings, self._head(), rows, progress)
        return self

    def info(self) -> dict[str, Any]:
        """What the memory is and holds, as plain numbers and strings."""
        rows, file = self._rows(), self._file
        about = {
            "rows": len(rows),
            "d": rows.d,
            "columns": rows.columns,
            **self._settings(),
            "sigma_": self.sigma_,
            "residual_error_": rows.error,
            "nbytes": rows.nbytes,
            "segments": len(rows.segments),
            "removed": sum(s.dead for s in rows.segments),
            "search": self._search_described(),
        }
        if file is not None:
            about["file"] = file.path
            about["file_bytes"] = os.path.getsize(file.path) if os.path.exists(file.path) else None
            about["generation"] = file.version.generation
        return about

    # ---------------------------------------------------------------- inside

    def _corrector(self, base: Any = None) -> Corrector:
        """What a call computes with, whatever changes meanwhile."""
        rows = self._rows()
        if base is not None and identity(base) != self._base:
            made = "an unnamed base" if self._base is None else f"base {self._base!r}"
            raise ValueError(f"this memory was made from {made}, not from {base!r}")
        return Corrector(
            self._spec,
            rows,
            min(self._k, max(1, len(rows))),  # weights run over the rows that there are
            self._scale(rows),
            self._strength,
        )

    # ---------------------------------------------------------------- object protocol

    def __repr__(self) -> str:
        sigma = f"{self._sigma!r}"
        if self._sigma == "auto" and self._snapshot is not None:
            sigma += f" ({self.sigma_:.4g})"
        text = (
            f"Memory(task={self.task!r}, output_kind={self.output_kind!r}, k={self._k}, "
            f"sigma={sigma}, temperature={self._temperature:g}, strength={self._strength:g}"
        )
        usual = {
            "preprocess": "none",
            "key_dtype": "float32",
            "residual_dtype": "float32",
            "store": "dense",
            "probability_map": "clip",
        }
        for name, value in usual.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)!r}"
        text += ")"
        if self._snapshot is None:
            return text + " [not fitted]"
        rows = self._snapshot
        size = self.nbytes / (1 << 20)
        return text + f" [{len(rows)} rows, d={rows.d}, C={rows.columns}, {size:.1f} MiB]"


def verify_file(
    path: str | os.PathLike[str], progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Check every block of a memory's file; what it holds, as ``Memory.info``.

    Raises ``FileFormatError`` naming what is wrong.
    """
    return Memory.load(path, verify=True, progress=progress).info()
