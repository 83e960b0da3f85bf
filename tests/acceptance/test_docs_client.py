"""The programs of docs/reference/client.md print what the page says, and its table names the methods that there are."""

import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.test_docs import BLOCK, ROOT, fits
from tests.fakes.served import environment, open_served, write_plans

from aura.client import AsyncClient

PAGE = (ROOT / "docs" / "reference" / "client.md").read_text(encoding="utf-8")


def test_programs_print_what_the_page_says(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE)
    write_plans(tmp_path, {file.removeprefix("plans/"): text for _, file, text in blocks if file})
    programs = [text for language, _, text in blocks if language == "python"]
    outputs = [text for language, _, text in blocks if language == "text"]
    assert len(programs) == len(outputs) == 4
    with open_served(tmp_path) as served:
        for program, output in zip(programs, outputs, strict=True):
            argv, env = [sys.executable, "-c", program], environment(served.env)
            done = subprocess.run(argv, cwd=tmp_path, env=env, stdout=-1, stderr=-2, text=True, timeout=60, check=False)
            assert fits(done.stdout, output), f"{program}\n{done.stdout}"


def test_table_names_every_method() -> None:
    rows = re.findall(r"^\| (`\w+`(?: `\w+`)*) \|", PAGE.partition("## Methods")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)} - {"method"}
    assert named == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose", "target"}
