-- The version of its engine that a stack asks for: a version or a constraint. None: it asks for none.
ALTER TABLE stacks ADD COLUMN engine_version TEXT;
