from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_F16: TypeAlias = npt.NDArray[np.float16]
_F32: TypeAlias = npt.NDArray[np.float32]
_F64: TypeAlias = npt.NDArray[np.float64]
_I32: TypeAlias = npt.NDArray[np.int32]
_I64: TypeAlias = npt.NDArray[np.int64]
_Stored: TypeAlias = _F32 | _F16 | npt.NDArray[np.uint16]  # uint16: the bits of bfloat16
# keys, ids, first id, versions of removal, largest absolute value of a key
_PlainSegment: TypeAlias = tuple[_Stored | _F64, _I64 | None, int, _I64 | None, float]
_Segment: TypeAlias = (
    _PlainSegment | tuple[_Stored | _F64, _I64 | None, int, _I64 | None, float, RowIndex | None]
)
_Residuals: TypeAlias = (
    tuple[Literal["dense"], _F32 | _F16 | _F64]
    | tuple[Literal["sparse"], _I32, _F32 | _F16, _F32]  # index, value, rest
    | tuple[Literal["head"], _Stored, _I64]  # keys, labels
)

class SearchStats(TypedDict):
    isa: str
    strategy: str
    filter: str
    pairs_filtered: int
    hits: int
    thinnings: int
    exact_thinnings: int
    deferred: int
    rescored: int
    pairs_coded: int
    code_hits: int
    rows_coded: int
    given_up: int
    boxes: int

class RowIndex:
    def __len__(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def digest(self) -> int: ...

class Cascade(RowIndex):
    def __init__(
        self,
        segment: _PlainSegment,
        d: int,
        depth: int,
        clusters: int,
        coded_rows: bool = True,
        threads: int = 0,
        isa: str = "",
        metric: str = "euclidean",
    ) -> None: ...
    @staticmethod
    def of(arrays: dict[str, npt.NDArray[Any]]) -> Cascade: ...
    def arrays(self) -> dict[str, npt.NDArray[Any]]: ...
    @property
    def depth(self) -> int: ...
    @property
    def clusters(self) -> int: ...
    @property
    def coded_rows(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    @property
    def euclidean(self) -> bool: ...
    @property
    def longest(self) -> float: ...
    @property
    def axes(self) -> _F32: ...

class Tree(RowIndex):
    def __init__(
        self, segment: _PlainSegment, d: int, threads: int = 0, leaf: int = 0, isa: str = ""
    ) -> None: ...
    @staticmethod
    def of(arrays: dict[str, npt.NDArray[Any]]) -> Tree: ...
    def arrays(self) -> dict[str, npt.NDArray[Any]]: ...
    @property
    def leaves(self) -> int: ...

def search(
    queries: _F32 | _F64,
    queries_max_abs: float,
    segments: Sequence[_Segment],
    k: int,
    metric: str,
    exclude: _I64 | None = None,
    threads: int = 0,
    isa: str = "",
    strategy: str = "automatic",
    filter: str = "automatic",
    blocks: tuple[int, int, int, int] = (0, 0, 0, 0),
    version: int = 0,
) -> tuple[_F64, _I64, _I64, SearchStats]: ...
def softmax(logits: _F32, temperature: float, threads: int = 0, isa: str = "") -> _F64: ...
def class_residuals(
    outputs: _F32,
    labels: _I64,
    temperature: float,
    threads: int = 0,
    isa: str = "",
    half: bool = False,
) -> npt.NDArray[Any]: ...
def sparse_residuals(
    outputs: _F32,
    labels: _I64,
    temperature: float,
    m: int,
    half: bool = False,
    threads: int = 0,
    isa: str = "",
) -> tuple[_I32, npt.NDArray[Any], _F32, float]: ...
def head_logits(
    keys: _Stored | _F64, weight: _F32, bias: _F32, threads: int = 0, isa: str = ""
) -> _F32: ...
def simplex(
    values: _F64,
    floor: float,
    threads: int = 0,
    isa: str = "",
    kind: str = "clip",
    base: _F64 | None = None,
    strength: float = 1.0,
) -> None: ...
def sweep(
    residuals: _F32 | _F64,
    distances: _F64,
    positions: _I64,
    base: _F64 | None,
    targets: _I64 | _F64,
    bounds: Sequence[int],
    ks: Sequence[int],
    sigmas: Sequence[float],
    strengths: Sequence[float],
    maps: Sequence[tuple[str, float]],
    score: str,
    bins: int = 15,
    threads: int = 0,
    isa: str = "",
) -> _F64: ...
def aggregate(
    residuals: Sequence[_Residuals],
    distances: _F64,
    positions: _I64,
    sigma: float,
    columns: int,
    strength: float = 1.0,
    base: _F64 | None = None,
    threads: int = 0,
    isa: str = "",
    head: tuple[_F32, _F32, float] | None = None,
    select: _I64 | None = None,
) -> _F64: ...
def correct(
    queries: _F32 | _F64,
    queries_max_abs: float,
    segments: Sequence[_Segment],
    k: int,
    residuals: Sequence[_Residuals],
    sigma: float,
    columns: int,
    strength: float = 1.0,
    base: _F64 | None = None,
    exclude: _I64 | None = None,
    threads: int = 0,
    isa: str = "",
    head: tuple[_F32, _F32, float] | None = None,
    select: _I64 | None = None,
    version: int = 0,
) -> _F64: ...
def weights(distances: _F64, positions: _I64, sigma: float, isa: str = "") -> tuple[_F64, _F64]: ...
def inspect_rows(rows: _F32 | _F64, threads: int = 0, isa: str = "") -> tuple[float, int]: ...
def narrow(
    rows: _F32, dtype: Literal["float16", "bfloat16"], threads: int = 0, isa: str = ""
) -> npt.NDArray[Any]: ...
def widen(rows: _Stored, threads: int = 0, isa: str = "") -> _F32: ...
def bfloat16_from_dlpack(capsule: Any) -> _F32 | None: ...
def mark_died(died: _I64, rows: _I64, version: int) -> None: ...

class IdTable:
    def __init__(self) -> None: ...
    def extend_to(self, ids: _I64) -> None: ...
    def find(self, ids: _I64) -> _I64: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def default_threads() -> int: ...
def enter_float_state() -> int: ...
def leave_float_state(saved: int) -> None: ...
def selected_isa() -> str: ...
def available_isas() -> dict[str, bool]: ...
def build_info() -> dict[str, str]: ...
def set_flush_to_zero(on: bool) -> None: ...
def group_cpus(root: str) -> int: ...
def filter_brackets(
    queries: _F32,
    queries_max_abs: float,
    segments: Sequence[_Segment],
    metric: str,
    filter: str = "dot",
    isa: str = "",
    depth_block: int = 0,
) -> tuple[_F64, _F64]: ...
def cascade_bounds(
    queries: _F32,
    queries_max_abs: float,
    segments: Sequence[_Segment],
    metric: str = "euclidean",
    isa: str = "",
) -> tuple[_F64, _F64, _F64, _F64, _F64, _F64]: ...
def points(
    vectors: _F32, metric: str, longest: float, as_queries: bool, isa: str = ""
) -> tuple[_F32, _F64]: ...
def tree_bounds(queries: _F32, segments: Sequence[_Segment]) -> _F64: ...
def exp(x: _F64, isa: str = "") -> _F64: ...
def log(x: _F64, isa: str = "") -> _F64: ...
