-- With an index of the beginnings of words; filled again from the files (see `texts`).
DROP TABLE texts;
CREATE VIRTUAL TABLE texts USING fts5 (
    title, parts, paths, comment,
    content = '', contentless_delete = 1, prefix = '3 4 5', tokenize = 'unicode61 remove_diacritics 2'
);
