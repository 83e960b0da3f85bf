-- Versions of plans that have passed their gate, so that a restart does not run their tests again. The newest are kept.

CREATE TABLE passed (
    plan_name TEXT NOT NULL,
    hash      TEXT NOT NULL,                     -- of names and contents, as run.generation has it
    at        REAL NOT NULL,
    PRIMARY KEY (plan_name, hash)
);
