"""``Index``: exact nearest neighbours among rows that come and go."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Keys, float_state
from resmem._base.metric import Metric
from resmem._devices.places import on_the_cpu
from resmem._files.persist import EXPORTS
from resmem._keys.stored import KeyDtype
from resmem._rows.by_id import Gathered
from resmem._rows.visibility import Visibility
from resmem._state.description import describe_index, describe_plans
from resmem._state.index_state import IndexState, open_index


class Index:
    """Rows that are searched again and again, and that come and go by id.

    Neighbours, distances and their order are those of ``resmem.search``, to the bit. Rows are kept
    as those of a ``Memory`` are, without outputs and targets: ``add``, ``remove`` and ``update``
    take constant time per row, running searches keep the rows that they began with, ``save`` writes
    one file, which ``load`` maps, and after some 6,000 queries an index is built if that pays.

    Parameters
    ----------
    rows : array (n, d)
        Finite real numbers; they are copied. There may be none, of d columns.
    ids : int array (n,), optional
        Unique numbers of at least 0. Default: 0, 1, 2, ..
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
        As for ``resmem.search``. Default "euclidean".
    times, groups : array (n,), optional
        As for ``Memory.fit``: what ``before`` and ``exclude_groups`` ask for.
    key_dtype : {"auto", "float32", "float64", "float16", "bfloat16"}
        The type in which rows are kept and compared. "auto", the default: float32 if that tells the
        same rows apart, perhaps after an offset was subtracted, else float64, as ``resmem.search``
        decides. Rows that are added later are kept in the same type.

    Notes
    -----
    What others call it:

    - FAISS: ``IndexFlatL2(d)`` and ``add(x)`` are ``Index(x, metric="sqeuclidean")``, as its
      distances are squared; ``IndexFlatIP`` is ``metric="inner_product"``; ``IndexIDMap`` and
      ``add_with_ids(x, ids)`` are ``ids=``; ``search(q, k)`` has the same result, with float64
      distances; ``remove_ids`` is ``remove``; ``reconstruct(i)`` is ``get([i])[0]``; ``ntotal`` is
      ``len(index)``; ``write_index`` and ``read_index`` are ``save`` and ``load``.
    - scikit-learn: ``NearestNeighbors(n_neighbors=k, metric=..).fit(x)`` is ``Index(x, metric=..)``
      and ``kneighbors(q)`` is ``search(q, k)``; ``kneighbors()`` of the rows themselves is
      ``search(x, k, exclude_ids=index.ids)``.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> index = resmem.Index(np.eye(3), ids=[10, 20, 30])
    >>> distances, ids = index.search([[0.9, 0.1, 0.0]], k=2)
    >>> ids
    array([[10, 20]])
    >>> index.remove([10]).add([[1.0, 0.0, 0.2]], ids=[40]).update([20], [[0.0, 2.0, 0.0]]).ids
    array([30, 40, 20])
    """

    def __init__(
        self,
        rows: Any,
        ids: Any = None,
        metric: Metric = "euclidean",
        key_dtype: KeyDtype = "auto",
        *,
        times: Any = None,
        groups: Any = None,
    ) -> None:
        self._state = IndexState(metric, key_dtype)
        self._state.fit(rows, None, None, ids, True, times=times, groups=groups)

    @on_the_cpu
    def search(
        self,
        queries: Any,
        k: int,
        exclude_ids: Any = None,
        threads: int | None = None,
        *,
        among: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
    ) -> tuple[F64, I64]:
        """Return distances and ids of the exact ``k`` nearest rows of queries (q, d), (q, k) each.

        Neighbours come nearest first, and by id where they are equally near; padding is id -1 and
        distance inf (-inf for "inner_product"). Rows of a query's ``exclude_ids``, (q,) or (q, m),
        are not returned; -1 excludes none. ``among``, ``before`` and ``exclude_groups`` say which
        other rows a query does not see, as for ``Memory.correct``. ``threads`` is as for
        ``resmem.search``.

        Warns
        -----
        ResmemWarning
            The rows are kept as float32, which does not tell a float64 query well enough.
        """
        visible = Visibility(exclude_ids, among, before, exclude_groups)
        return self._state.search(queries, k, visible, threads)

    def add(self, rows: Any, ids: Any = None, *, times: Any = None, groups: Any = None) -> Index:
        """Store more rows. Default ids continue after the largest ever used; none is used again."""
        self._state.add(rows, None, None, ids, times=times, groups=groups)
        return self

    def remove(self, ids: Any) -> Index:
        """Remove rows by id; if one of the ids is not there, raise and remove none."""
        self._state.remove(ids)
        return self

    def update(self, ids: Any, rows: Any, *, times: Any = None, groups: Any = None) -> Index:
        """Replace the rows with these ids (n,) by others (n, d), all at once for every search.

        Groups that are left out stay as they are; times must be given where rows have them.
        """
        self._state.update(ids, rows, None, None, times=times, groups=groups)
        return self

    def get(self, ids: Any) -> Keys:
        """Return the rows (m, d) with these ids (m,), in this order, as they are stored.

        That is in float32 or float64; float64 rows are multiplied by a power of two for "cosine".
        ValueError, naming it, if an id is not there.
        """
        view = self._state.view
        return Gathered(view.fitted_rows, convert.some_ids(ids), view.spec).embeddings()

    @property
    def ids(self) -> I64:
        """The ids (n,) of all rows, in the order of storage: updated rows come behind others."""
        return self._state.view.fitted_rows.ids

    @property
    def metric(self) -> Metric:
        return self._state.view.spec.metric

    @property
    def key_dtype(self) -> str:
        """The dtype in which rows are kept; "auto" while there never was a row."""
        return self._state.view.spec.key_dtype

    @property
    def d(self) -> int:
        """The number of columns of the rows."""
        return self._state.view.fitted_rows.d

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns of the DataFrame of the first rows; None if it was none."""
        return self._state.view.fitted_rows.embedding_names

    @property
    def nbytes(self) -> int:
        """Bytes of the stored rows and their ids."""
        return self._state.view.fitted_rows.nbytes

    def __len__(self) -> int:
        return len(self._state.view.fitted_rows)

    def __bool__(self) -> bool:
        return True  # an empty index is still an index

    @float_state()
    def prepare(self, threads: int | None = None) -> Index:
        """Build now what makes search faster, if it pays; see ``Memory.prepare``."""
        self._state.prepare(threads)
        return self

    @property
    def plan_(self) -> list[dict[str, Any]]:
        """How each segment of rows is searched; see ``Memory.plan_``."""
        return describe_plans(self._state.view)

    def save(
        self,
        path: str | os.PathLike[str],
        append: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Index:
        """Write everything to one file, or append what is new to it; see ``Memory.save``."""
        checks.path(path)
        if os.fspath(path).lower().endswith(EXPORTS):
            raise ValueError(
                f"path must not end in .npz or .safetensors, got {os.fspath(path)!r}; give it "
                "another ending, such as .resmem"
            )
        self._state.save(path, append, progress)
        return self

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        verify: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Index:
        """Return the index in a file that ``save`` wrote; see ``Memory.load``."""
        index = cls.__new__(cls)
        index._state = open_index(path, verify, progress)
        return index

    def info(self) -> dict[str, Any]:
        """Return what the index is and holds, as plain numbers and strings."""
        return describe_index(self._state)

    def __repr__(self) -> str:
        return (
            f"Index(metric={self.metric!r}, key_dtype={self.key_dtype!r}) "
            f"[{len(self)} rows, d={self.d}, {self.nbytes / (1 << 20):.1f} MiB]"
        )

    def __copy__(self) -> Index:
        """Return an index with a state of its own: a change of one does not change the other."""
        made = type(self).__new__(type(self))
        made.__dict__.update(vars(self), _state=copy.copy(self._state))
        return made
