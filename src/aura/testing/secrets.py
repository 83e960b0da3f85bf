"""The secrets of a world: a provider like any other, in memory."""

from collections.abc import Iterator, Mapping
from secrets import token_urlsafe as random_text


class GivenSecrets:
    """The secrets of a world: what was given, None for one that is nowhere, and of all others a random text."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._given = dict(values)

    def give(self, values: Mapping[str, str | None]) -> None:
        """Set some."""
        self._given.update(values)

    def where(self, name: str) -> str:
        return f"world.secrets({name}=…)"

    def has(self, name: str) -> bool:
        return self.read(name) is not None

    def read(self, name: str) -> str | None:
        return self._given.setdefault(name, random_text(16))

    def warnings(self, _name: str) -> Iterator[str]:
        yield from ()
