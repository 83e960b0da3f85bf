"""The shape of an error on the wire."""

import pytest

from aura.clock import SystemClock
from aura.errors import CODES, FieldError, RequestError, StoreReadOnly
from aura.journal import Journal
from aura.web.problem import headers, problem, refusal, unexpected
from aura.web.shapes import document


def test_document_has_the_members_of_rfc_9457_and_ours() -> None:
    error = RequestError("ended", "run x has ended", errors=[FieldError("/a", "b")], extra={"state": "failed"})
    assert document(error) == {
        "type": "urn:aura:error:ended", "title": "The run has already ended", "status": 409,
        "detail": "run x has ended",
        "code": "ended", "errors": (FieldError("/a", "b"),), "state": "failed",
    }  # fmt: skip
    assert problem(error).media_type == "application/problem+json"


def test_extra_cannot_replace_a_member() -> None:
    assert document(RequestError("ended", "x", extra={"code": "other", "status": 200}))["code"] == "ended"


@pytest.mark.parametrize("code", CODES)
def test_every_code_gives_an_answer(code: str) -> None:
    answer = problem(RequestError(code, "x", retry_after=0.2))
    assert answer.status_code == CODES[code][0]
    assert answer.headers["retry-after"] == "1"
    assert ("www-authenticate" in answer.headers) == (code == "unauthorized")


@pytest.mark.parametrize("code", [code for code, (status, _) in CODES.items() if status in (429, 503)])
def test_refusal_that_may_pass_says_when_to_ask_again(code: str) -> None:
    assert problem(RequestError(code, "x")).headers["retry-after"] == "5"


def test_server_that_goes_closes_the_connection() -> None:
    assert headers(RequestError("shutting_down", "x"))["Connection"] == "close"


def test_storage_that_fails_is_503() -> None:
    journal = Journal(1, SystemClock())
    found = unexpected(StoreReadOnly("/home/x/aura.db is full"), journal, "GET /x")
    assert (found.status, found.code) == (503, "storage_unavailable")
    assert "/home" not in found.detail


@pytest.mark.parametrize("status", [400, 431, 505, 501])
def test_refusal_of_what_is_no_request_is_a_problem_document(status: int) -> None:
    found, body = refusal(status)
    assert dict(found)[b"content-type"] == b"application/problem+json"
    assert dict(found)[b"content-length"] == str(len(body)).encode()
