"""Python threads, started only where the system has memory for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from resmem._base.platform import room_for

_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def pool(threads: int) -> Iterator[Executor | None]:
    """Provide a pool of threads; None, if ``threads`` is 0 or there is no memory for them.

    With None the caller does the work itself.
    """
    if threads == 0 or not room_for(threads):
        yield None
        return
    with ThreadPoolExecutor(threads) as executor:
        yield executor


def interruptible(work: Callable[[], _R]) -> _R:
    """Return the result of ``work``, a long call of NumPy's, and let signals interrupt the wait.

    Python handles signals in the main thread alone, between two of its own steps. So that thread
    waits while another one works. If a handler raises, the work goes on until it ends and its
    result is dropped: it must change nothing that other code reads. A program that ends meanwhile
    waits for it, as LAPACK's libraries free what it works with when a process exits.
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


def submit(executor: Executor, work: Callable[[_T], _R], item: _T) -> Future[_R]:
    """Start the work on an item; do it in this thread where no other can be started."""
    try:
        return executor.submit(work, item)
    except RuntimeError:
        done: Future[_R] = Future()
        done.set_result(work(item))
        return done


def ahead(
    executor: Executor | None, work: Callable[[_T], _R], items: Iterable[_T], depth: int
) -> Iterator[tuple[_T, _R]]:
    """Yield every item with its result, in order; threads work while earlier results are used.

    They are only ``depth`` items ahead, so that an error or an interrupt waits for little.
    """
    if executor is None:
        yield from ((item, work(item)) for item in items)
        return
    pending: deque[tuple[_T, Future[_R]]] = deque()
    for item in items:
        pending.append((item, submit(executor, work, item)))
        if len(pending) > depth:
            first, future = pending.popleft()
            yield first, future.result()
    for first, future in pending:
        yield first, future.result()
