"""Reads what a running command says, for tests that step in at a certain moment."""

import subprocess


def read_until(command: "subprocess.Popen[str]", text: str) -> str:
    """Read the command's stderr up to a line that has this text in it, and give that line."""
    assert command.stderr
    said = []
    for line in command.stderr:
        if text in line:
            return line
        said.append(line)
    raise AssertionError(f"the command ended without saying {text!r}: {''.join(said)}")
