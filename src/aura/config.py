"""The settings: which there are, what they may be, and where they come from.

A flag beats an environment variable beats ``aura.toml`` beats the default. ``load_settings`` reads the file, checks
everything and gives one frozen ``Settings``; an unknown key is an error that names its nearest neighbour. Secrets and
tokens are no settings. Nothing here looks at the plans or at the data folder.

The keys of the file are those of ``_File`` and what it holds; ``docs/reference/settings.md`` has a heading for each.
"""

import difflib
import ipaddress
import json
import os
import re
import tomllib
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from aura.duration import Duration, parse_duration
from aura.errors import ConfigError, ExitCode, did_you_mean

CONFIG_NAME = "aura.toml"
#: Variables that begin with AURA_ and are no settings, though Aura or its tests read them.
NO_SETTINGS = frozenset({"AURA_SERVER", "AURA_TOKEN", "AURA_BOOT", "AURA_CID", "AURA_FAILPOINT"})
SECRET_PREFIX = "AURA_SECRET_"  # noqa: S105 - the name of a family of variables, not a secret
#: Sections of later versions: refused by name, so that nobody believes they are obeyed.
NOT_YET = frozenset({"resources", "interrupts"})
#: What can only be said on the command line, because a forgotten line in a file would be dangerous or puzzling.
ONLY_FLAGS = {"no_auth": "--no-auth", "reload": "--no-reload"}
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

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Path_ = tuple[str, ...]


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
    """``limit`` runs hold a place at once, ``queue`` more may wait; stuck runs give ``max_stuck`` places back."""

    limit: Positive
    queue: Positive = 10_000
    max_stuck: Natural = 4


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the history is kept: whichever of the two bounds is reached first."""

    days: Positive = 30
    runs: Positive = 100_000


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``min_free`` is the room on the disk, in bytes, below which new work is refused."""

    retention: Retention = Retention()
    min_free: Size = Size(64 * 2**20)


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``level`` is the lowest that is kept; ``ring`` is how many records readers may fall behind."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    ring: Positive = 10_000


class Settings(msgspec.Struct, frozen=True):
    """All settings. Paths are absolute; ``vars`` is plan → name → value; ``lanes`` has ``main event interrupt``."""

    plans: Path
    data: Path
    server: ServerSettings
    lanes: Mapping[str, LaneSettings]
    vars: Mapping[str, Mapping[str, Any]]
    store: StoreSettings
    logs: LogSettings
    no_auth: bool = False
    reload: bool = True


class _Lanes(msgspec.Struct, frozen=True):
    main: LaneSettings
    event: LaneSettings
    interrupt: LaneSettings


class _File(msgspec.Struct, frozen=True):
    """What ``aura.toml`` may hold, and so what the environment may."""

    plans: Path
    data: Path
    server: ServerSettings
    lanes: _Lanes
    vars: dict[str, dict[str, Any]]
    store: StoreSettings
    logs: LogSettings


_LANE_DEFAULTS = {"main": {"limit": 4}, "event": {"limit": 16}, "interrupt": {"limit": 1}}
_PATHS: frozenset[Path_] = frozenset(
    {("plans",), ("data",), ("server", "uds"), ("server", "tls_cert"), ("server", "tls_key")}
)
_FLAGS: dict[str, Path_] = {
    "plans": ("plans",),
    "data": ("data",),
    "host": ("server", "host"),
    "port": ("server", "port"),
    "uds": ("server", "uds"),
}


def load_settings(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None, cwd: Path | None = None
) -> Settings:
    """Put the settings together. A flag that is None was not given.

    ``flags``: ``plans data host port uds no_auth reload``. ``config``: the file; without it ``aura.toml`` in ``cwd``,
    if there is one. Paths in the file are relative to its folder, all others to ``cwd``.

    Raises:
        ConfigError: a key is unknown, or a value cannot be used; exit code 78 if it would be unsafe.
    """
    cwd = cwd or Path.cwd()
    given_flags = {_FLAGS[key]: value for key, value in flags.items() if key in _FLAGS and value is not None}
    tree: dict[str, Any] = {"lanes": {}, "vars": {}, "server": {}, "store": {}, "logs": {}}
    for layer in (_defaults(environ, cwd), _from_file(config, cwd), _from_environ(environ, cwd)):
        _merge(tree, layer)
    _merge(tree, _nested(given_flags, cwd))
    settings = _settings(tree, no_auth=bool(flags.get("no_auth")), reload=flags.get("reload") is not False)
    _check(settings)
    return settings


def is_loopback(host: str) -> bool:
    """Say whether a host, by its text alone, is this machine: ``localhost``, ``127.0.0.0/8`` or ``::1``."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def setting_names() -> list[str]:
    """Every key of ``aura.toml`` with its dots, such as ``server.port``; for the docs and their test."""
    return sorted(".".join(path) for path in _leaves(_File))


# -- where they come from ---------------------------------------------------------------------------------------------


def _defaults(environ: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """The state folder follows the XDG base directory specification, by which a relative path counts as none."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        state = Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return {"plans": cwd / "plans", "data": state / "aura", "lanes": _LANE_DEFAULTS}


