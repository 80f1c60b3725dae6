-- The record's statements, by name. `sql/postgres/queries.sql` has the same names, so that `diff` shows the dialect.
-- SQLite has one writer at a time (BEGIN IMMEDIATE), so nothing here needs row locks or SKIP LOCKED.

-- name: known
-- Which of the ids are there already; one row, so that the interpreter is left and entered once per batch.
SELECT json_group_array(id) AS ids FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))

-- name: accept
-- Each row is kept as text once: `json_each` would write it anew for each of its values.
WITH given AS MATERIALIZED (SELECT value FROM json_each(:rows))
INSERT INTO jobs(id, tenant, channel, source, external_id, conversation, sender, priority, state, received_at, created_at, run_at,
                 finished_at, last_error, verified_by, fingerprint, replay_of, reply_to, options, input, metering)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9, :now,
       coalesce(value->>17, :now),
       CASE WHEN value->>8 IN ('quarantined', 'cancelled') THEN :now END, value->>10, value->>11, value->>12, value->>13, value->>14, value->>15,
       value->>16, value->>18
FROM given

-- name: line_up
-- Those of the `count` jobs just accepted that come behind a living one of their conversation wait for it.
UPDATE jobs AS j SET waits = 1
WHERE sequence > last_insert_rowid() - :count AND conversation IS NOT NULL AND EXISTS (
    SELECT 1 FROM jobs AS e
    WHERE e.conversation = j.conversation AND e.tenant = j.tenant AND e.channel = j.channel AND e.source = j.source
      AND e.state IN ('scheduled', 'queued', 'running')
      AND CASE WHEN e.state = 'running' THEN 0 ELSE e.sequence END < j.sequence)

-- name: withdraw
-- Only what nobody has begun: a job that its sender was told to send again.
DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'queued' AND started_at IS NULL

-- name: find_job
SELECT * FROM jobs WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant)

-- name: list_jobs
SELECT * FROM jobs
WHERE (:tenant IS NULL OR tenant = :tenant)
  AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
  AND (:channel IS NULL OR channel = :channel)
  AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit

-- name: list_jobs_called
-- The same for one external id, by its index: what support asks first. With `OR`, SQLite would read every job.
SELECT * FROM jobs
WHERE external_id = :external_id
  AND (:tenant IS NULL OR tenant = :tenant)
  AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
  AND (:channel IS NULL OR channel = :channel)
  AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit

-- name: list_jobs_live
-- The same for states in which few jobs are, by an index of those alone: SQLite would rather read every job than sort.
SELECT * FROM jobs INDEXED BY jobs_conversation
WHERE state IN ('scheduled', 'queued', 'running')
  AND (:tenant IS NULL OR tenant = :tenant)
  AND state IN (SELECT value FROM json_each(:states))
  AND (:channel IS NULL OR channel = :channel)
  AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit

-- name: list_jobs_gone_wrong
SELECT * FROM jobs INDEXED BY jobs_gone_wrong
WHERE state IN ('quarantined', 'failed', 'cancelled')
  AND (:tenant IS NULL OR tenant = :tenant)
  AND state IN (SELECT value FROM json_each(:states))
  AND (:channel IS NULL OR channel = :channel)
  AND (:before IS NULL OR sequence < :before)
ORDER BY sequence DESC LIMIT :limit

-- name: queue_position
SELECT count(*) AS ahead FROM jobs WHERE state = 'queued' AND (priority, sequence) < (:priority, :sequence)

-- name: ended
SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(:ids)) AND state IN ('succeeded', 'failed', 'cancelled', 'quarantined')

-- name: story
SELECT at_seconds AS at, step, attempt, detail FROM job_events WHERE job_id = :id ORDER BY place

-- name: counts
SELECT state, count(*) AS jobs FROM jobs WHERE state IN ('scheduled', 'queued', 'running', 'quarantined') GROUP BY state

-- name: ready
-- What may be claimed, to fill the dispatch again or to find what it forgot.
SELECT sequence, id, tenant, priority, received_at, channel, source, conversation FROM jobs
WHERE state = 'queued' AND waits = 0 AND sequence > :after AND run_at <= :before ORDER BY sequence LIMIT :limit

