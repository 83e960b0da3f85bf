"""Commands called in this process, as ``aura`` calls them, with an environment of their own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aura.cli.main import main


class Outcome(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


def commands_in(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call commands that work in ``folder``, keep their data below it, and find no server."""
    for name in [name for name in os.environ if name.startswith("AURA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AURA_DATA", str(folder / "data"))
    monkeypatch.setenv("AURA_SERVER", "http://127.0.0.1:1")

    def run(*argv: str) -> Outcome:
        return Outcome(main(argv), *capsys.readouterr())

    return run
