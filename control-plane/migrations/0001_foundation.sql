-- Organizations, who may act in them, what they own. Times are Unix milliseconds; digests and serials are lower-case hexadecimal.
CREATE TABLE organizations (
    id             TEXT PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    default_runner TEXT,
    created_at_ms  BIGINT NOT NULL
);

-- The issuing CA of each organization. The private key is PKCS#8 in PEM; the database's file is its owner's alone.
CREATE TABLE issuers (
    organization      TEXT PRIMARY KEY REFERENCES organizations (id),
    public_key_sha256 TEXT NOT NULL UNIQUE,
    serial            TEXT NOT NULL,
    certificate       TEXT NOT NULL,
    private_key       TEXT NOT NULL,
    created_at_ms     BIGINT NOT NULL
);

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    role          TEXT NOT NULL,
    token_sha256  TEXT NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (organization, name)
);

CREATE TABLE runners (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT,
    last_seen_ms  BIGINT,
    -- How the last session ended: left (it said so) or lost.
    ended         TEXT
);
-- A revoked runner's name is free again.
CREATE UNIQUE INDEX runners_name ON runners (organization, name) WHERE revoked_at_ms IS NULL;
CREATE INDEX runners_organization ON runners (organization, id);

CREATE TABLE certificates (
    serial        TEXT NOT NULL,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    runner        TEXT NOT NULL REFERENCES runners (id),
    not_after_ms  BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT,
    PRIMARY KEY (organization, serial)
);
CREATE INDEX certificates_runner ON certificates (runner);

CREATE TABLE api_keys (
    sha256        TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    runner        TEXT NOT NULL REFERENCES runners (id),
    -- The certificate that it was handed out with; it goes when that one does.
    serial        TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT
);
CREATE INDEX api_keys_runner ON api_keys (runner);

CREATE TABLE connections (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    provider      TEXT NOT NULL,
    runner        TEXT REFERENCES runners (id),
    entry         TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (organization, name)
);

-- Who asked what, when, and how it ended. Without references: a record outlives what it names.
CREATE TABLE operations (
    id              TEXT PRIMARY KEY,
    organization    TEXT NOT NULL,
    kind            TEXT NOT NULL,
    connection      TEXT NOT NULL,
    connection_name TEXT NOT NULL,
    runner          TEXT NOT NULL,
    runner_name     TEXT NOT NULL,
    user_id         TEXT NOT NULL,
    user_name       TEXT NOT NULL,
    started_at_ms   BIGINT NOT NULL,
    ended_at_ms     BIGINT,
    code            TEXT
);
CREATE INDEX operations_organization ON operations (organization, id);
