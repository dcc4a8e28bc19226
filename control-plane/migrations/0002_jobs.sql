-- Stacks, their jobs, and the jobs' events. Times are Unix milliseconds; digests are lower-case hexadecimal.
CREATE TABLE stacks (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    engine        TEXT NOT NULL,
    -- NULL: the organization's default at the time of each job.
    runner        TEXT REFERENCES runners (id),
    -- JSON, as the API gives it.
    source        TEXT NOT NULL,
    variables     TEXT NOT NULL,
    connections   TEXT NOT NULL,
    -- The instance that took the stack's last job: a stack without a backend has its state there.
    last_instance TEXT,
    created_at_ms BIGINT NOT NULL,
    deleted_at_ms BIGINT
);
-- A deleted stack's name is free again; its jobs stay to be read.
CREATE UNIQUE INDEX stacks_name ON stacks (organization, name) WHERE deleted_at_ms IS NULL;

CREATE TABLE jobs (
    id                    TEXT PRIMARY KEY,
    organization          TEXT NOT NULL REFERENCES organizations (id),
    stack                 TEXT NOT NULL REFERENCES stacks (id),
    runner                TEXT NOT NULL REFERENCES runners (id),
    kind                  TEXT NOT NULL,
    phase                 TEXT NOT NULL,
    approve_automatically BOOLEAN NOT NULL,
    -- An encoded JobRequest and its SHA-256; the request goes when the job has ended.
    request               BLOB NOT NULL,
    request_sha256        BLOB NOT NULL,
    -- The archive that the request names, if it names one.
    archive               TEXT,
    -- Grows with each assignment.
    fencing_token         BIGINT NOT NULL DEFAULT 0,
    -- The instance that it is assigned to, and whether that accepted it: then it is bound to it.
    instance              TEXT,
    accepted              BOOLEAN NOT NULL DEFAULT FALSE,
    assigned_at_ms        BIGINT,
    created_by            TEXT NOT NULL,
    created_at_ms         BIGINT NOT NULL,
    started_at_ms         BIGINT,
    ended_at_ms           BIGINT,
    revision              TEXT,
    -- JSON without the plan's text, which is apart: lists do not read it.
    plan                  TEXT,
    plan_text             TEXT,
    outputs               TEXT,
    result                TEXT,
    -- Whether the runner's own result is among the events: its folder may go.
    reported              BOOLEAN NOT NULL DEFAULT FALSE,
    last_sequence         BIGINT NOT NULL DEFAULT 0,
    event_bytes           BIGINT NOT NULL DEFAULT 0,
    approved_by           TEXT,
    discarded_by          TEXT,
    canceled_by           TEXT,
    cancel_force          BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX jobs_organization ON jobs (organization, id);
CREATE INDEX jobs_stack ON jobs (stack, id);
CREATE INDEX jobs_open ON jobs (runner, id) WHERE ended_at_ms IS NULL;
-- One job at a time for a stack: of those that were given out and have not ended there is one at most.
CREATE UNIQUE INDEX jobs_one_at_a_time ON jobs (stack) WHERE ended_at_ms IS NULL AND phase <> 'pending';

CREATE TABLE job_events (
    job      TEXT NOT NULL REFERENCES jobs (id),
    sequence BIGINT NOT NULL,
    -- An encoded Event.
    event    BLOB NOT NULL,
    PRIMARY KEY (job, sequence)
);
