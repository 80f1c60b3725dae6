-- Callbacks: results on their way to a caller's URL. `sql/sqlite/callbacks.sql` has the same names.

-- name: open_callback
INSERT INTO callbacks(job_id, tenant, url, next_at)
SELECT id, tenant, options::json->>'callback_url', :now FROM jobs
WHERE id = :id::uuid AND options::json->>'callback_url' IS NOT NULL AND state IN ('succeeded', 'failed', 'cancelled', 'quarantined')
ON CONFLICT DO NOTHING

-- name: forget_callback
DELETE FROM callbacks WHERE job_id = :id::uuid

-- name: find_callback
SELECT state, attempts, last_error, url FROM callbacks WHERE job_id = :id::uuid

-- name: list_callbacks
SELECT job_id, tenant, host, state, attempts, next_at, settled_at, last_error FROM callbacks
WHERE (:tenant::text IS NULL OR tenant = :tenant::text) AND (:state::text IS NULL OR state = :state::text)
ORDER BY coalesce(settled_at, next_at) DESC LIMIT :limit

-- name: callback_attempts
SELECT webhook_id, attempt, at, seconds, status, outcome, error FROM callback_attempts WHERE job_id = :id::uuid ORDER BY place

-- name: callback_due
SELECT 1 FROM callbacks WHERE state = 'pending' AND next_at <= :now LIMIT 1

-- name: callbacks_in_turn
-- Fair between tenants, and between the receivers of one: each receiver's first, then each one's second … It reads all that is due.
SELECT job_id FROM (
    SELECT job_id, next_at, row_number() OVER (PARTITION BY tenant ORDER BY turn, next_at) AS place FROM (
        SELECT job_id, tenant, next_at, row_number() OVER (PARTITION BY tenant, host ORDER BY next_at) AS turn FROM callbacks
        WHERE state = 'pending' AND next_at <= :now AND tenant NOT IN (SELECT json_array_elements_text(:busy::json))
          AND tenant || ' ' || host NOT IN (SELECT json_array_elements_text(:busy::json))) AS each
    WHERE turn <= :per_host) AS due
WHERE place <= :per_tenant ORDER BY next_at LIMIT :limit

-- name: claim_callbacks
UPDATE callbacks SET lease_token = :token::uuid, next_at = :lease_until, attempts = attempts + 1
WHERE job_id = ANY(ARRAY(
    SELECT job_id FROM callbacks WHERE job_id = ANY(:ids::text[]::uuid[]) AND state = 'pending' AND next_at <= :now FOR UPDATE SKIP LOCKED))
RETURNING job_id, tenant, url, host, attempts, lease_token,
    (SELECT count(*) FROM job_steps AS s JOIN jobs AS j ON j.sequence = s.job
     WHERE j.id = callbacks.job_id AND s.step = 'retried_by_hand') AS retries,
    (SELECT g.gone_at FROM gone_receivers AS g WHERE g.tenant = callbacks.tenant AND g.url = callbacks.url) AS gone_at

-- name: settle_callback
UPDATE callbacks SET state = :state, next_at = coalesce(:next_at::float8, next_at), last_error = :error, lease_token = NULL,
                     attempts = attempts - :untried, settled_at = CASE WHEN :state = 'pending' THEN NULL ELSE :now::float8 END
WHERE job_id = :id::uuid AND lease_token = :token::uuid

-- name: log_attempt
INSERT INTO callback_attempts(job_id, webhook_id, attempt, at, seconds, status, outcome, error)
VALUES (:id::uuid, :webhook_id, :attempt, :now, :seconds, :status, :outcome, :error)

-- name: note_gone
INSERT INTO gone_receivers(tenant, url, gone_at) VALUES (:tenant, :url, :now) ON CONFLICT DO NOTHING

-- name: forget_gone
DELETE FROM gone_receivers WHERE (tenant, url) IN (SELECT tenant, url FROM callbacks WHERE job_id = :id::uuid)

-- name: retry_callback
UPDATE callbacks SET state = 'pending', attempts = 0, next_at = :now, last_error = NULL, settled_at = NULL, lease_token = NULL
WHERE job_id = :id::uuid AND (lease_token IS NULL OR next_at <= :now)

-- name: prune_callback_attempts
DELETE FROM callback_attempts WHERE job_id = ANY(ARRAY(
    SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))

-- name: prune_callbacks
DELETE FROM callbacks WHERE job_id = ANY(ARRAY(
    SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))

-- name: prune_gone_receivers
-- By the table's age, not by its callbacks: whoever sends there again after so long has one attempt, which tells.
DELETE FROM gone_receivers WHERE gone_at < :before
