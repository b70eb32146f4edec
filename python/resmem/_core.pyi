from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_F32: TypeAlias = npt.NDArray[np.float32]
_F64: TypeAlias = npt.NDArray[np.float64]
_I64: TypeAlias = npt.NDArray[np.int64]
_Segment: TypeAlias = tuple[_F32, _I64 | None, int, npt.NDArray[np.bool_] | None, float]

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

def search(
    queries: _F32,
    queries_max_abs: float,
    segments: list[_Segment],
    k: int,
    metric: str,
    exclude: _I64 | None = None,
    threads: int = 0,
    isa: str = "",
    strategy: str = "automatic",
    filter: str = "automatic",
    blocks: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> tuple[_F64, _I64, _I64, SearchStats]: ...
def softmax(logits: _F32, temperature: float, threads: int = 0, isa: str = "") -> _F64: ...
def class_residuals(
    outputs: _F32, labels: _I64, temperature: float, threads: int = 0, isa: str = ""
) -> _F32: ...
def simplex(values: _F64, floor: float, threads: int = 0, isa: str = "") -> None: ...
def aggregate(
    segments: list[_F32],
    distances: _F64,
    positions: _I64,
    sigma: float,
    columns: int,
    strength: float = 1.0,
    base: _F64 | None = None,
    threads: int = 0,
    isa: str = "",
) -> _F64: ...
def weights(distances: _F64, positions: _I64, sigma: float, isa: str = "") -> _F64: ...
def inspect_rows(rows: _F32, threads: int = 0, isa: str = "") -> tuple[float, int]: ...
def bfloat16_from_dlpack(capsule: Any) -> _F32 | None: ...
def default_threads() -> int: ...
def enter_float_state() -> int: ...
def leave_float_state(saved: int) -> None: ...
def selected_isa() -> str: ...
def available_isas() -> dict[str, bool]: ...
def build_info() -> dict[str, str]: ...
def set_flush_to_zero(on: bool) -> None: ...
def filter_brackets(
    queries: _F32,
    queries_max_abs: float,
    segments: list[_Segment],
    metric: str,
    filter: str = "dot",
    isa: str = "",
    depth_block: int = 0,
) -> tuple[_F64, _F64]: ...
def exp(x: _F64, isa: str = "") -> _F64: ...
