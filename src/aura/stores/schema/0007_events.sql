-- Events that were emitted, what steps wait for, what plans remember, and what steps have put by.

-- Every event but those that tell of a run and its steps, which are in history. id is the record's id on every stream.
CREATE TABLE event (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL,
    at        REAL NOT NULL,
    payload   BLOB,                              -- JSON; NULL for null
    plan_name TEXT,                              -- whose run emitted it, and which step; NULL for one from outside
    task_name TEXT,
    cid       TEXT,
    step      TEXT,
    cause     TEXT,                              -- the id of the event that led to it
    root      TEXT,                              -- the first of that chain: an event's id, or a cid
    depth     INTEGER NOT NULL DEFAULT 0,
    via       TEXT                               -- JSON: the subscribers that the chain went through; NULL for none
);

CREATE INDEX event_by_run ON event (cid, id) WHERE cid IS NOT NULL;
CREATE INDEX history_by_id ON history (id);

-- What steps wait for, a row for each step or item that does. It is gone when the wait is over and that is on record.
CREATE TABLE wait (
    seq      INTEGER NOT NULL,
    step     TEXT NOT NULL,
    idx      INTEGER NOT NULL,                   -- of an item, counted from 0; -1 of a step
    kind     TEXT NOT NULL CHECK (kind = 'event' OR kind = 'approval' OR kind = 'sleep' OR kind = 'retry'
                         OR kind = 'round' OR kind = 'task'),
    began_at REAL NOT NULL,
    until    REAL,                               -- when it ends by itself: a sleep is over, a wait has taken too long
    times_out_at REAL,                           -- when the step's own time-out ends it
    detail   BLOB,                               -- JSON: what of it is its kind's: pattern, message, inputs, cid
    woken_at REAL,                               -- when what it waits for came
    value    BLOB,                               -- JSON: what came
    PRIMARY KEY (seq, step, idx)
) WITHOUT ROWID;

-- What plans remember.
CREATE TABLE state (
    plan_name  TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      BLOB NOT NULL,                    -- JSON
    changed_at REAL NOT NULL,
    expires_at REAL,                             -- NULL: it stays
    PRIMARY KEY (plan_name, key)
) WITHOUT ROWID;

-- The last checkpoint of a step, or of an item of one (idx; -1 of a step), of a run that has not ended.
CREATE TABLE checkpoint (
    seq   INTEGER NOT NULL,
    step  TEXT NOT NULL,
    idx   INTEGER NOT NULL,
    value BLOB NOT NULL,                         -- JSON
    PRIMARY KEY (seq, step, idx)
) WITHOUT ROWID;
