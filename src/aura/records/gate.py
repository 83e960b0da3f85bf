"""Which versions of plans have passed their gate."""

from aura.store import Execute, Unit

#: How many are kept; of an older one the tests are run again.
MAX_PASSED = 1000
_DROP_OLDEST = """DELETE FROM passed WHERE (plan_name, hash) IN
 (SELECT plan_name, hash FROM passed ORDER BY at DESC LIMIT -1 OFFSET ?)"""


def put_passed(plan_name: str, hash: str, at: float) -> Unit:
    """The unit that notes that a version has passed, at a time in Unix seconds, and keeps the last ``MAX_PASSED``."""

    def unit(execute: Execute) -> None:
        execute("INSERT OR REPLACE INTO passed VALUES (?,?,?)", (plan_name, hash, at))
        execute(_DROP_OLDEST, (MAX_PASSED,))

    return unit


def read_passed(execute: Execute) -> list[tuple[str, str]]:
    """Those that are kept, each a plan and a hash, the oldest first."""
    return execute("SELECT plan_name, hash FROM passed ORDER BY at").fetchall()
