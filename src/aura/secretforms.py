"""The forms in which a secret turns up in text: as it is, and as JSON, URLs, shells, Python, base64 and hex write it.

Each form is UTF-8 bytes. What a redactor does with them is not this module's matter.
"""

import base64
import json
import shlex
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

#: The shortest text that can be looked for in other text, in characters: a shorter one turns up by chance.
MIN_SECRET = 6


def forms_of(secret: str) -> frozenset[bytes]:
    """Every form of a secret, and its lines as text has them; nothing of what is too short to be looked for."""
    if not is_findable(secret):
        return frozenset()
    raw = _utf8(secret)
    found = {raw.hex().encode(), raw.hex().upper().encode(), *_as_base64(raw)}
    for text in {secret, *(line.strip() for line in secret.splitlines())}:
        if is_findable(text):
            found.update(_as_text(text))
    return frozenset(form for form in found if len(form) >= MIN_SECRET)


def is_findable(secret: str) -> bool:
    """Say whether a secret is long enough to be looked for in other text; the mask itself is nobody's secret."""
    return len(secret.strip("*")) >= MIN_SECRET


def _as_text(text: str) -> Iterator[bytes]:
    for form in {text, *_as_json(text), *_as_python(text), *_as_url(text), _as_shell(text)}:
        yield _utf8(form)
        yield _utf8(json.dumps(form, ensure_ascii=False)[1:-1])  # a text with the form in it, as Aura keeps texts


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_json(text: str) -> Iterator[str]:
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]


def _as_python(text: str) -> Iterator[str]:
    yield repr(text)[1:-1]
    yield repr(_utf8(text))[2:-1]


def _as_shell(text: str) -> str:
    quoted = shlex.quote(text)
    return text if quoted == text else quoted[1:-1]


def _as_url(text: str) -> Iterator[str]:
    raw = _utf8(text)
    for form in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield form
        yield _lower_escapes(form)


def _lower_escapes(form: str) -> str:
    """With ``%2f`` for ``%2F``."""
    first, *others = form.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in others)])


def _as_base64(raw: bytes) -> Iterator[bytes]:
    """What base64 makes of it wherever it begins in what is encoded: of each alignment the part that never differs."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        yield encoded[first:last]
        yield encoded[first:last].replace(b"+", b"-").replace(b"/", b"_")
