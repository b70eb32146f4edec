"""Rows in files whose targets are known, for evaluation, explanation and tuning."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resmem._evaluation.explain import explain

from . import inputs
from .progress import Step, ignore_steps

if TYPE_CHECKING:
    from resmem._evaluation.evaluate import Evaluation
    from resmem._evaluation.explain import Explanation
    from resmem._memory import Memory
    from resmem._tuning.result import TuneResult

ROWS = ("embeddings", "outputs", "targets")
TUNED_SETTINGS = (
    "k", "sigma", "temperature", "strength", "probability_map", "methods", "preprocess",
    "key_dtype",
)  # fmt: skip
_EXPLAINED = 4  # most corrected examples, and most harmed ones, that are explained
_TOP = 5  # columns explained in regression


class LabelledRows:
    """Embeddings, outputs, targets and excluded ids, from options that begin with ``prefix``."""

    def __init__(self, options: Namespace, prefix: str = "") -> None:
        def given(name: str) -> Any:
            return inputs.optional(getattr(options, prefix + name), name)

        for name in ("embeddings", "targets"):
            if getattr(options, prefix + name) is None:
                dashed = f"--{prefix}{name}".replace("_", "-")
                raise ValueError(f"{dashed} is missing: the rows have embeddings and targets")
        self.embeddings, self.outputs, self.targets = (given(name) for name in ROWS)
        self.excluded = None
        if not prefix:
            self.excluded = inputs.optional(options.exclude_ids, "exclude_ids")
        self.threads = options.threads

    def evaluate(self, memory: Memory, knn: TuneResult | None = None) -> Evaluation:
        """Call Memory.evaluate on these rows."""
        return memory.evaluate(
            self.embeddings, self.outputs, self.targets, self.excluded, knn, threads=self.threads
        )

    def explain(
        self, memory: Memory, evaluation: Evaluation
    ) -> tuple[list[int], Explanation | None]:
        """Return the rows that the memory changed most, and the explanation of them.

        For classes, the columns explained are the class of the base model and that of the memory.
        """
        examples = (evaluation.examples[kind][:_EXPLAINED] for kind in ("corrected", "harmed"))
        rows = [int(row) for kind in examples for row in kind]
        if not rows:
            return rows, None
        queries: dict[str, Any] = {
            "embeddings": _picked(self.embeddings, rows),
            "outputs": _picked(self.outputs, rows),
            "exclude_ids": _picked(self.excluded, rows),
            "threads": self.threads,
        }
        corrector, columns = memory._state.view.corrector, None
        if memory.task == "classification":
            both = (replace(corrector, strength=0.0), corrector)
            columns = np.stack([each.predict(**queries) for each in both], axis=1)
        return rows, explain(corrector, **queries, columns=columns, top=_TOP)


def tuned(
    memory: Memory,
    rows: LabelledRows | None,
    options: Namespace,
    step: Step,
    apply: bool = True,
    **settings: Any,
) -> TuneResult:
    """Call Memory.tune on these rows, or, if there are none, on those of the memory itself."""
    given: dict[str, Any] = {"loo": True}
    if rows is not None:
        given = {name: getattr(rows, name) for name in ROWS} | {"exclude_ids": rows.excluded}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tune: ")  # the notes are printed with the result
        silent = options.quiet or options.no_progress
        # Where no bar is drawn although none was refused, tuning warns if it takes long.
        progress = step if silent or step is not ignore_steps else None
        return memory.tune(
            **given, **settings, apply=apply, threads=options.threads, progress=progress
        )


def _picked(array: Any, rows: Sequence[int]) -> npt.NDArray[Any] | None:
    """Return some rows of an array that supports slices only."""
    if array is None:
        return None
    picked: npt.NDArray[Any] = np.concatenate([np.asarray(array[i : i + 1]) for i in rows])
    return picked
