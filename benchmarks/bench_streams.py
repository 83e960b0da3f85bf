"""Live streams under load: how much reaches readers, what publishing costs beside 1,000, what a stuck reader costs.

A server as ``aura serve`` runs it, its storage on a disk, is a process of its own; the readers are this process, over
loopback. The server publishes by the call that ``ctx.log`` ends in, told by this process how much and how fast. The
readers that are stuck want all lines, the others those of plan ``live``: so the stuck ones miss something long before
the server gives them up.

    python benchmarks/bench_streams.py [READERS [STUCK [SECONDS]]]
"""

import asyncio
import gc
import json
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from aura.config import load_settings
from aura.server import Server
from aura.serving import GC_THRESHOLDS, SWITCH_INTERVAL

FILES = 16_000
LINE = "x" * 60
#: Lines of a burst between two turns of the loop, when as much as possible is to be delivered.
BURST = 500
FAST_READERS = (1, 10, 100)


# -- the server's side ------------------------------------------------------------------------------------------------


class Publisher:
    """Publishes as it is told, and measures each call and each turn of the loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._calls: list[float] = []
        self._turns: list[float] = []

    async def burst(self, lines: int, burst: int, plan: str) -> dict[str, float]:
        """Publish so many lines as fast as the loop lets everyone have a turn between two bursts."""
        begin = time.perf_counter()
        for first in range(0, lines, burst):
            self._publish(min(burst, lines - first), plan)
            await asyncio.sleep(0)
        return {"seconds": time.perf_counter() - begin, **self._taken()}

    async def used(self) -> dict[str, float]:
        """Seconds of a processor that the server has used, with its threads."""
        return {"seconds": time.process_time()}

    async def pace(self, seconds: float, rate: float, plan: str) -> dict[str, float]:
        """Publish ``rate`` lines a second, one by one."""
        end = time.perf_counter() + seconds
        due = time.perf_counter()
        lines = 0
        while due < end:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            self._turns.append(max(time.perf_counter() - due, 0.0))
            self._publish(1, plan)
            lines += 1
            due += 1 / rate
        return {"lines": lines, **self._taken()}

    def _publish(self, lines: int, plan: str) -> None:
        journal = self._server.engine.journal
        for _ in range(lines):
            begin = time.perf_counter()
            journal.log("info", LINE, plan_name=plan, task_name="t", cid="c", step="s", attempt=1)
            self._calls.append(time.perf_counter() - begin)

    def _taken(self) -> dict[str, float]:
        found = {f"call_{name}": value * 1e6 for name, value in spread(self._calls).items()}
        found |= {f"late_{name}": value * 1e3 for name, value in spread(self._turns).items()}
        self._calls.clear()
        self._turns.clear()
        return found

    async def look(self) -> dict[str, float]:
        """How many readers there are, the resident memory, and the objects that live in it."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        readers = self._server.engine.journal.readers
        return {
            "readers": readers,
            "mib": pages * resource.getpagesize() / 2**20,
            "blocks": sys.getallocatedblocks(),
        }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "max": ordered[-1],
    }


