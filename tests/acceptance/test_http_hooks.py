"""The route of webhooks over a real port: what is let pass, what is refused and how, and one call from end to end."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from tests.fakes.real import open_real
from tests.fakes.web import Web, open_web
from tests.fakes.webhooks import DEPLOY, SECRET, aura_headers, signature

from aura.errors import RequestError
from aura.schedule import Scheme
from aura.scheduling.webhooks import HookReceipt
from aura.web import body as bodies

BODY = b'{"ref": "{{ 7*7 }}"}'
JSON = {"Content-Type": "application/json"}
GITHUB = {
    "X-Hub-Signature-256": signature(BODY),
    "X-GitHub-Delivery": "g1",
    "Content-Type": "application/json; charset=utf-8",
}
HOOK = """\
items:
  deploy:
    task: hello
    inputs: {day: "{{ event.payload.day }}"}
    triggers: [{webhook: {secret: hook, scheme: github}}]
"""


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path, body_limit=4096) as opened:
        yield opened


async def post(web: Web, body: bytes = BODY, path: str = DEPLOY, **headers: str | None) -> httpx2.Response:
    """A good call of the scheme ``aura``, but for what is said otherwise; a header that is None is not there."""
    given = aura_headers(body) | JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    return await web.stranger.post(path, content=body, headers={k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize(
    ("receipt", "status", "answer"),
    [
        pytest.param(HookReceipt("7", "c"), 202, {"event_id": "7", "started": ["c"]}, id="new"),
        pytest.param(HookReceipt("7", "c", False), 200, {"event_id": "7", "started": ["c"]}, id="again"),
        pytest.param(HookReceipt("7", None), 204, None, id="not wanted"),
    ],
)
async def test_call_is_answered_once_it_is_received(web: Web, receipt: HookReceipt, status: int, answer: Any) -> None:
    web.engine.webhooks.receipt = receipt
    said = await post(web)
    assert said.status_code == status
    assert (said.json() if said.content else None) == answer
    assert web.engine.webhooks.received == [("d1", {"ref": "{{ 7*7 }}"})]


@pytest.mark.parametrize(
    ("scheme", "headers"),
    [
        (Scheme.GITHUB, GITHUB),
        (Scheme.GITLAB, {"X-Gitlab-Token": SECRET, "X-Gitlab-Event-UUID": "g1"}),
        (Scheme.BEARER, {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": "g1"}),
    ],
)
async def test_other_schemes_need_no_token_either(web: Web, scheme: Scheme, headers: dict[str, str]) -> None:
    web.engine.webhooks.scheme = scheme
    said = await web.stranger.post(DEPLOY, content=BODY, headers=JSON | headers)
    assert (said.status_code, web.engine.webhooks.received[0][0]) == (202, "g1")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param(DEPLOY, {"X_Aura_Signature": None}, id="unsigned"),
        pytest.param(DEPLOY, aura_headers(BODY, secret="another"), id="other secret"),
        pytest.param(DEPLOY, {"X_Aura_Id": "d2"}, id="other id"),
        pytest.param(DEPLOY, {"X_Aura_Timestamp": "0"}, id="old"),
        pytest.param(DEPLOY, aura_headers(b"{}"), id="other body"),
        pytest.param("/api/hooks/lab/nothing", {}, id="no such item"),
        pytest.param("/api/hooks/nowhere/deploy", {}, id="no such plan"),
        pytest.param("/api/hooks/x%00/%C3%A9", {}, id="odd path"),
    ],
)
async def test_all_that_is_not_proven_is_told_the_same(web: Web, path: str, headers: dict[str, Any]) -> None:
    said = await post(web, path=path, **headers)
    plain = await post(web, X_Aura_Signature="sha256=" + "0" * 64)
    assert (said.status_code, said.json()["code"], said.headers["www-authenticate"]) == (
        401,
        "unauthorized",
        'Bearer realm="aura"',
    )
    assert said.json() == plain.json() or "%" in path
    assert not web.engine.webhooks.received


async def test_the_server_s_own_token_is_no_proof_and_does_not_hurt(web: Web) -> None:
    assert (await web.http.post(DEPLOY, content=BODY, headers=JSON)).status_code == 401
    assert (await web.http.post(DEPLOY, content=BODY, headers=JSON | aura_headers(BODY))).status_code == 202


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        pytest.param(b"", {}, 400, "body_required", id="empty"),
        pytest.param(b"a=1", {"Content_Type": "application/x-www-form-urlencoded"}, 415, "bad_content_type", id="form"),
        pytest.param(BODY, {"Content_Type": None}, 415, "bad_content_type", id="no type"),
        pytest.param(BODY, {"Content_Encoding": "gzip"}, 415, "bad_content_type", id="compressed"),
        pytest.param(b'"' + b"x" * 4095 + b'"', {}, 413, "body_too_large", id="huge"),
        pytest.param(b'{"a": 1, "a": 2}', {}, 400, "bad_json", id="key twice"),
        pytest.param(b"[" * 100 + b"]" * 100, {}, 400, "bad_json", id="deep"),
        pytest.param(b'{"a": ', {}, 400, "bad_json", id="cut"),
        pytest.param(b'"\\u0000"', {}, 422, "invalid", id="NUL"),
        pytest.param(BODY, {"Origin": "https://evil.example"}, 403, "foreign_origin", id="page"),
        pytest.param(BODY, {"Host": "evil.example"}, 421, "foreign_host", id="host"),
    ],
)  # fmt: skip
async def test_what_nobody_may_send(web: Web, body: bytes, headers: dict[str, Any], status: int, code: str) -> None:
    said = await post(web, body, **headers)
    assert (said.status_code, said.json()["code"]) == (status, code)
    assert not web.engine.webhooks.received


async def test_body_is_not_read_before_it_is_proven(web: Web) -> None:
    assert (await post(web, b"{not JSON", X_Aura_Id="d2")).status_code == 401


async def test_large_bodies_of_strangers_are_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LEAST_STRANGERS", 1)
    monkeypatch.setattr(bodies, "STRANGERS_BYTES", 1)
    begun, over = anyio.Event(), anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield BODY[:5]
        begun.set()
        await over.wait()
        yield BODY[5:]

    headers = JSON | aura_headers(BODY)
    found: list[int] = []

    async def call_slowly(web: Web) -> None:
        found.append((await web.stranger.post(DEPLOY, content=slowly(), headers=headers)).status_code)

    async with open_web(tmp_path) as web, anyio.create_task_group() as group:  # one call, which ends by ``over``
        group.start_soon(call_slowly, web)
        with anyio.fail_after(10):
            await begun.wait()
            while (refused := await post(web, b" " * 40_000)).status_code != 503:  # until the first one's head has come
                assert refused.status_code == 400
        assert refused.json()["code"] == "too_many_connections"
        assert (await post(web)).status_code == 202
        over.set()
    assert found == [202]


@pytest.mark.parametrize("code", ["refused_by_mode", "queue_full", "storage_unavailable", "inputs_invalid"])
async def test_refusal_is_that_of_a_run(web: Web, code: str) -> None:
    web.engine.webhooks.receipt = RequestError(code, "no")
    said = await post(web)
    assert (said.status_code, said.json()["code"]) == (RequestError(code, "").status, code)


async def test_guessing_is_slow_and_keeps_no_good_call_out(tmp_path: Path) -> None:
    async with open_web(tmp_path, failures=3) as web:
        found = [(await post(web, X_Aura_Id="d2")).status_code for _ in range(5)]
        assert found == [401] * 3 + [429] * 2
        assert (await post(web)).status_code == 202


async def test_signature_that_comes_twice_proves_nothing(web: Web) -> None:
    good = aura_headers(BODY) | JSON
    pairs = [*good.items(), ("X-Aura-Signature", good["X-Aura-Signature"])]
    assert (await web.stranger.post(DEPLOY, content=BODY, headers=pairs)).status_code == 401


async def test_call_goes_from_a_signature_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_SECRET_HOOK", SECRET)
    (tmp_path / "plans/lab").mkdir(parents=True)
    (tmp_path / "plans/lab/plan.yaml").write_text("secrets: [hook]\n")
    (tmp_path / "plans/lab/schedule.yaml").write_text(HOOK)
    async with open_real(tmp_path) as real:
        body = b'{"day": "2026"}'
        headers = {**GITHUB, "X-Hub-Signature-256": signature(body), "X-GitHub-Event": "push", "Authorization": ""}
        first, again = [await real.http.post(DEPLOY, content=body, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (202, 200)
        assert again.json() == first.json()
        (cid,) = first.json()["started"]
        await real.wait_state(cid, "succeeded")
        run = await real.get(f"/api/runs/{cid}")
        assert (run["result"], run["cause"]["kind"], run["lane"]) == ({"day": "2026"}, "webhook", "event")
        headers["X-Hub-Signature-256"] = signature(b"other")
        assert (await real.http.post(DEPLOY, content=body, headers=headers)).status_code == 401
        assert (await real.http.post("/api/hooks/lab/no", content=body, headers=headers)).status_code == 401
