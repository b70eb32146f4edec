"""What a page or a picture is made of: results of the kinds that their arguments are for."""

from __future__ import annotations

from typing import Any


def checked(required: bool = False, **given: Any) -> None:
    """Refuse an argument (tuning, evaluation or explanation) that is not of its kind.

    ``required``: None is refused too.
    """
    from resmem._evaluation.evaluate import Evaluation
    from resmem._evaluation.explain import Explanation
    from resmem._tuning.result import TuneResult

    kinds = {"tuning": TuneResult, "evaluation": Evaluation, "explanation": Explanation}
    for name, value in given.items():
        if isinstance(value, kinds[name]) or (value is None and not required):
            continue
        hint = ""
        for other, kind in kinds.items():
            if isinstance(value, kind) and other in given:
                hint = f"; give it by name, {other}=.."
        raise TypeError(
            f"{name} must be what Memory.{_MAKERS[name]} returns, got {type(value).__name__}{hint}"
        )


_MAKERS = {"tuning": "tune", "evaluation": "evaluate", "explanation": "explain"}
