"""The check of the results that a report or a picture is made from."""

from __future__ import annotations

from typing import Any


def check_types(required: bool = False, **given: Any) -> None:
    """Raise TypeError if an argument has not the type that its name (tuning, evaluation,
    explanation, audit, pruning) says.

    ``required``: None is refused too.
    """
    from resmem._evaluation.audit_result import Audit
    from resmem._evaluation.explain import Explanation
    from resmem._evaluation.pruning_result import Pruning
    from resmem._evaluation.result import Evaluation
    from resmem._tuning.result import TuneResult

    kinds = {
        "tuning": TuneResult,
        "evaluation": Evaluation,
        "explanation": Explanation,
        "audit": Audit,
        "pruning": Pruning,
    }
    for name, value in given.items():
        if isinstance(value, kinds[name]) or (value is None and not required):
            continue
        hint = ""
        for other, kind in kinds.items():
            if isinstance(value, kind) and other in given:
                hint = f"; give it by name, {other}=.."
        raise TypeError(
            f"{name} must be what Memory.{_METHODS[name]} returns, got {type(value).__name__}{hint}"
        )


_METHODS = {
    "tuning": "tune",
    "evaluation": "evaluate",
    "explanation": "explain",
    "audit": "audit",
    "pruning": "prune",
}
