"""What it costs to look for secrets in a log line: none known, and ten of several lengths; and in 64 KiB of output.

In processor time, medians.

python benchmarks/bench_redaction.py [ROUNDS]
"""

import secrets
import statistics
import sys
import time
from collections.abc import Callable

from aura.redaction import Redactor

LINE = "2026-11-22 connection to backend 10.0.3.7:5432 took 12.3 ms, pool=7/32 retries=0 state=ready path=/api"[:100]
OUTPUT = (LINE + "\n") * 650
KNOWN = 10


def knowing(characters: int) -> Redactor:
    """A redactor that knows ten secrets of so many characters."""
    redactor = Redactor()
    for number in range(KNOWN if characters else 0):
        redactor.learn(f"bench/{number}", secrets.token_urlsafe(characters)[:characters])
    return redactor


def microseconds(work: Callable[[], object], times: int) -> float:
    begin = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - begin) / times * 1e6


def main(rounds: int = 5) -> None:
    for characters in (0, 32, 10, 7):
        redactor = knowing(characters)
        assert redactor.text(OUTPUT) is OUTPUT
        line = [microseconds(lambda: redactor.text(LINE), 20_000) for _ in range(rounds)]  # noqa: B023 - called at once
        output = [microseconds(lambda: redactor.text(OUTPUT), 20) for _ in range(rounds)]  # noqa: B023 - called at once
        known = f"{KNOWN} secrets of {characters} characters" if characters else "no secret known"
        print(
            f"{known:28}  line of 100: {statistics.median(line):5.2f} µs   64 KiB: {statistics.median(output):6.0f} µs"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
