"""A writer that treats plans badly while a server watches them, and a sampler that looks at every version served.

Each version says its number in each of its files. The writer truncates and writes in place, writes byte by byte,
renames files, swaps folders and links, deletes and restores; now and then it rests, so that a version settles. What is
served must be all of one version, whole, and what was written last must be served in the end.

A writer that the machine has held up in the middle of a version has paused, for which nobody can blame the server: what
is mixed then is counted and not held against it.

``make reload`` does it a thousand times, ``test_hot_reload.py`` a few.
"""

import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles

import anyio
from tests.fakes.real import open_real

from aura.loading.generation import Generation
from aura.loading.generations import Generations
from aura.watching.settling import QUIET

#: Tasks of a plan, all of one version.
TASKS = 5
#: How long the writer rests after a version, in seconds: hardly, or until it is served.
HARDLY, RESTS = 0.05, 5.0
#: The plans: a folder, and a link to one.
NAMES = ("torn", "linked")


def files_of(number: int) -> dict[str, str]:
    """The files of a version."""
    code = f"from aura import action\n\nNUMBER = {number}\n\n\n@action\nasync def number() -> int:\n    return NUMBER\n"
    step = "steps: {only: {action: log, params: {message: hello}}}\n"
    tasks = {f"tasks/t{index}.yaml": f"title: v{number}\n{step}" for index in range(TASKS)}
    items = "".join(f"  i{index}: {{task: t{index}, triggers: [{{event: v{number}.x}}]}}\n" for index in range(TASKS))
    return {"plan.yaml": f"title: v{number}\n", "actions.py": code, "schedule.yaml": f"items:\n{items}", **tasks}


def versions_in(generation: Generation) -> set[int]:
    """The versions of which a plan that is served has something; -1 if something is missing."""
    plan = generation.plan
    titles = [plan.title, *(task.title for task in plan.tasks.values())]
    events = [str(item.triggers[0]).partition("'v")[2].partition(".")[0] for item in plan.items.values()]
    found = {int(title.removeprefix("v") or -1) for title in titles} | {int(number or -1) for number in events}
    found |= {action.function.__globals__["NUMBER"] for action in generation.actions.values()}
    whole = (len(plan.tasks), len(plan.items), len(generation.actions)) == (TASKS, TASKS, 1)
    return found if whole else found | {-1}


