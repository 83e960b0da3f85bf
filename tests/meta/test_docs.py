"""The docs against the code: each command and each setting has its heading, and links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from aura.cli.main import COMMANDS, aura
from aura.config import Settings, load_settings
from aura.errors import CODES
from aura.settings import decode_hook
from aura.web.app import ROUTES

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def headings(page: str) -> set[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def test_every_command_has_a_heading_and_no_other_has() -> None:
    documented = {heading for heading in headings("docs/reference/cli.md") if heading.startswith("aura ")}
    assert documented == {f"aura {name}" for name in COMMANDS}


#: Options of nearly every command: the page says them once, at its top.
COMMON = {"--json", "--server", "--config", "--help"}


def sections(page: str) -> dict[str, str]:
    """Heading of any level → the text below it, to the next heading."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip((heading.strip("`") for heading in parts[1::2]), parts[2::2], strict=True))


def options_of(command: click.Command) -> Iterator[set[str]]:
    """The spellings of each option of a command, and of its own commands."""
    for param in command.params:
        if isinstance(param, click.Option):
            yield {*param.opts, *param.secondary_opts}
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from options_of(inner)


def is_said(text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){option}(?![\w-])", text) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_its_section_and_no_other_is(name: str) -> None:
    command = aura.get_command(click.Context(aura), name)
    assert command is not None
    text = sections("docs/reference/cli.md")[f"aura {name}"]
    options = [spellings for spellings in options_of(command) if not spellings & COMMON]
    assert [sorted(spellings) for spellings in options if not any(is_said(text, option) for option in spellings)] == []
    usage = " ".join(re.findall(rf"`aura {name}\b[^`]*`", text))
    assert set(re.findall(r"--[a-z][a-z-]*", usage)) <= COMMON.union(*options)


@pytest.mark.parametrize("name", sorted(sections("docs/reference/settings.md")))
def test_default_of_a_setting_is_that_of_the_code(name: str, tmp_path: Path) -> None:
    said = re.search(r"Default `([^`]+)`\.|Default (\d+)\.", sections("docs/reference/settings.md")[name])
    if not said:
        return
    value, kind = _setting(load_settings({}, {}, cwd=tmp_path), name)
    assert msgspec.convert(said[1] or said[2], kind, strict=False, dec_hook=decode_hook) == value


def test_nearly_every_setting_says_its_default() -> None:
    found = sections("docs/reference/settings.md")
    silent = {
        name
        for name, text in found.items()
        if "." in name and "[" not in name and "efault" not in text and "As `" not in text
    }
    assert silent == {"resources.NAME", "vars.PLAN.NAME"}


def _setting(settings: Settings, name: str) -> tuple[Any, Any]:
    """A setting's value and its type."""
    node: Any = settings
    kind: Any = None
    for part in name.split("."):
        if isinstance(node, dict):
            node = node[part]
        else:
            kind = {field.name: field.type for field in msgspec.structs.fields(node)}[part]
            node = getattr(node, part)
    return node, kind


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


def test_readme_leads_to_every_how_to_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "how-to" and f"how-to/{page.name}" not in readme] == []
