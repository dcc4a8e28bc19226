-- The groups that a user is in, as runners are told them: names with a comma between.
ALTER TABLE users ADD COLUMN member_of TEXT NOT NULL DEFAULT '';

-- Tokens for the Kubernetes API of one connection alone, of a user who has another one; a command line keeps them for an hour.
CREATE TABLE kube_tokens (
    token_sha256  TEXT PRIMARY KEY,
    user_id       TEXT NOT NULL REFERENCES users (id),
    connection    TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);
CREATE INDEX kube_tokens_expiry ON kube_tokens (expires_at_ms);
