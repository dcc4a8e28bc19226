-- A request for a job that is sent again, as its answer was lost: by its sender and the key that they gave it, with what was asked.
ALTER TABLE jobs ADD COLUMN idempotency_key TEXT;
ALTER TABLE jobs ADD COLUMN asked_sha256 BLOB;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (organization, created_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
