"""The redactor: the one thing that knows every secret of a server, and hides each wherever text leaves it.

It stands in front of every sink: the journal (log lines, events, what streams and the console show of them), what the
store keeps of runs and steps, failures, and the doors. What a secret looks like there is for ``secretforms``, how it is
found for ``needles``; here is which secrets are known, for how long, and what is put in their place.

Known are the secrets that were read for a plan, from the moment in which they were read: the last ``FORMER`` values of
each, so that a value stays hidden after it was changed. And the secret inputs of a run, from its first start until
``KEPT_RUNS`` other runs with secret inputs have ended after it, since its last lines may come late.

Where a text says that it was cut (``… 12 bytes dropped``) the beginning of a secret before that place is hidden, and
the end of one behind it. A secret shorter than ``MIN_SECRET`` characters cannot be looked for in other text; it is
hidden where it is the whole of a text, and whoever reads it is warned. In data, a key or a text that is one of Aura's
``OWN_WORDS`` stays, whatever the secrets are: records could not be read without them, and they tell nothing. If
anything goes wrong here, the whole text is hidden.
"""

import re
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from aura.masking import MASK
from aura.needles import Needles, Span, merged
from aura.secretforms import forms_of, is_findable

#: How many values of one secret of a plan are known at a time.
FORMER = 16
#: How many runs that have ended are remembered with their secret inputs.
KEPT_RUNS = 100
_MASK = MASK.encode()
#: How a text says that a part of it was left out (``events``, ``pipes``), and half a character before that place.
_DROPPED = b" bytes dropped"
_CUT = re.compile(rb"[ \n]\xe2\x80\xa6 \d+ bytes dropped(?: \xe2\x80\xa6)?\n?")
_BROKEN = "\N{REPLACEMENT CHARACTER}".encode()
_NUMBER = frozenset("0123456789+-.eE")
_WORDS = """
    accepted queued starting running waiting stopping preempted pending retrying succeeded failed skipped cancelled
    timed_out refused ended_early dependency approval message attempt delay_s because explained expression values wanted
    root_state reason crashed output outputs pattern inputs approved exception stdout stderr stream
    properties required additionalProperties secret writeOnly description default string number integer boolean object
    minimum maximum minLength maxLength minItems maxItems array event sleep retry round task when while until
"""
#: What Aura and its clients read again in records, events and answers: keys, and texts such as states and kinds.
OWN_WORDS = frozenset(_WORDS.split())


