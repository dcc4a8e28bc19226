-- When a job's events, and its plan as a text and a document, were removed for their age; none: they are there.
ALTER TABLE jobs ADD COLUMN events_removed_at_ms BIGINT;
CREATE INDEX jobs_kept ON jobs (ended_at_ms) WHERE events_removed_at_ms IS NULL;
