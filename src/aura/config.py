"""Where the settings come from: a flag beats an environment variable beats ``aura.toml`` beats the default.

``load_settings`` reads the file, checks everything and gives one frozen ``Settings``; an unknown key is an error that
names its nearest neighbour. Nothing here looks at the plans or at the data folder. ``settings`` has the settings
themselves; who needs both finds them here.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aura.errors import ConfigError, ExitCode, did_you_mean
from aura.settings import (
    LaneSettings,
    ServerSettings,
    Settings,
    SettingsFile,
    contradictions,
    decode_hook,
    is_loopback,
    parse_size,
    resources_of,
)

__all__ = [
    "LaneSettings",
    "ServerSettings",
    "Settings",
    "is_loopback",
    "load_settings",
    "origins",
    "parse_size",
    "setting_names",
]

CONFIG_NAME = "aura.toml"
SECTIONS = ("lanes", "resources", "vars", "server", "store", "logs", "interrupts")
#: Variables that begin with AURA_ and are no settings, though Aura or its tests read them.
NO_SETTINGS = frozenset({"AURA_SERVER", "AURA_TOKEN", "AURA_FAILPOINT"}) | {
    *("AURA_BOOT", "AURA_CID", "AURA_STEP", "AURA_ATTEMPT", "AURA_PROCESS"),  # a run's command may call `aura`
}
SECRET_PREFIX = "AURA_SECRET_"  # noqa: S105 - the name of a family of variables, not a secret
#: What can only be said on the command line, because a forgotten line in a file would be dangerous or puzzling.
ONLY_FLAGS = {"no_auth": "--no-auth", "reload": "--no-reload"}
Path_ = tuple[str, ...]


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
    tree: dict[str, Any] = {section: {} for section in SECTIONS}
    for layer in (_defaults(environ, cwd), _from_file(config, cwd), _from_environ(environ, cwd)):
        _merge(tree, layer)
    _merge(tree, _nested(given_flags, cwd))
    settings = _settings(tree, no_auth=bool(flags.get("no_auth")), reload=flags.get("reload") is not False)
    _check(settings)
    return settings


def make_settings(given: Mapping[str, Any], plans: Path, data: Path) -> Settings:
    """Put the settings of an embedded server together. Neither the environment nor a file is read.

    ``given`` has the keys of ``aura.toml``, but for ``plans`` and ``data``; paths are relative to the working folder.

    Raises:
        ConfigError: as ``load_settings``.
    """
    where = "settings"
    for name in {"plans", "data"} & given.keys():
        raise ConfigError(f"{where}: {name}: give it as the argument {name}=")
    _check_keys(given, SettingsFile, where, ())
    tree: dict[str, Any] = {section: {} for section in SECTIONS}
    for layer in ({"lanes": _LANE_DEFAULTS}, _absolute(dict(given), Path.cwd())):
        _merge(tree, layer)
    _merge(tree, _absolute({"plans": plans, "data": data}, Path.cwd()))
    settings = _settings(tree, no_auth=False, reload=True, source=where)
    _check(settings)
    return settings


def setting_names() -> list[str]:
    """Every key of ``aura.toml`` with its dots, such as ``server.port``; for the docs and their test."""
    return sorted(".".join(path) for path in _leaves(SettingsFile))


def origins(environ: Mapping[str, str], config: Path | None = None, cwd: Path | None = None) -> dict[str, str]:
    """Which settings are not left to their default: name with its dots → the file or the variable that says them.

    Raises:
        ConfigError: as ``load_settings``.
    """
    cwd = cwd or Path.cwd()
    tree = _from_file(config, cwd)
    found = {path: str(cwd / (config or CONFIG_NAME)) for path in _leaves(SettingsFile) if _is_in(tree, path)}
    found |= {path: _variable(path) for path in _leaves(SettingsFile) if environ.get(_variable(path))}
    return {".".join(path): source for path, source in found.items()}


def _is_in(tree: Mapping[str, Any], path: Path_) -> bool:
    node: Any = tree
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


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
    _check_keys(tree, SettingsFile, file.name, ())
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
    dotted = {path[-1]: ".".join(path) for path in _leaves(SettingsFile)}
    near = difflib.get_close_matches(key, dotted, n=1)
    return f"; did you mean {dotted[near[0]]}?" if near else ""


def _unknown(shown: str, path: Path_, hint: str) -> ConfigError:
    if len(path) == 1 and path[0] in ONLY_FLAGS:
        return ConfigError(f"{shown}: this is no setting; say {ONLY_FLAGS[path[0]]} on the command line")
    return ConfigError(f"{shown}: unknown setting{hint or '; docs/reference/settings.md lists them all'}")


def _from_environ(environ: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """``AURA_PORT`` is server.port, ``AURA_LANES__MAIN__LIMIT`` is lanes.main.limit. Empty counts as not set."""
    known = {_variable(path): (path, kind) for path, kind in _leaves(SettingsFile).items()}
    found: dict[Path_, Any] = {}
    for name, text in environ.items():
        if not name.startswith("AURA_") or name in NO_SETTINGS or name.startswith(SECRET_PREFIX) or not text:
            continue
        if name.startswith("AURA_VARS__") and name.count("__") == 2:
            _, plan, var = name.lower().split("__")
            found["vars", plan, var] = _json_or_text(text)
        elif name.startswith("AURA_RESOURCES__") and name.count("__") == 1:
            found["resources", name.lower().partition("__")[2]] = _json_or_text(text)
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
    """Every setting that has a value of its own, but what has free names (``resources``, ``vars``) or cannot be set."""
    found: dict[Path_, Any] = {}
    for field in msgspec.structs.fields(kind):
        path = (*at, field.name)
        if _is_struct(field.type):
            found |= _leaves(field.type, path)
        elif path not in (("resources",), ("vars",), ("lanes", "interrupt", "limit")):
            found[path] = field.type
    return found


def _read_text(name: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False, dec_hook=decode_hook)
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


def _settings(tree: dict[str, Any], *, no_auth: bool, reload: bool, source: str = CONFIG_NAME) -> Settings:
    try:
        made = msgspec.convert(tree, SettingsFile, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = what.replace("`object`", "a table")
        raise ConfigError(f"setting {where.rstrip('`')}: {what}; correct it in {source}") from None
    lanes = {field: getattr(made.lanes, field) for field in made.lanes.__struct_fields__}
    try:
        resources = resources_of(made.resources)
    except ValueError as error:
        raise ConfigError(f"{error}; correct it in {source}") from None
    return Settings(
        plans=made.plans,
        data=made.data,
        server=made.server,
        lanes=lanes,
        vars=made.vars,
        store=made.store,
        logs=made.logs,
        resources=resources,
        interrupts=made.interrupts,
        no_auth=no_auth,
        reload=reload,
    )


def _check(settings: Settings) -> None:
    """What no single value shows."""
    for message in contradictions(settings.server):
        raise ConfigError(message)
    if settings.no_auth and not settings.server.loopback:
        message = f"--no-auth with host {settings.server.host} would let anyone on the network run commands here"
        raise ConfigError(f"{message}; leave it out, or listen on 127.0.0.1", ExitCode.UNSAFE)
