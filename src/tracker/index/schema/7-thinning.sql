-- The time by which history is thinned out, one row at most, and for how many samples the clock has been far ahead of it.
CREATE TABLE thinning (
    clock INTEGER NOT NULL,
    ahead INTEGER NOT NULL
) STRICT;
INSERT INTO thinning (clock, ahead) SELECT max(time), 0 FROM totals HAVING max(time) IS NOT NULL;
