-- Variables of a stack whose values are outputs of other stacks, JSON by variable: a stack's id and an output's name.
ALTER TABLE stacks ADD COLUMN inputs TEXT NOT NULL DEFAULT '{}';
-- Whether it is planned anew once outputs of these are other ones.
ALTER TABLE stacks ADD COLUMN follows BOOLEAN NOT NULL DEFAULT FALSE;
-- Stacks that are to be planned anew, each once, as soon as nothing that they stand on is under way.
CREATE TABLE follow_ons (
    stack         TEXT PRIMARY KEY REFERENCES stacks (id),
    organization  TEXT NOT NULL REFERENCES organizations (id),
    -- The job whose outputs are other ones than before, and who made it.
    after_job     TEXT NOT NULL,
    created_by    TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
