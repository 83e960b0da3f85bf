"""An event storm: how many events a second a plan gets through, what the API answers meanwhile, and what memory does.

Each row is a server of its own, as ``aura serve`` runs it, on a disk. A run of its plan emits as fast as it goes, from
many children at once; another process, this one, asks for the status over and over. ``us/event`` is the processor time
of the server, all of its threads, by the events that were stored.

    python benchmarks/bench_storm.py [SECONDS [ROW …]]
"""

import http.client
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Seconds between two questions.
EVERY = 0.005
ACTIONS = """
import asyncio
import time
from aura import Context, action

@action
async def storm(ctx: Context, seconds: float, at_once: int) -> int:
    end, sent = time.monotonic() + seconds, 0

    async def emit_on() -> None:
        nonlocal sent
        while time.monotonic() < end:
            sent += 1
            await ctx.emit("tick", {"n": sent, "disk": f"d{sent % 5000}"})

    await ctx.emit("tock")
    await asyncio.gather(*(emit_on() for _ in range(at_once)))
    return sent
"""
TASKS = {
    "storm": """
lane: main
steps: {blow: {action: storm, params: {seconds: "{{ inputs.seconds }}", at_once: 2000}}}
inputs: {seconds: number}
returns: "{{ steps.blow.output }}"
""",
    "work": 'steps: [{name: only, action: log, params: {message: "x", level: debug}}]',
    "hold": "steps: [{name: only, action: sleep, params: {duration: 60s}}]",
    "again": "steps: [{name: only, action: event.emit, params: {name: tock}}]",
}


def items(count: int, triggers: str, task: str = "work") -> str:
    """A schedule of so many items that are the same."""
    lines = [f"  i{n}: {{task: {task}, triggers: [{triggers}]}}\n" for n in range(count)]
    return "items:\n" + "".join(lines) if lines else "items: {}\n"


NEVER = '{event: tick, when: "{{ event.payload.n < 0 }}"}'
#: What listens: by its name, the schedule.
ROWS: Mapping[str, str] = {
    "nobody": items(0, ""),
    "1 other": items(1, "{event: other}"),
    "100 others": items(100, "{event: other}"),
    "1,000 others": items(1000, "{event: other}"),
    "when is false": items(1, NEVER),
    "100 whens are false": items(100, NEVER),
    "the lane is full": items(1, "{event: tick}", "hold"),
    "each starts a run": items(1, "{event: tick}"),
    "debounced": items(1, "{event: tick, debounce: {for: 1s}}"),
    "debounced, 5,000 keys": items(1, '{event: tick, debounce: {for: 60s, key: "{{ event.payload.disk }}"}}'),
    "expected": items(1, "{expect: tick, within: 1h}"),
    "a circle beside it": items(1, "{event: tock}", "again"),
}


class Server:
    """A server in a process of its own, over a plan with this schedule."""

    def __init__(self, folder: Path, schedule: str) -> None:
        home = folder / "plans" / "lab"
        (home / "tasks").mkdir(parents=True, mode=0o755)
        for name, text in TASKS.items():
            (home / "tasks" / f"{name}.yaml").write_text(text)
        (home / "actions.py").write_text(ACTIONS)
        (home / "schedule.yaml").write_text(schedule)
        flags = ["--plans", str(folder / "plans"), "--data", str(folder / "data"), "--port", "0", "--no-auth"]
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("aura"), "serve", "--no-reload", *flags],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        host, _, port = ready.rpartition("//")[2].strip().partition(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=60)

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask the API, and give what it answers."""
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._http.request("GET" if body is None else "POST", path, data, headers)
        answer = self._http.getresponse()
        text = answer.read()
        assert answer.status < 300, (answer.status, text)
        return json.loads(text)

    @property
    def used(self) -> float:
        """Seconds of a processor that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / 100

    @property
    def mib(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def end(self) -> None:
        """End it."""
        self._http.close()
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def measure(server: Server, seconds: float) -> str:
    """Let a storm blow for so long, and say what came of it."""
    before, used = server.mib, server.used
    body = {"plan_name": "lab", "task_name": "storm", "inputs": {"seconds": seconds}}
    path = f"/api/runs/{server.ask('/api/tasks/run', body)['cid']}"
    waits, most, ended = list[float](), before, time.monotonic() + seconds
    while time.monotonic() < ended:
        begin = time.perf_counter()
        server.ask("/api/system/status")
        waits.append((time.perf_counter() - begin) * 1e3)
        most = max(most, server.mib)
        time.sleep(EVERY)
    while (run := server.ask(path))["state"] not in ("succeeded", "failed", "cancelled", "timed_out", "crashed"):
        time.sleep(0.05)
    used = server.used - used
    suspended = [one["subscriber"] for one in server.ask("/api/system/status")["events"]["suspended"]]
    waits.sort()
    sent = run["result"]
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    asked = f"API {p50:6.1f} {p99:6.1f} {waits[-1]:6.1f} ms"
    said = f"{sent / seconds:8,.0f} events/s {used / sent * 1e6:8.0f} us/event  {asked}"
    return f"{said}  {before:4.0f} {most:4.0f} {server.mib:4.0f} MiB  {', '.join(suspended)}"


def main(seconds: float, wanted: list[str]) -> None:
    print("API: median, 99th percentile, longest; memory: before, most, after the storm")
    for name in wanted or ROWS:
        with tempfile.TemporaryDirectory() as scratch:
            server = Server(Path(scratch), ROWS[name])
            try:
                print(f"{name:22} {measure(server, seconds)}", flush=True)
            finally:
                server.end()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, sys.argv[2:])
