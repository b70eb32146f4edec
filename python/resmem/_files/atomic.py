"""Files that are replaced whole or not at all, and locked against other writers.

A process that is killed at the wrong moment leaves a hidden file beside its target. Its maker
holds a lock on it for as long as it lives, so the next one who replaces the target can tell which
of them nobody will finish.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["call", "file"]  # of writing: all that save does, or the file itself

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}  # EBADF: as NFS says it


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[io.FileIO]:
    """A new, unbuffered binary file that takes the place of ``path`` at the end of the block.

    Until then, and for ever if the block raises or the process is killed, whatever is at
    ``path`` stays as it is. A new file gets the permissions that ``open`` would give it, one
    that replaces another those of the other; a symbolic link stays, and what it points to is
    replaced. Errors of the operating system name ``path``.
    """
    named = os.fsdecode(path)
    target = os.path.realpath(named)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f"{_prefix(name)}{os.urandom(6).hex()}.tmp")
    with naming(named, temporary), sole_writer(path, "file"):
        permissions = _permissions(target)
        _remove_abandoned(folder, name)
        fd, nameless = _create(folder, temporary)
        try:
            with os.fdopen(fd, "w+b", buffering=0) as file, _unlocked_at_the_end(fd):
                if permissions is not None:
                    os.fchmod(fd, permissions)
                yield file
                os.fsync(fd)
                with _without_appenders(target):
                    if nameless:  # a src_dir_fd makes this linkat, which can follow the link
                        made = f"/proc/self/fd/{fd}"
                        os.link(made, temporary, src_dir_fd=fd, follow_symlinks=True)
                    os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)


@contextmanager
def locked(path: str, flags: int) -> Iterator[int]:
    """A descriptor of the file that is at ``path``, once no other writer has it.

    The file may have been replaced while we waited; then it is the new one's turn. Where the
    file system has no locks, the block runs without.
    """
    with sole_writer(path, "file"), _locked(path, flags) as fd:
        yield fd


@contextmanager
def sole_writer(path: str | os.PathLike[str], stage: Stage) -> Iterator[None]:
    """RuntimeError if this very thread is writing to ``path`` already.

    A signal handler, or a function that is told of progress, runs in the middle of what it would
    have to wait for. Other threads and processes are waited for instead, see ``locked``.
    """
    entry = (os.path.realpath(os.fsdecode(path)), stage)
    if entry in _mine.targets:
        raise _nested(os.fsdecode(path))
    try:
        _mine.targets.append(entry)
        yield
    finally:
        with suppress(ValueError):  # a child that was forked in the block has forgotten it
            _mine.targets.remove(entry)


def open_regular(path: str, flags: int) -> int:
    """A descriptor of the regular file at ``path``; never waits, as opening a pipe would."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def naming(path: str, temporary: str = "") -> Iterator[None]:
    """Errors of the operating system that name no file, or the temporary one, name ``path``."""
    try:
        yield
    except OSError as error:
        names = (error.filename, error.filename2)
        if error.errno is None or (error.filename is not None and temporary not in names):
            raise
        raise OSError(error.errno, error.strerror, path) from error


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)


def _permissions(target: str) -> int | None:
    """Permission bits of the file to be replaced; None where there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    _require_regular(mode, target)
    return mode & 0o777


def _create(folder: str, temporary: str) -> tuple[int, bool]:
    """A locked descriptor of a new file, and whether it has no name yet, so that a killed process
    leaves nothing behind; not every file system can do that."""
    with suppress(OSError):
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        if os.path.exists(f"/proc/self/fd/{fd}"):
            _lock(fd)
            return fd, True
        os.close(fd)
    while True:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(fd)
        if _leads_to(temporary, fd):
            return fd, False
        os.close(fd)  # somebody took it for abandoned before it was locked


def _prefix(name: str) -> str:
    """What the names of hidden files beside a target begin with."""
    return f".{name[:50]}."


def _remove_abandoned(folder: str, name: str) -> None:
    """Remove hidden files that killed processes of this user left beside a target."""
    hidden = re.compile(re.escape(_prefix(name)) + r"[0-9a-f]{12}\.tmp")
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [entry.path for entry in entries if hidden.fullmatch(entry.name)]:
            with suppress(OSError):  # another one was faster, or the file system has no locks
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        about = os.fstat(fd)
        if stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its maker lives
            if _leads_to(path, fd):
                os.unlink(path)
    finally:
        os.close(fd)


def _leads_to(path: str, fd: int) -> bool:
    """Whether ``path`` is a name of the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _lock(fd: int) -> None:
    """Wait until nobody else has locked the file; where there are no locks, go on without."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


@contextmanager
def _unlocked_at_the_end(fd: int) -> Iterator[None]:
    """A forked child may keep the descriptor, but not the lock."""
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def _locked(path: str, flags: int) -> Iterator[int]:
    """See ``locked``."""
    while True:
        fd = open_regular(path, flags)
        try:
            with _only_lock(fd, path), _unlocked_at_the_end(fd):
                _lock(fd)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    yield fd
                    return
        finally:
            os.close(fd)


@contextmanager
def _only_lock(fd: int, path: str) -> Iterator[None]:
    """RuntimeError if this thread has locked the file already, perhaps by another of its names."""
    about = os.fstat(fd)
    inode = about.st_dev, about.st_ino
    if inode in _mine.locked:
        raise _nested(path)
    try:
        _mine.locked.append(inode)
        yield
    finally:
        with suppress(ValueError):
            _mine.locked.remove(inode)


@contextmanager
def _without_appenders(target: str) -> Iterator[None]:
    """No other process appends meanwhile to the file that is to go: it would do so in vain."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError, PermissionError):  # nothing there, or not ours to lock
            stack.enter_context(_locked(target, os.O_RDONLY))
        yield


class _Mine(threading.local):
    """What this thread is writing to."""

    def __init__(self) -> None:
        self.targets: list[tuple[str, Stage]] = []  # resolved paths
        self.locked: list[tuple[int, int]] = []  # devices and inodes of files that it has locked


_mine = _Mine()


def _nested(path: str) -> RuntimeError:
    return RuntimeError(
        f"{path!r} is being written by the code that was interrupted: a signal handler or a "
        "progress function cannot write to the same file; let it write to another file, or note "
        "what is to be written and do so afterwards"
    )


def _forget() -> None:
    """The child of a fork may write where its parent, which goes on meanwhile, is writing."""
    _mine.targets, _mine.locked = [], []


os.register_at_fork(after_in_child=_forget)


def _sync_folder(folder: str) -> None:
    """The new name survives a power failure too."""
    with suppress(PermissionError):  # a folder may be writable without being readable
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