async def serve(folder: Path) -> None:
    """Serve, and do what comes as lines of JSON: ``{"do": name, …}``. The end of stdin is the end."""
    (folder / "plans").mkdir(mode=0o755)
    flags = {"plans": folder / "plans", "data": folder / "data", "port": 0}
    server = Server(load_settings(flags, {"HOME": str(folder)}, None, folder))
    publisher = Publisher(server)
    # the server; ended by the request below
    async with anyio.create_task_group() as group:
        address = await group.start(server.serve)
        print(address, flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            order: dict[str, Any] = json.loads(line)
            done: Callable[..., Any] = getattr(publisher, order.pop("do"))
            print(json.dumps(await done(**order)), flush=True)
        server.request_stop()


# -- the readers' side ------------------------------------------------------------------------------------------------


class Told:
    """The server process, and what it answers."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, process.stdout
        self.port = int(self._out.readline().rpartition(":")[2])
        self._token = (folder / "data" / "token").read_text().strip()

    def begin(self, order: str, **arguments: Any) -> None:
        self._in.write(json.dumps({"do": order, **arguments}) + "\n")
        self._in.flush()

    def end(self) -> dict[str, float]:
        answer: dict[str, float] = json.loads(self._out.readline())
        return answer

    def tell(self, order: str, **arguments: Any) -> dict[str, float]:
        self.begin(order, **arguments)
        return self.end()

    def wait_readers(self, count: int) -> dict[str, float]:
        """Wait until the server has exactly so many readers; how it stands then."""
        end = time.monotonic() + 60
        while (found := self.tell("look"))["readers"] != count:
            assert time.monotonic() < end, f"{found['readers']:.0f} readers instead of {count}"
            time.sleep(0.1)
        return found

    def connect(self, query: str = "", window: int | None = None) -> socket.socket:
        sock = socket.socket()
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.connect(("127.0.0.1", self.port))
        lines = [f"GET /api/logs/stream{query} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        sock.sendall("\r\n".join([*lines, f"Authorization: Bearer {self._token}", "", ""]).encode())
        sock.setblocking(False)
        return sock


@contextmanager
def open_server() -> Iterator[Told]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
            try:
                yield Told(process, Path(folder))
                assert process.stdin
                process.stdin.close()
                process.wait(30)
            finally:
                process.kill()


class Readers:
    """Many streams that are read by one thread, which counts records and gaps."""

    def __init__(self, socks: list[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        self.records = self.gaps = 0
        self.first = self.last = 0.0
        self._ends: dict[socket.socket, bytes] = {}
        self._buffer = bytearray(1 << 20)
        for sock in socks:
            self._selector.register(sock, selectors.EVENT_READ)
            self._ends[sock] = b""

    def read(self, wanted: int, quiet: float) -> None:
        """Read until so many records have come, or nothing has for ``quiet`` seconds."""
        while self.records < wanted and (ready := self._selector.select(quiet)):
            for key, _ in ready:
                self._take(key.fileobj)  # type: ignore[arg-type]

    def _take(self, sock: socket.socket) -> None:
        size = sock.recv_into(self._buffer)
        assert size, "the server has cut a reader off"
        self.last = time.perf_counter()
        text = self._ends[sock] + self._buffer[:size]
        found = text.count(b"}\n\n")
        if found and not self.first:
            self.first = self.last
        gaps = text.count(b"event: gap") if b"event: gap" in text else 0
        self.records += found - gaps
        self.gaps += gaps
        self._ends[sock] = bytes(text[-2:])


def close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


# -- what is measured -------------------------------------------------------------------------------------------------


def measure_delivery(server: Told, readers: int) -> None:
    """As much as it can: how many records a second reach so many readers."""
    lines = 200_000 if readers <= 10 else 20_000
    socks = [server.connect() for _ in range(readers)]
    server.wait_readers(readers)
    counted = Readers(socks)
    before = server.tell("used")["seconds"]
    server.begin("burst", lines=lines, burst=BURST, plan="live")
    counted.read(lines * readers, 3.0)
    told = server.end()
    used = server.tell("used")["seconds"] - before
    rate = counted.records / (counted.last - counted.first)
    print(
        f"{readers:5} readers: {rate:9,.0f} records/s delivered, {counted.records:,} of {lines * readers:,}"
        f" ({counted.gaps} gaps); published {lines / told['seconds']:,.0f}/s, a call {told['call_p50']:.0f} µs p50,"
        f" {told['call_p99']:.0f} p99; of the server's processor {used / counted.records * 1e6:.2f} µs a record",
        flush=True,
    )
    close(socks)
    server.wait_readers(0)


def measure_crowd(server: Told, readers: int, stuck: int, seconds: float) -> None:
    """Publishing beside many readers of whom some have stopped reading; what is left when all have gone."""
    base = server.wait_readers(0)
    deaf = [server.connect(window=4096) for _ in range(stuck)]
    socks = [server.connect("?plan_name=live") for _ in range(readers - stuck)]
    opened = server.wait_readers(readers)
    for rate in (1, 10, 100):
        counted = Readers(socks)
        server.begin("pace", seconds=seconds, rate=rate, plan="live")
        counted.read(int(seconds * rate) * len(socks), 3.0)
        told = server.end()
        print(
            f"{readers:5} readers, {stuck} stuck, {rate:4} lines/s: {counted.records:,} of"
            f" {told['lines'] * len(socks):,.0f} delivered, a call {told['call_p50']:.0f} µs p50,"
            f" {told['call_p99']:.0f} p99, {told['call_max']:.0f} max; a turn of the loop later"
            f" {told['late_p50']:.1f} ms p50, {told['late_p99']:.1f} p99",
            flush=True,
        )
    flood = server.tell("burst", lines=60_000, burst=2000, plan="flood")
    told = server.tell("look")
    again = Readers(deaf)
    again.read(10**9, 3.0)
    print(
        f"60,000 lines for those who are stuck: a call {flood['call_p99']:.0f} µs p99; reading again they got"
        f" {again.gaps} gaps and {again.records:,} records"
    )
    close(deaf + socks)
    server.wait_readers(0)
    time.sleep(1.0)  # a connection is gone a moment after its reader
    left = server.tell("look")
    print(
        f"memory of the server: {base['mib']:.0f} MiB before, {opened['mib']:.0f} with {readers} readers,"
        f" {told['mib']:.0f} with {stuck} stuck behind, {left['mib']:.0f} when all have gone"
        f" ({left['mib'] / base['mib']:.2f}); live objects {left['blocks'] / base['blocks']:.2f} of those before",
        flush=True,
    )


def main(readers: int = 1000, stuck: int = 50, seconds: float = 5.0) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    with open_server() as server:
        server.tell("burst", lines=50_000, burst=BURST, plan="warm")  # the ring is full from now on: that is the base
        for count in FAST_READERS:
            measure_delivery(server, count)
        for _ in range(2):  # what the allocator keeps of the first one is there before the second
            measure_crowd(server, readers, stuck, seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.setswitchinterval(SWITCH_INTERVAL)
        gc.set_threshold(*GC_THRESHOLDS)
        anyio.run(serve, Path(sys.argv[2]))
    else:
        main(*(int(text) for text in sys.argv[1:]))
