"""``make schedule-check N=50``: as many simulated years as asked for, and a seed by which they can be repeated."""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.scheduling.year.checker import problems
from tests.scheduling.year.story import tell
from tests.scheduling.year.telling import History, Teller

from aura.testing.virtual_time import VirtualLoop

DAYS = 365.0


def live(seed: int, days: float) -> History:
    """One story, told to worlds on a loop of its own."""
    with tempfile.TemporaryDirectory(prefix="aura-year-") as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(Teller(Path(folder), tell(seed, days)).tell())


def main(years: int, seed: int) -> int:
    """Run it, say what came of it, and give the exit code: 1 if anything is wrong."""
    print(f"{years} years, SEED={seed}", flush=True)
    begun, counts, wrong = time.monotonic(), Counter[str](), 0
    for number in range(seed, seed + years):
        story = tell(number, DAYS)
        history = live(number, DAYS)
        found = problems(history)
        wrong += bool(found)
        counts.update(chapter.kind for chapter in story.chapters)
        counts["runs"] += sum(len(span.runs) for span in history.spans)
        counts["lines"] += sum(len(span.lines) for span in history.spans)
        counts["missed"] += sum(line.count for span in history.spans for line in span.lines)
        print("\n".join([f"seed {number}: {dict(counts)}", *found[:20]]), flush=True)
    print(f"{years} years in {time.monotonic() - begun:.0f} s, {wrong} with something wrong: {dict(counts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    given = [*sys.argv[1:], "", ""]
    sys.exit(main(int(given[0] or 50), int(given[1] or 1)))
