-- What a restored older copy needs. The key of the seals on assignments, made at the first start: by it a copy knows again what it, or a newer
-- copy, gave out. And when a job that had not ended was restored: it is not given out, and ends as its instance says, or as lost.
CREATE TABLE seal_keys (
    id  INTEGER PRIMARY KEY,
    key BLOB NOT NULL
);
ALTER TABLE jobs ADD COLUMN restored_at_ms BIGINT;
