-- What the index has. `id` is never used twice, so that a page of a torrent that was removed is not another's later.
CREATE TABLE torrents (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    hash_v1    BLOB UNIQUE CHECK (length(hash_v1) = 20),
    hash_v2    BLOB UNIQUE CHECK (length(hash_v2) = 32),
    title      TEXT NOT NULL,
    comment    TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    file_count INTEGER NOT NULL,
    private    INTEGER NOT NULL,
    added      INTEGER NOT NULL,
    CHECK (hash_v1 IS NOT NULL OR hash_v2 IS NOT NULL)
) STRICT;

-- The .torrent files, byte for byte; apart, so that a row of `torrents` stays short.
CREATE TABLE metainfo (
    torrent INTEGER PRIMARY KEY REFERENCES torrents ON DELETE CASCADE,
    bytes   BLOB NOT NULL
) STRICT;

-- Trackers and web seeds of all .torrent files that had the same info-hash.
CREATE TABLE sources (
    torrent INTEGER NOT NULL REFERENCES torrents ON DELETE CASCADE,
    url     TEXT NOT NULL,
    web     INTEGER NOT NULL,
    PRIMARY KEY (torrent, url)
) STRICT, WITHOUT ROWID;

-- What is searched: words only, the texts themselves are elsewhere.
CREATE VIRTUAL TABLE texts USING fts5 (
    title, parts, paths, comment,
    content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);
