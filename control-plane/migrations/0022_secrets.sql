-- What a stack's variables refer to in stores of its runner's configuration: names alone, JSON by variable.
ALTER TABLE stacks ADD COLUMN secrets TEXT NOT NULL DEFAULT '{}';
-- Variables whose values only the stack's runner can read, JSON by variable.
ALTER TABLE stacks ADD COLUMN sealed TEXT NOT NULL DEFAULT '{}';
-- Sets of variables that it has before its own, in their order: names, JSON.
ALTER TABLE stacks ADD COLUMN variable_sets TEXT NOT NULL DEFAULT '[]';
-- Variables that several stacks share.
CREATE TABLE variable_sets (
    organization  TEXT NOT NULL REFERENCES organizations (id),
    name          TEXT NOT NULL,
    -- Values and references, JSON by variable.
    variables     TEXT NOT NULL,
    secrets       TEXT NOT NULL,
    changed_by    TEXT NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    PRIMARY KEY (organization, name)
);
