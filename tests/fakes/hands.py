"""A clock whose hands a test moves."""


class Hands:
    """Wall and monotonic time, both ``now``."""

    recheck = 5.0

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
