-- Programs of a stack's source that run before and after its plan and its apply, JSON as the API gives it.
ALTER TABLE stacks ADD COLUMN hooks TEXT NOT NULL DEFAULT '{}';
-- Of a job that did not end well: its plan was applied all the same, and only what came after it went wrong.
ALTER TABLE jobs ADD COLUMN applied BOOLEAN NOT NULL DEFAULT FALSE;
