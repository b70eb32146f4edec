"""A fuzz target for the file format: any bytes load, or are refused with FileFormatError.

`python tests/fuzz/fuzz_container.py CORPUS [libFuzzer options]` needs atheris; see README.md.
Most mutations mend the checksums afterwards, so that the code behind them is reached.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

PAGE, ALIGN, BLOCK, HEADERS = 4096, 64, 1 << 20, 3 * 4096  # values of FORMAT.md
HEAD, SLOT, CRC = struct.Struct("<8sI4x16s"), struct.Struct("<QQQI"), struct.Struct("<I")
MAGIC = b"\x89RESMEM\n"
VALUES: list[Any] = [0, 1, -1, 63, 64, 4096, HEADERS, BLOCK, 2**31, 2**32, 2**62, 2**63 - 1, 2**63]
VALUES += [2**64 + 64, 10**40, 1.5, True, None, "", "float32", "float8", [], [0], [2**62, 4, 0], {}]


def accepted(data: bytes, load: Callable[..., Any], use: Callable[[Any], None]) -> bool:
    """Return whether the bytes are accepted, verified, as a file. Only FileFormatError refuses
    them; whatever is loaded, verified or not, is used."""
    from resmem import FileFormatError

    fd = os.memfd_create("fuzz")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        for verify in (False, True):
            try:
                loaded = load(f"/proc/self/fd/{fd}", verify=verify)
            except FileFormatError:
                if verify:
                    return False
            else:
                use(loaded)
        return True
    finally:
        os.close(fd)


def check(data: bytes) -> bool:
    """Return whether the bytes are accepted; then read every byte of every array."""
    from resmem._files import container

    def read(loaded: Any) -> None:
        for array in loaded.arrays.values():
            array.tobytes()

    return accepted(data, partial(container.load, threads=1), read)


def aligned(position: int) -> int:
    return -(-position // ALIGN) * ALIGN


def sealed(page: bytes) -> bytes:
    """Return a page with its checksum at the end."""
    body = page[: PAGE - CRC.size].ljust(PAGE - CRC.size, b"\0")
    return body + CRC.pack(zlib.crc32(body))


def root(data: bytes) -> tuple[int, int, int]:
    """Return generation, offset and length of the manifest in the first slot."""
    generation, offset, length, _ = SLOT.unpack_from(data.ljust(HEADERS, b"\0"), PAGE)
    return generation, offset, length


def manifest_of(data: bytes) -> bytes:
    _, offset, length = root(data)
    return data[offset : offset + length]


def build(manifest: bytes, payload: bytes = b"", generation: int = 1) -> bytes:
    """Return a file: headers, ``payload`` from byte 12288 on, ``manifest``, right checksums."""
    payload = payload.ljust(aligned(len(payload)), b"\0")
    offset = HEADERS + len(payload)
    slot = SLOT.pack(generation, offset, len(manifest), zlib.crc32(manifest))
    head = HEAD.pack(MAGIC, 1, b"identity".ljust(16))
    return sealed(head) + 2 * sealed(slot) + payload + manifest


def mended(data: bytes) -> bytes:
    """Return the file with right checksums of head, slots and manifest, otherwise unchanged."""
    data = data.ljust(HEADERS, b"\0")
    pages = [sealed(data[:PAGE])]
    for start in (PAGE, 2 * PAGE):
        generation, offset, length, _ = SLOT.unpack_from(data, start)
        crc = zlib.crc32(data[offset : offset + length])
        slot = SLOT.pack(generation, offset, length, crc)
        pages.append(sealed(slot + data[start + SLOT.size : start + PAGE]))
    return b"".join(pages) + data[HEADERS:]


def summed(data: bytes, sections: list[Any]) -> bytes:
    """Return the file with right tables and ``crc32`` of these sections, where they fit."""
    changed = bytearray(data)
    for section in sections:
        offset, length = (section.get(key) if isinstance(section, dict) else None
                          for key in ("offset", "length"))  # fmt: skip
        if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
            continue
        table_at = offset + aligned(length)
        if offset < HEADERS or table_at > len(data):
            continue
        blocks = range(offset, offset + length, BLOCK)
        table = b"".join(CRC.pack(zlib.crc32(changed[b : min(b + BLOCK, table_at)]))
                         for b in blocks)  # fmt: skip
        table = table.ljust(aligned(len(table)), b"\0")
        changed[table_at : table_at + len(table)] = table
        section["crc32"] = zlib.crc32(table)
    return bytes(changed)


def with_manifest(data: bytes, manifest: bytes) -> bytes:
    """Return the file with another manifest."""
    generation, offset, _ = root(data)
    body = data[HEADERS : max(offset, HEADERS)]
    return build(manifest, body, generation)


def restructured(data: bytes, rng: random.Random) -> bytes:
    """Return the file with one field of a section changed, or a section twice, rightly summed."""
    try:
        fields = json.loads(manifest_of(data))
        sections = fields["sections"]
        section = rng.choice(sections)
        if rng.random() < 0.2:
            sections.append(dict(section, name=rng.choice([section["name"], "another"])))
        else:
            section[rng.choice([*section, "unknown"])] = rng.choice(VALUES)
        data = summed(data, sections)
        return with_manifest(data, json.dumps(fields).encode())
    except (ValueError, LookupError, TypeError, AttributeError):
        return mended(data)  # no structure is left to change


def seeds() -> dict[str, bytes]:
    """Return small files, saved and appended to; this function wrote the corpus."""
    import tempfile

    import numpy as np

    from resmem._files.container import Section, append, save

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        first = [
            Section("keys", np.arange(6, dtype=np.float32).reshape(2, 3)),
            Section("half", np.array([0.5, -2.0], dtype=np.float16), required=False),
            Section("nothing", np.zeros((0, 3), dtype=np.int64)),
        ]
        version = save(path, {"task": "classification", "k": 5, "nested": [[1.5, None]]}, first)
        with open(path, "rb") as file:
            saved = file.read()
        more = [Section("scalar", np.array(7, dtype=np.uint8))]
        append(path, version, {"k": 6}, ["keys", "half"], more)
        with open(path, "rb") as file:
            appended = file.read()
    return {"saved": saved, "appended": appended}


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["resmem"]):
        pass

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        kind = rng.randrange(4)
        if kind == 0:
            changed = atheris.Mutate(data, max_size)
        elif kind == 1:
            changed = mended(atheris.Mutate(data, max_size))
        elif kind == 2:
            manifest = manifest_of(data) or b"{}"
            changed = with_manifest(data, atheris.Mutate(manifest, len(manifest) + 256))
        else:
            changed = restructured(data, rng)
        return changed[:max_size]

    def one_input(data: bytes) -> None:
        check(data)

    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
