"""Stories: what becomes of a server, its plan and its clock over weeks or a year, made up from a seed.

Each chapter says how long the server stands before it, and what happens then. Times of chapters lie on whole hours or a
few seconds beside them, where items are due.
"""

from collections.abc import Iterator
from random import Random
from typing import Literal

import msgspec
from tests.scheduling.year.nominal import DAY, Item, Trigger

HOUR = 3600.0
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca")
CRONS = ("0 */6 * * *", "30 2 * * *", "15 1-3 * * *", "*/20 2 * * 0", "0 12 * * 1-5", "5 4 1 * *", "0 0 29 2 *",
         "0 3 13 * 5", "30 1,2 * * *", "0 */4 * * 0,6")  # fmt: skip
PERIODS = (3 * HOUR, 433 * 60.0, 11.5 * HOUR, DAY, 7 * DAY + 61.0)
GRACES = (None, None, 600.0, 3 * HOUR, 2 * DAY)
#: Seconds beside a whole hour, or half of one, at which something happens.
BESIDE = (-3.0, -0.4, 0.0, 0.3, 2.0, 4.3, 6.7, 20.0, 400.0)
Kind = Literal["close", "crash", "pause", "reload", "jump", "switch"]
KINDS: tuple[Kind, ...] = ("close", "crash", "crash", "pause", "reload", "reload", "jump", "jump", "switch")


class Chapter(msgspec.Struct, frozen=True):
    """What happens at ``at``, a wall time after that of the chapter before, as far as no clock jumps.

    ``seconds``: for how long it is down or paused, or by how much the clock jumps. ``turns``: of a crash, so many turns
    of the loop after what is due then has begun; None if it comes when all is quiet. ``items``: the plan from then on.
    ``item``: what is switched, ``on`` or off.
    """

    kind: Kind
    wait: float
    seconds: float = 0.0
    turns: int | None = None
    items: tuple[Item, ...] | None = None
    item: str = ""
    on: bool = True


class Story(msgspec.Struct, frozen=True):
    """``begin`` is the wall time at which the server first starts, ``rest`` the seconds after the last chapter."""

    begin: float
    items: tuple[Item, ...]
    chapters: tuple[Chapter, ...]
    rest: float = DAY


def tell(seed: int, days: float, pause: float = 4.0) -> Story:
    """Make up a story of so many days, with ``pause`` days between two chapters on average."""
    random = Random(seed)
    begin = 1_767_225_600.0 + random.randrange(0, 4 * 365) * DAY + random.randrange(86_400) + random.random()
    items = tuple(_item(random, f"item{number}", begin) for number in range(random.randint(3, 6)))
    chapters = tuple(_chapters(random, begin, days, pause, items))
    return Story(begin, items, chapters)


def _chapters(random: Random, begin: float, days: float, pause: float, items: tuple[Item, ...]) -> Iterator[Chapter]:
    now, gone = begin, list[Item]()
    while True:
        wait = _wait(random, now, pause)
        now += wait
        if now > begin + days * DAY:
            return
        chapter = _chapter(random, random.choice(KINDS), wait, now, items, gone)
        if chapter.items is not None:
            gone += [item for item in items if item.name not in {one.name for one in chapter.items}]
            items = chapter.items
        now += chapter.seconds
        yield chapter


def _wait(random: Random, now: float, pause: float) -> float:
    """Until a whole hour or half of one, or a little beside; a jump needs an hour to be seen coming."""
    raw = now + HOUR + random.expovariate(1 / (pause * DAY))
    if random.random() < 0.3:
        return raw - now
    return raw // 1800 * 1800 + 1800 + random.choice(BESIDE) - now


def _chapter(random: Random, kind: Kind, wait: float, now: float, items: tuple[Item, ...], gone: list[Item]) -> Chapter:
    match kind:
        case "close" | "pause":
            return Chapter(kind, wait, seconds=_away(random))
        case "crash":
            turns = random.choice((None, *range(12)))
            back = random.random() < 0.1  # a machine that starts with a clock that is behind
            away = -random.choice((30.0, 7200.0, 2 * DAY)) if back else _away(random)
            plan = _changed(random, now, items, gone) if random.random() < 0.2 else None
            return Chapter(kind, wait, seconds=away, turns=turns, items=plan)
        case "reload":
            return Chapter(kind, wait, items=_changed(random, now, items, gone))
        case "jump":
            return Chapter(kind, wait, seconds=_jump(random))
        case "switch":
            return Chapter(kind, wait, item=random.choice(items).name, on=random.random() < 0.5)


def _away(random: Random) -> float:
    raw = random.choice((1.0, 4.7, 6.0, 60.0, 700.0, 2 * HOUR, 11 * HOUR, DAY, 3 * DAY, 20 * DAY))
    return raw * random.choice((1.0, random.random()))


def _jump(random: Random) -> float:
    raw = random.choice((1.0, 30.0, 59.0, 61.0, 600.0, HOUR, 7 * HOUR, DAY, 4 * DAY))
    return random.choice((-1, 1)) * raw


# -- items


def _changed(random: Random, now: float, items: tuple[Item, ...], gone: list[Item]) -> tuple[Item, ...]:
    """One item is changed, goes, comes back or is new; or nothing has changed."""
    what, victim = random.choice(("change", "change", "drop", "back", "new", "same", "off")), random.choice(items)
    others = tuple(item for item in items if item is not victim)
    if what == "change":
        return (*others, _altered(random, victim, now))
    if what == "off":
        return (*others, msgspec.structs.replace(victim, enabled=not victim.enabled))
    if what == "drop" and len(items) > 2:
        return others
    back = [item for item in gone if item.name not in {one.name for one in items}]
    if what == "back" and back:
        return (*items, random.choice(back))
    if what == "new" and len(items) < 8:
        return (*items, _item(random, f"late{int(now)}", now))
    return items


def _altered(random: Random, item: Item, now: float) -> Item:
    if random.random() < 0.5:
        return msgspec.structs.replace(item, triggers=(*item.triggers[1:], _trigger(random, now)))
    mode, task = _mode(random)
    return msgspec.structs.replace(item, mode=mode, task=task)


def _item(random: Random, name: str, now: float) -> Item:
    triggers = dict.fromkeys(_trigger(random, now) for _ in range(random.choice((1, 1, 2, 3))))
    mode, task = _mode(random)
    return Item(name, tuple(triggers), task, mode, random.random() < 0.9)


def _mode(random: Random) -> tuple[str, str]:
    """And the task: one that takes hours would pile up in some modes."""
    mode = random.choice(("single", "single", "restart", "queued", "parallel"))
    return mode, "long" if mode in ("single", "restart") and random.random() < 0.4 else "work"


def _trigger(random: Random, now: float) -> Trigger:
    misfire = random.choice(("run_once", "run_once", "skip", "run_all"))
    grace, jitter = random.choice(GRACES), random.choice((0.0, 0.0, 30.0, 600.0))
    match random.choice(("cron", "cron", "every", "grid", "at")):
        case "cron":
            zone = random.choice(ZONES)
            return Trigger(cron=random.choice(CRONS), zone=zone, misfire=misfire, grace=grace, jitter=jitter)
        case "every":
            return Trigger(every=random.choice(PERIODS), misfire=misfire, grace=grace, jitter=jitter)
        case "grid":
            start = float(int(now + random.uniform(-30, 30) * DAY))
            return Trigger(every=random.choice(PERIODS), start=start, misfire=misfire, grace=grace, jitter=jitter)
        case _:
            time = float(int(now + random.uniform(-1, 60) * DAY))
            return Trigger(at=time, misfire=misfire, grace=grace, jitter=jitter)
