"""Which settings there are and what each may be, as frozen structs. ``config`` finds their values and checks them.

Secrets and tokens are no settings. ``docs/reference/settings.md`` has a heading for each key of ``SettingsFile``.
"""

import ipaddress
import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from aura.duration import Duration, parse_duration
from aura.resources import Rate, Resource, Semaphore

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
MAX_UDS_BYTES = 107
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)\s*(B|[KMGT]i?B)?", re.ASCII | re.IGNORECASE)

#: The most that there may be of one resource.
MAX_RESOURCE = 1_000_000
_RESOURCE = re.compile(r"[a-z_][a-z0-9_]{0,63}")

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Size(int):
    """A number of bytes."""


def parse_size(text: object) -> Size:
    """Read ``64MiB``, ``1.5GB`` or a plain number of bytes.

    Raises:
        ValueError: it is none of these; the message says what to write.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return Size(text)
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found:
        return Size(float(found[1]) * UNITS[(found[2] or "B").upper()])
    raise ValueError(f"{text!r} is not a size; say 64MiB, 1GB or a number of bytes")


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the server is reached and how it ends.

    ``uds`` is the path of a Unix socket that takes the place of host and port. ``port`` 0 takes a free one.
    ``body_limit`` is in bytes; ``grace`` is how many seconds running work may take when the server stops.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8700
    uds: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    body_limit: Size = Size(2**20)
    grace: Duration = Duration(10)
    timezone: str = "UTC"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.uds is not None or is_loopback(self.host)


class LaneSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``limit`` runs hold a place at once, ``queue`` more may wait; stuck runs give ``max_stuck`` places back.

    ``queue_bytes``: what the inputs of those that wait may come to.
    """

    limit: Positive
    queue: Positive = 10_000
    queue_bytes: Size = Size(256 * 2**20)
    max_stuck: Natural = 4


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the history is kept: whichever of the two bounds is reached first."""

    days: Positive = 30
    runs: Positive = 100_000


class RateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rate`` of a resource can be spent in ``per``; it fills evenly."""

    rate: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESOURCE)]
    per: Duration


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``min_free`` is the room on the disk, in bytes, below which new work is refused."""

    retention: Retention = Retention()
    min_free: Size = Size(64 * 2**20)


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``level`` is the lowest that is kept; ``ring`` is how many records readers may fall behind."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    ring: Positive = 10_000


class InterruptSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``cross_plan``: the rules of a plan may stop the work of others."""

    cross_plan: bool = True


class Settings(msgspec.Struct, frozen=True):
    """All settings. Paths are absolute; ``vars`` is plan → name → value; ``lanes`` has ``main event interrupt``.

    ``resources`` are everyone's; a plan's own of the same name goes before.
    """

    plans: Path
    data: Path
    server: ServerSettings
    lanes: Mapping[str, LaneSettings]
    vars: Mapping[str, Mapping[str, Any]]
    store: StoreSettings
    logs: LogSettings
    resources: Mapping[str, Resource] = {}
    interrupts: InterruptSettings = InterruptSettings()
    no_auth: bool = False
    reload: bool = True
    #: New versions of plans with a gate have to pass it; no file says otherwise (``aura run --local`` does).
    gated: bool = True


class LanesFile(msgspec.Struct, frozen=True):
    main: LaneSettings
    event: LaneSettings
    interrupt: LaneSettings


class SettingsFile(msgspec.Struct, frozen=True):
    """What ``aura.toml`` may hold, and so what the environment may."""

    plans: Path
    data: Path
    server: ServerSettings
    lanes: LanesFile
    resources: dict[str, Annotated[int, msgspec.Meta(ge=1, le=MAX_RESOURCE)] | RateSettings]
    vars: dict[str, dict[str, Any]]
    store: StoreSettings
    logs: LogSettings
    interrupts: InterruptSettings


def resources_of(given: Mapping[str, int | RateSettings]) -> dict[str, Resource]:
    """The resources that a file declares.

    Raises:
        ValueError: one of them cannot have that name, or that rate.
    """
    found: dict[str, Resource] = {}
    for name, value in given.items():
        if not _RESOURCE.fullmatch(name):
            raise ValueError(f"setting resources: {name!r} cannot be a name; use lower-case letters, digits and _")
        if isinstance(value, RateSettings) and value.per <= 0:
            raise ValueError(f"setting resources.{name}: per is 0; say a time, such as 1m")
        found[name] = Rate(value.rate, float(value.per)) if isinstance(value, RateSettings) else Semaphore(value)
    return found


def is_loopback(host: str) -> bool:
    """Say whether a host, by its text alone, is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def decode_hook(kind: type, value: object) -> object:
    """Let msgspec make sizes, durations and paths from what a file or a variable says.

    Raises:
        ValueError: it is none; the message says what to write.
    """
    if isinstance(value, kind):
        return value
    if kind is Size:
        return parse_size(value)
    if kind is Duration:
        return parse_duration(value)  # type: ignore[arg-type]  # it says itself what it cannot read
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"{value!r} is not a path")


def contradictions(server: ServerSettings) -> Iterator[str]:
    """What no single value shows, each as a message."""
    if (server.tls_cert is None) != (server.tls_key is None):
        yield "setting server: tls_cert and tls_key belong together; give both or none"
    if server.uds is not None and len(os.fsencode(server.uds)) > MAX_UDS_BYTES:
        yield f"setting server.uds: {server.uds} is longer than {MAX_UDS_BYTES} bytes; choose a shorter path"
    if not server.host or any(c.isspace() or c in "/@" for c in server.host):
        yield f"setting server.host: {server.host!r} is not a host; say 127.0.0.1"
    if not _is_zone(server.timezone):
        yield f"setting server.timezone: there is no time zone {server.timezone!r}; say Europe/Berlin, or UTC"


def _is_zone(name: str) -> bool:
    """UTC needs no database of zones, which a small machine may lack."""
    try:
        return name == "UTC" or bool(zoneinfo.ZoneInfo(name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
