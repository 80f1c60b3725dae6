-- Keys with scopes and an end; tenants and sources that can be closed; when a key was last used; and what administrators did.

ALTER TABLE tenants ADD COLUMN disabled_at REAL;
ALTER TABLE sources ADD COLUMN disabled_at REAL;
ALTER TABLE keys ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN scopes TEXT NOT NULL DEFAULT 'jobs:read jobs:write';
ALTER TABLE keys ADD COLUMN expires_at REAL;
ALTER TABLE keys ADD COLUMN replaces TEXT;              -- the key that was rotated into this one

-- Written in batches, and no change of the directory: no gateway reads it again for this.
CREATE TABLE key_uses (
    key_id       TEXT PRIMARY KEY REFERENCES keys(id) ON DELETE CASCADE,
    last_used_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    tenant   TEXT,
    subject  TEXT NOT NULL,
    detail   TEXT NOT NULL                              -- a JSON object without secrets
);
CREATE TRIGGER audit_stays  BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END;
CREATE TRIGGER audit_stays_ BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows are never removed'); END;

CREATE TRIGGER tenants_removed  AFTER DELETE ON tenants          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER keys_removed     AFTER DELETE ON keys             BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER networks_removed AFTER DELETE ON allowed_networks BEGIN UPDATE directory_version SET version = version + 1; END;

CREATE VIEW audit_trail AS
SELECT sequence, strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS at, actor, action, tenant, subject, detail FROM audit;
