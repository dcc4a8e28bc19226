-- By which rules of the organization a job's plan is judged: the SHA-256 of their JSON, as the job was given to its runner. Where it is none, the job was
-- given out before this was kept, or makes no plan.
ALTER TABLE jobs ADD COLUMN rules_sha256 BLOB;
