"""The webhooks of the small engine: ``lab/deploy``, whose secret is ``SECRET``, in one scheme at a time."""

import hashlib
import hmac
import time
from typing import Any, cast

from aura.schedule import OnWebhook, Scheme, Trigger
from aura.scheduling.signatures import HookCall, verdict
from aura.scheduling.webhooks import HookReceipt, Proven

SECRET = "swordfish-of-the-tests"
DEPLOY = "/api/hooks/lab/deploy"


class FakeWebhooks:
    """Proves as the real ones do, keeps what it receives, and answers with ``receipt``."""

    def __init__(self) -> None:
        self.scheme = Scheme.AURA
        self.receipt: HookReceipt | Exception = HookReceipt("7", "cid")
        self.received: list[Any] = []

    def prove(self, plan_name: str, item_name: str, call: HookCall) -> Proven | None:
        said = verdict(self.scheme, SECRET.encode(), call, time.time())
        if (plan_name, item_name) != ("lab", "deploy") or said.why is not None:
            return None
        return Proven(cast(Any, None), Trigger(OnWebhook("hook", self.scheme)), said.delivery, {})

    async def receive(self, proven: Proven, payload: Any) -> HookReceipt:
        self.received.append((proven.delivery, payload))
        if isinstance(self.receipt, Exception):
            raise self.receipt
        return self.receipt


def signature(signed: bytes, secret: str = SECRET) -> str:
    """The HMAC of bytes, as a header has it."""
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def aura_headers(body: bytes, *, id: str = "d1", at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers of a call of the scheme ``aura``; it is signed now if no time is given."""
    stamp = str(int(time.time() if at is None else at))
    signed = signature(f"{id}.{stamp}.".encode() + body, secret)
    return {"X-Aura-Id": id, "X-Aura-Timestamp": stamp, "X-Aura-Signature": signed}
