"""The redactor: no secret that is known leaves it, in any form and however it is cut; all other text is left alone."""

import base64
import json
import re
import shlex
import threading
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aura.events import clean_text
from aura.lifecycle import RunState, StepState
from aura.masking import MASK
from aura.redaction import FORMER, KEPT_RUNS, OWN_WORDS, Redactor
from aura.run import MAX_MESSAGE, Failure, failure_of
from aura.secretforms import MIN_SECRET, is_findable
from aura.wait import WaitKind

SECRET = "s3cret/Wert+1'\"\\ü"
WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "json": lambda s: json.dumps(s)[1:-1],
    "json, not ascii": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "json in json": lambda s: json.dumps(json.dumps(s))[3:-3],
    "python": lambda s: repr(s)[1:-1],
    "python bytes": lambda s: repr(s.encode())[2:-1],
    "url": lambda s: quote(s, safe=""),
    "url, small": lambda s: re.sub("%..", lambda found: found[0].lower(), quote(s, safe="")),
    "path": quote,
    "form": quote_plus,
    "shell": shlex.quote,
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
}
texts = st.text(st.characters(codec="utf-8", exclude_characters="*"), max_size=60)
secrets = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=MIN_SECRET, max_size=60).filter(
    lambda secret: secret not in OWN_WORDS  # those stay
)


def knowing(*found: str) -> Redactor:
    redactor = Redactor()
    for number, secret in enumerate(found):
        redactor.learn(f"p/{number}", secret)
    return redactor


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_secret_is_hidden_in_each_form(write: Callable[[str], str]) -> None:
    written = write(SECRET)
    quote = "'" if written.startswith("'") else ""
    assert knowing(SECRET).text(f"before {written} after") == f"before {quote}***{quote} after"


@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode], ids=["standard", "url"])
@pytest.mark.parametrize("before", ["", "u", "us", "user:"], ids=len)
def test_secret_is_hidden_in_base64_wherever_it_begins(alphabet: Callable[[bytes], bytes], before: str) -> None:
    encoded = alphabet(f"{before}{SECRET}:and more".encode()).decode()
    shown = knowing(SECRET).text(f"Authorization: Basic {encoded}")
    assert MASK in shown
    assert len(shown) < len("Authorization: Basic ") + len(encoded) - len(SECRET)


@given(texts, secrets, texts, st.sampled_from(sorted(WRITTEN)))
@example("", "aaaaaa", "", "as it is")
@example("", "0\n0\n0\n0\n0\n0", "", "as it is")
def test_no_form_of_any_secret_is_left(before: str, secret: str, after: str, form: str) -> None:
    written = WRITTEN[form](secret)
    shown = knowing(secret).text(before + written + after)
    assert written not in shown
    assert secret not in shown


@given(texts, secrets, texts)
def test_text_without_a_secret_is_the_same_object(before: str, secret: str, after: str) -> None:
    redactor = knowing(secret, "another-one-entirely")
    text = f"{before} {after}"
    assume(all(line.strip() not in text for line in secret.splitlines() if len(line.strip()) >= MIN_SECRET))
    assume(all(write(secret) not in text for write in WRITTEN.values()))
    assume(secret.encode().hex() not in text)
    assert redactor.text(text) is text


