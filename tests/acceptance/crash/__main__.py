"""``make crash N=1000``: as many kills as asked for, with progress, and a seed by which they can be repeated."""

import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from random import Random

from tests.acceptance.crash.campaign import Campaign, Report, deaths
from tests.acceptance.crash.checks import problems
from tests.acceptance.crash.evidence import collect

from aura.failpoints import NAMES

#: Seconds that a life may have before it is killed at a random moment.
LONGEST = 1.5
EVERY = 10


def tell(report: Report) -> None:
    if report.kills % EVERY == 0:
        print(report, flush=True)


def main(kills: int, seed: int) -> int:
    """Run it, say what came of it, and give the exit code: 1 if anything is wrong; its folder is then kept."""
    print(f"{kills} kills, SEED={seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="aura-crash-"))
    begun = time.monotonic()
    random = Random(seed)
    planned = deaths(random, random.sample(NAMES, len(NAMES)), LONGEST, every=2)
    report = Campaign(folder, seed, tell).run(islice(planned, kills), older=True)
    evidence = collect(folder)
    print(f"{report}; {len(evidence.runs)} runs on record, {time.monotonic() - begun:.0f} s")
    print(f"{evidence.killed_running} times runs were killed with it; the last one ended with {report.end_code}")
    print(f"kills that met each moment:\n{report.sometimes}")
    if report.missed:
        print(f"these lives did not end as planned: {', '.join(report.missed)}")
    missed = [f"never reached: {death}" for death in report.missed if not report.hits[death.partition(":")[0]]]
    missed += [f"never: {moment}" for moment in report.sometimes.never()]
    wrong = [*report.wrong, *missed, *problems(evidence)]
    if wrong or report.end_code:
        print("\n".join([*wrong, f"SEED={seed}, kept in {folder}"]))
        return 1
    shutil.rmtree(folder)
    print("nothing is wrong")
    return 0


if __name__ == "__main__":
    given = [*sys.argv[1:], "", ""]
    sys.exit(main(int(given[0] or 1000), int(given[1] or time.time())))
