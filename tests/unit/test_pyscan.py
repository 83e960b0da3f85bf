"""A plan's Python read without running it: actions, their parameters, and when the scan cannot be sure."""

import pytest

from aura.loading.pyscan import Scan, Shape, scan


def scan_of(code: str) -> Scan:
    return scan("lab", {"actions.py": code.encode()})


@pytest.mark.parametrize(
    ("code", "name"),
    [
        pytest.param("from aura import action\n@action\ndef f(): pass", "f", id="plain"),
        pytest.param("from aura import action\n@action\nasync def f(): pass", "f", id="async"),
        pytest.param("from aura import action as a\n@a\ndef f(): pass", "f", id="renamed"),
        pytest.param("import aura\n@aura.action\ndef f(): pass", "f", id="by-module"),
        pytest.param("import aura as x\n@x.action()\ndef f(): pass", "f", id="by-renamed-module"),
        pytest.param("from aura.actions import action\n@action(name='g')\ndef f(): pass", "g", id="named"),
        pytest.param("from aura import *\n@action\ndef f(): pass", "f", id="star"),
        pytest.param("from aura import action\nif True:\n    @action\n    def f(): pass", "f", id="in-an-if"),
        pytest.param("from aura import action\ntry:\n @action\n def f(): pass\nfinally: pass", "f", id="in-a-try"),
    ],
)
def test_action_is_found(code: str, name: str) -> None:
    found = scan_of(code)
    assert list(found.actions) == [name]
    assert found.complete


@pytest.mark.parametrize(
    ("signature", "shape"),
    [
        pytest.param("()", Shape((), frozenset()), id="nothing"),
        pytest.param("(ctx, a)", Shape(("a",), frozenset({"a"})), id="ctx-by-name"),
        pytest.param("(c: Context, a, b=1)", Shape(("a", "b"), frozenset({"a"})), id="context-by-annotation"),
        pytest.param("(c: 'aura.Context', a)", Shape(("a",), frozenset({"a"})), id="context-as-text"),
        pytest.param("(a, *, b, c=1)", Shape(("a", "b", "c"), frozenset({"a", "b"})), id="keyword-only"),
    ],
)
def test_parameters_are_read(signature: str, shape: Shape) -> None:
    found = scan_of(f"from aura import action, Context\n@action\ndef f{signature}: pass")
    assert found.actions == {"f": shape}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("from aura import action\ndef f(): pass\ng = action(f)", id="by-call"),
        pytest.param("from aura import action\nname = 'x'\n@action(name=name)\ndef f(): pass", id="name-computed"),
        pytest.param("from .base import mark\n@mark\ndef f(): pass", id="decorator-of-its-own"),
        pytest.param("from aura import action\nmark = action\n@mark\ndef f(): pass", id="renamed-by-assignment"),
    ],
)
def test_scan_that_cannot_be_sure_says_so(code: str) -> None:
    assert not scan_of(code).complete


def test_second_decorator_makes_the_parameters_uncertain() -> None:
    found = scan_of("from aura import action\nfrom x import retry\n@action\n@retry\ndef f(a): pass")
    assert found.actions["f"].loose


def test_other_functions_are_no_actions() -> None:
    found = scan_of("from aura import action\ndef f(): pass\nclass C:\n    @action\n    def g(self): pass\n")
    assert not found.actions
