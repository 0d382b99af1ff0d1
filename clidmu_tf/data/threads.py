"""Work on many files at once, in their order, and within what memory has room for."""

import collections
import concurrent.futures
import contextlib
import threading

# Items that are worked on ahead of who takes the results: all that lie in memory.
AHEAD = 64


def in_threads(function, items):
    """Yields `function(item)` in order, a few items ahead, on all cores."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pending = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Budget:
    """An amount that threads take of, and wait for while others have it.

    Args:
        total: The amount; who wants more of it than there is waits to be alone.
    """

    def __init__(self, total):
        self.total, self.taken = total, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount):
        """Holds an amount for as long as the context lasts."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self.taken or self.taken + amount <= self.total
            )
            self.taken += amount
        try:
            yield
        finally:
            with self._changed:
                self.taken -= amount
                self._changed.notify_all()
