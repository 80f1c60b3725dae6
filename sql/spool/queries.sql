-- The spool's statements, by name.

-- name: keep
INSERT INTO spool(id, kept_at, job) SELECT value->>0, :now, value->>1 FROM json_each(:rows) WHERE true ORDER BY key
ON CONFLICT DO NOTHING RETURNING id

-- name: oldest
SELECT id, job FROM spool ORDER BY sequence LIMIT :limit

-- name: forget
DELETE FROM spool WHERE id IN (SELECT value FROM json_each(:ids))

-- name: reject
INSERT INTO rejected(id, rejected_at, reason, job) SELECT id, :now, :reason, job FROM spool WHERE id = :id ON CONFLICT DO NOTHING

-- name: count
SELECT (SELECT count(*) FROM spool) AS waiting, (SELECT count(*) FROM rejected) AS rejected, (SELECT min(kept_at) FROM spool) AS since
