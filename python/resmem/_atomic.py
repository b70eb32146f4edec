"""Files that are replaced whole or not at all, and locked against other writers."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

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
    temporary = os.path.join(folder, f".{name[:50]}.{os.urandom(6).hex()}.tmp")
    with naming(named, temporary):
        permissions = _permissions(target)
        fd, nameless = _create(folder, temporary)
        try:
            with os.fdopen(fd, "w+b", buffering=0) as file:
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
    while True:
        fd = open_regular(path, flags)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                yield fd
                return
        finally:
            with suppress(OSError):  # a forked child may keep the descriptor, but not the lock
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


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
    """A descriptor of a new file, and whether it has no name yet, so that a killed process
    leaves nothing behind; not every file system can do that."""
    with suppress(OSError):
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        if os.path.exists(f"/proc/self/fd/{fd}"):
            return fd, True
        os.close(fd)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), False


@contextmanager
def _without_appenders(target: str) -> Iterator[None]:
    """No other process appends meanwhile to the file that is to go: it would do so in vain."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError, PermissionError):  # nothing there, or not ours to lock
            stack.enter_context(locked(target, os.O_RDONLY))
        yield


def _sync_folder(folder: str) -> None:
    """The new name survives a power failure too."""
    with suppress(PermissionError):  # a folder may be writable without being readable
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
