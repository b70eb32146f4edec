"""The residual memory: what a model got wrong, and where."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resmem import _arrays, _container, _evaluate, _explain, _persist, _plausible, _tuning
from resmem._arrays import F64, I64
from resmem._atomic import sole_writer
from resmem._correct import Corrector, given_neighbours, search
from resmem._errors import warn
from resmem._estimate import Estimate, estimate
from resmem._evaluate import Evaluation
from resmem._explain import Explanation
from resmem._growth import Basis
from resmem._ingest import Incoming, warn_of_rounding
from resmem._rows import Snapshot
from resmem._state import SETTINGS, Held, State, fitted_to, identity, not_negative, positive
from resmem._stores import Head, KeyDtype, residual_dtype_for
from resmem._tuning.grid import Settings, checked_settings
from resmem._tuning.result import TuneResult

_LAST_ID = 2**63 - 1


class Memory(State):
    """Residuals of a trained model, kept by embedding, that correct its predictions.

    Examples
    --------
    A model of clothes, from images that the package carries. Any model's logits and embeddings
    (here the pixels) serve as well:

    >>> import numpy as np, resmem
    >>> from resmem.demo import data
    >>> train, test = data.load("train"), data.load("test")
    >>> z, z_test = (part.images.reshape(-1, 784) for part in (train, test))
    >>> means = np.stack([z[train.labels == c].mean(axis=0) for c in range(10)])
    >>> spread = np.cov((z - means[train.labels]).T) + 0.03 * np.eye(784)
    >>> slopes = np.linalg.solve(spread, means.T)
    >>> offsets = (means * slopes.T).sum(axis=1) / 2
    >>> logits, logits_test = z @ slopes - offsets, z_test @ slopes - offsets

    The memory keeps what this model got wrong on the training images, and corrects what it
    predicts for the test images:

    >>> memory = resmem.Memory(k=20, temperature=2.8).fit(z, logits, train.labels)
    >>> memory.predict(z_test[:5], logits_test[:5])
    array([2, 9, 3, 6, 6])
    >>> evaluation = memory.evaluate(z_test, logits_test, test.labels)
    >>> for method in evaluation.methods:
    ...     print(f"{method.name:20} {method.scores['accuracy']:.1%}")
    base                 80.6%
    base, T=2.8          80.6%
    kNN alone            81.3%
    ResMem as published  83.7%

    ``print(evaluation)`` shows all scores, and ``memory.tune`` chooses the settings on validation
    images and switches the memory off where it does not help.

    Notes
    -----
    For a query with embedding ``z`` the ``k`` nearest stored rows are found exactly and their
    residuals ``r`` are added to the base model's output:
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
        Measured by ``fit``, or by the first ``add`` after which there are two rows, and whenever
        ``sigma`` is set to "auto" again; see ``sigma_``.
    temperature : float
        Softmax temperature T of the logits: ``base = softmax(logits / T)``.
    strength : float
        1 is the method as published, 0 the base model.
    key_dtype : {"auto", "float32", "float64", "float16", "bfloat16"}
        How embeddings are stored, and compared. The half-width types round them once; search is
        exact with respect to what is stored. "auto": float32, unless ``fit`` finds on a seeded
        sample that rounding float64 embeddings (or large integers) would move the distances of
        some neighbours by more than a tenth of what they lie apart, as it does with Unix times and
        positions in metres. Then an offset is taken off in float64 before rounding if that
        serves (preprocess="none"), or else keys are float64: twice the memory, and searched
        without what ``prepare`` builds. ``add`` keeps rows as ``fit`` chose, and refuses rows for
        which that would not do. "float16" and "bfloat16" round whatever they are given, and say
        nothing.
    residual_dtype : {"float32", "float64", "float16"}
        How residual values are stored. Default: "float32" for classification; "float64", which
        rounds no value, for regression.
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
        leaves all this as fitted, but for a memory that had no rows. store="head" needs "none".
    base : str or dict, optional
        What made the outputs and embeddings, such as a model's name, layer and fingerprint.
        Kept with the memory; ``correct`` and its like check it when asked to.
    probability_map : str
        How ``predict_proba`` makes probabilities of the corrected sum, which may leave [0, 1], and
        which then are divided by their total: "clip" moves what is below 1e-6 up to it;
        "project" takes the nearest point of the simplex (Euclidean), no coordinate below 1e-6;
        "keep" leaves every class at least a tenth of what the base model gives it, so that no
        neighbours can rule out what the model thinks likely. "clip:0.001", "project:0.001",
        "keep:0.3": other numbers. With more than 100 classes the floors of "clip" and "project"
        are those of 100 classes together, 1e-4 in all by default (and half of all at most); those
        of "keep" take a tenth and 1e-9 a class at most. A query that nothing corrects, and every
        query at strength 0, has the base model's own probabilities; a class that the base model
        gives exactly 0, such as one whose logit is -inf, stays at 0 unless neighbours have it.
    auto_prepare : bool
        Whether searches build, once they are many, what makes them faster; see ``prepare``. That
        takes one of them longer, by seconds to minutes of many rows. False: ``prepare`` alone
        builds. Kept in no file; may be set at any time, after ``load`` too.
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

        Of DataFrames whose columns all have names, these are kept (``embedding_names_``,
        ``output_names_``): later ones with other names, or another order, are refused.

        Arrays mapped from files, and data sets that are sliced like arrays, are read block by
        block, so that they may be larger than memory.

        Returns
        -------
        self
        """
        start = self._now
        rows = Incoming(start.asking, embeddings, outputs, targets, ids)
        snapshot = self._without_rows(start, rows)
        arrays = {} if copy else rows.borrowable()
        if not copy and rows.ids is not None and isinstance(ids, np.ndarray):
            as_kept = ids.dtype == np.int64 and ids.flags.c_contiguous
            arrays["ids"] = ids if as_kept else rows.ids
        if rows.n:
            snapshot = self._with(snapshot, rows, arrays)
        made = replace(start, spec=rows.spec, rows=snapshot).measured()
        with self._change():
            now = self._now
            if now.spec is start.spec:  # what else somebody has set meanwhile holds
                now = replace(now, spec=made.spec, rows=made.rows)
                now = now.at_temperature(self._now.temperature).measured()
                self._hold(spec=now.spec, rows=now.rows, file=None)
                return self
        return self.fit(embeddings, outputs, targets, ids, copy)  # keys are kept otherwise by now

    @_arrays.float_state()
    def add(self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None) -> Memory:
        """Store more rows; see ``fit``. Default ids continue after the largest ever used.

        Before any ``fit`` it is one. Ids are never reused, not even those of removed rows.
        ``sigma_`` and ``preprocess`` stay as they were measured; a memory that had too few rows for
        that has it done here. Rows that are already there are not copied. Where most of a part of
        the memory has been removed, a thread of its own gives that space back (of rows that are
        mapped or borrowed only if few of them are left).

        Warns
        -----
        ResmemWarning
            The memory has grown to 8, 64, .. times the rows that ``sigma="auto"`` was measured on
            or ``preprocess`` was fitted to.
        """
        with self._change():
            now = self._now
            first = now.rows is None or now.rows.never_held  # this is as good as a fit
            spec = now.asking if first else now.spec
            rows = Incoming(spec, embeddings, outputs, targets, ids, now.rows)
            if now.rows is not None and rows.n == 0:
                return self
            if now.rows is not None and rows.flat != now.rows.flat:
                expected = "(n,)" if now.rows.flat else "(n, C)"
                raise ValueError(f"targets must have shape {expected} as in fit")
            if first:
                after = self._without_rows(now, rows)
                if now.rows is not None:
                    after = after.named_as(now.rows)
                if rows.n:
                    after = self._with(after, rows, {})
            else:
                before = now.fitted.with_checked_ids()
                rows.refuse_rounding(before)
                if rows.ids is not None:
                    before.refuse_used(rows.ids)
                after = self._with(before, rows)
            made = replace(now, spec=rows.spec, rows=after).measured()
            made, notes = made.outgrown()
            self._publish(made)
        for note in notes:
            warn(note)
        return self

    @staticmethod
    def _without_rows(now: Held, rows: Incoming) -> Snapshot:
        """What the first rows are added to."""
        made_by, allowed = rows.fitted()
        return Snapshot(
            (), rows.d, rows.columns, now.temperature, rows.flat, preprocess=made_by,
            preprocess_basis=fitted_to(rows.n, made_by), allowed=allowed,
            embedding_names=rows.names[0], output_names=rows.names[1],
        )  # fmt: skip

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
            before = self._now.fitted
            try:
                self._hold(rows=before.without(flat))
            except BaseException:
                if self._now.rows is before:
                    before.withdraw_later()
                raise
        return self

    def __len__(self) -> int:
        rows = self._now.rows
        return 0 if rows is None else len(rows)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows: keys, outputs, targets, residuals and ids."""
        rows = self._now.rows
        return 0 if rows is None else rows.nbytes

    @staticmethod
    def estimate(
        n: int,
        d: int,
        C: int,
        task: Literal["classification", "regression"] = "classification",
        key_dtype: KeyDtype = "float32",
        budget: int | None = None,
        k: int = 50,
    ) -> Estimate:
        """What a memory of ``n`` rows would take with every store, before it is built: bytes, and
        the time of 1,000 queries at ``k``.

        Printed, it is a table that marks the store to start with. It is the first that fits into
        ``budget`` bytes (default: half of the memory that the system has available) of "dense",
        unless that takes more than 256 MiB for more than 1,000 outputs; "sparse:32"; and "head",
        which keeps least and computes most.

        Times are those of single steps measured on this machine, in some milliseconds, times how
        often they are taken. They are right within a factor of 2 or 3: other work on the machine is
        not foreseen, nor is what ``prepare`` saves of the search.
        """
        return estimate(n, d, C, task, key_dtype, budget, k)

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
        now = self._now
        rows = now.fitted
        wanted = now.k if k is None else _arrays.count(k, "k")
        workers = _arrays.thread_count(threads)
        _plausible.check_names(embeddings, "embeddings", rows.embedding_names)
        source = _arrays.rows_of(embeddings, "embeddings")
        _arrays.embedding_layout(source, "embeddings", rows.d, "(q, d)")
        warn_of_rounding(source, rows)
        part = _arrays.block_of(source, slice(0, source.shape[0]), "embeddings")
        queries, largest = rows.keys(part, workers)
        excluded = _arrays.excluded_ids(exclude_ids, len(queries))
        asked = (queries, largest, wanted, excluded, workers, now.auto_prepare)
        distances, ids, _ = search(rows, *asked)
        return distances, ids

    @_arrays.float_state()
    def prepare(self, threads: int | None = None) -> Memory:
        """Build now what makes search fast, instead of after some 6,000 queries, or with
        ``auto_prepare=False`` never.

        A *cascade* holds every row in a few bytes and finds, with proven bounds, the few rows
        that exact distances must decide between; in up to 16 dimensions a *tree* of boxes may do
        so sooner. Results keep their bits. For every 8,192 rows or more a few shapes are built,
        measured beside search without them on 512 of the rows, and the fastest is kept if it is
        faster. It takes at most 40 % of the memory of float32 keys, from 3 dimensions on, and
        ``save`` keeps it, unless removed rows stay out of the file. Rows added later are searched
        without it until they are a quarter of all. Where another thread is building already, this
        waits for it and then builds what is missing.
        Returns self; ``plan_`` tells what came of it.
        """
        workers = _arrays.thread_count(threads)
        now = self._now
        now.fitted.plan(0, now.k, workers, at_once=True)
        return self

    @property
    def plan_(self) -> list[dict[str, Any]]:
        """How each segment of rows is searched: what was built and what was measured.

        ``search`` is "cascade", "tree" or "float32", for 16 queries and more, ``search_few`` for
        fewer; ``tried`` lists what was measured, what share of all rows ``passed`` the projection
        of a cascade, and how fast it was beside float32. Empty tables are of segments for which
        nothing has been decided yet.
        """
        return _plans(self._now.fitted)

    @staticmethod
    def _search_described(rows: Snapshot) -> str:
        built = [plan for plan in _plans(rows) if plan.get("bytes")]
        if not built:
            return "float32"
        count, size = (sum(plan[each] for plan in built) for each in ("rows", "bytes"))
        kinds = {plan[each] for plan in built for each in ("search", "search_few")} - {"float32"}
        return f"{' and '.join(sorted(kinds))} over {count} rows, {size} bytes: " + "; ".join(
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
        return self._corrector(base).predicted(embeddings, outputs, exclude_ids, threads)

    def predict_proba(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        base: str | dict[str, Any] | None = None,
    ) -> F64:
        """Corrected class probabilities (q, C): non-negative rows that sum to 1.

        ``correct`` mapped by ``probability_map``; of a query that nothing corrects the base
        model's own, to the bit (of outputs as float32, and they sum to what they sum to, if they
        were given as probabilities). Arguments as for ``correct``.
        """
        if self.task != "classification":
            raise ValueError("predict_proba needs task='classification'; use predict")
        corrector = self._corrector(base)
        queries = corrector.searched(embeddings, exclude_ids, threads)
        return corrector.whole(queries, outputs, threads, to=corrector.map)

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
            tried; ``probability_map`` "clip", "clip" and "project" with floors that are 0.1 in
            all, "keep" with 0.1 and 0.3.
        preprocess, key_dtype : str or list, optional
            Other ways of keeping keys, beside the present one; each takes a search. They need a
            memory with preprocess="none" and key_dtype="float32" or "float64".
        score : str or callable, optional
            Classification: "log_loss" (default), "accuracy", "brier", "calibration_error".
            Regression: "rmse" (default), "mae", "r2". Or f(predictions, targets) -> float, which is
            called with the predictions of every setting (both arrays are read-only), with
            ``greater_is_better``.
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
            The notes of the result: the best is at the edge of what was tried.
        ResmemWarning
            Also notes: the memory's residuals are smaller than those of fresh rows, the rows are
            rows of the memory, or the base model calls classes impossible that occur, which makes
            its log-loss infinite. And where it will take more than some 10 seconds and no
            ``progress`` is told.
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
        checked_settings(settings)
        with self._change():
            made = vars(self._now.using(settings))
            self._hold(**{name: made[name] for name in made if name != "auto_prepare"})
        return self

    @property
    def settings(self) -> Settings:
        """What the memory computes with now, such as ``use`` takes; ``sigma`` may be "auto"."""
        now = self._now
        return Settings(
            now.k,
            now.sigma,
            now.temperature,
            now.strength,
            now.map.name,
            now.spec.preprocess.name,
            now.spec.key_dtype,
        )

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
        ``exclude_ids`` must name them; a ``ResmemWarning`` tells of rows of the memory). Printed,
        the result is a table.

        Parameters
        ----------
        embeddings : array (q, d)
        outputs : array (q, C), for regression also (q,); None with store="head"
        targets : int array (q,) of classes; for regression array (q,) or (q, C)
        exclude_ids : as for ``correct``
        knn : TuneResult or Settings, optional
            Whose ``k`` and ``sigma`` the neighbours alone are weighted with; of a TuneResult also
            those of the method as published. Default: the memory's.
        buckets : int
            Of distance to the nearest row, for ``by_distance``.
        bins : int
            Of confidence, for the calibration error and ``reliability``.
        threads : int, optional

        Returns
        -------
        Evaluation
            Computed block by block of queries: some numbers a row stay in memory.

        Warns
        -----
        ResmemWarning
            The base model gives exactly 0 to the class of some rows: its log-loss is infinite.
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
            query the ``top`` columns whose ``correction`` is largest in size, largest first,
            equal ones by number.
        top : int

        Returns
        -------
        Explanation
            Contributions (q, k, t) and more, as they are applied (times ``strength``); see
            there. Takes memory for them all.
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
        RuntimeError
            A signal handler or ``progress`` saves to a file that the code it interrupts is
            writing. That goes on; other threads and processes are waited for instead.
        """
        _arrays.told(progress)
        if os.fspath(path).lower().endswith(_persist.EXPORTS):
            raise ValueError(
                f"path must not end in .npz or .safetensors, got {os.fspath(path)!r}; "
                "export writes such files"
            )
        with self._saving, sole_writer(path, "call"):
            file = self._now.file if append else None
            if append and (file is None or file.path != os.path.abspath(os.fspath(path))):
                last = "no file yet" if file is None else f"{file.path!r}"
                raise ValueError(
                    "append=True continues the file that this memory was loaded from or last "
                    f"saved to ({last}), got {os.fspath(path)!r}; save without append"
                )
            if self._compactor is not None and not self._changing:
                self._compactor.join()  # what it merges need not be written twice
            with self._lock:
                now = self._now
                rows = now.fitted.sealed()
                if not self._changing:
                    self._hold(rows=rows)
            saved = _persist.save(path, self._settings(now), self._head(), rows, file, progress)
            with self._lock:
                rows = self._now.fitted
                if rows.preprocess is saved.rows.preprocess:  # no other fit has come meanwhile
                    self._hold(rows=saved.followed_by(rows), file=saved.file)
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
        _arrays.told(progress)
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
        allowed = saved.settings.get("allowed")
        sigma_rows, preprocess_rows = map(saved.counted, ("sigma_rows", "preprocess_rows"))
        try:
            memory = cls(**given, head=Head(**saved.head) if saved.head else None)
            auto = None if sigma is None else positive(sigma, "sigma_")
            allowed = math.inf if allowed is None else not_negative(allowed, "allowed")
        except (TypeError, ValueError) as error:
            raise saved.bad(f"its settings make no sense: {error}") from error
        if type(flat) is not bool or (sigma is None and memory.sigma == "auto"):
            raise saved.bad("flat or sigma_ is missing")
        rows, file = saved.rows(memory._now.spec.schema)
        if flat and (memory.task, rows.columns) != ("regression", 1):
            raise saved.bad(
                f"flat is for values of one column, not for {rows.columns} of {memory.task}"
            )
        if memory.sigma == "auto" and (sigma_rows == 0 or (sigma_rows is None and len(rows) < 2)):
            auto = sigma_rows = None  # it is still to be measured
        rows = replace(
            rows,
            temperature=memory._now.temperature,
            flat=flat,
            auto_sigma=auto,
            sigma_basis=Basis(sigma_rows).at(len(rows)),  # this growth was told of
            preprocess=saved.preprocess,
            preprocess_basis=Basis(preprocess_rows).at(len(rows)),
            allowed=allowed,
            embedding_names=saved.names("embedding_names", rows.d),
            output_names=saved.names("output_names", rows.columns),
        )
        memory._hold(rows=rows, file=file)
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

        _arrays.told(progress)
        now = self._now
        _export.save(path, self._settings(now), self._head(), now.fitted, progress)
        return self

    def info(self) -> dict[str, Any]:
        """What the memory is and holds, as plain numbers and strings."""
        now = self._now
        rows, file = now.fitted, now.file
        about = {
            "rows": len(rows),
            "d": rows.d,
            "columns": rows.columns,
            **self._settings(now),
            "sigma_": now.scale,
            "residual_error_": rows.error,
            "nbytes": rows.nbytes,
            "segments": len(rows.segments),
            "removed": sum(s.dead for s in rows.segments),
            "search": self._search_described(rows),
        }
        if file is not None:
            about["file"] = file.path
            about["file_bytes"] = os.path.getsize(file.path) if os.path.exists(file.path) else None
            about["generation"] = file.version.generation
        return about

    # ---------------------------------------------------------------- inside

    def _corrector(self, base: Any = None) -> Corrector:
        """What a call computes with, whatever changes meanwhile."""
        if base is not None and identity(base) != self._base:
            made = "an unnamed base" if self._base is None else f"base {self._base!r}"
            raise ValueError(f"this memory was made from {made}, not from {base!r}")
        return self._now.corrector

    # ---------------------------------------------------------------- object protocol

    def __repr__(self) -> str:
        now = self._now
        rows, sigma = now.rows, f"{now.sigma!r}"
        if now.sigma == "auto" and rows is not None:
            sigma += f" ({now.scale:.4g})"
        text = (
            f"Memory(task={now.spec.task!r}, output_kind={now.spec.output_kind!r}, k={now.k}, "
            f"sigma={sigma}, temperature={now.temperature:g}, strength={now.strength:g}"
        )
        for name, value, usual in (
            ("preprocess", now.spec.preprocess.name, "none"),
            ("key_dtype", now.spec.key_dtype, "auto" if rows is None else "float32"),
            (
                "residual_dtype",
                self._residual_dtype,
                residual_dtype_for(now.spec.task, None),
            ),
            ("store", now.spec.store.name, "dense"),
            ("probability_map", now.map.name, "clip"),
        ):
            if value != usual:
                text += f", {name}={value!r}"
        text += ")"
        if rows is None:
            return text + " [not fitted]"
        size = rows.nbytes / (1 << 20)
        return text + f" [{len(rows)} rows, d={rows.d}, C={rows.columns}, {size:.1f} MiB]"


def _plans(rows: Snapshot) -> list[dict[str, Any]]:
    """See ``Memory.plan_``."""
    decisions = (segment.planner.decision for segment in rows.segments)
    return [{} if each is None else each.described() for each in decisions]


def verify_file(
    path: str | os.PathLike[str], progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Check every block of a memory's file; what it holds, as ``Memory.info``.

    Raises ``FileFormatError`` naming what is wrong.
    """
    return Memory.load(path, verify=True, progress=progress).info()
