"""Atomic replacement of files, and locks against other writers.

A process that is killed while it writes may leave a hidden file beside its target. A living writer
holds a lock on its hidden file, so the next writer of the target can tell which ones are abandoned.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal, TypeAlias

from resmem._base import platform

# What a thread has in progress: a whole call of save, or the write of the file within it.
Stage: TypeAlias = Literal["call", "file"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[io.FileIO]:
    """Open a new, unbuffered binary file that replaces ``path`` at the end of the block.

    Until then, and for ever if the block raises or the process is killed, the file at ``path``
    stays unchanged. A file that replaces another gets its permissions, any other those that
    ``open`` would give. A symbolic link stays, and the file that it points to is replaced. Errors
    of the operating system name ``path``.
    """
    named = os.fsdecode(path)
    target = os.path.realpath(named)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f"{_prefix(name)}{os.urandom(6).hex()}.tmp")
    with errors_naming(named, temporary), sole_writer(path, "file"):
        permissions = platform.permissions_of(target)
        _remove_abandoned(folder, name)
        fd, nameless = _create(folder, temporary)
        try:
            with os.fdopen(fd, "w+b", buffering=0) as file, _unlocked_at_the_end(fd):
                if permissions is not None:
                    platform.set_permissions(fd, permissions)
                yield file
                platform.sync(fd)
                with _without_appenders(target):
                    if nameless:
                        platform.give_name(fd, temporary)
                    platform.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        platform.sync_folder(folder)


@contextmanager
def locked(path: str) -> Iterator[int]:
    """Open and lock the file at ``path`` to write to it, once no other writer holds its lock.

    If the file was replaced during the wait, the new one is locked instead. Where the file system
    has no locks, the block runs without one.
    """
    with sole_writer(path, "file"), _locked(path, writable=True) as fd:
        yield fd


@contextmanager
def sole_writer(path: str | os.PathLike[str], stage: Stage) -> Iterator[None]:
    """Raise RuntimeError if this very thread is writing to ``path`` already.

    A signal handler or a progress function interrupts the write that it would have to wait for.
    Other threads and processes can be waited for, which ``locked`` does.
    """
    entry = (os.path.realpath(os.fsdecode(path)), stage)
    if entry in _own_writes.targets:
        raise _nested_write(os.fsdecode(path))
    try:
        _own_writes.targets.append(entry)
        yield
    finally:
        with suppress(ValueError):  # a child that was forked in the block has no entries
            _own_writes.targets.remove(entry)


@contextmanager
def errors_naming(path: str, temporary: str = "") -> Iterator[None]:
    """Let system errors that name no file, or the temporary one, name ``path`` instead."""
    try:
        yield
    except OSError as error:
        names = (error.filename, error.filename2)
        if error.errno is None or (error.filename is not None and temporary not in names):
            raise
        raise OSError(error.errno, error.strerror, path) from error


def _create(folder: str, temporary: str) -> tuple[int, bool]:
    """Create and lock a new file; return its descriptor, and whether it has no name yet.

    A killed process leaves nothing of a nameless file. Not every file system has them.
    """
    nameless = platform.create_nameless(folder)
    if nameless is not None:
        platform.lock(nameless)
        return nameless, True
    while True:
        fd = platform.create(temporary)
        platform.lock(fd)
        if _leads_to(temporary, fd):
            return fd, False
        os.close(fd)  # another writer removed it as abandoned before it was locked


def _prefix(name: str) -> str:
    """Return the prefix of the names of hidden files beside a target."""
    return f".{name[:50]}."


def _remove_abandoned(folder: str, name: str) -> None:
    """Remove hidden files that killed processes of this user left beside a target."""
    hidden = re.compile(re.escape(_prefix(name)) + r"[0-9a-f]{12}\.tmp")
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [entry.path for entry in entries if hidden.fullmatch(entry.name)]:
            with suppress(OSError):  # another writer was faster, or the file system has no locks
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: str) -> None:
    """Remove a hidden file of this user that no living writer has locked."""
    fd = platform.open_itself(path)
    try:
        if platform.is_own_file(fd):
            platform.lock_without_waiting(fd)  # this fails while its writer lives
            if _leads_to(path, fd):
                os.unlink(path)
    finally:
        os.close(fd)


def _leads_to(path: str, fd: int) -> bool:
    """Tell whether ``path`` is a name of the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _unlocked_at_the_end(fd: int) -> Iterator[None]:
    """Unlock at the end of the block, as a forked child may keep the descriptor open."""
    try:
        yield
    finally:
        platform.unlock(fd)


@contextmanager
def _locked(path: str, writable: bool) -> Iterator[int]:
    """Lock as ``locked`` does, without its check of the path."""
    while True:
        fd = platform.open_regular(path, writable)
        try:
            with _only_lock(fd, path), _unlocked_at_the_end(fd):
                platform.lock(fd)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    yield fd
                    return
        finally:
            os.close(fd)


@contextmanager
def _only_lock(fd: int, path: str) -> Iterator[None]:
    """Raise RuntimeError if this thread has locked the file already, perhaps by another name."""
    about = os.fstat(fd)
    inode = about.st_dev, about.st_ino
    if inode in _own_writes.locked:
        raise _nested_write(path)
    try:
        _own_writes.locked.append(inode)
        yield
    finally:
        with suppress(ValueError):
            _own_writes.locked.remove(inode)


@contextmanager
def _without_appenders(target: str) -> Iterator[None]:
    """Keep other processes from appending to the file that is being replaced: it would be lost."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError, PermissionError):  # no file, or no right to lock it
            stack.enter_context(_locked(target, writable=False))
        yield


class _OwnWrites(threading.local):
    """The files that this thread is writing."""

    def __init__(self) -> None:
        self.targets: list[tuple[str, Stage]] = []  # resolved paths
        self.locked: list[tuple[int, int]] = []  # devices and inodes of files it has locked


_own_writes = _OwnWrites()


def _nested_write(path: str) -> RuntimeError:
    return RuntimeError(
        f"{path!r} is being written by the code that was interrupted: a signal handler or a "
        "progress function cannot write to the same file; let it write to another file, or note "
        "what is to be written and do so afterwards"
    )


def _clear_own_writes() -> None:
    """Clear the entries in the child of a fork: the writes that they list are its parent's."""
    _own_writes.targets, _own_writes.locked = [], []


platform.after_fork_in_child(_clear_own_writes)
