-- The steps of an agent. `sql/sqlite/effects.sql` has the same names.

-- name: holds_lease
SELECT 1 FROM jobs WHERE id = :id::uuid AND lease_token = :token::uuid FOR SHARE

-- name: begin_effect
INSERT INTO effects(job_id, step, name, request, started_at) VALUES (:id::uuid, :step, :name, :request, :now) ON CONFLICT DO NOTHING

-- name: finish_effect
UPDATE effects SET state = 'done', result = :result, settled_at = :now WHERE job_id = :id::uuid AND step = :step AND state = 'intent'

-- name: effects
SELECT step, name, request, state, result FROM effects WHERE job_id = :id::uuid ORDER BY step

-- name: erase_effects
DELETE FROM effects WHERE job_id = ANY(:ids::text[]::uuid[])

-- name: prune_effects
DELETE FROM effects WHERE job_id = ANY(ARRAY(SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))
