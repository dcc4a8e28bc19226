-- Certificates that instances renew by themselves: whose they are, how long they are good for, which key they carry, what they follow, and
-- the API key of the session that asked, which lives as long as they do. NULL: of an earlier version.
ALTER TABLE certificates ADD COLUMN instance TEXT;
ALTER TABLE certificates ADD COLUMN life_s BIGINT;
ALTER TABLE certificates ADD COLUMN public_key_sha256 TEXT;
ALTER TABLE certificates ADD COLUMN renews TEXT;
ALTER TABLE certificates ADD COLUMN api_key_sha256 TEXT;
-- A key is renewed to once.
CREATE UNIQUE INDEX certificates_renewed_key ON certificates (organization, public_key_sha256) WHERE instance IS NOT NULL;

-- An organization has one issuing CA that issues, and those before it, whose certificates are good to their end; their keys are gone.
CREATE TABLE issuing (
    public_key_sha256 TEXT PRIMARY KEY,
    organization      TEXT NOT NULL REFERENCES organizations (id),
    serial            TEXT NOT NULL,
    certificate       TEXT NOT NULL,
    private_key       TEXT,
    created_at_ms     BIGINT NOT NULL,
    retired_at_ms     BIGINT
);
INSERT INTO issuing (public_key_sha256, organization, serial, certificate, private_key, created_at_ms)
    SELECT public_key_sha256, organization, serial, certificate, private_key, created_at_ms FROM issuers;
DROP TABLE issuers;
ALTER TABLE issuing RENAME TO issuers;
CREATE UNIQUE INDEX issuers_issuing ON issuers (organization) WHERE retired_at_ms IS NULL;
CREATE INDEX issuers_organization ON issuers (organization, created_at_ms);
