-- Nothing ever wrote it.
ALTER TABLE tokens DROP COLUMN used;
