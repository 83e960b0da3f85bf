"""The token's file, and what is taken for a token."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aura.errors import RequestError, StoreCannotCreate
from aura.web.auth import TOKEN_BYTES, Access, Auth, ensure_token

GOOD = [(b"authorization", b"Bearer sesame")]


def test_token_is_made_once_and_private(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        token = ensure_token(tmp_path)
    finally:
        os.umask(former)
    assert ensure_token(tmp_path) == token
    assert len(token) >= TOKEN_BYTES
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_each_folder_has_a_token_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert ensure_token(tmp_path / "a") != ensure_token(tmp_path / "b")


def test_symlink_in_the_place_of_the_token_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("x" * 50)
    (tmp_path / "token").symlink_to(target)
    with pytest.raises(StoreCannotCreate, match="token"):
        ensure_token(tmp_path)
    assert target.read_text() == "x" * 50


def test_fifo_in_the_place_of_the_token_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with pytest.raises(StoreCannotCreate):
        ensure_token(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 50], ids=["empty", "short", "binary"])
def test_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(StoreCannotCreate, match="remove it"):
        ensure_token(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "fchmod", "rename"])
def test_kill_while_the_token_is_made_leaves_none(tmp_path: Path, moment: str) -> None:
    lines = [
        "import os, pathlib, signal, aura.web.auth",
        f"os.{moment} = lambda *given: os.kill(os.getpid(), signal.SIGKILL)",
        f"aura.web.auth.ensure_token(pathlib.Path({str(tmp_path)!r}))",
    ]
    killed = subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(ensure_token(tmp_path)) >= TOKEN_BYTES
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreCannotCreate, match="cannot write"):
        ensure_token(tmp_path / "missing")


@pytest.mark.parametrize("access", [access for access in Access if access is not Access.OPEN])
def test_local_token_may_do_everything_and_nobody_else_anything(access: Access) -> None:
    auth = Auth("sesame")
    auth.check(GOOD, access)
    with pytest.raises(RequestError) as caught:
        auth.check([], access)
    assert caught.value.code == "unauthorized"


def test_open_routes_ask_for_nothing() -> None:
    Auth("sesame").check([], Access.OPEN)


def test_without_authorization_everyone_may_do_everything() -> None:
    Auth(None).check([], Access.ADMIN)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer Sesame")],
        [(b"authorization", b"Bearer sesam")],
        [(b"authorization", b"sesame")],
        [(b"authorization", b"Basic sesame")],
        [(b"authorization", b"Bearer " + b"x" * 10_000)],
        [(b"authorization", "Bearer sésame".encode())],
        [(b"authorization", b"Bearer \xff")],
        [(b"cookie", b"sesame")],
        GOOD * 2,
    ],
)
def test_what_is_no_token(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RequestError) as caught:
        Auth("sesame").check(headers, Access.READ)
    assert caught.value.status == 401


def test_scheme_is_read_in_any_case() -> None:
    Auth("sesame").check([(b"authorization", b"bearer sesame")], Access.READ)
