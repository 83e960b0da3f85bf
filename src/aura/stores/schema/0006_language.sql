-- What the whole task language keeps of a run: its modes' key, which of its inputs are secret, why a step was skipped,
-- and the items of steps that loop.

ALTER TABLE run ADD COLUMN mode_key TEXT;        -- runs of a task count for each other if this is the same
ALTER TABLE run ADD COLUMN secret_inputs TEXT;   -- JSON: pointers to the inputs that no door shows; NULL for none
ALTER TABLE run ADD COLUMN call TEXT;            -- of a sub-task: which call of its parent it answers
CREATE INDEX run_by_parent ON run (parent_cid, seq) WHERE parent_cid IS NOT NULL;
ALTER TABLE step ADD COLUMN explained BLOB;      -- JSON: why it was skipped, with expression, values, file and line

-- What a step loops over, as it was when it was first asked for.
CREATE TABLE loop (
    seq   INTEGER NOT NULL,
    step  TEXT NOT NULL,
    items BLOB NOT NULL,                         -- JSON: a list, how many times, or null of the rounds of while and until
    PRIMARY KEY (seq, step)
) WITHOUT ROWID;

-- The items, or rounds, that have begun.
CREATE TABLE item (
    seq         INTEGER NOT NULL,
    step        TEXT NOT NULL,
    idx         INTEGER NOT NULL,                -- counted from 0
    state       TEXT NOT NULL CHECK (state = 'pending' OR state = 'running' OR state = 'retrying' OR state = 'waiting'
                              OR state = 'stopping' OR state = 'succeeded' OR state = 'failed' OR state = 'skipped'
                              OR state = 'cancelled' OR state = 'timed_out'),
    attempt     INTEGER NOT NULL DEFAULT 0,
    starts      INTEGER NOT NULL DEFAULT 0,
    started_at  REAL,
    finished_at REAL,
    output      BLOB,
    outputs     BLOB,
    error       BLOB,
    PRIMARY KEY (seq, step, idx)
) WITHOUT ROWID;
