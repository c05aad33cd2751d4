-- Files of watched directories that were taken into the index: what each looked like then.
CREATE TABLE watched (
    folder BLOB NOT NULL,
    path   BLOB NOT NULL,
    stamp  TEXT NOT NULL,
    PRIMARY KEY (folder, path)
) STRICT, WITHOUT ROWID;
