-- Seeds and leechers over time: a row where they changed, thinned out with age.
CREATE TABLE history (
    torrent  INTEGER NOT NULL REFERENCES torrents ON DELETE CASCADE,
    time     INTEGER NOT NULL,
    seeds    INTEGER NOT NULL,
    leechers INTEGER NOT NULL,
    PRIMARY KEY (torrent, time)
) STRICT, WITHOUT ROWID;

-- The whole tracker over time.
CREATE TABLE totals (
    time     INTEGER PRIMARY KEY,
    torrents INTEGER NOT NULL,
    seeds    INTEGER NOT NULL,
    leechers INTEGER NOT NULL,
    listed   INTEGER NOT NULL
) STRICT;
