"""Residual memories over any model: exact nearest neighbours and residual correction.

``search`` finds exact nearest neighbours. ``Memory`` keeps a model's embeddings and
residuals and corrects its predictions with those of the nearest training examples
(ResMem, Yang et al., NeurIPS 2023, arXiv:2302.01576). It is saved to one file, which
``Memory.load`` maps and ``verify_file`` checks. ``report`` writes what became of it to a page,
``plot`` draws it.
"""

from resmem import plot
from resmem._aggregate import aggregate
from resmem._core import __version__
from resmem._errors import FileFormatError, NotFittedError, ResmemWarning
from resmem._evaluate import Evaluation
from resmem._explain import Explanation
from resmem._memory import Memory, verify_file
from resmem._out_of_fold import out_of_fold
from resmem._report import report
from resmem._search import search
from resmem._tuning.grid import Settings
from resmem._tuning.result import TuneResult
from resmem._versions import show_versions

__all__ = [
    "Evaluation",
    "Explanation",
    "FileFormatError",
    "Memory",
    "NotFittedError",
    "ResmemWarning",
    "Settings",
    "TuneResult",
    "__version__",
    "aggregate",
    "out_of_fold",
    "plot",
    "report",
    "search",
    "show_versions",
    "verify_file",
]
