-- What an agent remembers: turns, summaries, notes, and their erasure. `sql/postgres/memory.sql` has the same names.

-- name: remember
-- A job that succeeded becomes a turn of its chat, once.
INSERT INTO turns(job_id, tenant, channel, source, conversation, sender, said, answered, at)
SELECT id, tenant, channel, source, conversation, sender, input, coalesce(result->>'output_text', ''), :now FROM jobs
WHERE id = :id AND state = 'succeeded' AND conversation IS NOT NULL ON CONFLICT DO NOTHING

-- name: memories
-- What is known of each of the chats: one row for each of its last turns, and one without if there is none.
SELECT g.asked, coalesce(c.summary, '') AS summary, c.held_at, t.place, t.job_id, t.said, t.answered, t.at
FROM (
    SELECT key AS asked, value->>0 AS tenant, value->>1 AS channel, value->>2 AS source, value->>3 AS conversation FROM json_each(:chats)) AS g
LEFT JOIN conversations AS c
    ON c.conversation = g.conversation AND c.tenant = g.tenant AND c.channel = g.channel AND c.source = g.source
LEFT JOIN turns AS t ON t.place IN (
    SELECT place FROM turns AS t
    WHERE t.conversation = g.conversation AND t.tenant = g.tenant AND t.channel = g.channel AND t.source = g.source
    ORDER BY place DESC LIMIT :limit)
ORDER BY g.asked, t.place

-- name: put_summary
INSERT INTO conversations(tenant, channel, source, conversation, summary, at)
SELECT tenant, channel, source, conversation, :summary, :now FROM jobs
WHERE id = :id AND lease_token = :token AND conversation IS NOT NULL
ON CONFLICT(conversation, tenant, channel, source) DO UPDATE SET summary = excluded.summary, at = excluded.at

-- name: drop_summarised
DELETE FROM turns WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source AND place <= :through

-- name: forget_turns
DELETE FROM turns WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source

-- name: forget_summary
UPDATE conversations SET summary = '' WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source

-- name: forget_notes
DELETE FROM notes WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source

-- name: hold
INSERT INTO conversations(tenant, channel, source, conversation, at, held_at)
VALUES (:tenant, :channel, :source, :conversation, :now, :now)
ON CONFLICT(conversation, tenant, channel, source) DO UPDATE SET held_at = coalesce(conversations.held_at, excluded.held_at)

-- name: release
UPDATE conversations SET held_at = NULL
WHERE tenant = :tenant AND conversation = :conversation AND held_at IS NOT NULL
  AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)

-- name: held
SELECT tenant, channel, source, conversation, held_at FROM conversations
WHERE held_at IS NOT NULL AND (:tenant IS NULL OR tenant = :tenant) ORDER BY held_at

-- name: put_note
INSERT INTO notes(tenant, channel, source, conversation, name, text, at)
VALUES (:tenant, :channel, :source, :conversation, :name, :text, :now)
ON CONFLICT(conversation, tenant, channel, source, name) DO UPDATE SET text = excluded.text, at = excluded.at

-- name: drop_note
DELETE FROM notes WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source AND name = :name

-- name: notes
SELECT name, text FROM notes WHERE conversation = :conversation AND tenant = :tenant AND channel = :channel AND source = :source ORDER BY name

-- name: request_erasure
-- Nothing where as many of the tenant wait already as may.
INSERT INTO erasures(id, tenant, channel, source, conversation, sender, requested_at, up_to)
SELECT :id, :tenant, :channel, :source, :conversation, :sender, :now, (SELECT coalesce(max(sequence), 0) FROM jobs)
WHERE (SELECT count(*) FROM (SELECT 1 FROM erasures WHERE done_at IS NULL AND tenant = :tenant LIMIT :pending_max) AS pending) < :pending_max

-- name: find_erasure
SELECT * FROM erasures WHERE id = :id AND tenant = :tenant

-- name: pending_erasures
-- The first of each tenant first, and among those no order: one that waits for the end of a job must not hold up all others.
SELECT id FROM erasures WHERE done_at IS NULL ORDER BY row_number() OVER (PARTITION BY tenant ORDER BY requested_at), random() LIMIT :limit

-- name: locked_erasure
SELECT * FROM erasures WHERE id = :id AND done_at IS NULL

-- name: erase_live
-- Jobs that are not over, among those to be erased; the walk goes no further than the first that runs.
SELECT id, sequence, state FROM jobs
WHERE sequence > :reached AND sequence <= :through AND tenant = :tenant AND state IN ('scheduled', 'queued', 'running')
  AND (conversation = :conversation OR sender = :sender) AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)
ORDER BY sequence

-- name: erase_ended
SELECT id FROM jobs
WHERE sequence > :reached AND sequence <= :through AND tenant = :tenant AND state NOT IN ('scheduled', 'queued', 'running')
  AND (conversation = :conversation OR sender = :sender) AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)

-- name: erase_conversations
-- The chats of what is erased: a summary or a note may tell what one of its turns said.
DELETE FROM conversations WHERE (conversation, tenant, channel, source) IN (
    SELECT conversation, tenant, channel, source FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))
    UNION SELECT conversation, tenant, channel, source FROM turns WHERE tenant = :tenant AND (conversation = :conversation OR sender = :sender) AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)
    UNION SELECT conversation, tenant, channel, source FROM conversations WHERE tenant = :tenant AND conversation = :conversation
        AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source))

-- name: erase_notes
DELETE FROM notes WHERE (conversation, tenant, channel, source) IN (
    SELECT conversation, tenant, channel, source FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))
    UNION SELECT conversation, tenant, channel, source FROM turns WHERE tenant = :tenant AND (conversation = :conversation OR sender = :sender) AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)
    UNION SELECT conversation, tenant, channel, source FROM notes WHERE tenant = :tenant AND conversation = :conversation
        AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source))

-- name: erase_turns
DELETE FROM turns WHERE tenant = :tenant AND (conversation = :conversation OR sender = :sender) AND (:channel IS NULL OR channel = :channel) AND (:source IS NULL OR source = :source)

-- name: erase_outbox
DELETE FROM outbox WHERE job_id IN (SELECT value FROM json_each(:ids))

-- name: erase_jobs
-- What is left of a job is that it was there, how it ended and what it cost. Its id stays: a late delivery must not make it anew.
UPDATE jobs SET input = '[{"role":"raw","content":"erased"}]', reply_to = '{}', options = '{}', sender = '', external_id = '',
                conversation = NULL, last_error = 'erased',
                result = CASE WHEN result IS NOT NULL THEN json_object('output_text', '', 'usage', json(result->'$.usage')) END
WHERE id IN (SELECT value FROM json_each(:ids))

-- name: reach_erasure
UPDATE erasures SET reached = :reached, jobs = jobs + :jobs, done_at = CASE WHEN :reached >= up_to THEN :now END WHERE id = :id

-- name: prune_turns
DELETE FROM turns WHERE place IN (SELECT place FROM turns WHERE at < :before ORDER BY at LIMIT 1000)

-- name: prune_conversations
DELETE FROM conversations WHERE at < :before AND held_at IS NULL

-- name: prune_notes
DELETE FROM notes WHERE at < :before

-- name: prune_erasures
DELETE FROM erasures WHERE done_at < :before
