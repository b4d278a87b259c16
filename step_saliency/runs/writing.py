"""One thread that writes and draws what is computed, beside the computing.

Tasks are done in the order in which they are handed over. What becomes of each is said in the
thread that hands them over: at the next hand-over, or at the end.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

QUEUE = 64
"""Tasks that may wait; handing over another one then waits for the first."""


@dataclass(frozen=True, eq=False)
class _Task:
    future: "Future[Any]"
    done: Callable[[], object]
    failed: Callable[[Exception], object]


class Writer:
    """A context in which tasks are done by another thread; left when all are done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="step-saliency writer")
        self._tasks: deque[_Task] = deque()

    def hand_over(
        self,
        task: Callable[[], object],
        *,
        done: Callable[[], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Have a task done.

        Args:
            task: What to do, in the other thread.
            done: Called in this thread once it is done.
            failed: Called in this thread with what it raised.

        Raises:
            OSError: an earlier task could not write.
        """
        self._tasks.append(_Task(self._pool.submit(task), done, failed))
        self._settle(QUEUE)

    def _settle(self, most: int) -> None:
        """Say what became of tasks until no more than `most` are open."""
        while len(self._tasks) > most or (self._tasks and self._tasks[0].future.done()):
            task = self._tasks.popleft()
            try:
                task.future.result()
            except OSError:
                raise
            except Exception as error:
                task.failed(error)
            else:
                task.done()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._settle(0)
        finally:
            self._pool.shutdown(cancel_futures=error is not None)
