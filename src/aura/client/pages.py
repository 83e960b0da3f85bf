"""Lists that come page by page: a page is asked for when the items before it have been taken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from aura.api import Page

T = TypeVar("T")


class Pages(Generic[T]):
    """The items of a list, an async iterable; nothing is asked before the first is wanted."""

    def __init__(self, fetch: Callable[[str | None], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def page(self, cursor: str | None = None) -> Page[T]:
        """One page: the first, or the one for which the ``next_cursor`` of another stands.

        Raises:
            Refused: the server does not give it.
            Unreachable: nobody answers.
        """
        return await self._fetch(cursor)

    async def __aiter__(self) -> AsyncIterator[T]:
        cursor = None
        while True:
            page = await self.page(cursor)
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return
