"""Proofs of webhooks: what each scheme takes, and every wrong one that somebody might try."""

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.webhooks import SECRET, aura_headers, signature

from aura.schedule import Scheme
from aura.scheduling.signatures import TOLERANCE, HookCall, Verdict, verdict

NOW = 1_800_000_000.0
BODY = b'{"ref": "{{ 7*7 }}"}'
AURA = aura_headers(BODY, at=NOW)
GITHUB = {"X-Hub-Signature-256": signature(BODY), "X-GitHub-Delivery": "72d3162e"}
GITLAB = {"X-Gitlab-Token": SECRET, "X-Gitlab-Event-UUID": "13792a34"}
BEARER = {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": "k1"}
GOOD = {Scheme.AURA: AURA, Scheme.GITHUB: GITHUB, Scheme.GITLAB: GITLAB, Scheme.BEARER: BEARER}


def call(*headers: dict[str, Any], body: bytes = BODY) -> HookCall:
    """A call; a header of which the value is None is not there."""
    pairs = [pair for one in headers for pair in one.items() if pair[1] is not None]
    raw = [(name.lower().encode(), one if isinstance(one, bytes) else str(one).encode()) for name, one in pairs]
    return HookCall(raw, body)


def judge(scheme: Scheme, asked: HookCall, secret: str = SECRET) -> Verdict:
    return verdict(scheme, secret.encode(), asked, NOW)


def test_signature_that_github_documents_is_taken() -> None:
    expected = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    asked = call({"X-Hub-Signature-256": f"sha256={expected}", "X-GitHub-Delivery": "a"}, body=b"Hello, World!")
    assert judge(Scheme.GITHUB, asked, "It's a Secret to Everybody") == Verdict(None, "a")


@pytest.mark.parametrize("scheme", Scheme)
def test_good_call_is_proven_in_its_own_scheme_alone(scheme: Scheme) -> None:
    proven = {one for one, headers in GOOD.items() if judge(scheme, call(headers)).why is None}
    assert proven == {scheme}
    assert judge(scheme, call(GOOD[scheme])).delivery in ("d1", "72d3162e", "13792a34", "k1")
    assert judge(scheme, call(GOOD[scheme]), "another").why is not None
    assert judge(scheme, call()).why is not None
    assert judge(scheme, call(), "").why is not None


def hexed(headers: dict[str, str], name: str, change: Any) -> dict[str, Any]:
    return {**headers, name: change(headers[name])}


SIGNED = [(Scheme.AURA, AURA, "X-Aura-Signature"), (Scheme.GITHUB, GITHUB, "X-Hub-Signature-256")]
FORGED = {
    "missing": lambda _: None,
    "empty": lambda _: "",
    "truncated": lambda text: text[:-2],
    "longer": lambda text: text + "00",
    "no scheme": lambda text: text.removeprefix("sha256="),
    "sha1": lambda text: text.replace("sha256", "sha1"),
    "one digit": lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
    "spaces": lambda text: text[:20] + " " + text[20:-1],
    "not ASCII": lambda text: text[:-1].encode() + b"\xe9",
    "not a digit": lambda text: text[:-1] + "g",
    "full-width": lambda text: text[:-1].encode() + "\N{FULLWIDTH DIGIT ONE}".encode(),
    "newline": lambda text: text + "\n",
    "other secret": lambda _: signature(BODY, "another"),
    "zeros": lambda _: "sha256=" + "0" * 64,
}


@pytest.mark.parametrize(("scheme", "headers", "name"), SIGNED, ids=["aura", "github"])
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_forged_signature_proves_nothing(scheme: Scheme, headers: dict[str, str], name: str, forge: Any) -> None:
    assert judge(scheme, call(hexed(headers, name, forge))).why is not None


@pytest.mark.parametrize(("scheme", "headers", "name"), SIGNED, ids=["aura", "github"])
def test_digits_may_be_capitals_and_the_body_may_not_differ(scheme: Scheme, headers: dict[str, str], name: str) -> None:
    capitals = hexed(headers, name, lambda text: "sha256=" + text.removeprefix("sha256=").upper())
    assert judge(scheme, call(capitals)).why is None
    assert judge(scheme, call(headers, body=BODY + b" ")).why is not None


@pytest.mark.parametrize(("scheme", "name"), [
    *((Scheme.AURA, name) for name in AURA), *((Scheme.GITHUB, name) for name in GITHUB),
    *((Scheme.GITLAB, name) for name in GITLAB), *((Scheme.BEARER, name) for name in BEARER),
])  # fmt: skip
def test_header_that_comes_twice_proves_nothing(scheme: Scheme, name: str) -> None:
    headers = GOOD[scheme]
    assert judge(scheme, call(headers, {name: headers[name]})).why is not None
    assert judge(scheme, call({name: "other"}, headers)).why is not None


@pytest.mark.parametrize(
    ("at", "fine"),
    [(-TOLERANCE - 1, False), (-TOLERANCE, True), (0, True), (TOLERANCE, True), (TOLERANCE + 1, False)],
)
def test_time_may_be_off_by_five_minutes_both_ways(at: float, fine: bool) -> None:
    said = judge(Scheme.AURA, call(aura_headers(BODY, at=NOW + at)))
    assert (said.why is None) is fine


@pytest.mark.parametrize("stamp", ["", "-1", "1e9", "1_800_000_000", "+1800000000", "9" * 400, "١٨٠٠", "nan", "0x7"])
def test_time_is_a_plain_number(stamp: str) -> None:
    signed = signature(f"d1.{stamp}.".encode() + BODY)
    assert judge(Scheme.AURA, call({**AURA, "X-Aura-Timestamp": stamp, "X-Aura-Signature": signed})).why is not None


@pytest.mark.parametrize("changed", [{"X-Aura-Id": "d2"}, {"X-Aura-Timestamp": str(int(NOW) + 1)}])
def test_id_and_time_are_signed(changed: dict[str, str]) -> None:
    assert judge(Scheme.AURA, call({**AURA, **changed})).why is not None


@pytest.mark.parametrize("id", ["a.b", "", "a b", "é", "x" * 256])
def test_id_that_could_be_read_otherwise_proves_nothing(id: str) -> None:
    assert judge(Scheme.AURA, call(aura_headers(BODY, id=id, at=NOW))).why is not None


def test_what_is_signed_cannot_be_cut_elsewhere() -> None:
    """``a.1`` at ``2`` over ``x`` and ``a`` at ``1`` over ``2.x`` are the same bytes."""
    stamp = int(NOW)
    signed = signature(f"a.{stamp}.{stamp}.1".encode())
    headers = {"X-Aura-Timestamp": str(stamp), "X-Aura-Signature": signed}
    assert judge(Scheme.AURA, call({**headers, "X-Aura-Id": "a"}, body=f"{stamp}.1".encode())).why is None
    assert judge(Scheme.AURA, call({**headers, "X-Aura-Id": f"a.{stamp}"}, body=b"1")).why is not None


@pytest.mark.parametrize(
    ("scheme", "headers", "delivery"),
    [
        (Scheme.GITHUB, {"X-Hub-Signature-256": signature(BODY)}, signature(BODY)),
        (Scheme.GITLAB, {**GITLAB, "Idempotency-Key": "newer"}, "newer"),
        (Scheme.GITLAB, {"X-Gitlab-Token": SECRET}, None),
        (Scheme.BEARER, {"Authorization": f"bearer   {SECRET}"}, None),
    ],
)
def test_delivery_is_what_the_sender_calls_it(scheme: Scheme, headers: dict[str, str], delivery: str | None) -> None:
    assert judge(scheme, call(headers)) == Verdict(None, delivery)


@pytest.mark.parametrize("value", [f"Basic {SECRET}", SECRET, f"Bearer{SECRET}", "Bearer ", f"Bearer {SECRET}x", "é"])
def test_wrong_bearer_proves_nothing(value: str) -> None:
    assert judge(Scheme.BEARER, call({"Authorization": value})).why is not None


def test_secret_that_is_not_ascii_is_compared_as_bytes() -> None:
    assert judge(Scheme.GITLAB, call({"X-Gitlab-Token": "pä$$wörd-é"}), "pä$$wörd-é").why is None


@given(st.lists(st.tuples(st.sampled_from([name.lower().encode() for one in GOOD.values() for name in one]),
                          st.binary(max_size=90))), st.binary(max_size=40))  # fmt: skip
def test_nothing_that_was_not_made_with_the_secret_is_a_proof(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    for scheme in Scheme:
        assert judge(scheme, HookCall(headers, body)).why is not None


def test_each_call_costs_the_same_and_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever scheme and headers, the same comparisons are made, each of digests of one size."""
    compared: list[tuple[int, int]] = []
    constant = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return constant(one, other)

    monkeypatch.setattr("aura.scheduling.signatures.hmac.compare_digest", compare)
    counts = set()
    for scheme in Scheme:
        for headers in [*GOOD.values(), {}, {"Authorization": "Bearer x", "X-Gitlab-Token": "é"}]:
            compared.clear()
            verdict(scheme, b"any", call(headers), NOW)
            counts.add(tuple(compared))
    size = hashlib.sha256().digest_size
    assert counts == {((size, size),) * len(Scheme)}
