"""The key ``retry`` of a step: how often it is tried, how long it waits between two tries, what is worth another one.

Whether the names that ``when`` uses are there is for ``stepfile``.
"""

import re

from aura.loading.fields import Fields, kind_of
from aura.task import Retry

KEYS = ("attempts", "delay", "backoff", "max_delay", "jitter", "errors", "when")
MAX_ATTEMPTS = 1000
MAX_BACKOFF = 100.0
#: The name of an exception's class.
ERROR_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"

_ERROR = re.compile(ERROR_PATTERN)
_TIMES = ("delay", "backoff", "max_delay", "jitter")
_ONCE = Retry()


def read_retry(fields: Fields, default: Retry) -> Retry:
    """Read the field ``retry`` of a step; without it the default is taken as a whole."""
    if "retry" not in fields:
        return default
    retry = Fields(fields.reader, fields.at("retry"), fields.get("retry"), "retry", KEYS)
    made = Retry(
        attempts=retry.integer("attempts", 1, 1, MAX_ATTEMPTS),
        delay=retry.duration("delay", 0.0, zero=True),
        backoff=retry.number("backoff", 1.0, 1.0, MAX_BACKOFF),
        max_delay=retry.duration("max_delay", None),
        jitter=retry.boolean("jitter"),
        errors=_read_errors(retry),
        when=retry.condition("when"),
    )
    _report_no_effect(retry, made)
    return made


def _read_errors(retry: Fields) -> frozenset[str]:
    names = retry.value.get("errors")
    if "errors" not in retry:
        return frozenset()
    if not isinstance(names, list) or not names:
        retry.wrong("errors", f"a list of names of exceptions is needed, not {kind_of(names) if names else 'nothing'}")
        return frozenset()
    found: list[str] = []
    for index, name in enumerate(names):
        if isinstance(name, str) and _ERROR.fullmatch(name) and name not in found:
            found.append(name)
        else:
            _report_error_name(retry, index, name, found)
    return frozenset(found)


def _report_error_name(retry: Fields, index: int, name: object, before: list[str]) -> None:
    message = "the name of an exception is needed, such as ConnectionError, without its module"
    retry.reader.problem((*retry.at("errors"), index), f"{name} is named twice" if name in before else message)


def _report_no_effect(retry: Fields, made: Retry) -> None:
    """What would never be asked or waited for is a problem: it was not meant like this."""
    if made.attempts == 1:
        keys = ["errors", "when"]
        if "attempts" not in retry:  # with `attempts: 1` they may stay where tries are switched off for a while
            keys += [key for key in _TIMES if getattr(made, key) != getattr(_ONCE, key)]
        told = [key for key in keys if key in retry]
        if told and retry.value.get("attempts", 1) == 1:
            have = "have" if told[1:] else "has"
            message = f"retry: {' and '.join(told)} {have} no effect without attempts: 2 or more"
            retry.reader.problem(retry.path, message)
    if made.max_delay is not None and made.max_delay < made.delay:
        retry.wrong("max_delay", "is shorter than delay")
