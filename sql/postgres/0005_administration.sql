-- Keys with scopes and an end; tenants and sources that can be closed; when a key was last used; and what administrators did.

ALTER TABLE tenants ADD COLUMN disabled_at double precision;
ALTER TABLE sources ADD COLUMN disabled_at double precision;
ALTER TABLE keys ADD COLUMN name text NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN scopes text NOT NULL DEFAULT 'jobs:read jobs:write';
ALTER TABLE keys ADD COLUMN expires_at double precision;
ALTER TABLE keys ADD COLUMN replaces text;              -- the key that was rotated into this one

-- Written in batches, and no change of the directory: no gateway reads it again for this.
CREATE TABLE key_uses (
    key_id       text PRIMARY KEY REFERENCES keys(id) ON DELETE CASCADE,
    last_used_at double precision NOT NULL
);

CREATE TABLE audit (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       double precision NOT NULL,
    actor    text NOT NULL,
    action   text NOT NULL,
    tenant   text,
    subject  text NOT NULL,
    detail   text NOT NULL                              -- a JSON object without secrets
);
CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit rows are never changed or removed' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_stays();

-- Gateways listen, so that they need not wait for their next look at the version.
CREATE OR REPLACE FUNCTION directory_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE directory_version SET version = version + 1;
    PERFORM pg_notify('sentinel_directory', '');
    RETURN NULL;
END $$;

CREATE VIEW audit_trail AS
SELECT sequence, to_timestamp(at) AS at, actor, action, tenant, subject, detail FROM audit;
