"""What comes piece by piece and can be left before its end: the base of streams and downloads."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Source(ABC, Generic[T]):
    """An async iterator. Use it as a context manager, or ``aclose`` it, to leave it before its end.

    Only one may wait for the next item.
    """

    @abstractmethod
    async def next(self) -> T | None:
        """The next item, None at the end."""

    @abstractmethod
    async def aclose(self) -> None:
        """Hang up."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self.next()
        if item is None:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()
