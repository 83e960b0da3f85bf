"""One YAML file: the core schema of YAML 1.2, positions, and everything of YAML that plans may not use."""

import time
from typing import Any

import pytest

from aura.errors import PlanError
from aura.loading.yamlfile import MAX_BYTES, load


def problems_of(text: str | bytes) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load(text, "lab/plan.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        pytest.param("on", "on", id="on"),
        pytest.param("no", "no", id="no"),
        pytest.param("yes", "yes", id="yes"),
        pytest.param("y", "y", id="y"),
        pytest.param("true", True, id="true"),
        pytest.param("False", False, id="False"),
        pytest.param("tRUE", "tRUE", id="no-word-of-the-schema"),
        pytest.param("", None, id="nothing"),
        pytest.param("~", None, id="tilde"),
        pytest.param("Null", None, id="Null"),
        pytest.param("nULL", "nULL", id="no-null"),
        pytest.param("012", 12, id="leading-zero-is-decimal"),
        pytest.param("0o14", 12, id="octal"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("0b11", "0b11", id="no-binary"),
        pytest.param("1_000", "1_000", id="underscore"),
        pytest.param("1:30", "1:30", id="no-sexagesimal"),
        pytest.param("2026-11-22", "2026-11-22", id="date"),
        pytest.param("2026-11-22T08:00:00Z", "2026-11-22T08:00:00Z", id="time"),
        pytest.param("+1", 1, id="plus"),
        pytest.param("-17", -17, id="minus"),
        pytest.param("1.", 1.0, id="point-at-the-end"),
        pytest.param(".5", 0.5, id="point-at-the-beginning"),
        pytest.param("1e3", 1000.0, id="exponent"),
        pytest.param("1.2.3", "1.2.3", id="version"),
        pytest.param("'12'", "12", id="quoted"),
        pytest.param('"true"', "true", id="double-quoted"),
        pytest.param("18446744073709551615", 2**64 - 1, id="largest-integer"),
        pytest.param("=", "=", id="equals"),
    ],
)
def test_scalar_follows_the_core_schema(scalar: str, value: Any) -> None:
    found = load(f"k: {scalar}\n", "f").value["k"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("on: 1", {"on": 1}, id="key-on"),
        pytest.param("", None, id="empty"),
        pytest.param("# only a comment\n", None, id="only-comments"),
        pytest.param("\ufeffa: 1\r\nb:\r\n  - 2\r\n", {"a": 1, "b": [2]}, id="bom-and-crlf"),
        pytest.param("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}, id="anchor"),
        pytest.param("a: |\n  x: {{ y }}\n  z\n", {"a": "x: {{ y }}\nz\n"}, id="block-text"),
        pytest.param("a: 'it''s {{ x }}'", {"a": "it's {{ x }}"}, id="quoted-expression"),
        pytest.param("a: x {{ b }}", {"a": "x {{ b }}"}, id="expression-that-begins-with-a-word"),
        pytest.param("%YAML 1.2\n---\na: 1\n...\n", {"a": 1}, id="directive"),
        pytest.param("{a: [1, {b: c}], d: }", {"a": [1, {"b": "c"}], "d": None}, id="flow"),
    ],
)
def test_document_is_read(text: str, value: Any) -> None:
    assert load(text.encode(), "f").value == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("a:\n\tb: 1\n", "2:1: a tab stands where blanks are needed", id="tab"),
        pytest.param("a: 1\nb: 2\na: 3\n", "3:1: the key 'a' is here a second time; the first is in line", id="twice"),
        pytest.param("{a: 1, a: 2}", "1:8: the key 'a' is here a second time", id="twice-in-one-line"),
        pytest.param("b: &b {x: 1}\nc:\n  <<: *b\n", "3:3: merging with << is not part of plan files", id="merge"),
        pytest.param("a: !!python/object x", "1:4: tags such as !!python/object are not part", id="python-tag"),
        pytest.param("a: !!str 12", "1:4: tags such as !!str are not part", id="standard-tag"),
        pytest.param("a: !x [1]", "1:4: tags such as !x are not part", id="own-tag"),
        pytest.param("&a [*a]", "1:5: the anchor &a contains itself", id="recursive"),
        pytest.param("a: &x\n  b: {c: *x}\n", "2:10: the anchor &x contains itself", id="recursive-deeper"),
        pytest.param("a: *x", "1:4: there is no anchor &x before this; if text is meant, put quotes", id="no-anchor"),
        pytest.param("x: .nan", "1:4: the number .nan has no JSON form", id="nan"),
        pytest.param("x: -.inf", "1:4: the number -.inf has no JSON form", id="infinity"),
        pytest.param("x: 1e999", "1:4: the number 1e999 is too large", id="large-float"),
        pytest.param("x: 18446744073709551616", "1:4: the number 18446744073709551616 is too", id="large-integer"),
        pytest.param(f"x: {'9' * 5000}", "1:4: the number 999999999999999999999999999999 is", id="5000-digits"),
        pytest.param("1: a", "1:1: the key 1 is not text; put quotes around it", id="key-number"),
        pytest.param("true: a", "1:1: the key true is not text", id="key-boolean"),
        pytest.param("? [a]\n: b\n", "1:3: a key must be text", id="key-list"),
        pytest.param("a: 1\n---\nb: 1\n", "2:1: a second document begins here", id="two-documents"),
        pytest.param("%YAML 1.1\n---\na: 1", "1:1: only YAML 1.2 is read", id="yaml-1.1"),
        pytest.param("a: 'x\n", "2:1: the quote that begins in line 1, column 4, is never closed", id="quote-open"),
        pytest.param("a: {b: c d: e}", "1:11: a second ':' in one value: a comma is missing before it", id="comma"),
        pytest.param("a: {b: {c: d}\ne: f\n", "2:1: a comma or } is missing before this; the {", id="brace"),
        pytest.param("a: {b: [c, d}\n", "1:13: a comma or ] is missing before this; the [ is in line 1", id="bracket"),
        pytest.param("a: {b: {c: d}}}\n", "1:15: there is one } too many", id="brace-too-many"),
        pytest.param("a: {b: c}\n- d\n", "2:1: did not find expected key", id="list-behind-a-mapping"),
        pytest.param("a: {b:c, d: {e: f}}", "a blank follows the colon", id="colon-without-a-blank"),
        pytest.param('a: "\\d"', "between single quotes a backslash is nothing special", id="escape"),
        pytest.param("  a: 1\n b: 2\n", "2:2: ", id="indentation"),
        pytest.param("a: b\n  c: d\n", "2:4: no ':' is expected here; check the indentation", id="continued"),
        pytest.param("a: \x00", "1:4: the character U+0000 may not stand in YAML", id="nul"),
        pytest.param("a: 1\nb: \x1b[0m", "2:4: the character U+001B may not stand", id="escape-character"),
        pytest.param("[" * 100_000, "1:65: the file nests deeper than 64 levels", id="deep"),
    ],
)
def test_problem_has_its_position(text: str, problem: str) -> None:
    assert any(found.startswith(f"lab/plan.yaml:{problem}") or problem in found for found in problems_of(text))


