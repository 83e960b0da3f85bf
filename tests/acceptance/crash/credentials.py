"""Tokens and sessions of one client: made, ended, and looked at again when all is over."""

from contextlib import closing

from tests.acceptance.crash.door import Door, Where, ask, connect

KEPT = 3


class Credentials:
    """What this client was told of, and has not asked to be ended."""

    def __init__(self, wrong: list[str]) -> None:
        self._wrong = wrong
        self._tokens: dict[str, str] = {}  # id → secret
        self._revoked: list[str] = []
        self._sessions: list[str] = []
        self._logged_out: list[str] = []

    def change_tokens(self, door: Door) -> None:
        """Make a token, or, when there are three, revoke the oldest. One that was being revoked may be either."""
        if len(self._tokens) < KEPT:
            status, answer = door.ask("POST", "/api/tokens", {"scopes": ["read"]})
            if status == 201:
                self._tokens[answer["id"]] = answer["token"]
            return
        id, secret = next(iter(self._tokens.items()))
        del self._tokens[id]
        status, _ = door.ask("DELETE", f"/api/tokens/{id}")
        if status == 204:
            self._revoked.append(secret)
        elif status != 503:
            self._wrong.append(f"token {id} was acknowledged, and revoking it gave {status}")

    def change_sessions(self, door: Door) -> None:
        """Log in, or, when there are three sessions, out of the oldest. One that was being ended may be either."""
        if len(self._sessions) < KEPT:
            status, secret = door.log_in()
            self._sessions += [secret] * (status == 200)
        else:
            secret = self._sessions.pop(0)
            status = door.as_browser("POST", "/api/logout", secret)
            self._logged_out += [secret] * (status == 204)
        if status not in (200, 204, 503):
            self._wrong.append(f"a session was opened or ended, and it gave {status}")

    def check(self, where: Where) -> None:
        """All that was acknowledged is good, and nothing is whose end was acknowledged."""
        self._check_tokens(where)
        door = connect(where)
        with closing(door.connection):
            good = [door.as_browser("GET", "/api/plans", secret) for secret in self._sessions]
            ended = [door.as_browser("GET", "/api/plans", secret) for secret in self._logged_out]
        if any(status != 200 for status in good):
            self._wrong.append(f"sessions were opened, and asking with them gave {good}")
        if any(status not in (401, 429) for status in ended):
            self._wrong.append(f"sessions were ended, and asking with them gave {ended}")

    def _check_tokens(self, where: Where) -> None:
        good = [_is_good(where, secret) for secret in self._tokens.values()]
        if not all(good):
            self._wrong.append(f"{good.count(False)} tokens were acknowledged, and are refused")
        if any(_is_good(where, secret) for secret in self._revoked):
            self._wrong.append("a token is good whose revocation was acknowledged")


def _is_good(where: Where, secret: str) -> bool:
    return "items" in ask(where._replace(token=secret), "GET", "/api/plans")
