-- Bytes that a user's peers have sent and received, as they say.
ALTER TABLE users ADD COLUMN uploaded INTEGER NOT NULL DEFAULT 0 CHECK (uploaded >= 0);
ALTER TABLE users ADD COLUMN downloaded INTEGER NOT NULL DEFAULT 0 CHECK (downloaded >= 0);
