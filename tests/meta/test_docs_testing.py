"""The reference of plan tests against the code: every public name of what tests use is said there, and no other is."""

import inspect
import re
from pathlib import Path

import pytest

from aura.testing import fakes, virtual_time
from aura.testing.fakes import Fake, make_fake
from aura.testing.run import Run
from aura.testing.world import World

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
#: What stands in code at the beginning of a row, or anywhere in the last section.
ROWS = {name for row in re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE) for name in re.findall(r"`@?([\w.]+)", row)}
INNER = set(re.findall(r"`(\w+)`", PAGE.partition("## For tests of Aura itself")[2]))


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [World, Run, Fake])
def test_every_public_name_has_a_row(kind: type) -> None:
    assert sorted(public(kind) - ROWS - INNER) == []


def test_every_row_is_of_something_that_is_there() -> None:
    words = set(inspect.signature(make_fake).parameters)
    known = public(World) | public(Run) | public(Fake) | words
    known |= {name for name in (*vars(fakes), *vars(virtual_time)) if name[0].isupper()}
    named = {"world", "sweep", "pytest.mark.plan", "NotAllowed", "RequestError"}
    instance = {"state", "cid", "name", "calls", "errors"}
    assert sorted(ROWS - known - named - instance) == []


def test_every_word_of_a_fake_has_a_row() -> None:
    words = set(inspect.signature(make_fake).parameters) - {"action", "unknown"}
    assert sorted(words - ROWS) == []