@pytest.mark.parametrize(
    ("text", "position"),
    [
        pytest.param("a: {{ inputs.x }}\n", "1:4", id="expression"),
        pytest.param("a: {{ inputs.x }} and more\n", "1:4", id="expression-and-text"),
        pytest.param("a: {{ inputs.x | upper }}\n", "1:4", id="expression-with-filter"),
        pytest.param("a:\n  - {{ f('x') }}\n", "2:5", id="expression-in-a-list"),
        pytest.param("a: [{{ x }}]\n", "1:5", id="expression-in-a-flow-list"),
        pytest.param("a: {b: {{ x }}}\n", "1:8", id="expression-in-a-flow-mapping"),
        pytest.param("cron: */5 * * * *\n", "1:8", id="cron-steps"),
        pytest.param("cron: * * * * *\n", "1:8", id="cron-stars"),
        pytest.param("a: b: c\n", "1:5", id="second-colon"),
        pytest.param("a: @daily\n", "1:4", id="at"),
        pytest.param("a: `x`\n", "1:4", id="backtick"),
        pytest.param("a: %d\n", "1:4", id="percent"),
        pytest.param("pattern: [0-9]+\n", "1:15", id="pattern"),
        pytest.param("a: {pattern: [0-9]+}\n", "1:19", id="pattern-in-a-flow-mapping"),
        pytest.param("a: {b: @daily}\n", "1:8", id="at-in-a-flow-mapping"),
    ],
)
def test_value_that_needs_quotes_says_so(text: str, position: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(f"lab/plan.yaml:{position}: ")
    assert "put quotes around it" in problem


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param("a: 1\nb: é".encode("latin-1"), "2:4: the byte 0xe9 is not UTF-8", id="latin-1"),
        pytest.param("a: 1".encode("utf-16"), "1:1: the file is in UTF-16", id="utf-16"),
        pytest.param("a: 1".encode("utf-32"), "1:1: the file is in UTF-16 or UTF-32", id="utf-32"),
        pytest.param(b"a: \xed\xa0\x80", "1:4: the byte 0xed is not UTF-8", id="surrogate"),
        pytest.param(b"#" * (MAX_BYTES + 1), "1:1: the file is larger than 1024 KiB", id="too-large"),
    ],
)
def test_file_that_is_no_utf8_text_is_refused(data: bytes, said: str) -> None:
    assert problems_of(data)[0].startswith(f"lab/plan.yaml:{said}")


def bomb(levels: int, width: int) -> str:
    lines = ["l0: &l0 [x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(bomb(10, 10), "more than 50000 values once its anchors are followed", id="wide"),
        pytest.param(bomb(80, 1), "nests deeper than 64 levels", id="deep"),
    ],
)
def test_alias_bomb_is_refused_at_once(text: str, said: str) -> None:
    begun = time.process_time()
    assert said in problems_of(text)[0]
    assert time.process_time() - begun < 0.1


def test_all_problems_are_found_at_once() -> None:
    assert [p.split(":")[1] for p in problems_of("a: .nan\nb: !x 1\na: 2\n1: x\n")] == ["1", "2", "3", "4"]


def test_positions_of_keys_and_values() -> None:
    document = load("a: 1\nsteps:\n  - name: x\n    params: {host: 'h'}\n", "f.yaml")
    assert document.position(()) == (1, 1)
    assert document.position(("steps", 0, "params", "host")) == (4, 20)
    assert document.key_position(("steps", 0, "params", "host")) == (4, 14)
    assert document.key_position(("steps", 0)) == document.position(("steps", 0)) == (3, 5)
    assert document.at(("steps", 0, "name")) == "f.yaml:3"


def test_position_of_what_is_not_there_is_the_nearest() -> None:
    document = load("a: {b: 1}\n", "f.yaml")
    assert document.position(("a", "c", "d")) == (1, 4)
    assert str(document.problem(("a", "c"), "no")) == "f.yaml:1:4: no"


def test_alias_has_the_position_of_the_alias() -> None:
    document = load("a: &x {b: 1}\nc: *x\n", "f.yaml")
    assert document.position(("c",)) == (2, 4)
    assert document.position(("c", "b")) == (1, 11)
