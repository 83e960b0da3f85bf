"""A short soak: what ten minutes of ``make soak`` would show is held to its bounds in a few seconds.

One test, since each test process would have a soak of its own for the tests that it is given.
"""

from pathlib import Path

from tests.acceptance import soak

SECONDS, EVERY = 13.0, 1.5


def test_short_soak_keeps_its_bounds(tmp_path: Path) -> None:
    report = soak.run(tmp_path, SECONDS, EVERY)
    assert report.wrong == []
    check_all_was_asked(report)
    check_nothing_is_left_open(report)
    check_old_runs_went(report)
    # the one that is served, the one that is being loaded, and one that a run holds
    assert report.most("generations") <= 4


def check_all_was_asked(report: soak.Report) -> None:
    assert report.asked > SECONDS * soak.RATE / 3
    assert report.reloads >= 2
    assert report.read > 100


def check_nothing_is_left_open(report: soak.Report) -> None:
    _, *warm = report.samples
    assert max(sample.files for sample in warm) - min(sample.files for sample in warm) <= 10
    assert report.most("threads") < 40


def check_old_runs_went(report: soak.Report) -> None:
    """With their workdirs."""
    last = report.samples[-1]
    assert last.removed > 0
    assert last.workdirs <= report.asked + len(report.samples) - last.removed
