"""``Memory``: the residuals of a model, stored by embedding."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resmem._base import checks
from resmem._base.arguments import suggestion, with_argument_hints
from resmem._base.arrays import F64, I64, float_state
from resmem._base.execution import execution_of
from resmem._base.metric import Metric
from resmem._correction.calls import Corrections
from resmem._correction.simplex import map_named
from resmem._devices.places import on_the_cpu
from resmem._devices.several import DeviceNames
from resmem._evaluation import audit, conformal, evaluate, explain, novelty, pruning
from resmem._evaluation.audit_result import Audit
from resmem._evaluation.conformal import Calibration
from resmem._evaluation.explain import Explanation
from resmem._evaluation.methods import Judged
from resmem._evaluation.monitor import Monitor
from resmem._evaluation.pruning_result import Pruning
from resmem._evaluation.result import Evaluation
from resmem._keys.stored import KeyDtype
from resmem._rows.by_id import Rows
from resmem._rows.estimate import Estimate, estimate
from resmem._rows.visibility import Visibility
from resmem._state.description import describe, describe_file, describe_plans, in_one_line
from resmem._state.opening import open_state
from resmem._state.settings import CHANGEABLE, SETTINGS, Settings
from resmem._state.state import State
from resmem._tuning.result import TuneResult
from resmem._tuning.tune import tune


class Memory:
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
    ...     print(f"{method.name:26} {method.scores['accuracy']:.1%}")
    base                       80.6%
    base, T=2.8                80.6%
    kNN alone                  81.3%
    interpolation, lambda 0.25 81.7%
    ResMem as published        83.7%

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
    output_kind : {"logits", "probabilities", "values", "none"}
        What ``outputs`` are. Default: "logits" for classification (language modelling
        included), "values" for regression. "none": there is no base model, ``outputs`` are None
        everywhere, and the neighbours alone predict. What is corrected then is the same for all
        queries: every class as probable as any other, and 0 in regression.
    k : int
        Neighbours per query. With fewer rows, the weights run over those there are.
    sigma : float or "auto"
        Length scale of the weights, in units of the distance (``metric``); ``inf`` weights all
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
    preprocess : {"none", "center", "standardize", "unit", "pca:m", "whiten:m", "nca:m"}
        What is done to embeddings, the queries' too, before they are compared. Fitted by ``fit``
        to its rows, or to 65,536 of them drawn with a fixed seed: "center" takes the mean off;
        "standardize" also divides by the standard deviation of each column (by 1 where that is
        0); "pca:m", such as "pca:64", keeps the ``m`` directions of largest variance, which takes
        8 d^2 bytes and d^3 steps; "whiten:m" also scales them to variance 1 (to 0 where it is no
        more than 2^-40 of the largest). "nca:m" learns from the targets of 2,500 rows which ``m``
        combinations of columns tell them apart (neighbourhood components analysis, which needs
        scikit-learn, ``pip install 'residual-memory[nca]'``, and 5 to 20 s). "unit" divides
        each embedding by its length. ``add`` leaves all this as fitted, but for a memory that had
        no rows. store="head" needs "none".
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
    method : {"residual", "targets"}
        What is done with the neighbours; default "residual", for classes without a base model
        (output_kind="none") "targets". "residual": their residuals are added, as published.
        "targets": the result is ``(1 - strength) * base + strength * sum_j w_j y_j``, with one-hot
        targets in classification (kNN-LM, Khandelwal et al., ICLR 2020). It is a probability
        vector without any map; the strength lies between 0 and 1.
    gate : str
        How the strength depends on the query. "none": not at all. "distance: 1.0 to 0.8, 0.5 to
        1.2, 0.0 beyond": queries whose nearest row is at most 0.8 away have the whole strength,
        those up to 1.2 half of it, and others the base model's output. "confidence" looks at the
        base model's largest probability, "agreement" at the largest share of the neighbours'
        weight that one class has. The factors of several steps, joined by "; ", are multiplied.
        ``tune`` finds gates.
    residuals : {"in-sample", "out-of-fold"}, optional
        Whether the base model whose outputs ``fit`` gets was trained on these very rows, as in the
        published method, or not (see ``resmem.out_of_fold``). None: not known. It is recorded, and
        results name it.
    auto_prepare : bool
        Whether searches build, once they are many, what makes them faster; see ``prepare``. That
        takes one of them longer, by seconds to minutes of many rows. False: ``prepare`` alone
        builds. Kept in no file; may be set at any time, after ``load`` too.
    classes : list of labels, optional
        What targets call the columns of outputs, in the order of columns: text, bools, integers or
        floats, such as scikit-learn's ``classes_``. Not all need to occur. Default: ``fit`` finds
        them, see there and ``classes_``. Files keep them.
    max_rows, max_bytes, max_age : int, int, number or timedelta, optional
        Limits, which hold after every ``fit``, ``add``, ``update`` and ``merge``, and as soon as
        they are set, at any time: as many rows, as many bytes of rows (keys, outputs, targets,
        residuals, ids, attributes; not what ``prepare`` builds), rows of this age at most. Rows go
        by number and bytes in the order of storage (``ids``), the first ones first; an updated row
        lies behind others. Rows go by age if their time is before the newest time of a row less
        ``max_age``: a number in the unit of integer and float times, a numpy.timedelta64 (or
        datetime.timedelta) for datetimes. Ids of rows that are gone are never used again. Running
        queries keep the rows that they began with. Files keep the limits.
    half_life : number or timedelta, optional
        A row's weight as a neighbour is multiplied by ``2 ** (-age / half_life)``, with its age
        beside the newest row, in the unit of ``times`` as for ``max_age``. Only how much older one
        neighbour is than another counts, so that this holds for queries of any time. Beyond 300
        half-lives nothing falls further. May be set at any time; files keep it.
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
        What keys are compared by, as for ``resmem.search``. Weights are
        ``exp(-(D_j - D_1) / sigma)`` with ``D`` the Euclidean distance (as published), its square
        (a Gaussian, as kNN-LM uses), ``1 - cosine``, or minus the inner product (as in attention):
        ``sigma`` and gates have the unit of that. Fixed from here on.
    """

    @with_argument_hints
    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        output_kind: Literal["logits", "probabilities", "values", "none"] | None = None,
        k: int = 50,
        sigma: float | Literal["auto"] = "auto",
        temperature: float = 1.0,
        strength: float = 1.0,
        key_dtype: KeyDtype = "auto",
        residual_dtype: Literal["float32", "float64", "float16"] | None = None,
        store: str = "dense",
        head: Any = None,
        base: str | dict[str, Any] | None = None,
        preprocess: str = "none",
        probability_map: str = "clip",
        method: Literal["residual", "targets"] | None = None,
        gate: str = "none",
        residuals: Literal["in-sample", "out-of-fold"] | None = None,
        auto_prepare: bool = True,
        classes: Any = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        max_age: Any = None,
        half_life: Any = None,
        metric: Metric = "euclidean",
    ) -> None:
        self._state = State.from_arguments(
            task=task, output_kind=output_kind, k=k, sigma=sigma, temperature=temperature,
            strength=strength, key_dtype=key_dtype, residual_dtype=residual_dtype, store=store,
            head=head, base=base, preprocess=preprocess, probability_map=probability_map,
            method=method, gate=gate, residuals=residuals, auto_prepare=auto_prepare,
            classes=classes, max_rows=max_rows, max_bytes=max_bytes, max_age=max_age,
            half_life=half_life, metric=metric,
        )  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] != "_" and not hasattr(type(self), name):
            hint = suggestion(name, CHANGEABLE)
            if hint is not None:  # else a misspelled setting would be set, and change nothing
                raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")
        if isinstance(fixed := getattr(type(self), name, None), property) and fixed.fset is None:
            cure = "resmem.Memory({name}=..) makes another one"
            if name in ("preprocess", "key_dtype"):
                cure = "memory.use(dataclasses.replace(memory.settings, {name}=..)) changes it"
            if name in SETTINGS:
                raise AttributeError(f"{name} cannot be set; " + cure.format(name=name))
        super().__setattr__(name, value)

    # ---------------------------------------------------------------- parameters

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return self._state.view.spec.task

    @property
    def output_kind(self) -> str:
        """What the outputs are: "logits", "probabilities", "values" or "none"."""
        return self._state.view.spec.output_kind

    @property
    def preprocess(self) -> str:
        """What makes keys of embeddings: "none", "center", "standardize", "unit", "pca:m",
        "whiten:m" or "nca:m"."""
        return self._state.view.spec.preprocess.name

    @property
    def key_dtype(self) -> str:
        """How embeddings are stored: "float32", "float64", "float16" or "bfloat16"; "auto" as
        long as there are none."""
        return self._state.view.spec.key_dtype

    @property
    def metric(self) -> Metric:
        """What keys are compared by, as given to ``Memory``."""
        return self._state.view.spec.metric

    @property
    def residual_dtype(self) -> str:
        """How residual values are stored: "float32", "float64" or "float16"."""
        return self._state.residual_dtype

    @property
    def store(self) -> str:
        """What is kept of the residuals: "dense", "sparse:m" or "head"."""
        return self._state.view.spec.store.name

    @property
    def base(self) -> str | dict[str, Any] | None:
        """What made the outputs and embeddings, as given to ``Memory``."""
        return self._state.base

    @property
    def residuals(self) -> str | None:
        """Whether the residuals are "in-sample" or "out-of-fold", as given to ``Memory``."""
        return self._state.residuals

    @property
    def classes_(self) -> npt.NDArray[Any] | None:
        """What targets call the columns of outputs, (C,): what ``predict`` answers in. Integers 0
        to C-1 unless ``fit`` was given other labels; None for regression."""
        view = self._state.view
        if view.spec.task != "classification":
            return None
        return view.spec.labelled(np.arange(view.fitted_rows.columns))

    @property
    def residual_error_(self) -> float:
        """Bound on the error of a sparse store's residuals, and so of a correction's columns.

        It is the largest error over all rows. For the other stores it is 0: their residuals are
        those of the outputs (store="head": of the layer, applied to the stored keys), but for the
        rounding to ``residual_dtype``.
        """
        return self._state.view.fitted_rows.error

    @property
    def embedding_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of embeddings, if ``fit`` was given a DataFrame."""
        return self._state.view.fitted_rows.embedding_names

    @property
    def output_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of outputs, if ``fit`` was given a DataFrame."""
        return self._state.view.fitted_rows.output_names

    @property
    def k(self) -> int:
        """Neighbours per query; may be set at any time."""
        return self._state.view.k

    @k.setter
    def k(self, value: int) -> None:
        self._state.publish(k=checks.count(value, "k"))

    @property
    def sigma(self) -> float | Literal["auto"]:
        """Length scale of the weights, or "auto"; may be set at any time.

        Setting it to "auto" measures it again, on the rows stored at that moment.
        """
        return self._state.view.sigma

    @sigma.setter
    def sigma(self, value: float | Literal["auto"]) -> None:
        self._state.set_sigma(value)

    @property
    def sigma_(self) -> float:
        """The length scale in use: ``sigma``, or what "auto" has measured (1 before there were
        two rows to measure)."""
        return self._state.view.sigma_in_use

    @property
    def temperature(self) -> float:
        """Softmax temperature of the logits; setting it computes all residuals again."""
        return self._state.view.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._state.set_temperature(value)

    @property
    def strength(self) -> float:
        """Factor of the correction; may be set at any time."""
        return self._state.view.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._state.set_strength(self.method, value)

    @property
    def method(self) -> str:
        """What is done with the neighbours, "residual" or "targets"; may be set at any time."""
        return self._state.view.method

    @method.setter
    def method(self, value: Literal["residual", "targets"]) -> None:
        self._state.set_strength(value, self.strength)

    @property
    def gate(self) -> str:
        """How the strength depends on the query, or "none"; may be set at any time."""
        return self._state.view.gate.name

    @gate.setter
    def gate(self, value: str) -> None:
        self._state.set_gate(value)

    @property
    def probability_map(self) -> str:
        """How ``predict_proba`` maps corrected outputs to the simplex; may be set at any time."""
        return self._state.view.map.name

    @probability_map.setter
    def probability_map(self, value: str) -> None:
        self._state.publish(map=map_named(value))

    @property
    def auto_prepare(self) -> bool:
        """Whether searches may build an index that makes them faster; may be set at any time.

        Files do not record it.
        """
        return self._state.view.auto_prepare

    @auto_prepare.setter
    def auto_prepare(self, value: bool) -> None:
        self._state.publish(auto_prepare=checks.boolean(value, "auto_prepare"))

    @property
    def max_rows(self) -> int | None:
        """How many rows are kept, or None; setting it drops the rows that are too many."""
        return self._state.view.limits.max_rows

    @max_rows.setter
    def max_rows(self, value: int | None) -> None:
        self._state.set_limits(max_rows=value)

    @property
    def max_bytes(self) -> int | None:
        """How many bytes of rows are kept, or None; setting it drops the rows that are too many.

        Rows that are gone may take up to a sixteenth more in ``nbytes`` for a while.
        """
        return self._state.view.limits.max_bytes

    @max_bytes.setter
    def max_bytes(self, value: int | None) -> None:
        self._state.set_limits(max_bytes=value)

    @property
    def max_age(self) -> Any:
        """How much older than the newest row others may be, or None; a numpy.timedelta64 in
        nanoseconds for datetimes. Setting it drops the rows that are too old."""
        return self._state.view.limits.max_age

    @max_age.setter
    def max_age(self, value: Any) -> None:
        self._state.set_limits(max_age=value)

    @property
    def half_life(self) -> Any:
        """By how much older a row must be to weigh half as much, or None; may be set at any time.
        A numpy.timedelta64 in nanoseconds for datetimes."""
        return self._state.view.half_life

    @half_life.setter
    def half_life(self, value: Any) -> None:
        self._state.set_half_life(value)

    # ---------------------------------------------------------------- rows

    def fit(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        ids: Any = None,
        copy: bool = True,
        *,
        sample_weight: Any = None,
        times: Any = None,
        groups: Any = None,
    ) -> Memory:
        """Store rows, replacing all earlier ones.

        Parameters
        ----------
        embeddings : array (n, d)
            Finite numbers. ``preprocess`` makes keys of them, which are stored as ``key_dtype``.
        outputs : array (n, C), for regression also (n,); None for store="head"
            The base model's outputs for the same examples, of ``output_kind``. They should be
            outputs of a model that was not trained on these examples: otherwise the residuals are
            too small. store="dense" keeps them as float32 (classification) or float64
            (regression).
        targets : array (n,) or (n, 1) of labels, or one-hot (n, C); for regression (n,) or (n, C)
            Integers 0 to C-1 are columns of outputs, whether all occur or not. Other labels (text,
            bools, floats, integers) stand in ascending order for columns 0 to C-1, as in
            scikit-learn, or a categorical column's in the order of its categories; there must be as
            many as columns, unless ``Memory(classes=..)`` names them. Floats that are whole numbers
            from 0 to C-1 are integers. ``resmem.tokens`` leaves out rows without a label.
        ids : int array (n,), optional
            Unique and non-negative; default 0 to n-1.
        copy : bool
            False borrows arrays that need no conversion; they must not change afterwards.
            Embeddings are borrowed only with preprocess="none". Default True.
        sample_weight : array (n,), optional
            Factors of the rows' weights as neighbours: 0, or from 1e-100 to 1e100; default 1. A row
            of weight 2 counts like two copies, but as one of the ``k``. A row of weight 0 is never
            found, as if it had been removed.
        times : array (n,) of integers, floats or numpy.datetime64 (in UTC), optional
            When what the row tells became known, for ``before``. All rows have times of one kind,
            or none has.
        groups : array (n,) of labels, optional
            To which group a row belongs, such as a patient or a document, for ``exclude_groups``;
            default: to none. Labels may be text, bytes, numbers, datetimes (in UTC), time spans and
            tuples, of any of these kinds side by side. None, NaN, NaT, what is missing in a column
            and -1 are no group.

            The memory keeps an int64 number of each label, which depends on its value alone: whole
            numbers from 0 to 2^63 - 1 are themselves (1.0 and True are 1), and other labels have 63
            bits of their SHA-256. So two of n such groups share a number, and are left out as one,
            with probability n^2 / 2^64: 5e-8 for a million. ``get`` returns the numbers; where a
            label is expected, they stand for it.

        Tables and columns of pandas, Polars and Arrow are taken as arrays, and so is a column that
        holds a vector per row. If all columns of a table have names, the memory keeps them
        (``embedding_names_``, ``output_names_``), and refuses later ones with other names, or in
        another order.

        Arrays mapped from files, and data sets that are sliced like arrays, are read block by
        block, so that they may be larger than memory.

        Returns
        -------
        self
        """
        self._state.fit(
            embeddings, outputs, targets, ids, copy,
            sample_weight=sample_weight, times=times, groups=groups,
        )  # fmt: skip
        return self

    def add(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        ids: Any = None,
        *,
        sample_weight: Any = None,
        times: Any = None,
        groups: Any = None,
    ) -> Memory:
        """Store more rows; see ``fit``. Default ids continue after the largest ever used.

        Called before any ``fit``, it does what ``fit`` does. Ids are never reused, not even those
        of removed rows. ``sigma_`` and ``preprocess`` stay as they were measured; they are measured
        here if there were too few rows before. Stored rows are not copied. If most rows of a part
        of the memory have been removed, a background thread gives their space back (for rows that
        are mapped or borrowed, only if few of them are left).

        Warns
        -----
        ResmemWarning
            The memory has grown to 8, 64, .. times the rows that ``sigma="auto"`` was measured on
            or ``preprocess`` was fitted to.
        """
        self._state.add(
            embeddings, outputs, targets, ids,
            sample_weight=sample_weight, times=times, groups=groups,
        )  # fmt: skip
        return self

    def remove(self, ids: Any) -> Memory:
        """Remove rows by id; if one of the ids is not there, raise and remove none.

        The time does not depend on the number of stored rows, except for the first call on rows
        that were given ids, which hashes all of them.
        """
        self._state.remove(ids)
        return self

    def update(
        self,
        ids: Any,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        *,
        sample_weight: Any = None,
        times: Any = None,
        groups: Any = None,
    ) -> Memory:
        """Replace rows: new embeddings, outputs and targets under the ids of rows that are there.

        The memory is then the one that ``remove`` and new rows under the old ids would give. A
        query that runs meanwhile, or begins later, sees all old rows or all new ones. If one of the
        ids (n,) is not there, this raises and replaces none. Other arguments are as for ``fit``;
        a weight or a group that is left out stays as it is, and times must be given where rows
        have them.
        ``sigma_`` and ``preprocess`` stay as they were measured. What was calibrated before no
        longer holds exactly: call ``calibrate`` again. The time per row does not depend on the
        number of rows, with the exception that ``remove`` tells of.
        """
        self._state.update(
            ids, embeddings, outputs, targets,
            sample_weight=sample_weight, times=times, groups=groups,
        )  # fmt: skip
        return self

    def merge(self, other: Memory) -> Memory:
        """Take the rows of another memory too, under the ids that they have there; return self.

        Nothing is copied: both memories then share the arrays of these rows, and what one adds or
        removes later does not change the other. The result is what one ``fit`` of all rows gives,
        with these ids, this memory's settings and its ``sigma_``. Ids that ``other`` has removed
        are never used again here, unless rows have them here. Residuals at another temperature are
        computed again. The time grows with the number of rows, as ids are compared.

        Raises
        ------
        ValueError
            A row of ``other`` has an id that this memory has or ever had. Or the memories keep rows
            in different ways: ``task``, ``output_kind``, ``store``, ``residual_dtype``,
            ``preprocess`` and its fitted numbers, ``key_dtype``, the head, columns, ``base``.
        """
        if not isinstance(other, Memory):
            raise TypeError(f"other must be a resmem.Memory, got {type(other).__name__}")
        self._state.merge(other._state)
        return self

    def get(self, ids: Any) -> Rows:
        """Return the rows with these ids (m,), in this order, as they are stored.

        Ids may repeat. ``embeddings`` of the result are the keys, as ``preprocess`` made them; with
        preprocess="none" they are the embeddings, as far as ``key_dtype`` holds them (float64 ones,
        with metric="cosine", are multiplied by a power of two for each row). ``outputs`` is None if
        the store keeps none. Groups are the numbers that their labels have (``fit``). An id that is
        not there is a ValueError that names it.
        """
        return self._state.view.rows_by_id(ids)

    @property
    def ids(self) -> I64:
        """The ids (n,) of all rows, in the order of storage: updated rows come behind others."""
        rows = self._state.view.rows
        return np.empty(0, dtype=np.int64) if rows is None else rows.ids

    def __len__(self) -> int:
        rows = self._state.view.rows
        return 0 if rows is None else len(rows)

    def __bool__(self) -> bool:
        return True  # an empty memory is still a memory

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows: keys, outputs, targets, residuals and ids."""
        rows = self._state.view.rows
        return 0 if rows is None else rows.nbytes

    @property
    def nbytes_by_place(self) -> dict[str, int]:
        """Bytes of the rows by where they lie.

        "host" is ``nbytes``; the name of each device that ``to`` chose stands for the keys, codes
        and residuals there; "host, pinned" is memory through which rows come in slabs.
        """
        return self._state.view.nbytes_by_place

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
        """Estimate what a memory of ``n`` rows would take with each store: bytes, and the time of
        1,000 queries at ``k``.

        Printed, it is a table that marks the store to start with: the first that fits into
        ``budget`` bytes (default: half of the memory that the system has available) of "dense",
        left out if it takes more than 256 MiB for more than 1,000 outputs; "sparse:32"; and "head",
        which keeps least and computes most.

        A time is that of single steps, measured on this machine within some milliseconds, times
        their number. It is right within a factor of 2 or 3: it counts neither other work on the
        machine nor what ``prepare`` saves in a search.
        """
        return estimate(n, d, C, task, key_dtype, budget, k)

    # ---------------------------------------------------------------- queries

    def kneighbors(
        self,
        embeddings: Any,
        k: int | None = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        stream: Any = None,
        out: Any = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        squared: bool = False,
    ) -> tuple[Any, Any]:
        """Return the exact neighbours of queries (q, d): distances and ids, (q, k) each.

        Distances are those of ``metric`` between the keys that ``preprocess`` makes: Euclidean,
        their squares, ``1 - cosine``, or inner products, the largest first. Neighbours are ordered
        by distance, and by id where distances are equal; padding is id -1 and distance inf, or -inf
        of inner products. ``k``
        defaults to the memory's. Rows of a query's ``exclude_ids``, (q,) or (q, m), are not
        returned; -1 excludes none. ``among``, ``before`` and ``exclude_groups`` are as for
        ``correct``.

        ``squared=True`` returns squared Euclidean distances, by which neighbours are ordered: two
        of them may have one root. Neighbours of several memories are put in order by (squared
        distance, id).

        A memory on a device (``to``) also takes embeddings that lie there, with keys that need no
        preprocessing, and then returns arrays there; ``stream`` and ``out`` are as for
        ``resmem.search``. ``exclude_ids``, ``before`` and ``exclude_groups`` may lie there as int64
        arrays, times being integers, and groups the numbers that stand for them; ``among`` may not.
        """
        return self._state.view.kneighbors(
            embeddings, k, Visibility(exclude_ids, among, before, exclude_groups), threads,
            stream, out, squared,
        )  # fmt: skip

    def to(self, device: DeviceNames, resident_bytes: int | None = None) -> Memory:
        """Search on this device from now on, and return self: "cpu", "cuda" or "cuda:0".

        The keys, and codes of one byte for each of their numbers, are brought there at once, and
        what ``add`` and ``remove`` change with the next search, and times and groups with the
        first that asks for them; they also stay in host memory. Results have the bits of the CPU.
        ``correct`` and its like find their neighbours there. Of arrays that lie there they do all
        else there too, with residuals that the first such call brings; of arrays in host memory
        they sum residuals on the CPU. Files and copies do not record the device.

        ``["cuda:0", "cuda:1"]`` divides the rows among devices, which search at the same time;
        rows that are added go where there is room. Queries may lie on any of them, and results come
        to where the queries are.

        Rows that a device has no room for stay in host memory. Every search brings them in slabs,
        of which one is searched while the next is copied, so it takes at least as long as copying
        them. ``resident_bytes`` says how many bytes of each device the rows may take, slabs
        included and residuals aside. Default: what is free, less an eighth and at most 1 GiB, which
        searches take meanwhile. Corrections of arrays on a device need the residuals of all rows
        there: where these are large, ``resident_bytes`` leaves room for them.

        Raises
        ------
        DeviceError
            A device, its driver or the extension is missing, or it has too little memory.
        """
        self._state.move(device, resident_bytes)
        return self

    @property
    def device(self) -> str | list[str]:
        """Where neighbours are searched: "cpu", a device such as "cuda:0", or a list of several."""
        resident = self._state.view.resident
        return "cpu" if resident is None else resident.names

    @float_state()
    def prepare(self, threads: int | None = None) -> Memory:
        """Build now the indexes that make search faster, and return self.

        Without this call they are built after some 6,000 queries, or, with ``auto_prepare=False``,
        never. A *cascade* holds each row in a few bytes and finds, with proven bounds, the few rows
        that exact distances must decide between; in up to 16 dimensions a *tree* of boxes may be
        faster. Results keep their bits. For each segment of 8,192 rows or more, a few indexes are
        built and timed against the search without them, on 512 of the rows; the fastest is kept if
        it is faster than that search. It takes at most 40 % of the memory of float32 keys, from 3
        dimensions on. ``save`` writes it, unless removed rows are left out of the file. Rows added
        later are searched without it until they are a quarter of all. If another thread is building
        already, this call waits for it and then builds what is missing. ``plan_`` tells the
        outcome.
        """
        now, execution = self._state.view, execution_of(threads)
        now.fitted_rows.plan(0, now.k, execution, at_once=True)
        return self

    @property
    def plan_(self) -> list[dict[str, Any]]:
        """How each segment of rows is searched: the index that was built, and its measurements.

        ``search`` is "cascade", "tree" or "float32", for 16 queries and more, and ``search_few``
        for fewer. ``tried`` lists the indexes that were measured: the share of all rows that
        ``passed`` the projection of a cascade, and the speed relative to float32. The dict is empty
        for a segment for which nothing has been decided yet. On a device ``search`` names it.
        """
        return describe_plans(self._state.view)

    def correction(
        self,
        embeddings: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
        columns: Any = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        stream: Any = None,
        out: Any = None,
    ) -> Any:
        """Return the memory's term ``sum_j w_j r_j`` alone, float64 (q, C).

        With method="targets" it is ``sum_j w_j y_j``. The strength has no part in it. Arguments are
        as for ``correct``.
        """
        return self._corrections(None, threads, stream, out).of_queries(
            embeddings, None, Visibility(exclude_ids, among, before, exclude_groups), columns,
            with_base=False,
        )  # fmt: skip

    def correct(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        columns: Any = None,
        base: str | dict[str, Any] | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        stream: Any = None,
        out: Any = None,
    ) -> Any:
        """Return the paper's sum ``base + strength * correction``, float64 (q, C).

        For classification the base is a probability vector, but the sum may leave [0, 1];
        ``predict_proba`` maps it back. With method="targets" it is
        ``(1 - strength) * base + strength * correction``. A gate lowers the strength by query.

        Parameters
        ----------
        embeddings : array (q, d)
        outputs : array (q, C), for regression also (q,)
            The base model's outputs for the queries, of ``output_kind``. May be left out with
            store="head", which computes them.
        exclude_ids : int array (q,) or (q, m), optional
            Ids of rows that must not correct a query; -1 stands for none.
        among : int array (m,) of ids, or bool array (n,), optional
            The only rows that may correct a query of this call: their ids, or a mask of all rows in
            the order of storage. Few rows are searched as fast as if they were all.
        before : array (q,), or one value, optional
            A query is corrected by rows whose time is smaller (``times`` of ``fit``, of the same
            kind), and so by nothing that was not known yet.
        exclude_groups : array of labels (q,) or (q, m), or one label, optional
            Groups whose rows must not correct a query, by labels as ``groups`` of ``fit`` has them;
            -1 or None stands for none. In lists, a tuple is a label, and a list holds the groups of
            a query.
        threads : int, optional
            Default: as for ``resmem.search``.
        columns : int array (t,) or (q, t), optional
            Output columns to return, the same for all queries or some for each; the result is
            (q, t). Default: all.
        base : str or dict, optional
            What made these outputs and embeddings; ValueError if it is not the memory's ``base``.
        stream : int or object, optional
            The stream of CUDA in whose order a memory on a device works, as for ``resmem.search``.
        out : float64 array, optional
            Where the result is written: C-contiguous, a NumPy array or, as the embeddings, on the
            device.

        Notes
        -----
        A memory on a device (``to``) takes arrays that lie there, and returns an array of the
        embeddings' library there: embeddings whose keys need no preprocessing, outputs of float16,
        bfloat16, float32 or float64, ``columns``, ``exclude_ids``, ``before`` and
        ``exclude_groups`` of int64. Others are brought. If all lie there the call returns before
        its stream gets there, and values are not checked: what would be refused, such as NaN, gives
        NaN in the results of that query alone, a column that is not there in its place.
        """
        return self._corrections(base, threads, stream, out).of_queries(
            embeddings, outputs, Visibility(exclude_ids, among, before, exclude_groups), columns
        )

    def _corrections(self, base: Any, threads: int | None, stream: Any, out: Any) -> Corrections:
        return Corrections(self._state.corrector(base), threads, stream, out)

    def aggregate(
        self,
        distances: Any,
        ids: Any,
        outputs: Any = None,
        metric: Metric | None = None,
        threads: int | None = None,
        columns: Any = None,
        *,
        stream: Any = None,
        out: Any = None,
    ) -> Any:
        """Correct by neighbours that are known already, from another index for example.

        The neighbours that ``kneighbors`` returns give the bits of ``correct``. All given
        neighbours are used, whatever the memory's ``k`` is.

        Parameters
        ----------
        distances : array (q, k)
            Finite, ascending in each row; inner products descend.
        ids : int array (q, k)
            Ids of rows of this memory; -1 is padding, behind all others.
        outputs : array (q, C), for regression also (q,), optional
            The base model's outputs for the queries. Left out, the result is the correction alone
            (with output_kind="none", which has no outputs, it is that of ``correct``).
        metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
            Which distances are given; default the memory's own. FAISS's indexes give squared ones,
            or inner products, which descend. Euclidean distances and their squares become each
            other as the memory's metric needs. Otherwise weights fall with what is given,
            ``1 - cosine`` or the product, and ``sigma`` has the unit of that.
        threads, columns, stream, out
            As for ``correct``.

        Returns
        -------
        float64 array (q, C) or (q, t)

        Notes
        -----
        A memory on a device (``to``) takes distances (float64, of its own metric) and ids (int64)
        that lie there, if ids are 0 to n-1, counted by ``fit`` and ``add``, and no row was ever
        removed. The result lies there too. As for ``correct`` values are not checked: distances
        that do not ascend, or ids of no row, give NaN for that query.
        """
        return self._corrections(None, threads, stream, out).of_neighbours(
            distances, ids, outputs, metric, columns
        )

    def predict(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        base: str | dict[str, Any] | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        stream: Any = None,
        out: Any = None,
    ) -> Any:
        """Return the most probable classes (q,), of equally probable ones the first; for regression
        the corrected values.

        Classes are labels as in ``classes_``. Arguments are as for ``correct``. Of arrays on a
        device, they must be integers, the result is int64, and -1 for a query that would be
        refused. Numbers of other labels in ``classes_`` are ``correct(..).argmax(1)`` there, or
        ``predict_proba(..).argmax(1)`` with probability_map="keep" or a negative strength.
        """
        return self._corrections(base, threads, stream, out).predictions(
            embeddings, outputs, Visibility(exclude_ids, among, before, exclude_groups)
        )

    def predict_proba(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        threads: int | None = None,
        base: str | dict[str, Any] | None = None,
        columns: Any = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        stream: Any = None,
        out: Any = None,
    ) -> Any:
        """Return corrected class probabilities (q, C): non-negative rows that sum to 1.

        They are the result of ``correct``, mapped by ``probability_map``. A query that nothing
        corrects has the base model's own probabilities, to the bit; outputs that were given as
        probabilities come back as float32 holds them, without being scaled to sum to 1. Arguments
        are as for ``correct``: of the chosen ``columns``, (q, t), rows need not sum to 1, and all
        columns are computed where a map needs them.
        """
        if self.task != "classification":
            raise ValueError("predict_proba needs task='classification'; use predict")
        asked = self._corrections(base, threads, stream, out)
        return asked.of_queries(
            embeddings, outputs, Visibility(exclude_ids, among, before, exclude_groups), columns,
            simplex_map=asked.corrector.probability_map,
        )  # fmt: skip

    # ---------------------------------------------------------------- tuning and proof

    @on_the_cpu
    @float_state()
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
        methods: Any = None,
        preprocess: Any = None,
        key_dtype: Any = None,
        score: str | Callable[[Any, Any], float] | None = None,
        greater_is_better: bool | None = None,
        folds: Any = 10,
        groups: Any = None,
        times: Any = None,
        rule: Literal["best", "one_se"] = "best",
        confidence: float = 0.95,
        risk: float | None = None,
        seed: int = 0,
        exclude_ids: Any = None,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        loo: bool = False,
        budget: float | None = None,
        apply: bool = True,
        threads: int | None = None,
        progress: bool | Callable[[int], None] | None = None,
    ) -> TuneResult:
        """Choose settings on validation rows, and switch the memory off where it does not help.

        One search at the largest ``k`` serves all settings; where the best value lies at the end
        of a default grid, values beyond it are tried. Rows are cut into folds. For each fold,
        the others choose settings, and its own rows compare these with the base model, whose
        temperature the others chose as well. If the interval of this gain is not clear of 0, or if
        stand-ins for the neighbours gain as much (the mean residual of all rows, the neighbours of
        other validation rows), ``strength`` becomes 0 and the result says so. The temperature is
        changed without the memory only if that gain is clear of 0, too.

        Validation rows are taken as independent, unless ``groups`` or ``times`` tell more, or the
        rows show it; a note says so then. Rows with the same embedding, which the memory lacks, and
        rows much nearer to each other than to the memory, are judged as groups. If gains of rows
        that follow each other are alike, 16 batches of consecutive rows are.

        Time grows with rows x settings x columns: with tens of thousands of columns, try few
        values on few rows.

        Parameters
        ----------
        embeddings, outputs, targets
            Validation rows, in the form that ``fit`` takes. They should be neither rows that the
            base model was trained on, nor rows of the memory, nor test rows. ``outputs`` may be
            left out with store="head".
        k, sigma, temperature, strength, probability_map : value or list, optional
            Values to try. Defaults: ``k`` 1, 2, 4 to 128; ``sigma`` from 0.01 to 2 times the median
            distance of the farthest neighbour (of inner products, of how far the last lies below
            the first), and inf; ``temperature`` 0.5 to 4 and the present
            one; ``strength`` 0 to 1, of which 0 (the base model) and 1 (as published) are always
            tried; ``probability_map`` "clip", "clip" and "project" with floors that sum to 0.1
            over all classes, and "keep" with 0.1 and 0.3. By log-loss "clip" is not chosen where
            other maps are tried (``TUNING.md``). With method="targets" the strengths are
            0.05 and 0.1 to 0.9, or those given between 0 and 1.
        methods : {"residual", "targets"} or list, optional
            What to try doing with the neighbours; default: both. The method as published is scored
            in any case, but only a method that is named may be chosen.
        preprocess, key_dtype : str or list, optional
            Other ways of keeping keys to try besides the present one; each takes a search. They
            need a memory with preprocess="none" and key_dtype="float32" or "float64".
        score : str or callable, optional
            Classification: "log_loss" (default), "accuracy", "brier", "calibration_error".
            Regression: "rmse" (default), "mae", "r2". Or a function f(predictions, targets) ->
            float, which is called with the predictions of each setting (classes in columns as in
            ``classes_``) and the targets' labels; both arrays are read-only.
        greater_is_better : bool, optional
            Whether a greater score is better; needed if ``score`` is a function.
        folds : int or int array (q,)
            The number of folds, default 10; or the fold of each row. An array cuts the rows and
            says nothing else: rows of a fold count as independent unless ``groups`` are given.
        groups : array (q,) of labels, optional
            The group of each row, such as its patient, user or document, as numbers or anything
            that can be a key of a dict. A group lies in one fold, and the intervals take groups as
            independent, not rows.
        times : array (q,) of numbers or datetime64, optional
            The time of each row; not with ``groups``. Folds are consecutive, settings for one are
            chosen by those before it, the first only chooses, and the intervals take 16 batches of
            consecutive rows as independent.
        rule : {"best", "one_se"}
            "one_se": the simplest setting (least strength first) that is not worse than the best
            by more than a standard error of their difference over folds. Default "best".
        confidence : float
            Confidence level of the intervals, default 0.95.
        risk : float, optional
            The probability of keeping a useless memory that you accept, above 0 and at most 0.5: a
            gain is clear of 0 if the lower end of its interval at this one-sided risk is positive.
            More is bolder. Default (1 - confidence) / 2, so 0.025.
        seed : int
            Seed of the random folds and samples, default 0.
        exclude_ids : int array (q,) or (q, m), optional
            Ids of rows that must not correct a validation row; -1 stands for none.
        loo : bool
            Tune on (at most 10,000 of) the memory's own rows, each without itself. A base model
            that was trained on them has residuals too small to learn from: a warning says so.
            "nca:m" learns from the targets of these rows, and is refused.
        budget : float, optional
            Seconds that tuning may take, roughly. Where all rows would take longer, which a pilot
            on 256 of them tells, a random part of them is used, and a note says how many.
        apply : bool
            Use ``TuneResult.best`` from now on, the default; False only returns the result.
        threads : int, optional
            Default: as for ``resmem.search``.
        progress : True or callable, optional
            True draws a progress bar (needs tqdm); a function is called with the number of rows
            done since its last call.

        Returns
        -------
        TuneResult

        Warns
        -----
        UserWarning
            A note of the result: a chosen value is at the edge of the values that were tried, or
            validation rows depend on each other.
        ResmemWarning
            Other notes of the result: the memory's residuals are smaller than those of fresh rows;
            validation rows are rows of the memory; the base model gives probability 0 to classes
            that occur, which makes its log-loss infinite. Also a warning if tuning will take more
            than some 10 seconds and no ``progress`` is given.
        """
        result = tune(
            self._state.view, embeddings, outputs, targets, k=k, sigma=sigma,
            temperature=temperature, strength=strength, probability_map=probability_map,
            methods=methods, preprocess=preprocess, key_dtype=key_dtype, score=score,
            greater_is_better=greater_is_better, folds=folds, groups=groups, times=times, rule=rule,
            confidence=confidence, risk=risk, seed=seed, loo=loo,
            visible=Visibility(exclude_ids, among, before, exclude_groups),
            budget=budget, threads=threads, progress=progress,
        )  # fmt: skip
        if apply:
            self.use(result.best)
        return result

    def use(self, settings: Settings) -> Memory:
        """Use these settings, such as those of a ``TuneResult``, from now on.

        If they keep keys in another way, the keys are made again and the original embeddings are
        lost, so that no third way can be tried. If a setting is refused, nothing changes.
        """
        self._state.use(settings)
        return self

    @property
    def settings(self) -> Settings:
        """The settings in use, in the form that ``use`` takes; ``sigma`` may be "auto"."""
        return self._state.view.as_settings

    # ---------------------------------------------------------------- judgement

    def monitor(
        self,
        score: Literal["brier", "log_loss", "accuracy", "mse", "mae"] | None = None,
        *,
        cut: float | None = None,
        confidence: float = 0.95,
        window: int = 2_000,
        off_when_harmful: bool = False,
        resume: Any = None,
    ) -> Monitor:
        """Return a monitor, which judges the memory in use by rows whose targets arrive later.

        ``monitor.update(embeddings, outputs, targets)``, before the rows are added, keeps a running
        interval of the mean gain over the base. At every look at once, however often one looks, it
        holds the mean of the gains that were to be expected, with this confidence: rows may depend
        on earlier ones and change with time (a confidence sequence: Howard et al., Annals of
        Statistics 2021, with a mixture over rates). That needs bounded gains, so each row's gain is
        cut off at ``-cut`` and ``cut``.

        Parameters
        ----------
        score : str, optional
            The loss of a row: "brier" (the default), "log_loss" or "accuracy" for classification;
            "mse" (the default) or "mae" for regression.
        cut : float, optional
            Default 1; in regression four times the mean loss of the base over rows of the memory.
            The larger, the more rows the interval needs.
        confidence : float
            Half of what is left to 1 is the risk of ``gain``, half that of ``recent``.
        window : int
            ``recent`` spans from so many to twice as many rows.
        off_when_harmful : bool
            Whether ``update`` sets ``strength`` to 0, with a warning, when ``helps`` is False. It
            never sets it back; rows that arrive later are judged as at the strength before. To
            switch the memory on again, set ``strength`` and make another monitor.
        resume : dict, optional
            What ``monitor.to_dict()`` gave, to go on from; other arguments are then ignored.
        """
        if resume is not None:
            return Monitor.resumed(self._state, resume)
        return Monitor.new(self._state, score, cut, confidence, window, off_when_harmful)

    @on_the_cpu
    @float_state()
    def evaluate(
        self,
        embeddings: Any = None,
        outputs: Any = None,
        targets: Any = None,
        exclude_ids: Any = None,
        knn: Any = None,
        buckets: int = 10,
        bins: int = 15,
        threads: int | None = None,
        *,
        groups: Any = None,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        loo: bool = False,
        published: Memory | None = None,
        seed: int = 0,
    ) -> Evaluation:
        """Score the memory on rows whose targets are known, next to the methods it should beat.

        The base model as it is, the neighbours' targets alone and mixed with the base, the sum as
        published, and the memory are scored on the same rows. These should not be rows that the
        memory was tuned on, nor rows of the memory unless ``exclude_ids`` names them; a
        ``ResmemWarning`` tells of such rows. Printed, the result is a table.

        Parameters
        ----------
        embeddings : array (q, d)
        outputs : array (q, C), for regression also (q,); None with store="head"
        targets : array (q,) of labels as in ``fit``; for regression array (q,) or (q, C)
        exclude_ids : int array (q,) or (q, m), optional
            As for ``correct``.
        knn : TuneResult or Settings, optional
            Gives ``k`` and ``sigma`` of the neighbours alone, and, if it is a TuneResult, the
            settings of the method as published, of the interpolation, and the base's own
            temperature. Default: the memory's, as where keys were kept in another way.
        buckets : int
            Number of buckets of distance to the nearest row, for ``by_distance``; default 10.
        bins : int
            Number of bins of confidence, for the calibration error and ``reliability``; default 15.
        threads : int, optional
            Default: as for ``resmem.search``.
        groups : array (q,) of labels, optional
            The group of each row, such as a patient, a document or a day, as numbers or anything
            that can be a key of a dict. Gives scores for each group, and intervals that take the
            groups, and not their rows, as independent.
        loo : bool
            Evaluate the memory's own rows (at most 10,000, drawn by ``seed``), each without itself.
            Leave out ``embeddings``, ``outputs``, ``targets``, ``exclude_ids``, ``published`` and
            ``groups``: rows of a row's own group would be among its neighbours. The residuals must
            be honest (see ``resmem.out_of_fold``). Default False.
        published : Memory, optional
            Another memory, such as one of the residuals of the rows that the base model was trained
            on: the sum as published of its residuals is one more method. It is searched with the
            same embeddings and ``exclude_ids``.
        seed : int
            Of the sample with ``loo``; default 0.

        Returns
        -------
        Evaluation
            Computed block by block of queries, so that memory holds only some numbers a row.

        Raises
        ------
        ValueError
            Among others: ``loo`` with a store that keeps no outputs (sparse), or with "nca:m",
            which learns from the targets of these rows.

        Warns
        -----
        ResmemWarning
            The base model gives exactly 0 to the class of some rows: its log-loss is infinite.
            With ``loo``: the base model errs far less on the memory's rows than their neighbours
            do, as if it had been trained on them. With ``groups``: there is only one.
        """
        if published is not None and not isinstance(published, Memory):
            raise TypeError(
                f"published must be another Memory or None, got {type(published).__name__}"
            )
        return evaluate.evaluate(
            self._judged(), embeddings, outputs, targets, knn=knn,
            visible=Visibility(exclude_ids, among, before, exclude_groups),
            buckets=buckets, bins=bins, groups=groups, loo=loo, seed=seed, threads=threads,
            published=None if published is None else published._judged(),
        )  # fmt: skip

    def _judged(self) -> Judged:
        return Judged(self._state.view, self._state.residuals)

    @on_the_cpu
    @float_state()
    def explain(
        self,
        embeddings: Any,
        outputs: Any = None,
        exclude_ids: Any = None,
        columns: Any = None,
        top: int = 5,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> Explanation:
        """Return which rows correct each query, and what each of them adds.

        Parameters
        ----------
        embeddings, outputs, exclude_ids, threads
            As for ``correct``. Without outputs the corrections alone are explained; a gate that
            looks at the base model's confidence needs them.
        columns : int array (t,) or (q, t), optional
            Output columns to explain, the same for all queries or some for each. Default: for each
            query, the ``top`` columns with the largest absolute ``correction``, largest first,
            equal ones by number.
        top : int
            Number of columns to explain if ``columns`` is left out; default 5.

        Returns
        -------
        Explanation
            Contributions (q, k, t) and more, as they are applied (times ``strength``). All of it
            is held in memory.
        """
        corrector = self._state.corrector()
        return explain.explain(
            corrector, embeddings, outputs, Visibility(exclude_ids, among, before, exclude_groups),
            columns, top, threads,
        )  # fmt: skip

    @on_the_cpu
    @float_state()
    def audit(
        self,
        rows: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> Audit:
        """Return which rows their own neighbours contradict, and which mislead others.

        Each row is judged by its ``k`` nearest other rows, weighted as for ``correct``: by their
        targets alone, so that it does not matter on which rows the base model was trained. Rows
        with wrong targets come first, and so do right ones in places where classes mix or values
        jump: look before you ``remove`` or ``update`` them. With "nca:m" keys have learnt from
        these targets, and contradict them less.

        Parameters
        ----------
        rows : int, optional
            Audit at most so many rows, drawn by ``seed``; default: all. Neighbours are sought
            among all rows in any case, but only the audited ones tell of harm.
        seed : int
            Default 0.
        threads, among
            As for ``correct``.
        before, exclude_groups : "own", optional
            A row sees only rows of earlier times than its own, or of other groups.

        Returns
        -------
        Audit
            A table of the rows, worst first: by ``score``, which says how clearly neighbours
            contradict the row. It holds a few numbers a row; all else is computed block by block.

        Raises
        ------
        ValueError
            The memory has fewer than two rows.
        """
        visible = Visibility(None, among, before, exclude_groups)
        return audit.audit(self._state.corrector(), visible, rows, seed, threads)

    @on_the_cpu
    @float_state()
    def prune(
        self,
        embeddings: Any = None,
        outputs: Any = None,
        targets: Any = None,
        keep: float | None = None,
        *,
        apply: bool = True,
        confidence: float = 0.95,
        seed: int = 0,
        exclude_ids: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        threads: int | None = None,
    ) -> Pruning:
        """Remove rows that answers do not need: near-duplicates, and rows that harm.

        Round by round, a fifth of the rows goes: those without which the losses of the memory's own
        rows, each judged without itself, rise least. Other rows then judge the memories of each
        round: validation rows, or else a quarter of the memory's own rows (at most 10,000), which
        in turn do not say what goes. A round takes a search of all rows, one of the rows that
        judge, and three more for random prunings.

        Settings stay as they are: ``tune`` first, and on a much smaller memory again. Removed ids
        are never used again. A file shrinks when it is saved anew.

        Parameters
        ----------
        embeddings, outputs, targets
            Validation rows, in the form that ``fit`` takes. Default: rows of the memory; the
            residuals must be honest then (see ``resmem.out_of_fold``).
        keep : float, optional
            Share of the rows to keep, above 0 and at most 1. Default: the smallest memory, of 5 %
            of the rows or more, before the loss clearly rises, that loses at most a tenth of the
            memory's gain over the base model.
        apply : bool
            Remove the rows. False: only tell. Default True.
        confidence : float
            Of the intervals, default 0.95.
        seed : int
            Of the sample of own rows and of the random prunings; default 0.
        exclude_ids, before, exclude_groups, threads
            As for ``correct``, of the validation rows. The memory's own rows see only earlier ones
            if ``before`` is given, and only other groups if ``exclude_groups`` is; without
            validation rows, give "own".

        Returns
        -------
        Pruning
            With the ids of the rows, and the curve of loss against rows kept, beside random
            pruning of as many.

        Raises
        ------
        ValueError
            The strength is 0; or, without validation rows, the store keeps no outputs (sparse) or
            the keys have learnt from these targets ("nca:m").

        Warns
        -----
        ResmemWarning
            Validation rows lie on rows of the memory.
        """
        result = pruning.prune(
            self._state.corrector(), (embeddings, outputs, targets),
            Visibility(exclude_ids, None, before, exclude_groups), keep, confidence, seed, threads,
        )  # fmt: skip
        if not apply:
            return result
        if len(result.ids):
            self._state.remove(result.ids)
        return replace(result, applied=True)

    # ---------------------------------------------------------------- how sure

    @on_the_cpu
    @float_state()
    def calibrate(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> Calibration:
        """Measure on calibration rows how far predictions are off, for intervals and sets.

        The coverage of ``predict_interval`` and ``predict_set`` is sure, in the mean over
        calibration rows and queries, if both are drawn alike and independently and nothing was made
        from the calibration rows: they must be neither rows that the base model was trained on,
        nor rows of the memory, nor rows that ``tune`` chose settings on. Otherwise the model fits
        them better than fresh ones, and intervals are too narrow.

        Parameters
        ----------
        embeddings : array (n, d)
        outputs : array (n, C), for regression also (n,); None with store="head"
        targets : array (n,) of labels as in ``fit``; for regression array (n,) or (n, C)
        exclude_ids, threads
            As for ``correct``.

        Returns
        -------
        Calibration
            For the memory's present settings and rows. It can be pickled, or written as JSON
            (``to_dict``).

        Warns
        -----
        ResmemWarning
            Calibration rows lie on rows of the memory with the same target.
        """
        view = self._state.view
        return conformal.calibrate(
            view, embeddings, outputs, targets,
            Visibility(exclude_ids, among, before, exclude_groups), threads,
        )  # fmt: skip

    @on_the_cpu
    @float_state()
    def predict_interval(
        self,
        embeddings: Any,
        outputs: Any,
        calibration: Calibration,
        coverage: float = 0.9,
        exclude_ids: Any = None,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> tuple[F64, F64]:
        """Return the ends of intervals that hold the true value of this share of queries.

        An interval lies around the corrected value. Its width is proportional to the weighted mean
        of ``|r - a|`` over the neighbours' residuals ``r``, where ``a`` is the correction of the
        query, plus the typical error of the memory's own rows, each corrected without itself: it is
        wide where neighbours disagree. The share is that of all queries; among those of one kind,
        such as the hardest, it may be smaller. With
        several outputs, each has intervals of its own, and holds its value in this share of
        queries: fewer queries have all values within.

        Parameters
        ----------
        embeddings, outputs, exclude_ids, threads
            As for ``correct``.
        calibration : Calibration
            Of ``calibrate``, with this memory's present settings.
        coverage : float
            Between 0 and 1, default 0.9.

        Returns
        -------
        low, high : float64 arrays (q,) or (q, C)
            Infinite if there are too few calibration rows: a coverage of 0.9 needs 9 rows, 0.99
            needs 99.

        Warns
        -----
        ResmemWarning
            There are too few calibration rows, or the memory's rows have changed since.
        """
        return conformal.predict_interval(
            self._state.view, embeddings, outputs, calibration, coverage,
            Visibility(exclude_ids, among, before, exclude_groups), threads,
        )  # fmt: skip

    @on_the_cpu
    @float_state()
    def predict_set(
        self,
        embeddings: Any,
        outputs: Any,
        calibration: Calibration,
        coverage: float = 0.9,
        exclude_ids: Any = None,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> npt.NDArray[np.bool_]:
        """Return sets of classes that hold the true class of this share of queries.

        A set holds the first classes in falling order of ``predict_proba``, up to the one at which
        the classes before it have more probability than a limit; so it never is empty. The share is
        that of all queries; among those of one kind, such as one class, it may be smaller. It is
        larger than asked for if the most probable class alone is right more often.

        Parameters
        ----------
        embeddings, outputs, calibration, coverage, exclude_ids, threads
            As for ``predict_interval``.

        Returns
        -------
        bool array (q, C)
            True for the classes in the set, in the order of ``classes_``; all, if there are too few
            calibration rows.

        Warns
        -----
        ResmemWarning
            As for ``predict_interval``.
        """
        return conformal.predict_set(
            self._state.view, embeddings, outputs, calibration, coverage,
            Visibility(exclude_ids, among, before, exclude_groups), threads,
        )  # fmt: skip

    @on_the_cpu
    @float_state()
    def novelty(
        self,
        embeddings: Any,
        exclude_ids: Any = None,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> F64:
        """Return how usual queries (q, d) are among the memory's rows: small is novel.

        It is the share of rows that lie at least as far from their nearest other row as the query
        from its nearest row, over up to 1,024 rows drawn with a fixed seed, the query counted as
        one of them. Queries drawn like the rows have values spread evenly over (0, 1]: one in a
        hundred has 0.01 or less. Only the distance of keys counts, neither outputs nor targets.
        Rows were measured among all others: where ``among``, ``before`` or ``exclude_groups`` hide
        many rows from a query, it seems more novel than it is.
        The rows are measured at the first call after they changed. Where rows have copies in the
        memory, a query that has none is novel.

        Parameters
        ----------
        embeddings, exclude_ids, threads
            As for ``correct``. A query with no row that may be its neighbour is farther than any.

        Returns
        -------
        float64 array (q,)
            Between 1/1025 (with fewer than 1,024 rows, 1/(n + 1)) and 1.

        Raises
        ------
        ValueError
            The memory has fewer than two rows.
        """
        return novelty.novelty(
            self._state.corrector(), embeddings,
            Visibility(exclude_ids, among, before, exclude_groups), threads,
        )  # fmt: skip

    # ---------------------------------------------------------------- files

    def save(
        self,
        path: str | os.PathLike[str],
        append: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """Write everything to one file; ``load`` reads it. The format is in FORMAT.md.

        The new file is written next to ``path`` and replaces the old one when it is safe on disk:
        whatever happens, ``path`` is the old file or the new one. Afterwards, segments from which
        rows were removed are mapped from the new file.

        Parameters
        ----------
        path : path
        append : bool
            Add only what is new since this memory was loaded from or saved to ``path``: rows,
            removals, settings. A file that changed since then is refused. A new temperature
            writes the residuals of all rows again. Removed rows stay in the file until a save
            without ``append``, which leaves them out. Default False.
        progress : callable, optional
            Called with the number of bytes written since its last call.

        Raises
        ------
        OSError
            The file cannot be written (disk full, no permission); the old file is unharmed.
        ValueError
            ``append`` is True and the file is not the one this memory continues.
        RuntimeError
            A signal handler or ``progress`` saves to a file that the interrupted code is writing;
            that code goes on unharmed. A save waits for other threads and processes instead.
        """
        self._state.save(path, append, progress)
        return self

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        verify: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """Return the memory in a file that ``save`` or ``export`` wrote.

        Rows are mapped, not read: they take no memory until they are needed, and processes that
        load one file share it. A mapped file must not be cut short by other programs;
        ``save`` and ``append`` never do that.

        Parameters
        ----------
        path : path
        verify : bool
            Check every block of the rows against its checksum, which reads the whole file. Headers
            are always checked. For an export, check the checksums that a .npz has, and that the
            values make sense. Default True.
        progress : callable, optional
            Called with the number of bytes checked since its last call.

        Raises
        ------
        FileFormatError
            The file is damaged, or is not a memory's file.
        OSError
            The file cannot be read.
        """
        memory = cls.__new__(cls)
        memory._state = open_state(path, verify, progress)
        return memory

    def export(
        self,
        path: str | os.PathLike[str],
        progress: Callable[[int], None] | None = None,
    ) -> Memory:
        """Write the living rows as plain arrays, to a .npz or .safetensors file.

        The arrays are "embeddings" (the keys, as ``preprocess`` made them), "targets" and "ids";
        those of the store ("outputs" and "residuals", or "index", "value" and "rest");
        "head_weight" and "head_bias"; the parameters of a fitted preprocess ("preprocess_mean" and
        "preprocess_scale", or "preprocess_weight" and "preprocess_bias"); "retired" (runs of ids of
        removed rows, first and last); and "resmem", the settings as JSON, which is called
        "resmem_metric" for another metric than the Euclidean one. ``load`` reads such a file too.
        In a .npz, bfloat16 keys are float32.
        """
        self._state.export(path, progress)
        return self

    def info(self) -> dict[str, Any]:
        """Return what the memory is and holds, as plain numbers and strings."""
        return describe(self._state)

    # ---------------------------------------------------------------- object protocol

    def __repr__(self) -> str:
        return in_one_line(self._state)

    def __copy__(self) -> Memory:
        """Return a memory with a state of its own: a change of one does not change the other."""
        made = type(self).__new__(type(self))
        made.__dict__.update(vars(self), _state=copy.copy(self._state))
        return made


def verify_file(
    path: str | os.PathLike[str], progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Check every block of a file of a memory, or of an index, and return what it holds.

    The result is that of ``Memory.info`` or ``Index.info``; its "kind" is "memory" or "index".
    Raises ``FileFormatError``, which names what is wrong.
    """
    return describe_file(path, verify=True, progress=progress)
