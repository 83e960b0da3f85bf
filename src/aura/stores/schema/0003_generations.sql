-- The files of a plan as they were when a run began that is not final and rests now, so that it can go on with the code
-- that it began with. What no such run needs any more goes with the next boot, or with the next one that is kept.

CREATE TABLE generation (
    plan_name TEXT NOT NULL,
    hash      TEXT NOT NULL,                     -- of names and contents, as run.generation has it
    files     BLOB NOT NULL,                     -- MessagePack: [[path, content], …], both as bytes
    PRIMARY KEY (plan_name, hash)
);