@given(st.lists(secrets, min_size=1, max_size=4), texts, st.data())
def test_secrets_are_hidden_wherever_chunks_are_cut(found: list[str], between: str, data: st.DataObject) -> None:
    redactor = knowing(*found)
    whole = between.join(["", *found, ""]).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    stream = redactor.stream()
    pieces = [whole[low:high] for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    shown = b"".join([*map(stream.feed, pieces), stream.end()])
    assert all(secret.encode() not in shown for secret in found)
    if "".join(found).isascii() and len(found) == 1 and found[0] not in between and not between:
        assert shown == b"***"


@given(st.binary(max_size=200), st.integers(1, 7))
def test_stream_without_a_secret_is_left_alone(data: bytes, size: int) -> None:
    secret = "\N{SNOWMAN} no such bytes"
    assume(secret.encode() not in data)
    stream = knowing(secret).stream()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join([*map(stream.feed, pieces), stream.end()]) == data


def test_stream_holds_back_only_what_may_be_a_secret() -> None:
    stream = knowing("open-sesame").stream()
    assert stream.feed(b"a line that is whole\nand open-ses") == b"a line that is whole\nand "
    assert stream.feed(b"ame, then\n") == b"***, then\n"
    assert stream.feed(b"open-ses\n") == b"open-ses\n"
    assert stream.end() == b""


def test_stream_masks_one_secret_once_where_another_begins_in_it() -> None:
    stream = knowing("abcdef", "defghi").stream()
    assert stream.feed(b"..abcdef") + stream.feed(b"ghi..") + stream.end() == b"..***.."


@pytest.mark.parametrize("chunks", [[b"000000", b""], [b"000000", b"", b"0"], [b"0"] * 6, [b"0"] * 13], ids=len)
def test_stream_masks_a_secret_that_overlaps_itself(chunks: list[bytes]) -> None:
    stream = knowing("000000").stream()
    assert b"".join([*map(stream.feed, chunks), stream.end()]) == b"***"


def test_stream_passes_chunks_through_while_nothing_is_known() -> None:
    redactor, chunk = Redactor(), b"abc open-ses"
    stream = redactor.stream()
    assert stream.feed(chunk) is chunk


def test_lines_of_a_secret_are_hidden_by_themselves() -> None:
    shown = knowing("first line\nshort\n  second line  \n").text
    assert shown("x second line y") == "x *** y"
    assert shown("short") == "short"
    assert shown("first line\nshort\n  second line  \n") == "***"


@example("", "0" * 25)
@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)), secrets)
def test_json_stays_json_without_the_secret(value: object, secret: str) -> None:
    redactor = knowing(secret)
    data = {"around": value, "secret": [f"<{secret}>"], secret: secret}
    shown = msgspec.json.decode(redactor.encoded(msgspec.json.encode(data)))
    assert shown == redactor.plain(data)
    assert shown["secret"] == ["<***>"]
    assert secret not in shown


def test_numbers_are_hidden_where_a_secret_is_one() -> None:
    redactor = knowing("12345678")
    assert redactor.encoded(b'{"pin":12345678,"n":7,"t":true}') == b'{"pin":"***","n":7,"t":true}'
    assert redactor.plain([12345678, 1.5]) == ["***", 1.5]


def test_data_without_a_secret_is_the_same_object() -> None:
    redactor, data = knowing("12345678"), {"a": [1, {"b": "c"}], "n": None}
    encoded = msgspec.json.encode(data)
    assert redactor.plain(data) is data
    assert redactor.encoded(encoded) is encoded


@pytest.mark.parametrize("short", ["a", "12345", "*****", "******", "***a***"])
def test_short_secret_is_hidden_where_it_is_the_whole_text(short: str) -> None:
    redactor = knowing(short)
    assert not is_findable(short)
    assert redactor.text(short) == MASK
    assert redactor.text(f"x{short}") == f"x{short}"
    assert redactor.encoded(msgspec.json.encode({"a": short})) == b'{"a":"***"}'


@pytest.mark.parametrize("kept", [24, 30, 39])
def test_long_piece_of_a_secret_is_hidden(kept: int) -> None:
    secret = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"
    shown = knowing(secret).text
    assert shown(f"<{secret[:kept]}>") == shown(f"<{secret[-kept:]}>") == "<***>"


def test_wrapped_base64_of_a_long_secret_is_hidden_line_by_line() -> None:
    secret = "".join(map(chr, range(33, 127))) * 2
    wrapped = base64.encodebytes(secret.replace("*", "+").encode()).decode()
    shown = knowing(secret.replace("*", "+")).text(wrapped)
    assert all(line not in shown for line in wrapped.splitlines() if len(line) >= 30)


@pytest.mark.parametrize("kept", range(4, 16))
def test_what_a_cut_leaves_of_a_secret_is_hidden(kept: int) -> None:
    secret = "open-sesame-1234"
    redactor = knowing(secret)
    line = clean_text("x" * (100 - kept) + secret + "y" * 100, 100)
    assert secret[:kept] not in redactor.text(line)
    dropped = "\n… 48 bytes dropped …\n"
    assert redactor.text(f"{secret[:kept]}{dropped}{secret[-kept:]}") == f"***{dropped}***"


