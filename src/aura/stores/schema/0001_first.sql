-- The first schema. The CHECKs and the trigger repeat src/aura/lifecycle.py; tests/unit/test_lifecycle.py compares them.
-- They say OR and not IN: for an IN of more than two words SQLite builds a table of them anew at each write, which took
-- two fifths of the time of a commit.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One row for each start of a server on this data folder. ended_at is NULL for one that was killed.
CREATE TABLE boot (
    number     INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,
    ended_at   REAL,
    version    TEXT NOT NULL
);

CREATE TABLE run (
    seq           INTEGER PRIMARY KEY,           -- the accepted sequence: order of acceptance, for ever
    cid           TEXT NOT NULL UNIQUE,
    plan_name     TEXT NOT NULL,
    task_name     TEXT NOT NULL,
    generation    TEXT,                          -- hash of the plan's content; of the accepted one, then of the started one
    lane          TEXT NOT NULL,
    priority      INTEGER NOT NULL,
    labels        TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state = 'queued' OR state = 'running' OR state = 'waiting' OR state = 'stopping'
                              OR state = 'preempted' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'
                              OR state = 'timed_out' OR state = 'crashed'),
    stop          TEXT CHECK (stop = 'interrupt' OR stop = 'shutdown' OR stop = 'timeout' OR stop = 'cancel'),
    reason        TEXT,
    ending        TEXT CHECK (ending = 'succeeded' OR ending = 'failed' OR ending = 'cancelled'
                              OR ending = 'timed_out' OR ending = 'crashed'),
    stuck         INTEGER NOT NULL DEFAULT 0 CHECK (stuck IN (0, 1)),
    held          INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)),
    recovery      TEXT NOT NULL CHECK (recovery = 'fail' OR recovery = 'resume' OR recovery = 'restart'),
    attempt       INTEGER NOT NULL DEFAULT 0,    -- how often it was started from its beginning
    crashes       INTEGER NOT NULL DEFAULT 0,    -- server crashes in a row under it
    due           REAL NOT NULL,
    not_before    REAL,
    accepted_at   REAL NOT NULL,
    started_at    REAL,
    finished_at   REAL,
    active_s      REAL NOT NULL DEFAULT 0,       -- time that counts against its time-out, up to the last move
    cause         TEXT NOT NULL,
    parent_cid    TEXT,
    root_cid      TEXT NOT NULL,
    depth         INTEGER NOT NULL DEFAULT 0,
    boot          INTEGER NOT NULL,              -- the server's start under which it last moved
    inputs        BLOB NOT NULL,
    result        BLOB,
    error         BLOB,
    cleanup_error BLOB
);
CREATE INDEX run_by_plan ON run (plan_name, seq);
CREATE INDEX run_by_task ON run (plan_name, task_name, seq);
CREATE INDEX run_by_state ON run (state, seq);

CREATE TRIGGER run_final BEFORE UPDATE ON run
WHEN old.state = 'succeeded' OR old.state = 'failed' OR old.state = 'cancelled' OR old.state = 'timed_out'
  OR old.state = 'crashed'
BEGIN SELECT RAISE(ABORT, 'the run has ended: its record cannot change'); END;

CREATE TABLE step (
    seq             INTEGER NOT NULL,
    name            TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state = 'pending' OR state = 'running' OR state = 'retrying' OR state = 'waiting'
                              OR state = 'stopping' OR state = 'succeeded' OR state = 'failed' OR state = 'skipped'
                              OR state = 'cancelled' OR state = 'timed_out'),
    attempt         INTEGER NOT NULL DEFAULT 0,  -- tries in the present retry budget
    starts          INTEGER NOT NULL DEFAULT 0,  -- every time it began, counted for ever
    started_at      REAL,
    finished_at     REAL,
    output          BLOB,
    outputs         BLOB,
    error           BLOB,
    skipped_because TEXT,
    PRIMARY KEY (seq, name)
) WITHOUT ROWID;

-- Every move of a run and of a step, as the event that tells of it. id is the record's id on every stream.
CREATE TABLE history (
    id      INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    name    TEXT NOT NULL,
    step    TEXT,
    at      REAL NOT NULL,
    payload BLOB,
    PRIMARY KEY (seq, id)
) WITHOUT ROWID;

CREATE TABLE log (
    id        INTEGER PRIMARY KEY,
    cid       TEXT,
    level     INTEGER NOT NULL,
    at        REAL NOT NULL,
    plan_name TEXT,
    task_name TEXT,
    step      TEXT,
    attempt   INTEGER,
    message   TEXT NOT NULL,
    fields    BLOB
);
CREATE INDEX log_by_run ON log (cid, id) WHERE cid IS NOT NULL;
