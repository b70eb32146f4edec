"""Residual memories over any model: exact nearest neighbours and residual correction.

``search`` finds exact nearest neighbours, ``Index`` among rows that come and go. ``Memory`` keeps
a model's embeddings and residuals and corrects its predictions with those of the nearest training
examples (ResMem, Yang et al., NeurIPS 2023, arXiv:2302.01576). It is saved to one file, which
``Memory.load`` maps and ``verify_file`` checks. ``report`` writes what became of it to a page,
``plot`` draws it. ``resmem.sklearn``, ``resmem.torch`` and ``resmem.transformers`` put a memory
over a model of these libraries, and import them when they are first used.
"""

import importlib
from types import ModuleType

from resmem import plot
from resmem._aggregate import aggregate
from resmem._base.errors import DeviceError, FileFormatError, NotFittedError, ResmemWarning
from resmem._base.versions import show_versions
from resmem._core import __version__
from resmem._evaluation.audit_result import Audit
from resmem._evaluation.conformal import Calibration
from resmem._evaluation.explain import Explanation
from resmem._evaluation.monitor import Monitor
from resmem._evaluation.pruning_result import Pruning
from resmem._evaluation.result import Evaluation
from resmem._index import Index
from resmem._keys.leaves import leaf_keys
from resmem._memory import Memory, verify_file
from resmem._report.report import report
from resmem._rows.by_id import Rows
from resmem._rows.tokens import tokens
from resmem._scores.out_of_fold import out_of_fold
from resmem._search import search
from resmem._state.settings import Settings
from resmem._tuning.result import TuneResult
from resmem.adapters.collection import Collected
from resmem.adapters.functions import collect_keys

__all__ = [
    "Audit",
    "Calibration",
    "Collected",
    "DeviceError",
    "Evaluation",
    "Explanation",
    "FileFormatError",
    "Index",
    "Memory",
    "Monitor",
    "NotFittedError",
    "Pruning",
    "ResmemWarning",
    "Rows",
    "Settings",
    "TuneResult",
    "__version__",
    "aggregate",
    "collect_keys",
    "leaf_keys",
    "out_of_fold",
    "plot",
    "report",
    "search",
    "show_versions",
    "tokens",
    "verify_file",
]

_ADAPTERS = ("sklearn", "torch", "transformers")


def __getattr__(name: str) -> ModuleType:
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
