"""What runs of a task, and its steps, take from each other: the keys ``mode`` and ``resources``.

Whether the names in a mode's key are there is for ``taskfile``; whether there is enough of a resource for ``needs``.
"""

from aura.expressions import Template
from aura.loading.fields import Fields, kind_of
from aura.task import DEFAULT_MAX_QUEUED, Mode, ModeKind, Needs

KEYS = ("kind", "max", "key")
KINDS = tuple(kind.value for kind in ModeKind)
#: The kinds for which ``max`` means something.
BOUNDED = (ModeKind.QUEUED, ModeKind.PARALLEL)
#: The most runs that a mode can let wait, or run at once.
MAX_RUNS = 100_000
#: The most of one resource that can be asked for.
MAX_NEEDED = 1_000_000


def read_mode(fields: Fields, default: Mode) -> Mode:
    """Read the field ``mode`` of a task: a word, or a mapping."""
    if "mode" not in fields:
        return default
    if not isinstance(fields.get("mode"), dict):
        kind = ModeKind(fields.choice("mode", default.kind.value, KINDS))
        return Mode(kind, _default_max(kind))
    mode = Fields(fields.reader, fields.at("mode"), fields.get("mode"), "mode", KEYS)
    if "kind" not in mode:
        fields.wrong("mode", f"a mode needs a kind: {', '.join(KINDS)}")
    kind = ModeKind(mode.choice("kind", default.kind.value, KINDS))
    bound = _default_max(kind)
    if "max" in mode:
        if "kind" in mode and kind not in BOUNDED:
            mode.wrong("max", f"means nothing for mode {kind}, of which one run is there at a time")
        bound = mode.integer("max", 1, 1, MAX_RUNS)
    return Mode(kind, bound, _read_key(mode))


def _default_max(kind: ModeKind) -> int | None:
    return DEFAULT_MAX_QUEUED if kind is ModeKind.QUEUED else None


def _read_key(mode: Fields) -> Template | None:
    if "key" not in mode:
        return None
    value = mode.get("key")
    if not isinstance(value, str) or not value:
        given = kind_of(value) if value else "nothing"
        mode.wrong("key", f'text is needed, such as "{{{{ inputs.day }}}}", not {given}')
        return None
    return mode.reader.template(mode.at("key"), value)


def read_needs(fields: Fields, default: Needs) -> Needs:
    """Read the field ``resources`` of a task or step: how many it needs of each."""
    if "resources" not in fields:
        return default
    path, reader = fields.at("resources"), fields.reader
    given = reader.mapping(path, fields.get("resources"), "resources")
    counts = Fields(reader, path, given, "resources", given)
    return {
        name: counts.integer(name, 1, 1, MAX_NEEDED) for _, name, _ in reader.identifiers(path, given, "a resource")
    }
