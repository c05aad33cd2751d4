-- Who may upload: of the token only its SHA-256 is kept.
CREATE TABLE tokens (
    name    TEXT PRIMARY KEY,
    hash    BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created INTEGER NOT NULL,
    used    INTEGER
) STRICT;

-- Who may announce to a private tracker. A passkey stands in every announce; it is kept as it is, so that a user's
-- announce URL can be told again.
CREATE TABLE users (
    name    TEXT PRIMARY KEY,
    passkey TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

ALTER TABLE torrents ADD COLUMN uploader TEXT;
