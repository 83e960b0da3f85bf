"""Files that have changed, as they are told together: which files one event names, and what it brings about.

It looks at nothing and keeps nothing: ``filewatch`` does. What an event brings about joins its unit, with what is known
of its files from then on: whether its item starts or does not, they have been told.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aura.bus import MAX_PAYLOAD, Delivery
from aura.errors import RequestError
from aura.events import EventEntry
from aura.records.columns import encode
from aura.records.files import WatchKey, put_files
from aura.records.runs import together
from aura.runs.runtime import Runtime
from aura.schedule import Change, Trigger
from aura.scheduling.filesets import Sign, shown
from aura.scheduling.liveitem import LiveItem
from aura.scheduling.starts import LATER, Starts, Wish, event_of, why_refused

FILE_CHANGED = "file.changed"
#: How many files one event names at most.
MAX_FILES_TOLD = 1000
#: How many bytes of JSON they may be.
_ROOM = MAX_PAYLOAD - 1024


class Changed(NamedTuple):
    """A file that has changed; ``path`` is below the folder."""

    path: str
    change: Change
    sign: Sign | None

    def entry(self, root: str) -> dict[str, str]:
        """As an event names it: by its absolute path."""
        return {"path": shown(f"{root.rstrip('/')}/{self.path}"), "change": self.change.value}


def changed_of(settled: Mapping[str, Sign | None], known: Mapping[str, Sign]) -> list[Changed]:
    """What has become of files that were known; those that were there first come first."""
    found = [Changed(path, _change(path, sign, known), sign) for path, sign in settled.items()]
    return sorted(found, key=lambda one: (one.sign.mtime_ns if one.sign else 0, one.path))


def _change(path: str, sign: Sign | None, known: Mapping[str, Sign]) -> Change:
    if sign is None:
        return Change.DELETED
    return Change.MODIFIED if path in known else Change.ADDED


def batches(changed: Sequence[Changed], root: str, each: bool) -> Iterator[list[Changed]]:
    """What one event names each: a file, or as many as there is room for."""
    batch: list[Changed] = []
    size = 0
    for one in changed:
        bytes_more = len(encode(one.entry(root))) + 1
        if batch and (each or len(batch) == MAX_FILES_TOLD or size + bytes_more > _ROOM):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += bytes_more
    if batch:
        yield batch


class Batch:
    """The files of one event, and whom it is meant for (``bus.Subscriber``). ``learn`` hears of them once stored."""

    pattern = ""

    def __init__(
        self,
        runtime: Runtime,
        starts: Starts,
        live: LiveItem,
        trigger: Trigger,
        files: Sequence[Changed],
        key: WatchKey,
        learn: Callable[[Sequence[Changed]], object],
    ) -> None:
        self._runtime = runtime
        self._starts = starts
        self._live = live
        self._trigger = trigger
        self._files = files
        self._key = key
        self._learn = learn
        self.name = live.name

    def payload(self, each: bool) -> dict[str, Any]:
        """What the event tells."""
        entries = [one.entry(self._key.root) for one in self._files]
        return {**entries[0]} if each else {"files": entries}

    def offer(self, event: EventEntry) -> Delivery:
        """Say what the event brings about.

        Raises:
            RequestError: nothing can be stored now; it is to be told again.
        """
        known = put_files(self._key, {one.path: one.sign for one in self._files})
        wish = Wish(self._live, "file", self._trigger, event=event_of(event), also=lambda _: known)
        refusal = self._starts.refusal(wish)
        if refusal is None:
            try:
                delivery = self._starts.open(wish, event)
                return delivery._replace(committed=lambda: self._on_record(delivery.committed))
            except RequestError as refused:
                if refused.code in LATER:
                    raise
                refusal = why_refused(refused)
        line = self._starts.line(self._live, refusal.reason, f"{refusal.detail}; {self._shown()}")
        return Delivery(together([known, self._runtime.ledger.unit(line)]), lambda: self._on_record(bool), bool)

    def suspend(self, reason: str) -> None:
        """It is asked once."""

    def _on_record(self, then: Callable[[], object]) -> None:
        self._learn(self._files)
        then()

    def _shown(self) -> str:
        more = f" and {len(self._files) - 1} more files" if len(self._files) > 1 else ""
        return f"{self._files[0].entry(self._key.root)['path']}{more}"
