-- What Git hosts tell of. The id is in the hook's address, and is not to be guessed; the secret has to be there as it is: both ends sign by it.
CREATE TABLE webhooks (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    -- github, gitlab, bitbucket or gitea.
    host          TEXT NOT NULL,
    secret        TEXT NOT NULL,
    -- JSON, as the API gives it.
    routes        TEXT NOT NULL,
    -- The user for whom its jobs are made.
    user_id       TEXT NOT NULL,
    user_name     TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX webhooks_organization ON webhooks (organization, id);

-- What came, by the digest of what was signed: it is the same when it is sent again. The oldest go.
CREATE TABLE webhook_deliveries (
    hook           TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    sha256         TEXT NOT NULL,
    -- As the host names it; not signed.
    delivery       TEXT NOT NULL,
    event          TEXT NOT NULL,
    -- JSON: what was answered.
    answer         TEXT NOT NULL,
    times          BIGINT NOT NULL,
    received_at_ms BIGINT NOT NULL,
    PRIMARY KEY (hook, sha256)
);
CREATE INDEX webhook_deliveries_hook ON webhook_deliveries (hook, received_at_ms);

-- Who is told of what becomes of jobs and stacks.
CREATE TABLE notifications (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    url           TEXT NOT NULL,
    secret        TEXT NOT NULL,
    -- Names with a comma between.
    events        TEXT NOT NULL,
    created_by    TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (organization, name)
);

-- What is to be told, written down with what it tells of; kept for a while after it was told, or given up.
CREATE TABLE notices (
    id            TEXT PRIMARY KEY,
    notification  TEXT NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
    event         TEXT NOT NULL,
    -- JSON, as it is sent.
    body          TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    tries         BIGINT NOT NULL DEFAULT 0,
    -- When it is sent next; NULL: it was told, or given up.
    next_at_ms    BIGINT,
    -- What came of the last time: an HTTP status, or what failed.
    said          TEXT,
    told_at_ms    BIGINT
);
CREATE INDEX notices_due ON notices (next_at_ms) WHERE next_at_ms IS NOT NULL;
CREATE INDEX notices_notification ON notices (notification, id);
