-- Plans as documents, put together of the parts that come with a job's events: whole once as many were received as there are.
CREATE TABLE plans (
    job      TEXT PRIMARY KEY REFERENCES jobs (id),
    parts    BIGINT NOT NULL,
    received BIGINT NOT NULL,
    -- JSON, as far as it came.
    document TEXT NOT NULL
);
