"""``aura token new``, ``list``, ``revoke`` and ``aura open`` against a real server."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.fakes.served import AURA, Served, aura, environment, open_served, write_plans

SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tokens")
    write_plans(folder, {"lab/tasks/a.yaml": "steps: {a: {action: log, params: {message: hello}}}\n"})
    with open_served(folder) as opened:
        yield opened


def as_token(served: Served, token: str, *argv: str) -> int:
    return aura(*argv, cwd=served.folder, env=served.env | {"AURA_TOKEN": token}).code


def test_new_token_is_alone_on_stdout_works_and_is_refused_when_revoked(served: Served) -> None:
    made = served.aura("token", "new", "--scope", "run", "--scope", "read", "--expires", "30d", "--name", "a robot")
    token = made.out.strip()
    assert SECRET.fullmatch(token)
    said = re.fullmatch(r"token (\w{8}) may read run until [-\d]+ [:\d]+; it is not shown again\n", made.err)
    assert said
    assert (as_token(served, token, "plans"), as_token(served, token, "reload")) == (0, 77)
    listed = served.aura("token", "list")
    assert [said[1], "read", "run"] == listed.out.splitlines()[1].split()[:3]
    assert listed.out.splitlines()[1].endswith("local  a robot")
    assert token not in listed.out
    assert served.aura("token", "revoke", said[1]).code == 0
    assert as_token(served, token, "plans") == 77


def test_json_of_a_token_and_of_the_list(served: Served) -> None:
    made = served.aura("token", "new", "--scope", "logs", "--json").json
    assert (made["scopes"], made["expires_at"], made["name"], made["made_by"]) == (["logs"], None, "", "local")
    assert made["id"] in [one["id"] for one in served.aura("token", "list", "--json").json["items"]]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(["new"], 64, "Missing option '--scope'", id="no scope"),
        pytest.param(["new", "--scope", "root"], 64, "'root' is not one of", id="unknown scope"),
        pytest.param(["new", "--scope", "run", "--expires", "30"], 64, "say 30s if seconds are meant", id="no unit"),
        pytest.param(["new", "--scope", "run", "--expires", "0s"], 64, "/expires_s", id="no time"),
        pytest.param(["revoke", "../runs"], 64, "", id="no id"),
        pytest.param(["revoke", "0badcafe"], 64, "there is no token '0badcafe'", id="unknown id"),
    ],
)
def test_what_cannot_be_is_said(served: Served, argv: list[str], code: int, said: str) -> None:
    done = served.aura("token", *argv)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_token_alone_is_the_local_one(served: Served) -> None:
    assert served.aura("token").out == (served.folder / "data" / "token").read_text()


def test_link_logs_a_browser_in_once(served: Served) -> None:
    done = served.aura("open", "--print")
    assert done.err == "it can be used once, within 60 s\n"
    address, _, code = done.out.strip().partition("/login#code=")
    assert address == served.address
    with httpx2.Client(base_url=address, timeout=20) as http:
        assert http.get("/api/runs").status_code == 401
        statuses = [http.post("/api/login", json={"code": code}).status_code for _ in range(2)]
        assert statuses == [200, 401]
        assert http.get("/api/runs").status_code == 200


@pytest.mark.parametrize(
    ("display", "argv", "opens"),
    [
        pytest.param({"DISPLAY": ":0"}, [], True, id="screen"),
        pytest.param({"WAYLAND_DISPLAY": "wayland-0"}, [], True, id="other screen"),
        pytest.param({}, [], False, id="no screen"),
        pytest.param({"DISPLAY": ":0"}, ["--print"], False, id="only print"),
    ],
)
def test_browser_is_opened_on_a_screen_alone(
    served: Served, tmp_path: Path, display: dict[str, str], argv: list[str], opens: bool
) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {seen}\n')
    browser.chmod(0o755)
    shown = _on_a_terminal([AURA, "open", *argv], served, display | {"BROWSER": str(browser)})
    link = shown.split()[0]
    assert link.startswith(f"{served.address}/login#code=")
    assert (seen.read_text() if opens else seen.exists()) == (link if opens else False)


def _on_a_terminal(command: list[str | Path], served: Served, more: dict[str, str]) -> str:
    """What a command prints on stdout if that is a terminal."""
    ours, theirs = pty.openpty()
    try:
        env = environment(served.env | more)
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=env, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return os.read(ours, 4096).decode()
    finally:
        os.close(theirs)
        os.close(ours)


def test_browser_cannot_reach_a_unix_socket(tmp_path: Path) -> None:
    done = aura("open", cwd=tmp_path, env={"AURA_SERVER": f"unix:{tmp_path}/s", "AURA_DATA": str(tmp_path)})
    assert (done.code, done.out) == (69, "")
    assert "a browser cannot reach a Unix socket" in done.err
