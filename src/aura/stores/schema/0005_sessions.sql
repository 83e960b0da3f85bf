-- The sessions of browsers, so that a page goes on after a restart of the server. What has ended is removed: at once by a
-- logout and with its token, else a few with each new one.

CREATE TABLE session (
    seq        INTEGER PRIMARY KEY,              -- the order in which they were opened
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the secret, which is nowhere
    token      BLOB NOT NULL,                    -- the same of its token's secret: a local token that was replaced is
                                                 -- another one. Empty where no token was asked for
    expires_at REAL NOT NULL
);
CREATE INDEX session_by_token ON session (token);
