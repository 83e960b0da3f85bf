"""The press: a temperature and a diary, both in files of the run's workdir, so that a look shows what happened."""

from pathlib import Path

ROOM = 20


class Machine:
    """What one run knows of the press. Every act is a line in ``diary.txt``."""

    def __init__(self, workdir: Path) -> None:
        self._heat = workdir / "temperature.txt"
        self._diary = workdir / "diary.txt"

    @property
    def temperature(self) -> int:
        """Degrees Celsius."""
        return int(self._heat.read_text()) if self._heat.exists() else ROOM

    def set_temperature(self, degrees: int) -> None:
        """Heat or cool to a temperature, at once."""
        self._heat.write_text(str(degrees))

    def write(self, line: str) -> None:
        """Put down what was done."""
        with self._diary.open("a") as diary:
            diary.write(line + "\n")