def test_former_values_stay_hidden_up_to_a_bound() -> None:
    redactor = Redactor()
    values = [f"value-number-{number:03}" for number in range(FORMER + 2)]
    for value in values:
        redactor.learn("p/s", value)
    shown = [redactor.text(value) for value in values]
    assert shown == [*values[:2], *[MASK] * FORMER]


def test_value_that_comes_again_is_the_newest() -> None:
    redactor = Redactor()
    for number in range(FORMER):
        redactor.learn("p/s", f"value-number-{number:03}")
    redactor.learn("p/s", "value-number-000")
    redactor.learn("p/s", "value-number-999")
    assert redactor.text("value-number-000") == MASK
    assert redactor.text("value-number-001") != MASK


def test_inputs_of_a_run_are_hidden_until_enough_others_have_ended() -> None:
    redactor = Redactor()
    redactor.hold("run", ["open-sesame", "tiny"])
    redactor.release("run")
    assert redactor.text("open-sesame tiny") == "*** tiny"
    for number in range(KEPT_RUNS):
        redactor.hold(f"run-{number}", ["another-secret"])
        redactor.release(f"run-{number}")
    assert redactor.text("open-sesame") == "open-sesame"
    assert redactor.text("another-secret") == MASK


def test_secret_that_two_know_is_hidden_until_both_have_forgotten() -> None:
    redactor = knowing("open-sesame")
    redactor.hold("run", ["open-sesame"])
    redactor.release("run")
    for number in range(KEPT_RUNS + 1):
        redactor.hold(f"run-{number}", [])
        redactor.release(f"run-{number}")
    assert redactor.text("open-sesame") == MASK


def test_what_a_run_was_given_later_hides_nothing_less() -> None:
    redactor = Redactor()
    redactor.hold("run", ["from-an-answer"])
    redactor.hold("run", ["open-sesame"])
    redactor.hold("run", ["open-sesame"])
    assert redactor.text("open-sesame from-an-answer") == "*** ***"
    for number in range(KEPT_RUNS + 1):
        redactor.release("run" if number == 0 else f"run-{number}")
        redactor.hold(f"run-{number + 1}", [])
    assert not redactor.knows


@pytest.mark.parametrize("kept", range(6, 16))
def test_failure_that_was_cut_where_no_secret_was_known_shows_no_part_of_one(kept: int) -> None:
    secret = "hunter2-and-more-of-it"
    made = failure_of(ValueError("x" * (MAX_MESSAGE - kept) + secret))
    assert "hunter" in made.message
    assert "hunter" not in knowing(secret).text(made.message)
    traced = failure_of(ValueError(secret + "x" * (16 * MAX_MESSAGE - kept - 1))).trace
    assert secret[-kept:] in traced
    assert "of-it" not in knowing(secret).text(traced)


def test_words_that_records_are_read_by_stay_whatever_the_secrets_are() -> None:
    failure = Failure("E", "no state", cause={"cid": None, "type": "E", "message": "no"}).shown()
    wait = {"kind": "approval", "message": "no", "inputs": {"properties": {"a": {"type": "string", "writeOnly": True}}}}
    told = {"because": "dependency", "state": "failed", "root_state": "succeeded", "wanted": ["skipped"]}
    states: list[str] = [*StepState, *RunState, *WaitKind]
    for secret in {*failure, *wait, *told, *states, "properties", "writeOnly", "string", "essage", "cceeded"}:
        redactor = knowing(secret)
        for value in (failure, wait, told, states):
            assert redactor.plain(value) == value
            assert msgspec.json.decode(redactor.encoded(msgspec.json.encode(value))) == value


def test_nothing_is_shown_when_hiding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = knowing("open-sesame")
    monkeypatch.setattr(redactor, "_needles", None)
    assert redactor.text("anything") == MASK
    assert redactor.plain(["a", {"b": 1}]) == [MASK, {MASK: 1}]
    assert redactor.encoded(b'{"a":"b"}') == b'"***"'
    assert redactor.stream().feed(b"anything") == b"***"


def test_secrets_may_come_and_go_while_others_look() -> None:
    redactor = knowing("open-sesame-0001")
    shown: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            shown.append(redactor.text("well, open-sesame-0001!"))

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(300):
        redactor.learn("p/other", f"other-{number}" if number % 2 else f"a-much-longer-secret-{number}")
    done.set()
    looker.join(30)
    assert set(shown) == {"well, ***!"}
