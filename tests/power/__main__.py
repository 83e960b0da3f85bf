"""``make power N=2000``: as many images of a disk as asked for, of stories told anew, and what becomes of each."""

import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio
from tests.power.story import record
from tests.power.verdicts import Verdict, verdicts

from aura.testing.virtual_time import VirtualLoop

RUNS = 24
IMAGES_A_STORY = 200
#: How the same is done where there are losses, and for what share of the images: the machine has to find them.
CONTROL = {"synchronous": "NORMAL"}


def tell(seed: int, images: int, **how: object) -> list[Verdict]:
    """One story, and so many images of its disk."""
    with TemporaryDirectory(prefix="aura-power-") as name:
        folder = Path(name)
        options = {"loop_factory": VirtualLoop}
        disk = anyio.run(lambda: record(folder, seed, RUNS, **how), backend_options=options)
        (folder / "image").mkdir()
        return list(verdicts(disk, Random(seed), images, folder / "image"))


def main(images: int, seed: int) -> int:
    """Run it, say what came of it, and give the exit code: 1 if anything is lost, or if the control finds nothing."""
    print(f"{images} images, SEED={seed}", flush=True)
    began = time.monotonic()
    found: list[Verdict] = []
    while len(found) < images:
        found += tell(seed + len(found), min(IMAGES_A_STORY, images - len(found)))
        print(f"{len(found)} images: {said(found)}", flush=True)
    control = tell(seed, IMAGES_A_STORY, **CONTROL)
    print(f"without syncs at commits, {len(control)} images: {said(control)}; {time.monotonic() - began:.0f} s")
    wrong = [verdict for verdict in found if verdict.word != "sound"]
    print("\n".join(map(str, wrong[:20])) or "nothing is lost")
    return bool(wrong) or all(verdict.word == "sound" for verdict in control)


def said(found: list[Verdict]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(v.word for v in found).most_common())


if __name__ == "__main__":
    given = [*sys.argv[1:], "", ""]
    sys.exit(main(int(given[0] or 2000), int(given[1] or time.time())))
