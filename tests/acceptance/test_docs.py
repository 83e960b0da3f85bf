"""What README.md and the tutorial show is so: their files are written, their commands run, their output compared.

In a block ``console`` a line that begins with ``$ `` is a command, what follows it is its output. There ``…`` stands
for any text in a line, and alone in a line for any number of lines. A block whose first line names a path below
``plans/`` is that file. The blocks of a page share one shell and one server, which is asked at its own port.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.served import AURA, environment, open_served

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (plans/\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HOW_TO = sorted(
    str(page.relative_to(ROOT)) for page in ROOT.glob("docs/how-to/*.md") if "```console\n" in page.read_text("utf-8")
)
PAGES = ["README.md", "docs/tutorial.md", "docs/tutorial-tests.md", "docs/reference/http.md", *HOW_TO]
#: Of the server: what the page about webhooks signs with.
SECRETS = {"AURA_SECRET_DEPLOY_HOOK": "correct-horse-battery-staple"}
ADDRESS = "http://127.0.0.1:8700"


class Command(NamedTuple):
    text: str
    output: str


def commands(block: str) -> Iterator[Command]:
    """The commands of a block, each with the output that it should have."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        text, _, output = part.partition("\n")
        yield Command(text, output)


def script(page: str) -> tuple[str, list[Command]]:
    """A page as one shell script that writes each file and marks the output of each command."""
    lines: list[str] = []
    found: list[Command] = []
    for language, file, text in BLOCK.findall(page):
        if file:
            lines.append(f"mkdir -p {Path(file).parent}; printf %s {shlex.quote(text)} > {file}")
        elif language == "console":
            for command in commands(text):
                lines.append(f"{command.text}\necho; echo '@@{len(found)}'")
                found.append(command)
    return "\n".join(lines), found


def fits(output: str, wanted: str) -> bool:
    pattern = re.escape(wanted.rstrip("\n") + "\n")
    pattern = re.sub(r"^…\\\n", "(?:.*\n)*?", pattern, flags=re.MULTILINE).replace("…", ".*")
    return re.fullmatch(pattern, output.rstrip("\n") + "\n") is not None


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_what_happens(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "plans", tmp_path / "plans", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "aura").symlink_to(AURA)
    (tmp_path / "tmp").mkdir()
    text, wanted = script((ROOT / page).read_text(encoding="utf-8"))
    with open_served(tmp_path, env=SECRETS) as served:
        shell = text.replace(ADDRESS, served.address).replace("/tmp/", f"{tmp_path}/tmp/")
        env = environment(served.env | {"TMPDIR": str(tmp_path)})
        done = subprocess.run(
            ["bash"], input=shell, cwd=tmp_path, env=env, stdout=-1, stderr=-2, text=True, timeout=180, check=False
        )
    outputs = re.split(r"\n?@@\d+\n", done.stdout)
    for command, output in zip(wanted, outputs, strict=False):
        assert fits(output, command.output), f"$ {command.text}\n{output}"
    assert len(outputs) == len(wanted) + 1


@pytest.mark.parametrize(
    ("output", "wanted", "fit"),
    [
        ("a 12 b\n", "a … b\n", True),
        ("a\nx\ny\nb\n", "a\n…\nb\n", True),
        ("a\nb\n", "a\n…\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("a.c\n", "abc\n", False),
        ("", "", True),
    ],
)
def test_output_fits(output: str, wanted: str, fit: bool) -> None:
    assert fits(output, wanted) is fit