def _from_file(config: Path | None, cwd: Path) -> dict[str, Any]:
    file = cwd / (config or CONFIG_NAME)
    if config is None and not file.exists():
        return {}
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; name a file that can be read with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}; it must be TOML, such as: port = 8700") from error
    _check_keys(tree, _File, file.name, ())
    return _absolute(tree, file.parent)


def _check_keys(tree: Mapping[str, Any], kind: type[msgspec.Struct], file: str, at: Path_) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tree.items():
        path = (*at, key)
        if key not in known:
            raise _unknown(f"{file}: {'.'.join(path)}", path, did_you_mean(key, known) or _elsewhere(key))
        if path == ("lanes", "interrupt") and isinstance(value, dict) and "limit" in value:
            raise ConfigError(f"{file}: {'.'.join(path)}.limit cannot be set: one handler runs at a time; remove it")
        if isinstance(value, dict) and _is_struct(known[key]):
            _check_keys(value, known[key], file, path)


def _elsewhere(key: str) -> str:
    """The hint for a key that is (nearly) right, but in another section."""
    dotted = {path[-1]: ".".join(path) for path in _leaves(_File)}
    near = difflib.get_close_matches(key, dotted, n=1)
    return f"; did you mean {dotted[near[0]]}?" if near else ""


def _unknown(shown: str, path: Path_, hint: str) -> ConfigError:
    if path[0] in NOT_YET:
        return ConfigError(f"{shown}: {path[0]} is not supported yet; remove it")
    if len(path) == 1 and path[0] in ONLY_FLAGS:
        return ConfigError(f"{shown}: this is no setting; say {ONLY_FLAGS[path[0]]} on the command line")
    return ConfigError(f"{shown}: unknown setting{hint or '; docs/reference/settings.md lists them all'}")


def _from_environ(environ: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """``AURA_PORT`` is server.port, ``AURA_LANES__MAIN__LIMIT`` is lanes.main.limit. Empty counts as not set."""
    known = {_variable(path): (path, kind) for path, kind in _leaves(_File).items()}
    found: dict[Path_, Any] = {}
    for name, text in environ.items():
        if not name.startswith("AURA_") or name in NO_SETTINGS or name.startswith(SECRET_PREFIX) or not text:
            continue
        if name.startswith("AURA_VARS__") and name.count("__") == 2:
            _, plan, var = name.lower().split("__")
            found["vars", plan, var] = _json_or_text(text)
        elif name in known:
            path, kind = known[name]
            found[path] = _read_text(name, text, kind)
        else:
            path = tuple(name.removeprefix("AURA_").lower().split("__"))
            raise _unknown(name, path, did_you_mean(name.replace("AURA_SERVER__", "AURA_"), known))
    return _nested(found, cwd)


def _variable(path: Path_) -> str:
    bare = path[1:] if path[0] == "server" else path
    return "AURA_" + "__".join(bare).upper()


def _leaves(kind: type[msgspec.Struct], at: Path_ = ()) -> dict[Path_, Any]:
    """Every setting that has a value of its own, but the free ``vars`` and what cannot be set."""
    found: dict[Path_, Any] = {}
    for field in msgspec.structs.fields(kind):
        path = (*at, field.name)
        if _is_struct(field.type):
            found |= _leaves(field.type, path)
        elif path not in (("vars",), ("lanes", "interrupt", "limit")):
            found[path] = field.type
    return found


def _read_text(name: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=_dec_hook)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}; it is {text!r}") from None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# -- how they are put together ----------------------------------------------------------------------------------------


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _nested(flat: Mapping[Path_, Any], base: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return _absolute(tree, base)


def _absolute(tree: dict[str, Any], base: Path, at: Path_ = ()) -> dict[str, Any]:
    """The same tree with each path made absolute, from ``base``."""
    made: dict[str, Any] = {}
    for key, value in tree.items():
        path = (*at, key)
        if path in _PATHS and isinstance(value, str | os.PathLike) and str(value):
            made[key] = Path(os.path.normpath(base / Path(value).expanduser()))
        else:
            made[key] = _absolute(value, base, path) if isinstance(value, dict) else value
    return made


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _settings(tree: dict[str, Any], *, no_auth: bool, reload: bool) -> Settings:
    try:
        made = msgspec.convert(tree, _File, dec_hook=_dec_hook)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = what.replace("`object`", "a table")
        raise ConfigError(f"setting {where.rstrip('`')}: {what}; correct it in {CONFIG_NAME}") from None
    lanes = {field: getattr(made.lanes, field) for field in made.lanes.__struct_fields__}
    return Settings(made.plans, made.data, made.server, lanes, made.vars, made.store, made.logs, no_auth, reload)


def _dec_hook(kind: type, value: object) -> object:
    if isinstance(value, kind):
        return value
    if kind is Size:
        return parse_size(value)
    if kind is Duration:
        return parse_duration(value)  # type: ignore[arg-type]  # it says itself what it cannot read
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"{value!r} is not a path")


def _check(settings: Settings) -> None:
    """What no single value shows."""
    for message in _contradictions(settings.server):
        raise ConfigError(message)
    if settings.no_auth and not settings.server.loopback:
        message = f"--no-auth with host {settings.server.host} would let anyone on the network run commands here"
        raise ConfigError(f"{message}; leave it out, or listen on 127.0.0.1", ExitCode.UNSAFE)


def _contradictions(server: ServerSettings) -> Iterator[str]:
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
