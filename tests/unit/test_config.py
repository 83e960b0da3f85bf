"""Settings: where they come from, which wins, and what is refused."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aura.config import Settings, is_loopback, load_settings, make_settings, parse_size, setting_names
from aura.errors import ConfigError, ExitCode

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def load(
    folder: Path, toml: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    if toml:
        (folder / "aura.toml").write_text(toml, encoding="utf-8")
    return load_settings(flags or {}, {"HOME": "/home/ann"} | dict(environ or {}), cwd=folder)


def test_settings_nothing_given_are_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.plans == tmp_path / "plans"
    assert settings.data == Path("/home/ann/.local/state/aura")
    assert (settings.server.host, settings.server.port, settings.server.grace) == ("127.0.0.1", 8700, 10.0)
    assert {name: lane.limit for name, lane in settings.lanes.items()} == {"main": 4, "event": 16, "interrupt": 1}
    assert settings.server.body_limit == 1024 * 1024
    assert not settings.no_auth
    assert settings.reload


def test_settings_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    toml = "[server]\nport = 1\nhost = 'localhost'\ntimezone = 'Europe/Berlin'\n"
    settings = load(tmp_path, toml, {"AURA_PORT": "2", "AURA_HOST": "::1"}, {"port": 3})
    assert (settings.server.port, settings.server.host, settings.server.timezone) == (3, "::1", "Europe/Berlin")


def test_settings_flag_that_is_none_counts_as_not_given(tmp_path: Path) -> None:
    assert load(tmp_path, "[server]\nport = 1", flags={"port": None, "reload": None}).server.port == 1


@pytest.mark.parametrize(
    ("environ", "data"),
    [
        pytest.param({"AURA_DATA": "/d"}, "/d", id="aura_data"),
        pytest.param({"XDG_STATE_HOME": "/x"}, "/x/aura", id="xdg"),
        pytest.param({"XDG_STATE_HOME": "relative"}, "/home/ann/.local/state/aura", id="relative-xdg-is-none"),
        pytest.param({"AURA_DATA": "", "XDG_STATE_HOME": "/x"}, "/x/aura", id="empty-is-unset"),
        pytest.param({"AURA_DATA": "/d", "XDG_STATE_HOME": "/x"}, "/d", id="aura_data-beats-xdg"),
    ],
)
def test_data_folder_is_found(tmp_path: Path, environ: dict[str, str], data: str) -> None:
    assert load(tmp_path, environ=environ).data == Path(data)


def test_paths_of_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    config = tmp_path / "etc" / "my.toml"
    config.write_text('plans = "../p"\n[server]\nuds = "a.sock"')
    settings = load_settings({"data": "d"}, {}, config, tmp_path)
    assert (settings.plans, settings.data) == (tmp_path / "p", tmp_path / "d")
    assert settings.server.uds == tmp_path / "etc" / "a.sock"


def test_nested_settings_come_from_the_environment(tmp_path: Path) -> None:
    environ = {"AURA_LANES__MAIN__LIMIT": "9", "AURA_STORE__RETENTION__DAYS": "3", "AURA_STORE__MIN_FREE": "1GiB"}
    settings = load(tmp_path, "[lanes.main]\nqueue = 5", environ)
    assert (settings.lanes["main"].limit, settings.lanes["main"].queue) == (9, 5)
    assert (settings.store.retention.days, settings.store.retention.runs) == (3, 100_000)
    assert settings.store.min_free == 2**30


def test_vars_of_the_environment_are_json_or_text(tmp_path: Path) -> None:
    environ = {"AURA_VARS__LAB__INBOX": "/srv/in", "AURA_VARS__LAB__HOSTS": '["a"]'}
    settings = load(tmp_path, "[vars.lab]\ninbox = '/x'\nlimit = 3", environ)
    assert settings.vars == {"lab": {"inbox": "/srv/in", "hosts": ["a"], "limit": 3}}


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    environ = dict.fromkeys(["AURA_SERVER", "AURA_TOKEN", "AURA_BOOT", "AURA_CID", "AURA_SECRET_X"], "x")
    assert load(tmp_path, environ=environ) == load(tmp_path)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        pytest.param("[server]\nprot = 1", "aura.toml: server.prot: unknown setting; did you mean port?", id="near"),
        pytest.param("port = 1", "aura.toml: port: unknown setting; did you mean server.port?", id="other-section"),
        pytest.param("[lanes.mian]\nlimit = 1", "lanes.mian: unknown setting; did you mean main?", id="lane"),
        pytest.param("[resources]\nscreen = 0", "setting resources[...]: Expected `int` >= 1", id="no-resource"),
        pytest.param("[resources]\nscreen = {rate = 1}", "missing required field `per`", id="half-a-rate"),
        pytest.param("[resources]\nscreen = {rate = 1, per = '0s'}", "resources.screen: per is 0", id="no-time"),
        pytest.param("[resources]\nScreen = 1", "'Screen' cannot be a name", id="name-of-a-resource"),
        pytest.param(
            "[interrupts]\ncross_plans = true", "interrupts.cross_plans: unknown setting; did", id="interrupts"
        ),
        pytest.param("[interrupts]\ncross_plan = 1", "interrupts.cross_plan: Expected `bool`", id="not-a-bool"),
        pytest.param("no_auth = true", "say --no-auth on the command line", id="no_auth"),
        pytest.param("[lanes.interrupt]\nlimit = 2", "one handler runs at a time", id="interrupt-limit"),
        pytest.param('[server]\nport = "1"', "setting server.port: Expected `int`, got `str`", id="type"),
        pytest.param("[server]\nport = 65536", "setting server.port", id="range"),
        pytest.param("[server]\ngrace = 10", "setting server.grace", id="bare-duration"),
        pytest.param("[server]\nbody_limit = -1", "-1 is not a size; say 64MiB", id="size"),
        pytest.param("[lanes.main]\nlimit = 0", "setting lanes.main.limit: Expected `int` >= 1", id="no-places"),
        pytest.param("[lanes]\nmain = 3", "setting lanes.main: Expected a table", id="not-a-table"),
        pytest.param("[vars]\nlab = 3", "setting vars[...]: Expected a table", id="vars"),
        pytest.param('[server]\ntimezone = "Mars/X"', "there is no time zone 'Mars/X'", id="zone"),
        pytest.param('[server]\ntimezone = "../x"', "there is no time zone '../x'", id="zone-path"),
        pytest.param('[server]\ntls_cert = "c"', "give both or none", id="tls"),
        pytest.param('[server]\nhost = "http://x"', "is not a host", id="host"),
        pytest.param('plans = ""', "setting plans: '' is not a path", id="empty-path"),
        pytest.param("[server]\nuds = '/" + "u" * 120 + "'", "longer than 107 bytes", id="uds"),
        pytest.param("x", "it must be TOML", id="not-toml"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(tmp_path, toml)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("AURA_PROT", "1", "AURA_PROT: unknown setting; did you mean AURA_PORT?", id="near"),
        pytest.param("AURA_SERVER__PORT", "1", "did you mean AURA_PORT?", id="bare-name"),
        pytest.param("AURA_PORT", "x", "AURA_PORT: Expected `int`, got `str`; it is 'x'", id="type"),
        pytest.param("AURA_GRACE", "10", "AURA_GRACE", id="bare-duration"),
        pytest.param("AURA_RESOURCES__SCREEN", "big", "Expected", id="resource"),
        pytest.param("AURA_NO_AUTH", "1", "say --no-auth on the command line", id="only-a-flag"),
        pytest.param("AURA_LANES__INTERRUPT__LIMIT", "2", "unknown setting", id="interrupt-limit"),
        pytest.param("AURA_VARS__LAB", "2", "unknown setting", id="vars-of-no-name"),
    ],
)
def test_bad_variable_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(tmp_path, environ={name: text})


def test_config_file_that_is_named_but_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_settings({}, {}, Path("gone.toml"), tmp_path)


def test_config_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "aura.toml").write_bytes(b'plans = "\xe9"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org"])
def test_no_auth_off_loopback_is_unsafe(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="let anyone") as caught:
        load(tmp_path, flags={"host": host, "no_auth": True})
    assert caught.value.exit_code == ExitCode.UNSAFE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_no_auth_on_loopback_is_allowed(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    assert load(tmp_path, flags={"host": host, "no_auth": True}).no_auth


def test_no_auth_on_a_unix_socket_is_allowed(tmp_path: Path) -> None:
    assert load(tmp_path, flags={"host": "0.0.0.0", "uds": "a.sock", "no_auth": True}).no_auth


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 2**20), ("64 mib", 64 * 2**20), ("1.5kB", 1500), ("10B", 10), ("10", 10), (10, 10), ("2GB", 2 * 10**9)],
)
def test_parse_size(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "1XB", "-1", "1e9", "1.2.3kB", -1, True, None, 1.5, "\u0663MiB", "9" * 400]
)
def test_parse_size_of_something_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_every_setting_has_a_heading_in_the_reference() -> None:
    headings = set(re.findall(r"^### `([^`]+)`", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))
    assert headings == {*setting_names(), "resources.NAME", "vars.PLAN.NAME"}


def test_settings_of_a_mapping_are_the_defaults_but_for_it(tmp_path: Path) -> None:
    for limit in (9, None):  # the second time nothing of the first is left
        given = {"server": {"grace": "1s"}, **({"lanes": {"main": {"limit": limit}}} if limit else {})}
        settings = make_settings(given, tmp_path / "p", tmp_path / "d")
        assert (settings.plans, settings.data) == (tmp_path / "p", tmp_path / "d")
        assert (settings.server.grace, settings.server.port) == (1.0, 8700)
        assert settings.lanes["main"].limit == (limit or 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plans": "x"}, "settings: plans: give it as the argument plans="),
        ({"server": {"prot": 1}}, "settings: server.prot: unknown setting; did you mean port?"),
        ({"server": {"port": "x"}}, "setting server.port: Expected `int`, got `str`; correct it in settings"),
    ],
)
def test_bad_mapping_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_settings(given, tmp_path, tmp_path)
