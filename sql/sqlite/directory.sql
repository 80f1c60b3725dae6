-- The directory's statements, by name: tenants, sources, keys, networks, and the audit of who changed them. `sql/postgres/directory.sql`
-- has the same names.

-- name: directory_version
SELECT version FROM directory_version

-- name: server_key
SELECT id FROM server_key

-- name: hold_server_key
-- To seal with it: nobody makes another the one in force meanwhile.
SELECT id FROM server_key

-- name: add_server_key
INSERT INTO server_key(only_row, id) VALUES (1, :id) ON CONFLICT DO NOTHING

-- name: change_server_key
UPDATE server_key SET id = :id

-- name: tenants
SELECT name, callback_secret, created_at, disabled_at FROM tenants ORDER BY name

-- name: add_tenant
INSERT INTO tenants(name, created_at) VALUES (:name, :now) ON CONFLICT DO NOTHING

-- name: disable_tenant
UPDATE tenants SET disabled_at = :at WHERE name = :name AND (disabled_at IS NULL) <> (:at IS NULL)

-- name: remove_tenant
DELETE FROM tenants WHERE name = :name

-- name: remove_tenant_subscriptions
DELETE FROM subscriptions WHERE tenant = :name

-- name: remove_tenant_sources
DELETE FROM sources WHERE tenant = :name

-- name: remove_tenant_keys
DELETE FROM keys WHERE tenant = :name

-- name: remove_tenant_networks
DELETE FROM allowed_networks WHERE tenant = :name

-- name: live_jobs
-- Of a tenant, or of one of its sources: what is still to end by itself.
SELECT count(*) AS jobs FROM jobs
WHERE state IN ('scheduled', 'queued', 'running') AND tenant = :tenant AND (:channel IS NULL OR channel = :channel AND source = :source)

-- name: set_callback_secret
UPDATE tenants SET callback_secret = :secret WHERE name = :tenant AND callback_secret IS NULL

-- name: reseal_callback_secret
UPDATE tenants SET callback_secret = :secret WHERE name = :tenant

-- name: sources
SELECT tenant, channel, name, settings, disabled_at FROM sources ORDER BY channel, name

-- name: put_source
INSERT INTO sources(channel, name, tenant, settings, created_at) VALUES (:channel, :name, :tenant, :settings, :now)
ON CONFLICT(channel, name) DO UPDATE SET settings = :settings WHERE tenant = :tenant

-- name: reseal_source
UPDATE sources SET settings = :settings WHERE channel = :channel AND name = :name

-- name: disable_source
UPDATE sources SET disabled_at = :at
WHERE channel = :channel AND name = :name AND (disabled_at IS NULL) <> (:at IS NULL)

-- name: remove_source
DELETE FROM sources WHERE channel = :channel AND name = :name AND tenant = :tenant

-- name: keys
SELECT id, tenant, hash, hint, created_at, revoked_at, name, scopes, expires_at, replaces, last_used_at
FROM keys LEFT JOIN key_uses ON key_id = id ORDER BY created_at, id

-- name: add_key
INSERT INTO keys(id, tenant, hash, hint, created_at, name, scopes, expires_at, replaces)
VALUES (:id, :tenant, :hash, :hint, :now, :name, :scopes, :expires_at, :replaces)

-- name: expire_key
-- Sooner than it would end by itself, never later.
UPDATE keys SET expires_at = :at WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :at)

-- name: use_key
-- Beside the key, not in it: a use is no change of the directory.
INSERT INTO key_uses(key_id, last_used_at) SELECT id, :at FROM keys WHERE id = :id
ON CONFLICT (key_id) DO UPDATE SET last_used_at = excluded.last_used_at WHERE key_uses.last_used_at < excluded.last_used_at

-- name: rehash_key
UPDATE keys SET hash = :hash WHERE id = :id AND hash <> :hash

-- name: revoke_key
UPDATE keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL

-- name: networks
SELECT tenant, network FROM allowed_networks ORDER BY tenant, network

-- name: allow_network
INSERT INTO allowed_networks(tenant, network) VALUES (:tenant, :network) ON CONFLICT DO NOTHING

-- name: add_audit
INSERT INTO audit(at, actor, action, tenant, subject, detail) VALUES (:at, :actor, :action, :tenant, :subject, :detail)

-- name: audit
SELECT sequence, at, actor, action, tenant, subject, detail FROM audit
WHERE (:tenant IS NULL OR tenant = :tenant) AND (:action IS NULL OR action = :action)
  AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit
