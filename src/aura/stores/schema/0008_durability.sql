-- What keeps the database bounded: the retention of ended runs, and of what belongs to no run.

-- Runs whose record is gone for good, and of which other rows or the workdir are still there: they go by and by, also
-- after a restart. Nobody is shown anything of them.
CREATE TABLE removed (
    seq INTEGER PRIMARY KEY,
    cid TEXT NOT NULL
);

-- By age: lines and events that belong to no run. Those of runs cost nothing here, and go with their run.
CREATE INDEX log_of_nobody ON log (at) WHERE cid IS NULL;
CREATE INDEX event_of_nobody ON event (at) WHERE cid IS NULL;

-- Of a plan that is kept: which steps may run again after a crash, of its tasks that go on where they were.
ALTER TABLE generation ADD COLUMN again BLOB;    -- JSON: {task: {step: never | again | call}}
