-- How long what may take in a stack's jobs, JSON as the API gives it.
ALTER TABLE stacks ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
