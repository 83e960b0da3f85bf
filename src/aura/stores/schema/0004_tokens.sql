-- The tokens that were made, the local one apart, which has a file. Revoked ones are removed.

CREATE TABLE token (
    seq        INTEGER PRIMARY KEY,              -- the order in which they were made
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    scopes     TEXT NOT NULL,                    -- a JSON array
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the secret, which is nowhere
    made_by    TEXT NOT NULL,                    -- id of the token with which it was made; 'local' of the local one
    created_at REAL NOT NULL,
    expires_at REAL                              -- NULL: it does not end by itself
);
