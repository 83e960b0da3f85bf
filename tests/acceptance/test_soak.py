"""A short soak: what ten minutes of ``make soak`` would show is held to its bounds in a few seconds."""

import pytest
from tests.acceptance import soak

SECONDS, EVERY = 13.0, 1.5


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> soak.Report:
    return soak.run(tmp_path_factory.mktemp("soak"), SECONDS, EVERY)


def test_all_that_was_asked_was_answered(report: soak.Report) -> None:
    assert report.wrong == []
    assert report.asked > SECONDS * soak.RATE / 3
    assert report.reloads >= 2
    assert report.read > 100


def test_nothing_is_left_open(report: soak.Report) -> None:
    _, *warm = report.samples
    assert max(sample.files for sample in warm) - min(sample.files for sample in warm) <= 10
    assert report.most("threads") < 40


def test_old_generations_go(report: soak.Report) -> None:
    """The one that is served, the one that is being loaded, and one that a run holds."""
    assert report.most("generations") <= 4


def test_old_runs_go_with_their_workdirs(report: soak.Report) -> None:
    last = report.samples[-1]
    assert last.removed > 0
    assert last.workdirs <= report.asked + len(report.samples) - last.removed
