-- Callbacks: results on their way to a caller's URL. `sql/postgres/callbacks.sql` has the same names.

-- name: open_callback
INSERT INTO callbacks(job_id, tenant, url, next_at)
SELECT id, tenant, options->>'callback_url', :now FROM jobs
WHERE id = :id AND options->>'callback_url' IS NOT NULL AND state IN ('succeeded', 'failed', 'cancelled', 'quarantined')
ON CONFLICT DO NOTHING

-- name: forget_callback
DELETE FROM callbacks WHERE job_id = :id

-- name: find_callback
SELECT state, attempts, last_error, url FROM callbacks WHERE job_id = :id

-- name: list_callbacks
SELECT job_id, tenant, host, state, attempts, next_at, settled_at, last_error FROM callbacks
WHERE (:tenant IS NULL OR tenant = :tenant) AND (:state IS NULL OR state = :state)
ORDER BY coalesce(settled_at, next_at) DESC LIMIT :limit

-- name: callback_attempts
SELECT webhook_id, attempt, at, seconds, status, outcome, error FROM callback_attempts WHERE job_id = :id ORDER BY place

-- name: callback_due
SELECT 1 FROM callbacks WHERE state = 'pending' AND next_at <= :now LIMIT 1

-- name: callbacks_in_turn
-- Fair between tenants, and between the receivers of one: each receiver's first, then each one's second … It reads all that is due, so
-- it is no part of the claim: nobody could write meanwhile.
SELECT job_id FROM (
    SELECT job_id, next_at, row_number() OVER (PARTITION BY tenant ORDER BY turn, next_at) AS place FROM (
        SELECT job_id, tenant, next_at, row_number() OVER (PARTITION BY tenant, host ORDER BY next_at) AS turn FROM callbacks
        WHERE state = 'pending' AND next_at <= :now AND tenant NOT IN (SELECT value FROM json_each(:busy))
          AND tenant || ' ' || host NOT IN (SELECT value FROM json_each(:busy)))
    WHERE turn <= :per_host)
WHERE place <= :per_tenant ORDER BY next_at LIMIT :limit

-- name: claim_callbacks
UPDATE callbacks SET lease_token = :token, next_at = :lease_until, attempts = attempts + 1
WHERE job_id IN (SELECT value FROM json_each(:ids)) AND state = 'pending' AND next_at <= :now
RETURNING job_id, tenant, url, host, attempts, lease_token,
    (SELECT count(*) FROM job_steps AS s WHERE s.job_id = callbacks.job_id AND s.step = 'retried_by_hand') AS retries,
    (SELECT g.gone_at FROM gone_receivers AS g WHERE g.tenant = callbacks.tenant AND g.url = callbacks.url) AS gone_at

-- name: settle_callback
UPDATE callbacks SET state = :state, next_at = coalesce(:next_at, next_at), last_error = :error, lease_token = NULL,
                     attempts = attempts - :untried, settled_at = CASE WHEN :state = 'pending' THEN NULL ELSE :now END
WHERE job_id = :id AND lease_token = :token

-- name: log_attempt
INSERT INTO callback_attempts(job_id, webhook_id, attempt, at, seconds, status, outcome, error)
VALUES (:id, :webhook_id, :attempt, :now, :seconds, :status, :outcome, :error)

-- name: note_gone
INSERT INTO gone_receivers(tenant, url, gone_at) VALUES (:tenant, :url, :now) ON CONFLICT DO NOTHING

-- name: forget_gone
DELETE FROM gone_receivers WHERE (tenant, url) IN (SELECT tenant, url FROM callbacks WHERE job_id = :id)

-- name: retry_callback
UPDATE callbacks SET state = 'pending', attempts = 0, next_at = :now, last_error = NULL, settled_at = NULL, lease_token = NULL
WHERE job_id = :id AND (lease_token IS NULL OR next_at <= :now)

-- name: prune_callback_attempts
DELETE FROM callback_attempts WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)

-- name: prune_callbacks
DELETE FROM callbacks WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)

-- name: prune_gone_receivers
-- By the table's age, not by its callbacks: whoever sends there again after so long has one attempt, which tells.
DELETE FROM gone_receivers WHERE gone_at < :before
