-- What an agent remembers: turns, summaries, notes, and their erasure. `sql/sqlite/memory.sql` has the same names.

-- name: memories
-- What is known of each of the chats: one row for each of its last turns, and one without if there is none.
SELECT g.asked, coalesce(c.summary, '') AS summary, c.held_at, t.place, t.job_id, t.said, t.answered, t.at
FROM (
    SELECT key AS asked, value->>0 AS tenant, value->>1 AS channel, value->>2 AS source, value->>3 AS conversation
    FROM json_array_elements(:chats::json) WITH ORDINALITY AS chats(value, key)) AS g
LEFT JOIN LATERAL (
    SELECT summary, held_at FROM conversations AS c
    WHERE c.conversation = g.conversation AND c.tenant = g.tenant AND c.channel = g.channel AND c.source = g.source LIMIT 1) AS c ON true
LEFT JOIN LATERAL (
    SELECT place, job_id, said, answered, at FROM turns AS t
    WHERE t.conversation = g.conversation AND t.tenant = g.tenant AND t.channel = g.channel AND t.source = g.source
    ORDER BY place DESC LIMIT :limit) AS t ON true
ORDER BY g.asked, t.place

-- name: put_summary
INSERT INTO conversations(tenant, channel, source, conversation, summary, at)
SELECT tenant, channel, source, conversation, :summary, :now::float8 FROM jobs
WHERE id = :id::uuid AND lease_token = :token::uuid AND conversation IS NOT NULL FOR SHARE
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
VALUES (:tenant, :channel, :source, :conversation, :now::float8, :now::float8)
ON CONFLICT(conversation, tenant, channel, source) DO UPDATE SET held_at = coalesce(conversations.held_at, excluded.held_at)

-- name: release
UPDATE conversations SET held_at = NULL
WHERE tenant = :tenant AND conversation = :conversation AND held_at IS NOT NULL
  AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)

-- name: held
SELECT tenant, channel, source, conversation, held_at FROM conversations
WHERE held_at IS NOT NULL AND (:tenant::text IS NULL OR tenant = :tenant::text) ORDER BY held_at

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
SELECT :id, :tenant, :channel::text, :source::text, :conversation::text, :sender::text, :now::float8, (SELECT coalesce(max(sequence), 0) FROM jobs)
WHERE (SELECT count(*) FROM (SELECT 1 FROM erasures WHERE done_at IS NULL AND tenant = :tenant LIMIT :pending_max) AS pending) < :pending_max

-- name: find_erasure
SELECT * FROM erasures WHERE id = :id AND tenant = :tenant

-- name: pending_erasures
-- The first of each tenant first, and among those no order: one that waits for the end of a job must not hold up all others.
SELECT id FROM erasures WHERE done_at IS NULL ORDER BY row_number() OVER (PARTITION BY tenant ORDER BY requested_at), random() LIMIT :limit

-- name: locked_erasure
SELECT * FROM erasures WHERE id = :id AND done_at IS NULL FOR UPDATE SKIP LOCKED

-- name: erase_live
-- Jobs that are not over, among those to be erased; the walk goes no further than the first that runs.
SELECT id, sequence, state FROM jobs
WHERE sequence > :reached AND sequence <= :through AND tenant = :tenant AND state IN ('scheduled', 'queued', 'running')
  AND (conversation = :conversation::text OR sender = :sender::text) AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)
ORDER BY sequence

-- name: erase_ended
SELECT id FROM jobs
WHERE sequence > :reached AND sequence <= :through AND tenant = :tenant AND state NOT IN ('scheduled', 'queued', 'running')
  AND (conversation = :conversation::text OR sender = :sender::text) AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)

-- name: erase_conversations
-- The chats of what is erased: a summary or a note may tell what one of its turns said.
DELETE FROM conversations WHERE (conversation, tenant, channel, source) IN (
    SELECT conversation, tenant, channel, source FROM jobs WHERE id = ANY(:ids::text[]::uuid[])
    UNION SELECT conversation, tenant, channel, source FROM turns WHERE tenant = :tenant AND (conversation = :conversation::text OR sender = :sender::text) AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)
    UNION SELECT conversation, tenant, channel, source FROM conversations WHERE tenant = :tenant AND conversation = :conversation::text
        AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text))

-- name: erase_notes
DELETE FROM notes WHERE (conversation, tenant, channel, source) IN (
    SELECT conversation, tenant, channel, source FROM jobs WHERE id = ANY(:ids::text[]::uuid[])
    UNION SELECT conversation, tenant, channel, source FROM turns WHERE tenant = :tenant AND (conversation = :conversation::text OR sender = :sender::text) AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)
    UNION SELECT conversation, tenant, channel, source FROM notes WHERE tenant = :tenant AND conversation = :conversation::text
        AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text))

-- name: erase_turns
DELETE FROM turns WHERE tenant = :tenant AND (conversation = :conversation::text OR sender = :sender::text) AND (:channel::text IS NULL OR channel = :channel::text) AND (:source::text IS NULL OR source = :source::text)

-- name: erase_outbox
DELETE FROM outbox WHERE job_id = ANY(:ids::text[]::uuid[])

-- name: erase_jobs
-- What is left of a job is that it was there, how it ended and what it cost. Its id stays: a late delivery must not make it anew.
UPDATE jobs SET input = '[{"role":"raw","content":"erased"}]', reply_to = '{}', options = '{}', sender = '', external_id = '',
                conversation = NULL, last_error = 'erased',
                result = CASE WHEN result IS NOT NULL THEN json_build_object('output_text', '', 'usage', result::json->'usage')::text END
WHERE id = ANY(:ids::text[]::uuid[])

-- name: reach_erasure
UPDATE erasures SET reached = :reached, jobs = jobs + :jobs, done_at = CASE WHEN :reached >= up_to THEN :now::float8 END WHERE id = :id

-- name: prune_turns
DELETE FROM turns WHERE place IN (SELECT place FROM turns WHERE at < :before ORDER BY at LIMIT 1000)

-- name: prune_conversations
DELETE FROM conversations WHERE at < :before AND held_at IS NULL

-- name: prune_notes
DELETE FROM notes WHERE at < :before

-- name: prune_erasures
DELETE FROM erasures WHERE done_at < :before
