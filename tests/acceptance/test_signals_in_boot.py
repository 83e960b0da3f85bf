"""Signals that come while a real server is still starting: it ends in order, with no fault and no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.served import environment

#: Serves a folder; sends itself the named signals in the middle of the boot.
SERVE = """
import os, signal, sys
from pathlib import Path
from aura import server, serving
from aura.config import load_settings

real = server.Server._boot

def signalled(self, backend):
    for name in sys.argv[2:]:
        os.kill(os.getpid(), signal.Signals[name])
    return real(self, backend)

server.Server._boot = signalled
folder = Path(sys.argv[1])
(folder / "plans").mkdir(mode=0o755)
chosen = {"data": folder / "data", "plans": folder / "plans", "port": 0}
sys.exit(serving.run_server(load_settings(chosen, {}, None, folder)))
"""


@pytest.mark.parametrize("count", [1, 2], ids=["one signal", "two signals"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_in_the_boot_end_the_server_in_order(tmp_path: Path, number: signal.Signals, count: int) -> None:
    tmp_path.chmod(0o700)
    command = [sys.executable, "-c", SERVE, str(tmp_path), *[number.name] * count]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
