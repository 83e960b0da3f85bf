"""The programs of docs/how-to/embed.md do what the page says: each is run by itself, in the order of the page."""

import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.test_docs import BLOCK, ROOT, fits
from tests.fakes.served import environment, write_plans

PAGE = (ROOT / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")
METHODS = re.findall(r"^\| `(\w+)\(", (ROOT / "docs/reference/embed.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_programs_print_what_the_page_says(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE)
    write_plans(tmp_path, {file.removeprefix("plans/"): text for _, file, text in blocks if file})
    programs = [text for language, _, text in blocks if language == "python"]
    outputs = [text for language, _, text in blocks if language == "text"]
    assert len(programs) == len(outputs) >= 5
    for program, output in zip(programs, outputs, strict=True):
        argv = [sys.executable, "-c", program]
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment({}), stdout=-1, stderr=-2, text=True, timeout=60, check=False
        )
        assert fits(done.stdout, output), f"{program}\n{done.stdout}"


def test_reference_names_the_methods_that_there_are() -> None:
    from aura.embed import BlockingServer, EmbeddedServer

    for kind in (BlockingServer, EmbeddedServer):
        methods = {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        assert methods == set(METHODS)
