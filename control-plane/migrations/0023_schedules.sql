-- How a job was asked for: a refresh that ends with its plan, a preview of a source that is not trusted, an update that the runner's own policy may
-- let be applied without asking; and what made it: `schedule NAME` or `webhook ID`. NULL: a user's request.
ALTER TABLE jobs ADD COLUMN preview_only BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE jobs ADD COLUMN untrusted BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE jobs ADD COLUMN reconcile BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE jobs ADD COLUMN origin TEXT;
-- Whether it is about a part of its stack.
ALTER TABLE jobs ADD COLUMN partial BOOLEAN NOT NULL DEFAULT FALSE;

-- Jobs that stacks have made by themselves. Times are Unix milliseconds.
CREATE TABLE schedules (
    id            TEXT PRIMARY KEY,
    organization  TEXT NOT NULL REFERENCES organizations (id),
    stack         TEXT NOT NULL REFERENCES stacks (id),
    name          TEXT NOT NULL,
    -- drift, preview, update or reconcile.
    does          TEXT NOT NULL,
    cron          TEXT NOT NULL,
    utc_offset    TEXT NOT NULL,
    jitter_s      BIGINT NOT NULL,
    -- Whether one that was missed is made up for.
    late          BOOLEAN NOT NULL,
    -- The user for whom its jobs are made: whoever has set it last.
    user_id       TEXT NOT NULL,
    user_name     TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    paused_at_ms  BIGINT,
    -- By whom, or why.
    paused_by     TEXT,
    -- The time that its line names next, and that with its part of the jitter.
    slot_ms       BIGINT NOT NULL,
    due_ms        BIGINT NOT NULL,
    -- What became of the last one.
    last_at_ms    BIGINT,
    last_job      TEXT,
    last_said     TEXT,
    -- How many jobs, one after the other, have failed or could not be made.
    failures      BIGINT NOT NULL DEFAULT 0,
    UNIQUE (stack, name)
);
CREATE INDEX schedules_due ON schedules (due_ms) WHERE paused_at_ms IS NULL;

-- What the last look at a stack found that somebody else has changed. No row: nobody has looked.
CREATE TABLE drift (
    stack         TEXT PRIMARY KEY REFERENCES stacks (id),
    organization  TEXT NOT NULL REFERENCES organizations (id),
    checked_at_ms BIGINT NOT NULL,
    checked_by    TEXT NOT NULL,
    -- Since when there is some, and the job whose plan has it. NULL: there is none.
    since_ms      BIGINT,
    found_by      TEXT,
    resources     BIGINT
);
