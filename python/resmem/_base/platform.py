"""Questions to the operating system."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath


def memory_available(root: str = "/") -> int:
    """Return how many bytes of memory the system has free and the process's control groups allow.

    ``root`` is the folder where ``proc`` and ``sys`` lie.
    """
    found = _group_limits(root)
    with suppress(OSError), open(os.path.join(root, "proc/meminfo"), encoding="ascii") as file:
        found += [int(x.split()[1]) * 1024 for x in file if x.startswith("MemAvailable:")]
    return min(found, default=8 << 30)


def _group_limits(root: str) -> list[int]:
    """Return the limits (bytes) of the process's control groups (v2 and v1) and their parents."""
    found = []
    with suppress(OSError), open(os.path.join(root, "proc/self/cgroup"), "rb") as file:
        for line in map(os.fsdecode, file):
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if controllers == "":
                folder, name = "", "memory.max"
            elif "memory" in controllers.split(","):
                folder, name = "memory", "memory.limit_in_bytes"
            else:
                continue
            inside = PurePosixPath(group.lstrip("/"))
            for ancestor in (inside, *inside.parents):
                with suppress(OSError, ValueError):  # the file is missing, or says "max"
                    path = Path(root, "sys/fs/cgroup", folder, ancestor, name)
                    found.append(int(path.read_text()))
    return found
