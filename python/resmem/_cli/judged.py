"""Rows in files whose targets are known, and what a memory makes of them."""

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
from .progress import Step, unseen

if TYPE_CHECKING:
    from resmem._evaluation.evaluate import Evaluation
    from resmem._evaluation.explain import Explanation
    from resmem._memory import Memory
    from resmem._tuning.result import TuneResult

ROWS = ("embeddings", "outputs", "targets")
TRIED = (
    "k", "sigma", "temperature", "strength", "probability_map", "preprocess", "key_dtype",
)  # fmt: skip
_EXPLAINED = 4  # examples of either kind
_TOP = 5  # columns, of values


class Judged:
    """Embeddings, outputs, targets and excluded ids; ``part`` is what their options begin with."""

    def __init__(self, options: Namespace, part: str = "") -> None:
        def given(name: str) -> Any:
            return inputs.optional(getattr(options, part + name), name)

        for name in ("embeddings", "targets"):
            if getattr(options, part + name) is None:
                dashed = f"--{part}{name}".replace("_", "-")
                raise ValueError(f"{dashed} is missing: the rows have embeddings and targets")
        self.embeddings, self.outputs, self.targets = (given(name) for name in ROWS)
        self.excluded = None
        if not part:
            self.excluded = inputs.optional(options.exclude_ids, "exclude_ids")
        self.threads = options.threads

    def evaluate(self, memory: Memory, knn: TuneResult | None = None) -> Evaluation:
        """Memory.evaluate."""
        return memory.evaluate(
            self.embeddings, self.outputs, self.targets, self.excluded, knn, threads=self.threads
        )

    def explain(
        self, memory: Memory, evaluation: Evaluation
    ) -> tuple[list[int], Explanation | None]:
        """Rows that the memory changed most, and how it did: of classes, those that it took
        for another."""
        examples = (evaluation.examples[kind][:_EXPLAINED] for kind in ("corrected", "harmed"))
        rows = [int(row) for kind in examples for row in kind]
        if not rows:
            return rows, None
        asked: dict[str, Any] = {
            "embeddings": _picked(self.embeddings, rows),
            "outputs": _picked(self.outputs, rows),
            "exclude_ids": _picked(self.excluded, rows),
            "threads": self.threads,
        }
        corrector, columns = memory._state.view.corrector, None
        if memory.task == "classification":
            both = (replace(corrector, strength=0.0), corrector)
            columns = np.stack([each.predict(**asked) for each in both], axis=1)
        return rows, explain(corrector, **asked, columns=columns, top=_TOP)


def tuned(
    memory: Memory,
    rows: Judged | None,
    options: Namespace,
    step: Step,
    apply: bool = True,
    **settings: Any,
) -> TuneResult:
    """Memory.tune, on rows or on those of the memory itself."""
    given: dict[str, Any] = {"loo": True}
    if rows is not None:
        given = {name: getattr(rows, name) for name in ROWS} | {"exclude_ids": rows.excluded}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tune: ")  # its notes, which the result has too
        asked = options.quiet or options.no_progress
        shown = step if asked or step is not unseen else None  # it then warns if it takes long
        return memory.tune(
            **given, **settings, apply=apply, threads=options.threads, progress=shown
        )


def _picked(array: Any, rows: Sequence[int]) -> npt.NDArray[Any] | None:
    """Some rows of an array that can be sliced and no more."""
    if array is None:
        return None
    picked: npt.NDArray[Any] = np.concatenate([np.asarray(array[i : i + 1]) for i in rows])
    return picked
