"""The secrets of plans: where they are looked for, in which order, and what is said when they are not there."""

import json
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from aura.actions import plain_json
from aura.errors import SecretMissing, SecretUnknown
from aura.events import encode, plain
from aura.masking import MASK
from aura.plan import Plan
from aura.redaction import Redactor
from aura.secret import Secret
from aura.secrets import MAX_FILE, Environment, Folder, Provider, Secrets, default_providers, secret_warnings

PLAN = Plan("lab", "/plans/lab", {}, secrets=("token", "other"))


class Reading:
    """Secrets over some providers, and what it warned of."""

    def __init__(self, *providers: Provider) -> None:
        self.redactor = Redactor()
        self.warned: list[str] = []
        self.secrets = Secrets(providers, self.redactor, self.warned.append)

    def read(self, name: str = "token") -> str:
        return self.secrets.read(PLAN, name).reveal()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("from-the-file\n")
    (tmp_path / "token").chmod(0o400)
    return tmp_path


# -- what a secret shows of itself


def test_secret_shows_itself_nowhere() -> None:
    secret = Secret("open-sesame")
    data = {"a": secret}
    shown = [str(secret), repr(secret), f"{secret}", "%s" % secret, f"{secret!s:>3}", secret + "", plain(secret)]  # noqa: UP031
    assert set(shown) == {MASK}
    assert json.dumps(data) == '{"a": "***"}'
    assert encode(data) == b'{"a":"***"}'
    assert plain_json(data) == {"a": MASK}
    assert secret.reveal() == "open-sesame"


def test_secrets_are_equal_if_their_texts_are() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != MASK
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_secret_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret("open-sesame"))


# -- where they are


def test_places_are_asked_in_order(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    container = tmp_path_factory.mktemp("run")
    (container / "token").write_text("from-the-container")
    (container / "other").write_text("only-in-the-container")
    variables = {"AURA_SECRET_TOKEN": "from-the-variable", "CREDENTIALS_DIRECTORY": str(folder)}
    assert Reading(*default_providers(variables, container)).read() == "from-the-variable"
    del variables["AURA_SECRET_TOKEN"]
    assert Reading(*default_providers(variables, container)).read() == "from-the-file"
    assert Reading(*default_providers(variables, container)).read("other") == "only-in-the-container"
    assert Reading(*default_providers({}, container)).read() == "from-the-container"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        pytest.param("open-sesame\n", "open-sesame", id="newline"),
        pytest.param("open-sesame\r\n", "open-sesame", id="windows"),
        pytest.param("two\nlines\n\n", "two\nlines\n", id="one-newline-only"),
        pytest.param(" spaces stay ", " spaces stay ", id="spaces"),
        pytest.param("x" * MAX_FILE, "x" * MAX_FILE, id="largest"),
    ],
)
def test_file_is_the_secret_without_the_newline_at_its_end(folder: Path, content: str, secret: str) -> None:
    (folder / "other").write_bytes(content.encode())
    assert Reading(Folder(folder)).read("other") == secret


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"x" * (MAX_FILE + 1), "larger than 64 KiB", id="large"),
        pytest.param(b"\xff\xfe", "is no UTF-8 text", id="binary"),
    ],
)
def test_file_that_is_no_secret_fails(folder: Path, content: bytes, message: str) -> None:
    (folder / "other").write_bytes(content)
    with pytest.raises(SecretMissing, match=message):
        Reading(Folder(folder), Environment({"AURA_SECRET_OTHER": "not this one"})).read("other")


def test_file_that_cannot_be_read_fails_and_is_not_passed_over(folder: Path) -> None:
    (folder / "other").mkdir()
    with pytest.raises(SecretMissing, match="other cannot be read: "):
        Reading(Folder(folder), Environment({"AURA_SECRET_OTHER": "not this one"})).read("other")


def test_pipe_in_place_of_a_file_fails_at_once(folder: Path) -> None:
    os.mkfifo(folder / "other")
    with pytest.raises(SecretMissing, match="it is no file"):
        Reading(Folder(folder)).read("other")


