-- Which server key seals the secrets in here; the key itself is elsewhere. From now on, `sources.settings` and
-- `tenants.callback_secret` hold what only that key reads.

CREATE TABLE server_key (only_row integer PRIMARY KEY CHECK (only_row = 1), id text NOT NULL);
CREATE TRIGGER server_key_changed AFTER INSERT OR UPDATE ON server_key FOR EACH ROW EXECUTE FUNCTION directory_changed();
