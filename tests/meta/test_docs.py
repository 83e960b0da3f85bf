"""The docs against the code: each command and each setting has its heading, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from aura.cli.main import COMMANDS
from aura.errors import CODES
from aura.web.app import ROUTES

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def headings(page: str) -> set[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def test_every_command_has_a_heading_and_no_other_has() -> None:
    documented = {heading for heading in headings("docs/reference/cli.md") if heading.startswith("aura ")}
    assert documented == {f"aura {name}" for name in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_names_the_targets_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named <= targets
    assert {"serve", "test"} <= named


def test_every_route_has_a_heading_and_no_other_has() -> None:
    routes = {f"{method} {route.path.replace(':path', '')}" for route in ROUTES for method in route.methods or ()}
    documented = {heading for heading in headings("docs/reference/http.md") if re.match(r"[A-Z]+ /", heading)}
    assert documented == {route for route in routes if not route.startswith("HEAD ")}


def test_every_error_code_has_a_row_and_no_other_has() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+?) \|", page, re.MULTILINE)
    assert {code: (int(status), title) for code, status, title in rows} == CODES
