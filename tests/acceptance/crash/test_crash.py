"""A real server, killed with SIGKILL at every failpoint and at random moments under four clients, and started again.

``make crash N=1000`` does more of the same. Nothing in it hangs: each life, and the last one, has a bound.
"""

from itertools import islice
from pathlib import Path
from random import Random

import pytest
from tests.acceptance.crash.campaign import Campaign, deaths
from tests.acceptance.crash.checks import problems
from tests.acceptance.crash.evidence import collect

from aura.failpoints import NAMES

#: So many campaigns share the failpoints and may run side by side.
SHARES = 4
#: Of each campaign: its share of the failpoints, and after each fourth one a random moment.
KILLS = 5 * -(-len(NAMES) // SHARES) // 4 + 1
#: Seconds that a life has before it is killed at a random moment.
LONGEST = 0.4
#: Moments that any twenty kills meet.
SURE = {"runs were asked for", "a run was running", "a run was waiting", "a run went on after a crash"}
#: Seconds within which a killed server is back, even on a machine that does other things.
BACK_WITHIN = 15.0


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_server_keeps_what_it_acknowledged(share: int, tmp_path: Path) -> None:
    mine = NAMES[share::SHARES]
    planned = islice(deaths(Random(share), mine, LONGEST, every=5), KILLS)
    report = Campaign(tmp_path, share).run(planned, older=share == 0)
    evidence = collect(tmp_path)
    assert report.wrong + problems(evidence) == []
    assert (report.missed, set(mine) - set(report.hits), report.end_code) == ([], set(), 0)
    assert report.kills >= KILLS
    assert report.acknowledged > 0
    assert report.unanswered > 0, "no kill cut off a request"
    assert report.repeated > 0, "nothing that was cut off was asked again"
    assert evidence.killed_running > 0, "no kill came while something ran"
    assert not SURE & {*report.sometimes.never()}, report.sometimes
    assert report.slowest < BACK_WITHIN