class Writer:
    """Writes version after version; runs in a thread."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.number = 0
        #: Versions in the middle of which the machine held the writer up.
        self.held_up: set[int] = set()
        #: Where each plan was last complete, and when.
        self.last: dict[str, tuple[int, float]] = {}
        self.rested = threading.Event()
        self._touched = 0.0
        for name in NAMES:
            self.make(root / f".{name}-0", 0)
        (root / ".torn-0").rename(root / "torn")
        (root / "linked").symlink_to(".linked-0")

    def make(self, folder: Path, number: int) -> None:
        """Write a whole version into a new folder."""
        (folder / "tasks").mkdir(parents=True)
        for path, text in files_of(number).items():
            (folder / path).write_text(text)

    def touch(self) -> None:
        """Something is about to be changed: note how long ago the last change was."""
        now = time.monotonic()
        if self._touched and now - self._touched > QUIET / 2:
            self.held_up |= {self.number, self.number - 1}
        self._touched = now

    def write(self, path: Path, text: str, size: int) -> None:
        """Truncate a file and write it anew, so many characters at a time."""
        self.touch()
        with path.open("w") as file:
            for begin in range(0, len(text), size):
                file.write(text[begin : begin + size])
                file.flush()
                self.touch()

    def in_place(self, home: Path, size: int = 10**6) -> None:
        files = list(files_of(self.number).items())
        self.random.shuffle(files)
        for path, text in files:
            self.write(home / path, text, size)
            if self.random.random() < 0.2:
                time.sleep(self.random.random() * QUIET / 8)

    def by_the_byte(self, home: Path) -> None:
        self.in_place(home, 1)

    def by_rename(self, home: Path) -> None:
        for path, text in files_of(self.number).items():
            temporary = home / f".{Path(path).name}.tmp"
            self.write(temporary, text, 10**6)
            temporary.rename(home / path)

    def swap_folder(self, home: Path) -> None:
        self.make(self.root / ".next", self.number)
        self.touch()
        home.rename(self.root / ".former")
        self.touch()
        (self.root / ".next").rename(home)
        shutil.rmtree(self.root / ".former")

    def delete_and_restore(self, home: Path) -> None:
        self.touch()
        shutil.rmtree(home)
        self.touch()
        time.sleep(self.random.random() * QUIET / 4)
        (home / "tasks").mkdir(parents=True)
        self.in_place(home)

    def swap_link(self, home: Path) -> None:
        self.make(self.root / f".linked-{self.number}", self.number)
        (self.root / ".link").symlink_to(f".linked-{self.number}")
        former = home.resolve()
        (self.root / ".link").rename(home)
        shutil.rmtree(former)

    def write_versions(self, count: int) -> None:
        """Write so many versions, each in one of these ways."""
        torn = (self.in_place, self.by_the_byte, self.by_rename, self.swap_folder, self.delete_and_restore)
        for self.number in range(1, count + 1):
            self._touched = 0.0
            linked = self.random.random() < 0.2
            home = self.root / ("linked" if linked else "torn")
            way: Callable[[Path], None] = self.swap_link if linked else self.random.choice(torn)
            way(home)
            self.rested.clear()
            self.last[home.name] = self.number, time.monotonic()
            if self.number == count or self.random.random() < 0.15:
                self.rested.wait(RESTS)
            else:
                time.sleep(self.random.random() * HARDLY)


class Report:
    """What was seen of the plans that were served."""

    def __init__(self) -> None:
        self.served = 0
        self.mixed: list[set[int]] = []
        self.held_up = 0
        #: From the last write to being served, in milliseconds, where the writer rested.
        self.delays: list[float] = []
        self.missing = 0

    def lines(self) -> list[str]:
        *_, p99 = quantiles(self.delays, n=100) if len(self.delays) > 1 else [0.0]
        return [
            f"{self.served} versions were served, {len(self.mixed)} mixed {self.mixed[:5]}",
            f"{self.held_up} mixed where the writer itself was held up, {self.missing} looks without the plan",
            f"served after p50 {median(self.delays or [0]):.0f} ms, p99 {p99:.0f} ms ({len(self.delays)} rests)",
        ]


class Sampler:
    """Looks at what is served, turn after turn of the loop."""

    def __init__(self, generations: Generations, writer: Writer) -> None:
        self.generations = generations
        self.writer = writer
        self.report = Report()
        self._seen: dict[str, Generation | None] = dict.fromkeys(NAMES)

    def look(self) -> None:
        """Look at all plans once."""
        present: Mapping[str, Generation] = self.generations._current
        for name, former in self._seen.items():
            generation = present.get(name)
            if generation is None:
                self.report.missing += 1
            elif generation is not former:
                self._seen[name] = generation
                self._judge(name, versions_in(generation))

    def _judge(self, name: str, versions: set[int]) -> None:
        self.report.served += 1
        number, at = self.writer.last.get(name, (0, 0.0))
        if len(versions) > 1 or -1 in versions:
            known = versions & self.writer.held_up
            self.report.held_up += bool(known)
            self.report.mixed += [] if known else [versions]
        elif at and versions == {number} == {self.writer.number} and not self.writer.rested.is_set():
            self.report.delays.append((time.monotonic() - at) * 1000)
            self.writer.rested.set()

    def serves_last(self) -> bool:
        """Whether all plans are served as they were written last."""
        last = {name: number for name, (number, _) in self.writer.last.items()}
        present = self.generations._current
        return all(name in present and versions_in(present[name]) == {number} for name, number in last.items())


async def torture(folder: Path, count: int, seed: int) -> Report:
    """Write ``count`` versions beside a server; return when it serves the last."""
    (folder / "plans").mkdir(parents=True)
    folder.chmod(0o700)
    writer = Writer(folder / "plans", seed)
    async with open_real(folder) as real:
        sampler = Sampler(real.server.engine.generations, writer)
        sampler.look()
        done = anyio.Event()

        async def write() -> None:
            await anyio.to_thread.run_sync(writer.write_versions, count)
            done.set()

        async with anyio.create_task_group() as group:  # the writer, which ends by itself
            group.start_soon(write)
            while not done.is_set():
                sampler.look()
                await anyio.sleep(0.001)
        with anyio.fail_after(RESTS):
            while not sampler.serves_last():
                await anyio.sleep(0.01)
                sampler.look()
    return sampler.report


def main(count: int, seed: int) -> int:
    """Torture a server and print what was seen; 0 if no version was mixed."""
    with tempfile.TemporaryDirectory() as folder:
        report = anyio.run(torture, Path(folder) / "server", count, seed)
    print(f"{count} versions written, seed {seed}", *report.lines(), sep="\n")
    return 1 if report.mixed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)))
