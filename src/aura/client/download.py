"""The bytes of a file, piece by piece, as they travel."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aura.client.connection import ANSWER_TIMEOUT, Connection
from aura.client.source import Source

if TYPE_CHECKING:
    import httpx2


class Download(Source[bytes]):
    """Pieces of bytes."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._is_over = False
        self._answer: httpx2.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def next(self) -> bytes | None:
        """The next piece, None at the end.

        Raises:
            Refused: there is no such file.
            Unreachable: nobody answers, or the connection was lost before all of it had come.
        """
        if self._is_over:
            return None
        try:
            if self._pieces is None:
                self._pieces = await self._open()
            with self._connection.speaking():
                return await anext(self._pieces)
        except StopAsyncIteration:
            await self.aclose()
            return None

    async def _open(self) -> AsyncIterator[bytes]:
        headers = {"Accept": "*/*"}
        self._answer = await self._connection.open(self._path, params=None, headers=headers, silence=ANSWER_TIMEOUT)
        return self._answer.aiter_raw()

    async def aclose(self) -> None:
        """Hang up."""
        self._is_over = True
        if self._answer is not None:
            await self._connection.hang_up(self._answer)
