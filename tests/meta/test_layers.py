"""The layers: a module imports only from rows above its own or, without a cycle, from its own row.

Every module of the package stands in ``LAYERS``; one that does not fails the test, so that whoever adds a module thinks
about where it belongs. An import inside a function counts like any other; one for the type checker alone, which never
happens (``if TYPE_CHECKING``), counts for the rows but makes no circle. ``docs/architecture.md`` explains the rows.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "aura"

#: From nouns to doors. A package stands for all that is in it unless one of its modules is named on its own.
LAYERS: Mapping[str, str] = {
    "nouns": """
        errors failpoints clock histogram eventloop duration lifecycle patterns masking secret secretforms needles
        redaction plaindata timefilters filters sandbox expressions valuepaths task plan resources run graph reasons
        explain events context actions servicedef settings config cron eventnames schedule interrupt wait why
        triggertext
    """,
    "text to plan": "loading",
    "records": "records store stores",
    "streams": "secrets covering journal logs ledger progress room bus",
    "processes": "processes isolation",
    "one run": "runs",
    "all runs": "kernel",
    "what starts runs": "watching polling scheduling interrupts",
    "the engine": "engine",
    "shipped actions": "builtin",
    "doors": "api notify web server serving embed client cli",
    "for authors": "testing pytest_plugin",
}
#: What plan authors import, and the version: it belongs to the nouns, and everyone may import it.
PACKAGE = "aura"


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Every module by its name without ``aura.``; a package's ``__init__`` is the package."""
    found = {}
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or PACKAGE] = file
    return found


def imports(name: str, file: Path, known: Mapping[str, Path], *, for_types: bool = True) -> set[str]:
    """The modules of ours that a module imports, wherever in its text; ``for_types``: those of the type checker too."""
    wanted = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree if for_types else _WithoutTypes().visit(tree)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {found for dotted in wanted if (found := _module(dotted, known)) and found != name}


class _WithoutTypes(ast.NodeTransformer):
    """Takes out what is there for the type checker alone."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def _module(dotted: str, known: Mapping[str, Path]) -> str | None:
    """The module that ``aura.a.b`` names: ``a.b`` if that is one, else ``a`` of which it is a member."""
    if dotted != PACKAGE and not dotted.startswith(f"{PACKAGE}."):
        return None
    inner = dotted.removeprefix(PACKAGE).strip(".")
    while inner and inner not in known:
        inner = inner.rpartition(".")[0]
    return inner or PACKAGE


def row_of(name: str, layers: Mapping[str, str]) -> int | None:
    """The number of the row in which a module, or the package that it is in, stands."""
    rows = {word: number for number, row in enumerate(layers.values()) for word in row.split()} | {PACKAGE: 0}
    while name:
        if name in rows:
            return rows[name]
        name = name.rpartition(".")[0]
    return None


def faults(
    layers: Mapping[str, str], graph: Mapping[str, set[str]], happening: Mapping[str, set[str]]
) -> Iterator[str]:
    """Everything that the rules forbid. ``happening``: the graph without what is for the type checker alone."""
    rows = {name: row_of(name, layers) for name in graph}
    titles = list(layers)
    yield from (f"{name} stands in no row of LAYERS" for name, row in rows.items() if row is None)
    for name, used in graph.items():
        for other in sorted(used):
            here, there = rows[name], rows[other]
            if here is not None and there is not None and there > here:
                yield f"{name} ({titles[here]}) imports {other} ({titles[there]}), which stands below it"
    try:
        TopologicalSorter({name: used - {PACKAGE} for name, used in happening.items() if name != PACKAGE}).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' → '.join(error.args[1])}"
    named = {word for row in layers.values() for word in row.split()}
    yield from (f"LAYERS names {word}, which is not there" for word in sorted(named - set(graph)))


def graph_of(source: Path, *, for_types: bool = True) -> dict[str, set[str]]:
    known = modules(source)
    return {name: imports(name, file, known, for_types=for_types) for name, file in known.items()}


def faults_in(layers: Mapping[str, str], source: Path) -> list[str]:
    return list(faults(layers, graph_of(source), graph_of(source, for_types=False)))


def test_modules_import_only_from_their_own_row_or_above() -> None:
    assert faults_in(LAYERS, SOURCE) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        pytest.param({"low": "import aura.high"}, "low (top) imports high (bottom), which stands below it", id="below"),
        pytest.param({"low": "from aura import high"}, "imports high", id="from-the-package"),
        pytest.param({"low": "def f():\n    from aura.high import x"}, "imports high", id="inside-a-function"),
        pytest.param({"low": "if TYPE_CHECKING:\n    import aura.high"}, "imports high", id="for-the-type-checker"),
        pytest.param({"new": ""}, "new stands in no row of LAYERS", id="not-in-the-list"),
        pytest.param({"low": "import aura.low2", "low2": "import aura.low"}, "a circle of imports: ", id="circle"),
    ],
)
def test_each_rule_can_fail(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    for name, text in ({"__init__": "", "low": "", "low2": "", "high": ""} | files).items():
        (tmp_path / f"{name}.py").write_text(text)
    found = faults_in({"top": "low low2", "bottom": "high"}, tmp_path)
    assert len(found) == 1
    assert fault in found[0]


def test_rows_that_are_kept_have_no_faults(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "low.py").write_text("import os\nimport aura.other")
    (tmp_path / "other.py").write_text("if TYPE_CHECKING:\n    import aura.low")
    assert faults_in({"top": "low other"}, tmp_path) == []
