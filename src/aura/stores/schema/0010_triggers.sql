-- What starts work by itself: items of schedules and their slots, and why something did not start.

-- The event that started a run, as its expressions see it: JSON.
ALTER TABLE run ADD COLUMN event BLOB;

-- An item of a schedule as it stands. One that is in no file any more stays for a while, since it may come back.
CREATE TABLE schedule_item (
    plan_name  TEXT NOT NULL,
    name       TEXT NOT NULL,
    anchors    BLOB NOT NULL,                -- JSON: of each trigger with times of its own, by what it says: first seen
    looked_to  REAL NOT NULL,                -- its slots up to this time are settled: started, or missed
    settled    BLOB NOT NULL,                -- JSON: spans of time in which no slot starts again, ever
    last_due   REAL,                         -- of its last start: the slot, the run, and when that was accepted
    last_cid   TEXT,
    last_at    REAL,
    seen_at    REAL NOT NULL,                -- when it was last loaded, or written
    PRIMARY KEY (plan_name, name)
) WITHOUT ROWID;

-- A slot that has started a run. Those in the item's settled spans are not kept.
CREATE TABLE slot (
    plan_name TEXT NOT NULL,
    item      TEXT NOT NULL,
    due       REAL NOT NULL,
    cid       TEXT NOT NULL,
    PRIMARY KEY (plan_name, item, due)
) WITHOUT ROWID;

-- The why-ledger: starts that did not become runs.
CREATE TABLE why (
    id        INTEGER PRIMARY KEY,           -- given by the server
    at        REAL NOT NULL,                 -- of the last of them
    reason    TEXT NOT NULL,
    plan_name TEXT,
    item      TEXT,
    rule      TEXT,
    task_name TEXT,
    detail    TEXT NOT NULL,
    count     INTEGER NOT NULL,
    first_at  REAL NOT NULL
);
CREATE INDEX why_by_time ON why (at);
CREATE INDEX why_by_plan ON why (plan_name, at);

-- Calls of webhooks that have started a run: the same delivery starts no other one.
CREATE TABLE webhook_delivery (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_name TEXT NOT NULL,
    item      TEXT NOT NULL,
    delivery  BLOB NOT NULL,                 -- SHA-256 of what the sender calls it
    event_id  TEXT NOT NULL,
    cid       TEXT NOT NULL,
    at        REAL NOT NULL,
    UNIQUE (plan_name, item, delivery)
);

-- An event that waits until no other with its key has come for a while; it then starts its item. Gone when it has.
CREATE TABLE debounced (
    plan_name TEXT NOT NULL,
    item      TEXT NOT NULL,
    trigger   TEXT NOT NULL,                 -- what it says, as a hash
    key       TEXT NOT NULL,                 -- the key, as a hash
    event_id  INTEGER NOT NULL,
    event     BLOB NOT NULL,                 -- JSON: the last event with the key, all of it
    count     INTEGER NOT NULL,              -- how many have come
    quiet     REAL NOT NULL,                 -- for how many seconds none may come, and when that is over
    due       REAL NOT NULL,
    PRIMARY KEY (plan_name, item, trigger, key)
) WITHOUT ROWID;

-- A trigger that expects an event: the window in which it looks for the next one.
CREATE TABLE expected (
    plan_name TEXT NOT NULL,
    item      TEXT NOT NULL,
    trigger   TEXT NOT NULL,                 -- what it says, as a hash
    since     REAL NOT NULL,                 -- when the window began
    since_id  INTEGER NOT NULL,              -- events before this one are not of it
    last_seen REAL,                          -- when one came for the last time
    PRIMARY KEY (plan_name, item, trigger)
) WITHOUT ROWID;

-- A folder that a trigger of an item looks at, once it is known what was there at first sight. Its id is made from what
-- it says (``records.files``).
CREATE TABLE file_watch (
    id        INTEGER PRIMARY KEY,
    plan_name TEXT NOT NULL,
    item      TEXT NOT NULL,
    seen_at   REAL NOT NULL                  -- when it was last served
);
CREATE INDEX file_watch_by_time ON file_watch (seen_at);

-- A file in it, as its trigger was told of it. Its path is below the folder, as bytes.
CREATE TABLE watched_file (
    watch    INTEGER NOT NULL,
    path     BLOB NOT NULL,
    mtime_ns INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    PRIMARY KEY (watch, path)
) WITHOUT ROWID;
