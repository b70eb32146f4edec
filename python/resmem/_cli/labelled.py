"""Rows in files whose targets are known, for evaluation, explanation and tuning."""

from __future__ import annotations

import warnings
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from resmem.adapters.progress import Step, ignore_steps

from . import inputs

if TYPE_CHECKING:
    from resmem._evaluation.result import Evaluation
    from resmem._memory import Memory
    from resmem._tuning.result import TuneResult

ROWS = ("embeddings", "outputs", "targets")
TUNED_SETTINGS = (
    "k", "sigma", "temperature", "strength", "probability_map", "methods", "preprocess",
    "key_dtype",
)  # fmt: skip


class LabelledRows:
    """Embeddings, outputs and targets from options that begin with ``prefix``, and, if that is
    empty, whom these rows ask."""

    def __init__(self, options: Namespace, memory: Memory, prefix: str = "") -> None:
        def given(name: str) -> Any:
            return inputs.optional(getattr(options, prefix + name), name)

        for name in ("embeddings", "targets"):
            if getattr(options, prefix + name) is None:
                dashed = f"--{prefix}{name}".replace("_", "-")
                instead = ""
                if not prefix and hasattr(options, "loo"):
                    instead = "; --loo judges the rows of the memory itself instead"
                raise ValueError(
                    f"{dashed} is missing: the rows have embeddings and targets{instead}"
                )
        self.embeddings, self.outputs = given("embeddings"), given("outputs")
        self.targets = inputs.labels(
            getattr(options, prefix + "targets"), as_text=has_text_labels(memory)
        )
        self.asks: dict[str, Any] = {} if prefix else inputs.asked(options)
        self.threads = options.threads


def has_text_labels(memory: Memory) -> bool:
    """Tell whether the classes of a memory are called by text."""
    labels = memory._state.view.spec.labels
    return labels is not None and labels.array.dtype.kind == "U"


def evaluated(
    memory: Memory, options: Namespace, published: Memory | None, knn: TuneResult | None = None
) -> Evaluation:
    """Call Memory.evaluate on the rows that options name, or on those of the memory itself."""
    given: dict[str, Any] = {"loo": True}
    if options.loo:
        refuse_rows(options, "groups", "published")
        given |= own_asks(options)
    else:
        rows = LabelledRows(options, memory)
        given = {name: getattr(rows, name) for name in ROWS} | rows.asks
    if options.groups is not None:
        given["groups"] = inputs.array(options.groups, "groups")
    if options.seed is not None:
        given["seed"] = options.seed
    return memory.evaluate(**given, knn=knn, published=published, threads=options.threads)


def refuse_rows(options: Namespace, *more: str) -> None:
    """Raise ValueError if --loo is given together with rows, or with these options of theirs."""
    named = (*ROWS, "exclude_ids", *more)
    if given := [name for name in named if getattr(options, name) is not None]:
        left_out = given[0].replace("_", "-")
        raise ValueError(f"--loo tries the rows of the memory itself: leave out --{left_out}")


def own_asks(options: Namespace) -> dict[str, Any]:
    """Return whom the memory's own rows ask: --before own, --exclude-groups own, --among."""
    asks: dict[str, Any] = {}
    for name in ("before", "exclude_groups"):
        value = getattr(options, name)
        if value not in (None, "own"):
            raise ValueError(
                f"where rows of the memory itself judge, --{name.replace('_', '-')} is own, got "
                f"{value!r}"
            )
        asks[name] = value
    return {**asks, "among": inputs.among(options)}


def tuned(
    memory: Memory,
    rows: LabelledRows | None,
    options: Namespace,
    step: Step,
    apply: bool = True,
    **settings: Any,
) -> TuneResult:
    """Call Memory.tune on these rows, or, if there are none, on those of the memory itself."""
    given: dict[str, Any]
    if rows is None:
        given = {"loo": True, **own_asks(options)}
    else:
        given = {name: getattr(rows, name) for name in ROWS} | rows.asks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tune: ")  # the notes are printed with the result
        silent = options.quiet or options.no_progress
        # Where no bar is drawn although none was refused, tuning warns if it takes long.
        progress = step if silent or step is not ignore_steps else None
        return memory.tune(
            **given, **settings, apply=apply, threads=options.threads, progress=progress
        )
