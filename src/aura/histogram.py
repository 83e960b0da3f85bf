"""A histogram in plain Python: what a busy place may add to for a third of a microsecond, and a scrape can read.

It knows neither names nor labels: ``measures`` says what is measured, ``web.metrics`` how it is shown.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

#: Upper bounds in seconds for what takes from a millisecond to an hour, such as steps and waits.
LONG = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
#: The same for what should be over in milliseconds, such as commits.
SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: The same for what should not be at all: the event loop being blocked.
BLOCKS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Upper bounds of sizes.
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0)


class Histogram:
    """Counts values by the first of the ascending ``bounds`` that they do not exceed.

    Invariant: ``counts`` has one place more than ``bounds``, for what exceeds them all; a value is in one place only.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """How many values do not exceed each bound, and, last, how many there are."""
        return list(accumulate(self.counts))
