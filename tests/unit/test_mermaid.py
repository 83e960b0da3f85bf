"""A task as Mermaid's text: each step, each edge, and labels in which nothing means more than itself."""

from tests.unit.test_graphs import FAILED, loop, step

from aura.cli.mermaid import mermaid


def test_each_step_has_a_box_each_edge_a_line_and_handlers_stand_apart() -> None:
    steps = [step("a"), step("end", {"a": FAILED}), step("c", ["a", "end"], any_of=True)]
    text = mermaid({"steps": steps, "handlers": {"finally": [step("tidy")]}})
    assert text.splitlines() == [
        "flowchart TD",
        '  step_a["a<br/>log"]',
        '  step_end["end<br/>log"]',
        '  step_c["c<br/>log"]',
        "  step_a -->|failed| step_end",
        "  step_a -.-> step_c",
        "  step_end -.-> step_c",
        "  subgraph finally",
        '    step_tidy["tidy<br/>log"]',
        "  end",
    ]


def test_notes_and_subtasks_are_in_the_boxes() -> None:
    steps = [step("a", **loop("times", 3)), step("b", action="task.run", task="lab/other")]
    lines = mermaid({"steps": steps, "handlers": {}}).splitlines()
    assert lines[1:] == ['  step_a["a<br/>log<br/>3 times"]', '  step_b[["b<br/>task.run lab/other"]]']


def test_labels_are_escaped() -> None:
    hostile = '{{ "<b>" ~ `x` ~ \'#quot;\' & "\\\\" }}'
    line = mermaid({"steps": [step("a", when=hostile)], "handlers": {}}).splitlines()[1]
    label = line.removeprefix('  step_a["a<br/>log<br/>').removesuffix('"]')
    assert label == "when #34;#60;b#62;#34; ~ #96;x#96; ~ '#35;quot;' #38; #34;#92;#92;#34;"


def test_states_and_conditions_are_classes() -> None:
    steps = [step("a"), step("b", when="{{ x }}"), step("c")]
    text = mermaid({"steps": steps, "handlers": {"finally": [step("d")]}}, {"a": "failed", "d": "failed", "c": "odd"})
    assert text.splitlines()[-4:] == [
        "  classDef when stroke-dasharray:5 3",
        "  class step_b when",
        "  classDef failed stroke:#dc2626,stroke-width:3px",
        "  class step_a,step_d failed",
    ]
