-- What runners tell of the ends of their audit logs: the seals that came last, of each instance, whose log is its own.
CREATE TABLE audit_seals (
    id             TEXT PRIMARY KEY,
    runner         TEXT NOT NULL REFERENCES runners (id),
    instance       TEXT NOT NULL,
    number         BIGINT NOT NULL,
    hash           TEXT NOT NULL,
    -- The key that signed it: base64 of its DER form, and the SHA-256 of that form.
    signing_key    TEXT NOT NULL,
    fingerprint    TEXT NOT NULL,
    -- The record, as it stands in the log.
    line           TEXT NOT NULL,
    received_at_ms BIGINT NOT NULL,
    -- What does not fit to the seal before it: words with a comma between.
    trouble        TEXT NOT NULL DEFAULT ''
);
CREATE INDEX audit_seals_runner ON audit_seals (runner, instance, id);

-- The name of the runner's own entry for the connection: by that the runner's log has it.
ALTER TABLE operations ADD COLUMN entry TEXT;
