"""What the package asks of the operating system. No other module knows one.

The answers are those of Linux; another system needs its own to each function here, and no more. All
other code uses what Python offers alike on every system, which `tests/test_layers.py` keeps.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeGuard

BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE  # exit status of a program whose output nobody reads

_DEFAULT_STACK = 8 << 20  # bytes, where the system sets no limit
_STARTUP_BYTES = 2 << 20  # memory that a thread may need before it does any work
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}  # EBADF is NFS's answer


# ---- The machine -------------------------------------------------------------------------------


def processor_name() -> str:
    """Return the name of the CPU's model, or "" if the system does not tell it."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return ""


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


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


# ---- Threads and processes ---------------------------------------------------------------------


def room_for(threads: int) -> bool:
    """Tell whether there is memory for this many threads, if they are started now.

    Python waits for ever for a thread that runs out of memory before it has begun to work.
    """
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack <= 0:  # there is no limit
        stack = _DEFAULT_STACK
    try:
        mmap.mmap(-1, threads * (stack + _STARTUP_BYTES), mmap.MAP_PRIVATE).close()
    except OSError:
        return False
    return True


def after_fork_in_child(work: Callable[[], object]) -> None:
    """Call ``work`` in every child process of this one, as soon as it has been forked."""
    os.register_at_fork(after_in_child=work)


def restart() -> NoReturn:
    """Begin the running program anew in its own process, with the present environment."""
    os.execv(sys.executable, sys.orig_argv)


# ---- Files by name -----------------------------------------------------------------------------


def open_regular(path: str, writable: bool = False) -> int:
    """Open the regular file at ``path``; refuse others, such as pipes, without waiting for them."""
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_itself(path: str) -> int:
    """Open what is at ``path``, to be read, without waiting for a pipe; refuse a symbolic link."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)


def is_own_file(fd: int) -> bool:
    """Tell whether this is a regular file of the user who runs the process."""
    about = os.fstat(fd)
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()


def create(path: str) -> int:
    """Create a file for reading and writing; FileExistsError if anything is at ``path``."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def create_nameless(folder: str) -> int | None:
    """Create a file without a name, for ``give_name``; return None where there are no such files.

    The system removes it when its process ends, however that happens.
    """
    with suppress(OSError):
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        if os.path.exists(f"/proc/self/fd/{fd}"):
            return fd
        os.close(fd)
    return None


def give_name(fd: int, path: str) -> None:
    """Give an open, nameless file a name in the folder where it was created."""
    # With src_dir_fd this calls linkat, which can follow the link.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def replace(path: str, target: str) -> None:
    """Move a file to ``target`` in one step; whoever has the old file open keeps it."""
    os.replace(path, target)


def permissions_of(path: str) -> int | None:
    """Return the permission bits of the regular file at ``path``; None if there is no file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    _require_regular(mode, path)
    return mode & 0o777


def set_permissions(fd: int, permissions: int) -> None:
    """Give an open file the permissions that ``permissions_of`` returned for another one."""
    os.fchmod(fd, permissions)


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)


# ---- Locks of files ----------------------------------------------------------------------------


def lock(fd: int) -> None:
    """Lock the file, once no other process has; do nothing where the file system has no locks.

    A signal handler that raises ends the wait.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def lock_without_waiting(fd: int) -> None:
    """Lock the file; OSError if another holds its lock, or the file system has no locks."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(fd: int) -> None:
    """Unlock the file, even if a forked child keeps its descriptor open."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


# ---- Bytes of open files -----------------------------------------------------------------------


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Return bytes of the file; fewer than ``length`` at its end."""
    parts = []
    while length > 0 and (part := os.pread(fd, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def read_into(buffer: memoryview, fd: int, offset: int) -> int:
    """Read up to the buffer's length of bytes into it; return how many, 0 at the file's end."""
    return os.preadv(fd, [buffer], offset)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data to the file, from ``offset`` on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def sync(fd: int) -> None:
    """Return once the file's bytes survive a power failure."""
    os.fsync(fd)


def sync_folder(folder: str) -> None:
    """Return once the names in the folder survive a power failure, if this user may read it."""
    with suppress(PermissionError):  # a folder may be writable without being readable
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---- Mapped files ------------------------------------------------------------------------------


def map_file(fd: int, size: int, name: str) -> mmap.mmap:
    """Map the first ``size`` bytes of a file, for reading alone.

    MemoryError, which names the file ``name``, if there is no address space for them.
    """
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(f"no address space to map the {size} bytes of {name!r}") from error


def is_mapped_file(base: object) -> TypeGuard[mmap.mmap]:
    """Tell whether an array's memory is that of a mapped file."""
    return isinstance(base, mmap.mmap)


def release_mapped(mapped: mmap.mmap, start: int, stop: int) -> None:
    """Release the pages that hold these bytes; the next use of them reads the file.

    What was written to a map of the process's own, and not to the file, is lost with its pages.
    """
    page = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, page, stop - page)