-- name: successors
-- What may be claimed now in the conversations of jobs that have just ended.
SELECT DISTINCT n.id, n.tenant, n.priority, n.received_at, n.channel, n.source, n.conversation
FROM jobs AS j JOIN jobs AS n ON n.conversation = j.conversation AND n.tenant = j.tenant AND n.channel = j.channel AND n.source = j.source
WHERE j.id IN (SELECT value FROM json_each(:ids)) AND n.state = 'queued' AND n.waits = 0

-- name: cancel_waiting
UPDATE jobs SET state = 'cancelled', cancel_at = :now, finished_at = :now, last_error = 'cancelled before it began'
WHERE id = :id AND tenant = :tenant AND state IN ('scheduled', 'queued')

-- name: cancel_running
UPDATE jobs SET cancel_at = :now WHERE id = :id AND tenant = :tenant AND state = 'running' AND cancel_at IS NULL

-- name: set_aside
UPDATE jobs SET state = 'quarantined', finished_at = :now, last_error = :reason
WHERE id = :id AND state IN ('scheduled', 'queued')

-- name: retry_ended
UPDATE jobs SET state = 'queued', waits = 0, attempt = 0, rescues = 0, run_at = :now, finished_at = NULL, cancel_at = NULL,
                last_error = NULL, result = CASE WHEN result LIKE '%"apology_for":%' THEN NULL ELSE result END
WHERE id = :id AND state IN ('failed', 'cancelled', 'quarantined') AND input NOT LIKE '[{"role":"raw"%'

-- name: drop_apology
-- What was said instead of an answer is not said again; the answer takes its place.
DELETE FROM outbox WHERE job_id IN (
    SELECT id FROM jobs WHERE id = :id AND state IN ('failed', 'cancelled', 'quarantined') AND result LIKE '%"apology_for":%')

-- name: reopen_outbox
UPDATE outbox SET state = 'pending', attempts = 0 WHERE job_id = :id AND state = 'failed'

-- name: add_step
INSERT INTO job_steps(job_id, at, step, attempt, detail) SELECT id, :now, :step, attempt, :detail FROM jobs WHERE id = :id

-- name: register_worker
INSERT INTO workers(name, process, slots, status, last_seen) VALUES (:name, :process, :slots, :status, :now) RETURNING id

-- name: see_worker
UPDATE workers SET last_seen = :now, status = :status, slots = :slots WHERE id = :worker AND dead_at IS NULL

-- name: set_progress
-- A report that comes late takes nothing back: the reply may be there by now.
UPDATE jobs SET progress = max(progress, :progress) WHERE id = :id AND lease_token = :token

-- name: leases
SELECT id, lease_token, cancel_at FROM jobs WHERE worker_id = :worker AND state = 'running'

-- name: workers
SELECT id, name, process, slots, status, last_seen FROM workers WHERE dead_at IS NULL ORDER BY id

-- name: bury_worker
UPDATE workers SET dead_at = :now WHERE id = :worker AND dead_at IS NULL

-- name: orphans
SELECT id, rescues, cancel_at FROM jobs
WHERE state = 'running' AND worker_id NOT IN (SELECT id FROM workers WHERE dead_at IS NULL) ORDER BY worker_id, sequence LIMIT 500

-- name: rescue
-- The claim counts as a rescue and not as an attempt.
UPDATE jobs SET state = :state, rescues = rescues + 1, attempt = attempt - 1, lease_token = NULL, worker_id = NULL,
                run_at = :now, last_error = :error,
                finished_at = CASE WHEN :state = 'queued' THEN NULL ELSE :now END
WHERE id = :id AND state = 'running'

-- name: anything_to_claim
SELECT 1 WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND waits = 0)
            OR EXISTS (SELECT 1 FROM jobs WHERE state = 'scheduled' AND run_at <= :now)

-- name: lives
SELECT 1 FROM workers WHERE id = :worker AND dead_at IS NULL

-- name: promote
UPDATE jobs SET state = 'queued' WHERE state = 'scheduled' AND run_at <= :now

-- name: waiting_tenants
-- A loose index scan: one probe of jobs_ready per tenant, however long its queue is.
WITH RECURSIVE t(tenant) AS (
    SELECT min(tenant) FROM jobs WHERE state = 'queued' AND waits = 0
    UNION ALL
    SELECT (SELECT min(tenant) FROM jobs WHERE state = 'queued' AND waits = 0 AND tenant > t.tenant) FROM t WHERE t.tenant IS NOT NULL
)
SELECT tenant FROM t WHERE tenant IS NOT NULL

