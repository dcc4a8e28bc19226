-- An organization's rules for plans. Runners judge by them, beside their own.
CREATE TABLE rules (
    organization  TEXT PRIMARY KEY REFERENCES organizations (id),
    -- A set of shared-proto's `rules`.
    json          TEXT NOT NULL,
    changed_by    TEXT NOT NULL,
    changed_at_ms BIGINT NOT NULL
);
