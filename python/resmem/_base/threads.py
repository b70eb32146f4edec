"""Threads of Python's own, where the system has room for them."""

from __future__ import annotations

import mmap
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

_USUAL_STACK = 8 << 20
_FIRST_STEPS = 2 << 20  # bytes that a thread may need before it does any work


@contextmanager
def pool(threads: int) -> Iterator[Executor | None]:
    """So many threads; None, for the caller to work alone, if that is 0 or there is no room."""
    if threads == 0 or not room_for(threads):
        yield None
        return
    with ThreadPoolExecutor(threads) as executor:
        yield executor


def interruptible(work: Callable[[], _R]) -> _R:
    """The result of work that takes long inside one call of NumPy's, which asks for no signals.

    Python handles signals in the main thread alone, between two of its own steps. So that thread
    waits while another one works. If a handler raises, the work goes on until it ends and its
    result is dropped: it must change nothing that anybody else reads. A program that ends meanwhile
    waits for it, as LAPACK's libraries take down what it works with when a process exits.
    """
    if threading.current_thread() is not threading.main_thread() or not room_for(1):
        return work()
    done: Future[_R] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    try:
        threading.Thread(target=run, name="resmem-work", daemon=False).start()
    except RuntimeError:  # no thread can be started
        return work()
    return done.result()


def room_for(threads: int) -> bool:
    """Whether there is memory for threads that are started now.

    Python waits for ever for a thread that runs out of it before it has begun to work.
    """
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    if stack <= 0:  # no limit
        stack = _USUAL_STACK
    try:
        mmap.mmap(-1, threads * (stack + _FIRST_STEPS), mmap.MAP_PRIVATE).close()
    except OSError:
        return False
    return True


def submit(executor: Executor, work: Callable[[_T], _R], item: _T) -> Future[_R]:
    """The work of an item; done at once where no thread can be started."""
    try:
        return executor.submit(work, item)
    except RuntimeError:
        done: Future[_R] = Future()
        done.set_result(work(item))
        return done
