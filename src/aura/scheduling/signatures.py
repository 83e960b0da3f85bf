"""Proofs of webhooks: whether whoever calls knows the secret, in each scheme, and which delivery the call is. No I/O.

All of it is done on bytes, as they came: nothing of a body is read before it is proven. What is compared are digests,
in constant time, and each proof costs the same whatever is said: both signatures are always computed, those of a hook
that is not there too (``verdict``), so that neither an answer nor the time of a proof tells which hooks there are.

Where a header that counts comes twice, nothing is proven: whoever is in between might have read the other one.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aura.schedule import Scheme

#: How far the time that a call says may be from ours, in seconds, before or behind.
TOLERANCE = 300.0
_SIGNATURE = re.compile(rb"sha256=([0-9a-fA-F]{64})")
_STAMP = re.compile(rb"[0-9]{1,15}")
_ID = re.compile(rb"[\x21-\x7e]{1,255}")
#: In the scheme ``aura`` dots separate what is signed: with one in it, an id could end elsewhere than it was meant to.
_DOTLESS = re.compile(rb"[\x21-\x2d\x2f-\x7e]{1,255}")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(.*)", re.DOTALL)


class HookCall(NamedTuple):
    """A call of a webhook as it came: header names are in lower case."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def given(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]

    def only(self, name: bytes) -> bytes | None:
        """The value of a header that is there once; None otherwise."""
        found = self.given(name)
        return found[0] if len(found) == 1 else None


class Verdict(NamedTuple):
    """``why`` a call is not proven, for the log; None if it is. ``delivery`` is what its sender calls it, if that."""

    why: str | None
    delivery: str | None = None


def verdict(scheme: Scheme, secret: bytes, call: HookCall, now: float) -> Verdict:
    """Say whether a call proves that it knows a secret. ``now`` is in Unix seconds."""
    return {one: check(secret, call, now) for one, check in _CHECKS.items()}[scheme]


def _aura(secret: bytes, call: HookCall, now: float) -> Verdict:
    id, stamp = call.only(b"x-aura-id"), call.only(b"x-aura-timestamp")
    why = _compare(call, b"x-aura-signature", _digest(secret, b"%b.%b." % (id or b"", stamp or b""), call.body))
    if id is None or not _DOTLESS.fullmatch(id):
        return Verdict("X-Aura-Id is to be there once: 1 to 255 printable ASCII characters, and no dot")
    if stamp is None or not _STAMP.fullmatch(stamp):
        return Verdict("X-Aura-Timestamp is to be there once, in Unix seconds")
    if why is None and abs(now - int(stamp)) > TOLERANCE:
        why = f"X-Aura-Timestamp is {now - int(stamp):.0f} s old, and may be {TOLERANCE:.0f} s off"
    return Verdict(why, id.decode())


def _github(secret: bytes, call: HookCall, _now: float) -> Verdict:
    """GitHub signs the body alone. A call without an id is known by what it says, not to be repeated for that."""
    expected = _digest(secret, b"", call.body)
    why = _compare(call, b"x-hub-signature-256", expected)
    return _named(call, b"x-github-delivery", why, f"sha256={expected.hex()}")


def _gitlab(secret: bytes, call: HookCall, _now: float) -> Verdict:
    """Newer ones say Idempotency-Key; the UUID is that of a whole chain of events if hooks lead to hooks."""
    same = _is_same(call.only(b"x-gitlab-token"), secret)
    header = b"idempotency-key" if call.given(b"idempotency-key") else b"x-gitlab-event-uuid"
    return _named(call, header, None if same else "X-Gitlab-Token is missing, comes twice or is another")


def _bearer(secret: bytes, call: HookCall, _now: float) -> Verdict:
    found = _BEARER.fullmatch(call.only(b"authorization") or b"")
    same = _is_same(found and found[1], secret)
    return _named(
        call, b"idempotency-key", None if same else "Authorization: Bearer is missing, comes twice or is another"
    )


_CHECKS: Mapping[Scheme, Callable[[bytes, HookCall, float], Verdict]] = {
    Scheme.AURA: _aura,
    Scheme.GITHUB: _github,
    Scheme.GITLAB: _gitlab,
    Scheme.BEARER: _bearer,
}


def _named(call: HookCall, header: bytes, why: str | None, otherwise: str | None = None) -> Verdict:
    """The verdict on a call whose sender may name it in a header."""
    given = call.given(header)
    if not given:
        return Verdict(why, otherwise)
    if len(given) > 1 or not _ID.fullmatch(given[0]):
        return Verdict(why or f"{header.decode()} is to be there once: 1 to 255 printable ASCII characters")
    return Verdict(why, given[0].decode())


def _digest(secret: bytes, before: bytes, body: bytes) -> bytes:
    signed = hmac.new(secret, before, hashlib.sha256)
    signed.update(body)
    return signed.digest()


def _compare(call: HookCall, header: bytes, expected: bytes) -> str | None:
    """Say why a signature does not fit; None if it does."""
    found = _SIGNATURE.fullmatch(call.only(header) or b"")
    given = bytes.fromhex(found[1].decode()) if found else bytes(len(expected))
    fits = hmac.compare_digest(given, expected)
    if found is None:
        return f"{header.decode()} is to be there once, as sha256= and 64 hexadecimal digits"
    return None if fits else f"{header.decode()} does not fit"


def _is_same(given: bytes | None, secret: bytes) -> bool:
    """Of digests, so that the time does not tell the length either."""
    same = hmac.compare_digest(hashlib.sha256(given or b"").digest(), hashlib.sha256(secret).digest())
    return same and given is not None