class Redactor:
    """Knows secrets and hides them. Hiding may be called from any thread, and never raises."""

    def __init__(self) -> None:
        #: Whether it knows any: as long as it does not, nothing is looked at.
        self.knows = False
        self._lock = threading.Lock()  # held while secrets come or go, for microseconds
        self._needles = Needles()
        self._counts: Counter[str] = Counter()
        #: Those that are hidden only where they are the whole of a text, and those that may be written as a number.
        self._whole: set[str] = set()
        self._numbers: set[str] = set()
        self._former: dict[str, deque[str]] = {}
        self._runs: dict[str, tuple[str, ...]] = {}
        self._ended: deque[str] = deque()

    # -- what is known

    def learn(self, owner: str, secret: str) -> None:
        """Hide a secret from now on: the present value of what ``owner`` names, such as ``plan/name``."""
        former = self._former.get(owner)
        if former and former[-1] == secret:
            return
        with self._lock:
            former = self._former.setdefault(owner, deque())
            if secret in former:
                former.remove(secret)
            else:
                self._take(secret)
            former.append(secret)
            if len(former) > FORMER:
                self._drop(former.popleft())

    def hold(self, cid: str, secrets: Iterable[str]) -> None:
        """Hide what is secret of what a run was given: of its inputs, and of what somebody has answered it.

        Those too short to be looked for are left out.
        """
        with self._lock:
            known = self._runs.get(cid, ())
            more = {secret for secret in secrets if is_findable(secret)}.difference(known)
            self._runs[cid] = (*known, *more)
            for secret in more:
                self._take(secret)

    def release(self, cid: str) -> None:
        """Forget the inputs of a run that has ended, when enough others have ended after it."""
        if cid not in self._runs:
            return
        with self._lock:
            self._ended.append(cid)
            if len(self._ended) > KEPT_RUNS:
                for secret in self._runs.pop(self._ended.popleft(), ()):
                    self._drop(secret)

    def _take(self, secret: str) -> None:
        self._counts[secret] += 1
        if self._counts[secret] == 1 and secret:
            for form in forms_of(secret):
                self._needles.add(form)
            if not is_findable(secret):
                self._whole.add(secret)
            if _NUMBER.issuperset(secret):
                self._numbers.add(secret)
        self.knows = True

    def _drop(self, secret: str) -> None:
        self._counts[secret] -= 1
        if self._counts[secret] <= 0:
            del self._counts[secret]
            for form in forms_of(secret):
                self._needles.drop(form)
            self._whole.discard(secret)
            self._numbers.discard(secret)
        self.knows = bool(self._counts)

    # -- hiding

    def text(self, text: str) -> str:
        """The text with ``***`` for each secret in it; the same text if there is none."""
        if not self.knows:
            return text
        try:
            if text in self._whole:
                return MASK
            data = text.encode("utf-8", "surrogatepass")
            spans = self._needles.find(data)
            if _DROPPED in data:
                spans = merged([*spans, *self._cut_off(data)])
            return _without(data, spans).decode("utf-8", "surrogatepass") if spans else text
        except Exception:
            return MASK

    def _cut_off(self, data: bytes) -> Iterator[Span]:
        """What is left of secrets that were cut, on both sides of each place that says so."""
        for cut in _CUT.finditer(data):
            end = len(data[: cut.start()].removesuffix(_BROKEN))
            low = self._needles.open_end(data[:end])
            if low < end:
                yield low, end
            high = cut.end() + self._needles.open_start(data[cut.end() :])
            if high > cut.end():
                yield cut.end(), high

    def plain(self, value: Any) -> Any:
        """Plain JSON data with ``***`` for each secret in its texts, keys and numbers; the same if there is none."""
        if not self.knows:
            return value
        try:
            return self._plain(value)
        except Exception:
            return MASK

    def _plain(self, value: Any) -> Any:
        match value:
            case str():
                return value if value in OWN_WORDS else self.text(value)
            case dict():
                shown = {self._key(key): self._plain(item) for key, item in value.items()}
                same = all(map(_is, shown, value)) and all(map(_is, shown.values(), value.values()))
                return value if same and len(shown) == len(value) else shown
            case list() | tuple():
                items = [self._plain(item) for item in value]
                return value if all(map(_is, items, value)) else items
            case int() | float() if self._numbers and not isinstance(value, bool):
                return MASK if self.text(str(value)) != str(value) or str(value) in self._numbers else value
        return value

    def _key(self, key: str) -> str:
        """A key of a mapping is Aura's or the author's word; one that happens to be a short secret says nothing."""
        return key if key in self._whole or key in OWN_WORDS else self.text(key)

    def encoded(self, data: bytes) -> bytes:
        """JSON with ``***`` for each secret in it, still JSON; the same bytes if there is none."""
        if not self.knows:
            return data
        try:
            if not self._whole and _DROPPED not in data and not self._needles.find(data):
                return data
            value = msgspec.json.decode(data)
            shown = self._plain(value)
            return data if shown is value else msgspec.json.encode(shown)
        except Exception:
            return b'"%b"' % _MASK

    def stream(self) -> "Stream":
        """For bytes that come in chunks, such as what a process prints."""
        return Stream(self, self._needles)


class Stream:
    """Hides secrets in bytes that come in chunks, wherever those are cut.

    What may be the beginning of a secret is held back until it is known, at most as much as the longest form of one
    has; the end of a line is not, but where a secret of several lines may go on behind it.
    """

    def __init__(self, redactor: Redactor, needles: Needles) -> None:
        self._redactor = redactor
        self._needles = needles
        self._held = b""
        #: How many of the first bytes that are held back are part of a secret whose mask has been given.
        self._masked = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk and give what may be shown now."""
        if not self._redactor.knows and not self._held:
            return chunk
        return self._pass(self._held + chunk, last=False)

    def end(self) -> bytes:
        """Give what is still held back: nothing more will come."""
        return self._pass(self._held, last=True)

    def _pass(self, data: bytes, last: bool) -> bytes:
        try:
            spans = list(self._needles.find(data))
            end = len(data) if last else self._needles.open_end(data)
        except Exception:
            self._held, self._masked = b"", 0
            return _MASK
        former = self._masked
        if not end:  # nothing of it may be shown yet
            self._held = data
            return b""
        if former:
            spans = merged([(0, former), *spans])
        shown = _without(data[:end], [(low, min(high, end)) for low, high in spans if low < end])
        self._held = data[end:]
        self._masked = max([high - end for low, high in spans if low < end < high], default=0)
        return shown.removeprefix(_MASK) if former else shown


def _without(data: bytes, spans: Sequence[Span]) -> bytes:
    parts: list[bytes] = []
    at = 0
    for low, high in spans:
        parts += (data[at:low], _MASK)
        at = high
    parts.append(data[at:])
    return b"".join(parts)


def _is(one: object, other: object) -> bool:
    return one is other