-- name: claimable
-- A job waits while an earlier one of its conversation lives, or any of them runs: a chat is answered one message at a time and in
-- order. `waits` says it for most; a job that was retried by hand comes back before others that do not know of it.
SELECT id FROM jobs AS j
WHERE state = 'queued' AND waits = 0 AND rescues < 2 AND tenant = :tenant AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))
  AND (conversation IS NULL OR NOT EXISTS (
        SELECT 1 FROM jobs AS e
        WHERE e.conversation = j.conversation AND e.tenant = j.tenant AND e.channel = j.channel AND e.source = j.source
          AND e.state IN ('scheduled', 'queued', 'running')
          AND CASE WHEN e.state = 'running' THEN 0 ELSE e.sequence END < j.sequence))
ORDER BY priority, sequence LIMIT :limit

-- name: suspect
-- A job that was there at two deaths of a worker is run beside no other of its kind, so that the third is blamed on the right one.
SELECT id FROM jobs AS j
WHERE state = 'queued' AND rescues >= 2
  AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'running' AND worker_id = :worker AND rescues >= 2)
  AND (conversation IS NULL OR NOT EXISTS (
        SELECT 1 FROM jobs AS e
        WHERE e.conversation = j.conversation AND e.tenant = j.tenant AND e.channel = j.channel AND e.source = j.source
          AND e.state IN ('scheduled', 'queued', 'running')
          AND CASE WHEN e.state = 'running' THEN 0 ELSE e.sequence END < j.sequence))
ORDER BY sequence LIMIT 1

-- name: claim
UPDATE jobs SET state = 'running', attempt = attempt + 1, lease_token = :token, worker_id = :worker, started_at = :now
WHERE id = :id AND state = 'queued' RETURNING *

-- name: mergeable
-- Later messages of the conversation of a job that we run, as far as nobody has begun them.
SELECT j.id, j.input, j.reply_to, j.told_at FROM jobs AS m JOIN jobs AS j
    ON j.conversation = m.conversation AND j.tenant = m.tenant AND j.channel = m.channel AND j.source = m.source
WHERE m.id = :id AND m.lease_token = :token AND j.sequence > m.sequence AND j.state IN ('scheduled', 'queued') AND j.started_at IS NULL
ORDER BY j.sequence LIMIT :limit

-- name: merge_away
UPDATE jobs SET state = 'succeeded', finished_at = :now, progress = 1, result = :result
WHERE id = :id AND state IN ('scheduled', 'queued') AND started_at IS NULL

-- name: merge_in
UPDATE jobs SET input = :input, reply_to = :reply_to WHERE id = :id AND lease_token = :token

-- name: save_reply
UPDATE jobs SET result = :result, tokens = :tokens, progress = 1 WHERE id = :id AND lease_token = :token

-- name: add_part
INSERT INTO outbox(job_id, part, text) VALUES (:id, :part, :text) ON CONFLICT DO NOTHING

-- name: pending_parts
SELECT part, text, attempts FROM outbox WHERE job_id = :id AND state = 'pending' ORDER BY part

-- name: owns
SELECT 1 FROM jobs WHERE id = :id AND lease_token = :token

-- name: settle_part
UPDATE outbox SET state = :state, attempts = attempts + 1, last_error = :error, settled_at = :now
WHERE job_id = :id AND part = :part AND state = 'pending'

-- name: set_reply_to
UPDATE jobs SET reply_to = :reply_to WHERE id = :id AND lease_token = :token

-- name: finish
UPDATE jobs SET state = :state, lease_token = NULL, worker_id = NULL, finished_at = :now, last_error = :error
WHERE id = :id AND lease_token = :token RETURNING state

-- name: again
-- A retry, or a release that gives the attempt back. A job that was cancelled meanwhile ends instead of going round again.
UPDATE jobs SET state = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled' WHEN :run_at <= :now THEN 'queued' ELSE 'scheduled' END,
                finished_at = CASE WHEN cancel_at IS NOT NULL THEN :now END,
                run_at = :run_at, attempt = attempt - :uncount, lease_token = NULL, worker_id = NULL,
                last_error = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled' ELSE coalesce(:error, last_error) END
WHERE id = :id AND lease_token = :token RETURNING state

-- name: prune_steps
DELETE FROM job_steps WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)

-- name: prune_outbox
DELETE FROM outbox WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)

-- name: prune_jobs
DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)

-- name: prune_workers
DELETE FROM workers WHERE dead_at < :before
