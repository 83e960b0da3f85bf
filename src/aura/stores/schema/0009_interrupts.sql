-- Interrupts: what fired, what it stopped, and which rules somebody has switched.

-- One occurrence of a rule. While ended_at is NULL it is open: then nothing that it covers starts.
CREATE TABLE firing (
    id        INTEGER PRIMARY KEY,           -- that of its event interrupt.fired: the order of firing, for ever
    plan_name TEXT NOT NULL,
    rule      TEXT NOT NULL,
    event_id  TEXT NOT NULL,                 -- what fired it
    cid       TEXT NOT NULL UNIQUE,          -- its handler
    priority  INTEGER NOT NULL,
    at        REAL NOT NULL,
    terms     BLOB NOT NULL,                 -- JSON: what it covers and how that is stopped, as its rule said then
    event     BLOB NOT NULL,                 -- JSON: the event, as its handler sees it
    ended_at  REAL,
    outcome   TEXT,                          -- the state in which its handler ended, or stuck
    UNIQUE (plan_name, rule, event_id)
);
CREATE INDEX firing_open ON firing (id) WHERE ended_at IS NULL;
CREATE INDEX firing_by_rule ON firing (plan_name, rule, id);

-- A run that a firing has stopped, or was to stop.
CREATE TABLE victim (
    firing  INTEGER NOT NULL,
    seq     INTEGER NOT NULL,                -- the run
    gone_at REAL,                            -- it had cleaned up; NULL: it had not when the server ended
    outcome TEXT,                            -- the state to which that led, or stuck
    PRIMARY KEY (firing, seq)
) WITHOUT ROWID;
CREATE INDEX victim_by_run ON victim (seq);

-- Who stopped a run last: {plan_name, rule, cid, at, cleanup_s}, and how often that was.
ALTER TABLE run ADD COLUMN preempted_by BLOB;
ALTER TABLE run ADD COLUMN preemptions INTEGER NOT NULL DEFAULT 0;
-- By which events it does what it does, of a run that an event has started, or that such a run has: as JSON.
ALTER TABLE run ADD COLUMN chain TEXT;

-- What somebody has switched on or off; it holds until the file's own word changes.
CREATE TABLE switch (
    kind         TEXT NOT NULL CHECK (kind = 'rule' OR kind = 'item'),
    plan_name    TEXT NOT NULL,
    name         TEXT NOT NULL,
    enabled      INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    file_enabled INTEGER NOT NULL CHECK (file_enabled IN (0, 1)),
    at           REAL NOT NULL,
    by           TEXT NOT NULL,
    PRIMARY KEY (kind, plan_name, name)
) WITHOUT ROWID;
