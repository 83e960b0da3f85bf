"""Deliveries of webhooks that have started a run, as they are kept, so that none starts a second one."""

import hashlib
from typing import NamedTuple

from aura.errors import KeyTaken
from aura.store import Execute, Unit

#: How long a delivery is known, in seconds, if no more than ``MAX_DELIVERIES`` are.
KEEP_DELIVERIES = 7 * 24 * 3600.0
MAX_DELIVERIES = 100_000
#: Seconds for which it is known however many there are: longer than a signed time may be used.
SURELY_KEPT = 900.0
#: How many old ones are looked at with each new one.
OLD_DELIVERIES = 10
_INSERT = """INSERT INTO webhook_delivery (plan_name, item, delivery, event_id, cid, at)
 VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING"""
#: A time that lies as far ahead is of a clock that was wrong: it counts as old.
_DROP_OLD = """DELETE FROM webhook_delivery WHERE id IN
 (SELECT id FROM (SELECT id, at FROM webhook_delivery ORDER BY id LIMIT ?)
 WHERE abs(? - at) > ? OR (abs(? - at) > ? AND id <= (SELECT max(id) FROM webhook_delivery) - ?))"""


class DeliveryRow(NamedTuple):
    """A delivery of an item's webhook: the SHA-256 of what its sender calls it, its event, and the run it started."""

    plan_name: str
    item: str
    delivery: bytes
    event_id: str
    cid: str
    at: float


def delivery_key(delivery: str) -> bytes:
    """What a delivery is kept as: of one size, and telling nothing."""
    return hashlib.sha256(delivery.encode()).digest()


def insert_delivery(row: DeliveryRow) -> Unit:
    """The unit that keeps a delivery, and lets go of some old ones. It is part of the unit of the run.

    Raises (when it runs):
        KeyTaken: it is on record already.
    """

    def unit(execute: Execute) -> None:
        if execute(_INSERT, row).rowcount != 1:
            raise KeyTaken(f"a delivery of the webhook {row.plan_name}/{row.item} is on record already")
        bounds = (row.at, KEEP_DELIVERIES, row.at, SURELY_KEPT, MAX_DELIVERIES)
        execute(_DROP_OLD, (OLD_DELIVERIES, *bounds))

    return unit


def find_delivery(execute: Execute, plan_name: str, item: str, delivery: bytes) -> tuple[str, str] | None:
    """The event and the run of a delivery; None if it is not on record."""
    sql = "SELECT event_id, cid FROM webhook_delivery WHERE plan_name=? AND item=? AND delivery=?"
    found: tuple[str, str] | None = execute(sql, (plan_name, item, delivery)).fetchone()
    return found
