-- How the worker was isolated that had an operation, and the weakest of those that had a job: minimal, confined or namespaces. None where no
-- worker had it, or the runner did not say.
ALTER TABLE operations ADD COLUMN isolation_level TEXT;
ALTER TABLE jobs ADD COLUMN isolation_level TEXT;
