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
    rows_gathered: int
    pairs_coded: int
    code_hits: int
    rows_coded: int
    given_up: int
    boxes: int

class Execution:
    def __init__(self, threads: int = 0, isa: str = "") -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...

class ForcedPlan:
    def __init__(
        self,
        strategy: str = "automatic",
        filter: str = "automatic",
        query_block: int = 0,
        row_block: int = 0,
        depth_block: int = 0,
        buffer: int = 0,
    ) -> None: ...

class RowIndex:
    def __len__(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def serves_metric(self, metric: str) -> bool: ...
    def digest(self) -> int: ...

class Segment:
    def __init__(
        self,
        keys: _Stored | _F64,
        ids: _I64 | None = None,
        first_id: int = 0,
        died: _I64 | None = None,
        largest: float = 0.0,
        index: RowIndex | None = None,
        times: _I64 | None = None,
        groups: _I64 | None = None,
    ) -> None: ...
    def with_index(self, index: RowIndex | None) -> Segment: ...
    def __len__(self) -> int: ...
    @property
    def keys(self) -> npt.NDArray[Any]: ...
    @property
    def index(self) -> RowIndex | None: ...
    @property
    def largest(self) -> float: ...

class Cascade(RowIndex):
    def __init__(
        self,
        segment: Segment,
        d: int,
        depth: int,
        clusters: int,
        coded_rows: bool = True,
        metric: str = "euclidean",
        execution: Execution = ...,
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
    def longest(self) -> float: ...
    @property
    def axes(self) -> _F32: ...

class Tree(RowIndex):
    def __init__(
        self, segment: Segment, d: int, leaf: int = 0, execution: Execution = ...
    ) -> None: ...
    @staticmethod
    def of(arrays: dict[str, npt.NDArray[Any]]) -> Tree: ...
    def arrays(self) -> dict[str, npt.NDArray[Any]]: ...
    @property
    def leaves(self) -> int: ...

class ResidualRows:
    def __len__(self) -> int: ...

class DenseRows(ResidualRows):
    def __init__(self, residuals: _F32 | _F16 | _F64) -> None: ...

class SparseRows(ResidualRows):
    def __init__(self, index: _I32, value: _F32 | _F16, rest: _F32) -> None: ...

class HeadRows(ResidualRows):
    def __init__(self, keys: _Stored, labels: _I64) -> None: ...

class LabelRows(ResidualRows):
    def __init__(self, labels: _I64) -> None: ...

class LinearHead:
    def __init__(self, weight: _F32, bias: _F32, temperature: float = 1.0) -> None: ...

def search(
    queries: _F32 | _F64,
    queries_max_abs: float,
    segments: Sequence[Segment],
    k: int,
    metric: str,
    exclude: _I64 | None = None,
    version: int = 0,
    forced: ForcedPlan = ...,
    exclude_groups: _I64 | None = None,
    before: _I64 | None = None,
    among: _I64 | npt.NDArray[np.uint8] | None = None,
    execution: Execution = ...,
) -> tuple[_F64, _I64, _I64, SearchStats]: ...
def softmax(logits: _F32, temperature: float, execution: Execution = ...) -> _F64: ...
def class_residuals(
    outputs: _F32,
    labels: _I64,
    temperature: float,
    half: bool = False,
    execution: Execution = ...,
) -> npt.NDArray[Any]: ...
def sparse_residuals(
    outputs: _F32,
    labels: _I64,
    temperature: float,
    m: int,
    half: bool = False,
    execution: Execution = ...,
) -> tuple[_I32, npt.NDArray[Any], _F32, float]: ...
def head_logits(keys: _Stored | _F64, head: LinearHead, execution: Execution = ...) -> _F32: ...
def simplex(
    values: _F64,
    floor: float,
    kind: str = "clip",
    base: _F64 | None = None,
    strength: float = 1.0,
    execution: Execution = ...,
) -> None: ...
def sweep(
    residuals: _F32 | _F64 | _I64,
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
    interpolate: bool = False,
    columns: int = 0,
    row_weights: _F64 | None = None,
    execution: Execution = ...,
) -> _F64: ...
def aggregate(
    residuals: Sequence[ResidualRows],
    distances: _F64,
    positions: _I64,
    sigma: float,
    columns: int,
    strength: float = 1.0,
    base: _F64 | None = None,
    head: LinearHead | None = None,
    select: _I64 | None = None,
    interpolate: bool = False,
    strengths: _F64 | None = None,
    row_weights: Sequence[_F64 | int] | None = None,
    execution: Execution = ...,
) -> _F64: ...
def correct(
    queries: _F32 | _F64,
    queries_max_abs: float,
    segments: Sequence[Segment],
    k: int,
    residuals: Sequence[ResidualRows],
    sigma: float,
    columns: int,
    strength: float = 1.0,
    base: _F64 | None = None,
    exclude: _I64 | None = None,
    head: LinearHead | None = None,
    select: _I64 | None = None,
    version: int = 0,
    interpolate: bool = False,
    exclude_groups: _I64 | None = None,
    before: _I64 | None = None,
    among: _I64 | npt.NDArray[np.uint8] | None = None,
    row_weights: Sequence[_F64 | int] | None = None,
    metric: str = "euclidean",
    execution: Execution = ...,
) -> _F64: ...
def weights(
    distances: _F64,
    positions: _I64,
    sigma: float,
    row_weights: Sequence[_F64 | int] | None = None,
    execution: Execution = ...,
) -> tuple[_F64, _F64]: ...
def inspect_rows(rows: _F32 | _F64, execution: Execution = ...) -> tuple[float, int]: ...
def narrow(
    rows: _F32, dtype: Literal["float16", "bfloat16"], execution: Execution = ...
) -> npt.NDArray[Any]: ...
def widen(rows: _Stored, execution: Execution = ...) -> _F32: ...

class BorrowedTensor:
    def __init__(self, capsule: Any) -> None: ...
    @property
    def device(self) -> tuple[int, int]: ...
    @property
    def address(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...] | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def read_only(self) -> bool: ...

def make_dlpack(
    address: int,
    shape: Sequence[int],
    dtype: str,
    device: tuple[int, int],
    owner: Any,
    versioned: bool = False,
    strides: Sequence[int] | None = None,
    read_only: bool = False,
) -> Any: ...
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
    segments: Sequence[Segment],
    metric: str,
    filter: str = "dot",
    execution: Execution = ...,
    depth_block: int = 0,
) -> tuple[_F64, _F64]: ...
def cascade_bounds(
    queries: _F32,
    queries_max_abs: float,
    segments: Sequence[Segment],
    metric: str = "euclidean",
    execution: Execution = ...,
) -> tuple[_F64, _F64, _F64, _F64, _F64, _F64]: ...
def points(
    vectors: _F32, metric: str, longest: float, as_queries: bool, execution: Execution = ...
) -> tuple[_F32, _F64]: ...
def tree_bounds(queries: _F32, segments: Sequence[Segment]) -> _F64: ...
def exp(x: _F64, execution: Execution = ...) -> _F64: ...
def log(x: _F64, execution: Execution = ...) -> _F64: ...
