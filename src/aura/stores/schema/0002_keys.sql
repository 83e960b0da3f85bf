-- What a client calls its requests, so that one that comes again is answered as the first time; and what lists need to
-- be read by an index, whatever they filter by.

CREATE TABLE idempotency (
    scope      TEXT NOT NULL CHECK (scope = 'run' OR scope = 'batch' OR scope = 'rerun'),
    key        TEXT NOT NULL,
    body       BLOB NOT NULL,                    -- SHA-256 of what was asked for
    answer     BLOB NOT NULL,
    first_seq  INTEGER,                          -- the runs that were accepted under it; NULL if none was
    last_seq   INTEGER,
    created_at REAL NOT NULL,
    keep_until REAL NOT NULL,                    -- later than this it may go, unless one of its runs is not final
    UNIQUE (scope, key)
);
CREATE INDEX idempotency_by_end ON idempotency (keep_until);

-- The labels of runs once more, since nothing finds a key inside JSON quickly. A run without labels costs nothing here.
CREATE TABLE label (
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (name, value, seq)
) WITHOUT ROWID;
INSERT OR IGNORE INTO label SELECT l.key, l.value, run.seq FROM run, json_each(run.labels) AS l;

CREATE INDEX run_by_task_name ON run (task_name, seq);
CREATE INDEX run_by_lane ON run (lane, seq);
CREATE INDEX run_by_time ON run (accepted_at);
