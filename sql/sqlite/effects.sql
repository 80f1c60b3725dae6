-- The steps of an agent. `sql/postgres/effects.sql` has the same names.

-- name: holds_lease
SELECT 1 FROM jobs WHERE id = :id AND lease_token = :token

-- name: begin_effect
INSERT INTO effects(job_id, step, name, request, started_at) VALUES (:id, :step, :name, :request, :now) ON CONFLICT DO NOTHING

-- name: finish_effect
UPDATE effects SET state = 'done', result = :result, settled_at = :now WHERE job_id = :id AND step = :step AND state = 'intent'

-- name: effects
SELECT step, name, request, state, result FROM effects WHERE job_id = :id ORDER BY step

-- name: erase_effects
DELETE FROM effects WHERE job_id IN (SELECT value FROM json_each(:ids))

-- name: prune_effects
DELETE FROM effects WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)
