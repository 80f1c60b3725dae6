-- Which server key seals the secrets in here; the key itself is elsewhere. From now on, `sources.settings` and
-- `tenants.callback_secret` hold what only that key reads.

CREATE TABLE server_key (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id TEXT NOT NULL);
CREATE TRIGGER server_key_added   AFTER INSERT ON server_key BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER server_key_changed AFTER UPDATE ON server_key BEGIN UPDATE directory_version SET version = version + 1; END;
