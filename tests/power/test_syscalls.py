"""What a real server asks of the system, in what order: what it says is stored has been brought to the disk before."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.fakes.served import AURA, READY, Served, environment, write_plans
from tests.power.injected import SYNCS, Injected, fail_sync, serve, wrong_start

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")
CALLS = "trace=openat,mkdir,fsync,fdatasync,rename,renameat2,recvfrom,read,sendto,sendmsg,write"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A server whose calls are written down, and where."""
    tmp_path = tmp_path_factory.mktemp("traced")
    write_plans(tmp_path, {"lab/tasks/note.yaml": "steps:\n  a: {action: log, params: {message: hello}}\n"})
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-s", "120", "-e", CALLS, "-o", str(trace), AURA, "serve"]
    command += ["--data", "data", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment({}), stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line.startswith(READY), line
            yield Served(tmp_path, process, line.removeprefix(READY).strip()), trace
        finally:
            os.kill(json.loads((tmp_path / "data/aura.lock").read_text())["pid"], signal.SIGTERM)  # strace waits for it
            process.wait(30)


def calls(trace: Path) -> list[str]:
    return trace.read_text(encoding="utf-8", errors="replace").splitlines()


def first(lines: list[str], pattern: str, after: int = 0) -> int:
    """The number of the first line behind ``after`` in which there is such a text."""
    found = next((n for n, line in enumerate(lines) if n >= after and re.search(pattern, line)), None)
    assert found is not None, f"{pattern} is not in the {len(lines)} lines"
    return found


def test_accepted_run_is_on_the_disk_before_the_first_byte_of_the_answer(traced: tuple[Served, Path]) -> None:
    served, trace = traced
    assert served.aura("run", "lab/note", "--detach").code == 0
    deadline = time.monotonic() + 10
    while not any("HTTP/1.1 202" in line for line in calls(trace)):
        assert time.monotonic() < deadline
    lines = calls(trace)
    asked = first(lines, r'(recvfrom|read)(\(| resumed>).*"POST /api/tasks/run')  # another thread may come between
    written = first(lines, r"(fdatasync|fsync)\([0-9]+<[^>]*aura\.db-wal>", asked)
    answered = first(lines, r'(sendto|sendmsg|write)\(.*"HTTP/1\.1 202', asked)
    assert asked < written < answered


@pytest.mark.parametrize("name", ["aura.db", "token"])
def test_new_file_and_its_folder_are_on_the_disk_before_the_server_is_ready(
    traced: tuple[Served, Path], name: str
) -> None:
    _, trace = traced
    lines = calls(trace)
    ready = first(lines, r"write\(1.*aura: ready on")
    made = first(lines, rf"(openat\(.*/{name}\".*O_CREAT|rename\(.*/{name}\"\))")
    content = first(lines, rf"(fdatasync|fsync)\([0-9]+<[^>]*/{name}(\.new)?>")
    folder = first(lines, r"fsync\([0-9]+<[^>]*/data>", made)
    assert content < ready
    assert folder < ready
    above = first(lines, r"mkdir\(\"[^\"]*data\"")
    assert first(lines, rf"fsync\([0-9]+<{re.escape(str(trace.parent))}>", above) < ready


# -- calls that fail --------------------------------------------------------------------------------------------------


def test_sync_of_the_log_that_fails_under_a_server_ends_it_and_keeps_what_was_accepted(tmp_path: Path) -> None:
    ended, wrong = fail_sync(tmp_path, "aura.db-wal", 4)
    assert (ended.ready, ended.code, wrong) == (True, 74, [])


#: Each as soon as the start gets there, and the exit code.
FAULTS = {
    Injected("mkdir", "ENOSPC", ""): 73,
    Injected("openat", "EMFILE", "aura.lock"): 73,
    Injected("openat", "EACCES", "aura.db"): 77,
    Injected(SYNCS, "EIO", "aura.db-wal"): 74,
    Injected("rename", "EIO", "token.new"): 74,
}


def test_call_that_fails_at_the_start_ends_it_with_one_line_and_the_next_start_works(tmp_path: Path) -> None:
    for fault, code in FAULTS.items():
        ended = serve(tmp_path, fault)
        assert (ended.ready, ended.wrong(code)) == (False, []), fault
    assert wrong_start(tmp_path, []) == []
