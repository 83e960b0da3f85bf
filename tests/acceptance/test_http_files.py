"""The files of a run over a real port: the list, bytes and ranges of them, and what gives nothing away."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from tests.fakes.web import Web, connections, open_web

from aura.runs.workfiles import OpenFile
from aura.web import download
from aura.web.download import PIECE, wanted_part

SECRET = "what nobody may see"
#: More than the kernel keeps for a client that does not read.
BIG = 200 * PIECE


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path) as opened:
        opened.engine.workdirs = tmp_path / "work"
        yield opened


@pytest.fixture
def run(web: Web) -> str:
    return web.engine.add_run("succeeded").cid


@pytest.fixture
def work(web: Web, run: str) -> Iterator[Path]:
    folder = web.engine.workdirs / run
    folder.mkdir(parents=True)
    (web.engine.workdirs / "secret").write_text(SECRET)
    yield folder
    assert open_below(web.engine.workdirs) == []


def open_below(folder: Path) -> list[str]:
    """What this process has open there."""
    found = []
    for handle in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{handle}"))
    return [path for path in found if path.startswith(str(folder))]


def fill(work: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = work / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


async def ask(web: Web, run: str, name: str = "", **headers: str) -> httpx2.Response:
    path = f"/api/runs/{run}/files" + (f"/{name}" if name else "")
    return await web.http.get(path, headers={key.replace("_", "-"): value for key, value in headers.items()})


# -- the list ---------------------------------------------------------------------------------------------------------


async def test_list_has_what_is_there(web: Web, run: str, work: Path) -> None:
    fill(work, report_md="# hi", sub__a_txt="a", b="")
    os.utime(work / "b", (0, 1_700_000_000.25))
    answer = (await ask(web, run)).json()
    assert [(item["path"], item["bytes"]) for item in answer["items"]] == [("b", 0), ("report.md", 4), ("sub/a.txt", 1)]
    assert datetime.fromisoformat(answer["items"][0]["modified_at"]).timestamp() == 1_700_000_000.25
    assert answer["next_cursor"] is None


async def test_pages_have_each_file_once(web: Web, run: str, work: Path) -> None:
    fill(work, **{f"{n % 5}__{n}": "x" for n in range(53)}, **{"é": "x"})
    found: list[str] = []
    params: dict[str, Any] = {"limit": 10}
    while True:
        page = (await web.http.get(f"/api/runs/{run}/files", params=params)).json()
        found += [item["path"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == sorted(found)
    assert len(set(found)) == len(found) == 54


async def test_run_without_a_workdir_has_an_empty_list(web: Web, run: str) -> None:
    assert (await ask(web, run)).json() == {"items": [], "next_cursor": None}
    assert (await ask(web, run, "x")).json()["code"] == "unknown_file"


@pytest.mark.parametrize("cid", ["nope", "01a201e6-e7b6-7344-9aa6-a9d0ae8f2df5", "%2e%2e"])
@pytest.mark.parametrize("name", ["", "x"])
async def test_unknown_run_is_404(web: Web, work: Path, cid: str, name: str) -> None:
    answer = await ask(web, cid, name)
    assert (answer.status_code, answer.json()["code"]) in ((404, "unknown_run"), (404, "not_found"))


async def test_foreign_cursor_is_refused(web: Web, run: str, work: Path) -> None:
    assert (await web.http.get(f"/api/runs/{run}/files", params={"cursor": "x"})).json()["code"] == "bad_cursor"


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
async def test_file_comes_whole(web: Web, run: str, work: Path, size: int) -> None:
    content = os.urandom(size)
    fill(work, out__data_bin=content)
    answer = await ask(web, run, "out/data.bin")
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(size)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b.txt", "a%20b.txt"),
        ("grüße.txt", "gr%C3%BC%C3%9Fe.txt"),
        ('q"uote.txt', "q%22uote.txt"),
        ("it's%41.txt", "it%27s%2541.txt"),
        ("x.html", "x.html"),
    ],
)
async def test_name_is_offered_safely(web: Web, run: str, work: Path, name: str, said: str) -> None:
    (work / name).write_text("x")
    answer = await ask(web, run, name.replace("%", "%25"))
    assert (answer.status_code, answer.text) == (200, "x")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{said}"


async def test_head_says_the_length_and_sends_nothing(web: Web, run: str, work: Path) -> None:
    fill(work, x="12345")
    answer = await web.http.head(f"/api/runs/{run}/files/x", headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "5", b"")


@pytest.mark.parametrize(
    "path",
    ["../secret", "..%2fsecret", "%2e%2e/secret", "sub/../../secret", "sub/..%2f..%2fsecret", "/etc/hostname", "sub",
     "link/secret", "link2", "%00", "x%00y", "pipe", "no", "sub%5c..%5cx", "..;/secret", "."],
)  # fmt: skip
async def test_path_that_leads_elsewhere_is_404(web: Web, run: str, work: Path, path: str) -> None:
    fill(work, sub__x="x")
    (work / "link").symlink_to(web.engine.workdirs)
    (work / "link2").symlink_to(web.engine.workdirs / "secret")
    os.mkfifo(work / "pipe")
    answer = await web.raw(web.head("GET", f"/api/runs/{run}/files/{path}"))
    assert answer.status == 404
    assert SECRET.encode() not in answer.body


# -- ranges -----------------------------------------------------------------------------------------------------------

DIGITS = "0123456789"


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-3", "0123"),
        ("bytes=4-", "456789"),
        ("bytes=-3", "789"),
        ("bytes=-99", DIGITS),
        ("bytes=9-9", "9"),
        ("bytes=3-" + "9" * 30, "3456789"),
    ],
)
async def test_range_gives_a_part(web: Web, run: str, work: Path, asked: str, part: str) -> None:
    fill(work, x=DIGITS)
    answer = await ask(web, run, "x", Range=asked)
    assert (answer.status_code, answer.text) == (206, part)
    begin = DIGITS.index(part)
    assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(part) - 1}/10"
    assert answer.headers["content-length"] == str(len(part))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 40 + "-"])
async def test_range_behind_the_end_is_416(web: Web, run: str, work: Path, asked: str) -> None:
    fill(work, x=DIGITS)
    answer = await ask(web, run, "x", Range=asked)
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,3-4", "bytes=" + "0-1," * 2000, "bytes=3-1", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1-2", "x"],
    ids=lambda asked: asked[:20],
)
async def test_what_is_no_single_range_gives_the_whole(web: Web, run: str, work: Path, asked: str) -> None:
    fill(work, x=DIGITS)
    answer = await ask(web, run, "x", Range=asked)
    assert (answer.status_code, answer.text) == (200, DIGITS)


async def test_if_range_gives_the_part_only_of_the_same_file(web: Web, run: str, work: Path) -> None:
    fill(work, x=DIGITS)
    tag = (await ask(web, run, "x")).headers["etag"]
    assert (await ask(web, run, "x", Range="bytes=0-1", If_Range=tag)).text == "01"
    fill(work, x=DIGITS + "more")
    assert (await ask(web, run, "x", Range="bytes=0-1", If_Range=tag)).text == DIGITS + "more"


def test_range_of_an_empty_file_is_the_whole() -> None:
    assert wanted_part(b"bytes=0-", None, OpenFile(0, 0, 0)) is None


# -- files that change, clients that hang -----------------------------------------------------------------------------


async def read_a_little(web: Web, run: str, stream: Any) -> bytes:
    await stream.send(web.head("GET", f"/api/runs/{run}/files/big"))
    return bytes(await stream.receive(1000))


async def rest_of(stream: Any) -> int:
    received = 0
    with anyio.fail_after(10):
        while True:
            try:
                received += len(await stream.receive(1 << 20))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received


def small_window(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


@pytest.fixture
async def slow(web: Web) -> AsyncIterator[Any]:
    """A client whose window is small, so that the server has to wait for it."""
    sock = socket.socket()
    small_window(sock)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", web.port))
    async with await anyio.abc.SocketStream.from_socket(sock) as stream:
        yield stream


async def test_file_that_shrinks_cuts_the_connection(
    web: Web, run: str, work: Path, slow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(work, big=b"x" * BIG)
    await read_a_little(web, run, slow)
    os.truncate(work / "big", 100)
    assert await rest_of(slow) < BIG - PIECE
    with anyio.fail_after(5):
        while connections():
            await anyio.lowlevel.checkpoint()
    assert [record.message for record in caplog.records if record.name.startswith("hypercorn")] == []


async def test_what_is_added_meanwhile_is_not_sent(web: Web, run: str, work: Path, slow: Any) -> None:
    fill(work, big=b"x" * BIG)
    head = await read_a_little(web, run, slow)
    os.truncate(work / "big", 2 * BIG)
    await slow.send(web.head("GET", "/livez", "Connection: close"))
    body = len(head.partition(b"\r\n\r\n")[2])
    assert BIG < body + await rest_of(slow) < BIG + 2000


async def test_file_that_is_removed_meanwhile_still_comes(web: Web, run: str, work: Path) -> None:
    fill(work, big=b"x" * BIG)
    async with web.http.stream("GET", f"/api/runs/{run}/files/big") as answer:
        (work / "big").unlink()
        assert len(await answer.aread()) == BIG


async def test_client_that_does_not_read_is_cut(
    web: Web, run: str, work: Path, slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "WRITE_TIMEOUT", 0.1)
    fill(work, big=b"x" * BIG)
    await read_a_little(web, run, slow)
    with anyio.fail_after(10):
        while connections():
            await anyio.lowlevel.checkpoint()
    assert await rest_of(slow) < BIG


async def test_client_that_leaves_ends_the_reading(web: Web, run: str, work: Path, slow: Any) -> None:
    fill(work, big=b"x" * BIG)
    await read_a_little(web, run, slow)
    await slow.aclose()
    with anyio.fail_after(10):
        while connections():
            await anyio.lowlevel.checkpoint()


async def test_reading_leaves_the_loop_free(web: Web, run: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow_disk(*arguments: Any) -> bytes:
        reading.set()
        assert go_on.wait(10)
        return b"12345"

    monkeypatch.setattr(os, "pread", slow_disk)
    fill(work, x="12345")
    async with anyio.create_task_group() as group:  # one request, which ends once it has what it reads
        group.start_soon(ask, web, run, "x")
        assert await anyio.to_thread.run_sync(reading.wait, 10)
        assert (await web.http.get("/livez")).text == "ok"
        go_on.set()