@pytest.mark.parametrize("variables", [{}, {"AURA_SECRET_TOKEN": ""}, {"AURA_SECRET_TOKEN": "\n"}], ids=str)
def test_secret_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(SecretMissing) as caught:
        Reading(Environment(variables), Folder(tmp_path)).read()
    assert "the environment variable AURA_SECRET_TOKEN, the file " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("tokn", "does not declare the secret 'tokn'; did you mean 'token'", id="near"),
        pytest.param("smtp", "does not declare the secret 'smtp'; it declares token, other", id="far"),
    ],
)
def test_secret_that_is_not_declared_is_not_read(folder: Path, name: str, message: str) -> None:
    (folder / name).write_text("open-sesame")
    with pytest.raises(SecretUnknown, match=message):
        Reading(Folder(folder)).read(name)


# -- reading


def test_secret_is_read_anew_at_each_use_and_all_its_values_are_hidden() -> None:
    variables = {"AURA_SECRET_TOKEN": "first-value"}
    reading = Reading(Environment(variables))
    found = reading.secrets.of(PLAN)
    assert found["token"] == "first-value"
    variables["AURA_SECRET_TOKEN"] = "second-value"
    assert found["token"] == "second-value"
    assert reading.redactor.text("first-value second-value third-value") == "*** *** third-value"


def test_short_secret_is_warned_of_once() -> None:
    reading = Reading(Environment({"AURA_SECRET_TOKEN": "12345"}))
    assert reading.read() == reading.read() == "12345"
    (warning,) = reading.warned
    assert warning.startswith("the secret lab/token has fewer than 6 characters")
    assert reading.redactor.text("12345") == MASK


def test_secrets_of_a_plan_show_their_names_alone() -> None:
    found = Reading(Environment({"AURA_SECRET_TOKEN": "open-sesame"})).secrets.of(PLAN)
    assert repr(found) == str(found) == "<secrets token, other>"
    assert (list(found), len(found), "token" in found, "nope" in found) == (["token", "other"], 2, True, False)


def test_secrets_in_expressions_are_empty_as_a_whole() -> None:
    scope = Reading(Environment({"AURA_SECRET_TOKEN": "open-sesame"})).secrets.scope_of(PLAN)
    assert scope["token"] == "open-sesame"
    assert (dict(scope), list(scope), repr(scope), msgspec.json.encode(scope)) == ({}, [], "{}", b"{}")


# -- what is said before they are used


def said(*providers: Provider) -> list[str]:
    return list(secret_warnings(providers, PLAN))


def test_secret_that_is_nowhere_is_warned_of_and_none_is_read() -> None:
    class Watched(Environment):
        def read(self, name: str) -> str | None:
            raise AssertionError(f"{name} was read")

    (warning,) = said(Watched({"AURA_SECRET_TOKEN": "open-sesame"}))
    assert warning.startswith("the secret other is nowhere yet, and a step that uses it will fail; looked at: ")


@pytest.mark.parametrize(
    ("mode", "too_open", "warned"),
    [
        pytest.param(0o400, 0o027, False, id="closed"),
        pytest.param(0o440, 0o027, False, id="group-reads"),
        pytest.param(0o444, 0o027, True, id="all-read"),
        pytest.param(0o444, 0o022, False, id="all-read-in-a-container"),
        pytest.param(0o460, 0o022, True, id="group-writes"),
    ],
)
def test_file_that_is_open_to_others_is_warned_of(folder: Path, mode: int, too_open: int, warned: bool) -> None:
    (folder / "other").write_text("open-sesame")
    (folder / "other").chmod(mode)
    assert [f"open to other users (mode {mode:04o})" in text for text in said(Folder(folder, too_open))] == [
        True
    ] * warned


def test_default_places_let_containers_alone(folder: Path) -> None:
    for name in PLAN.secrets:
        (folder / name).write_text("open-sesame")
        (folder / name).chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    assert list(secret_warnings(default_providers({}, folder), PLAN)) == []
    assert len(list(secret_warnings(default_providers({"CREDENTIALS_DIRECTORY": str(folder)}), PLAN))) == 2


def test_providers_are_told_apart_by_what_they_do_alone() -> None:
    class Fixed:
        def where(self, name: str) -> str:
            return f"the vault's {name}"

        def has(self, name: str) -> bool:
            return name == "token"

        def read(self, name: str) -> str | None:
            return "from-the-vault" if name == "token" else None

        def warnings(self, _name: str) -> Iterator[str]:
            yield "the vault is open"

    assert Reading(Fixed()).read() == "from-the-vault"
    assert said(Fixed()) == ["the vault is open", said(Fixed())[1]]
