"""The search of queries or rows that lie on a device."""

from __future__ import annotations

from typing import Any

from resmem._base import convert
from resmem._devices import engine
from resmem._devices.arrays import is_on_device, view
from resmem._devices.engine import Call, Placed, excluded_ids_there, rows_for
from resmem._devices.results import results_for

_HALF = ("float16", "bfloat16")  # types of rows that are narrower than their queries


class ArraySearch:
    """Searches queries or rows on a device, where those in host memory are brought."""

    def __init__(self, call: Call, k: int, metric: str, key_dtype: str) -> None:
        self._call, self._k, self._metric, self._key_dtype = call, k, metric, key_dtype

    def search(self, queries: Any, rows: Any, exclude_ids: Any, out: Any) -> tuple[Any, Any]:
        """Return distances and ids; see ``search``."""
        dtype = self._dtype(queries, rows)
        there = (
            self._placed(rows, "rows", (dtype, *(_HALF if dtype == "float32" else ()))),
            self._placed(queries, "queries", (dtype,)),
        )
        for array, name in zip(there, ("rows", "queries"), strict=True):
            convert.check_dimensions(array.shape, name, "(n, d)")
            convert.check_columns(array.shape, name, there[0].shape[1])
        q = there[1].shape[0]
        excluded = excluded_ids_there(exclude_ids, q, self._call)
        results = results_for(
            queries, (q, self._k), out, self._call.device, self._call.stream, self._call.maker()
        )
        held = rows_for(self._call, there[0], self._metric, q)
        engine.search(
            self._call, there[1], held, self._k, self._metric, {"exclude": excluded},
            results[0].target, results[1].target,
        )  # fmt: skip
        return results[0].given, results[1].given

    def _dtype(self, queries: Any, rows: Any) -> str:
        """Return the type in which arrays are compared: that of the first on the device."""
        array, name = (queries, "queries") if is_on_device(queries) else (rows, "rows")
        wide = view(array, name, self._call.device, self._call.stream).dtype == "float64"
        dtype = "float64" if wide else "float32"
        if self._key_dtype not in ("auto", dtype):
            raise ValueError(
                f"key_dtype must be 'auto' or {dtype!r}, the type of arrays on the device, "
                f"got {self._key_dtype!r}"
            )
        if wide and self._metric == "cosine":
            raise TypeError(
                "metric 'cosine' takes float32 arrays on a device, got float64; "
                "use device='cpu' with arrays in host memory"
            )
        return dtype

    def _placed(self, value: Any, name: str, dtypes: tuple[str, ...]) -> Placed:
        """Return an array where it lies, checked and of one of these types."""
        if is_on_device(value):
            return self._call.read(value, name, dtypes)
        if dtypes[0] == "float64":
            return convert.wide_vectors(value, name)[0]
        given = convert.real(value, name, "(n, d)").dtype
        if not convert.fits_float32(given):
            raise TypeError(
                f"{name} must have dtype float32, like the arrays on the device, got {given}; "
                f"pass numpy.asarray({name}, dtype='float32')"
            )
        return convert.vectors(value, name)[0]
