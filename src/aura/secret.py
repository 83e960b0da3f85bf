"""What a secret is while it travels through Aura: a text that shows itself to nobody who does not ask for it."""

from typing import Any

from aura.masking import MASK


class Secret(str):
    """A secret. All that is shown of it is ``***``: by ``str``, ``repr``, ``format``, in a log line, as JSON.

    It *is* the text ``***``, so no way of writing it down can show another; ``reveal`` gives the secret itself.
    """

    __slots__ = ("_text",)
    _text: str

    def __new__(cls, text: str) -> "Secret":
        secret = super().__new__(cls, MASK)
        object.__setattr__(secret, "_text", text)
        return secret

    def reveal(self) -> str:
        """Give the secret text."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Any:
        raise TypeError("a secret cannot be pickled: hand over its name, and read it where it is used")
