-- Secret variables of a stack that may be too short to be taken out of what its jobs record: names as JSON.
ALTER TABLE stacks ADD COLUMN not_redacted TEXT NOT NULL DEFAULT '[]';
-- How often a secret was taken out of a job's events, and what was too short for it: names as JSON. None where no step has told.
ALTER TABLE jobs ADD COLUMN redacted BIGINT;
ALTER TABLE jobs ADD COLUMN not_redacted TEXT;
