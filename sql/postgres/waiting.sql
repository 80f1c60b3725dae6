-- Chats that wait for their turn, and are told so. `sql/sqlite/waiting.sql` has the same names.

-- name: waiting_by_tenant
SELECT count(*) AS jobs FROM queue WHERE place IN ('ready', 'suspect', 'waiting') GROUP BY tenant

-- name: waiting_chats
-- The last message of each chat that was not told lately, unless it was begun before; those that wait longest first. The queue is read
-- first and the rest by key, whatever the planner thinks of its size.
WITH line AS MATERIALIZED (
    SELECT sequence, chat, row_number() OVER (PARTITION BY tenant ORDER BY priority, sequence) AS turn
    FROM queue WHERE place IN ('ready', 'suspect', 'waiting')),
chats AS MATERIALIZED (
    SELECT chat, max(sequence) AS last, min(turn) AS first_turn, max(turn) AS turn, count(*) AS jobs FROM line
    WHERE chat IS NOT NULL GROUP BY chat)
SELECT j.id, j.tenant, j.channel, j.source, j.reply_to, j.received_at, c.turn, c.first_turn, c.jobs,
       (SELECT count(*) FROM queue AS r WHERE r.chat = c.chat AND r.place = 'running') AS running
FROM chats AS c CROSS JOIN LATERAL (
    SELECT id, tenant, channel, source, conversation, reply_to, received_at, started_at, told_at FROM jobs
    WHERE sequence = c.last OFFSET 0) AS j
LEFT JOIN LATERAL (
    SELECT told_at, held_at FROM conversations
    WHERE conversation = j.conversation AND tenant = j.tenant AND channel = j.channel AND source = j.source OFFSET 0) AS t ON true
WHERE j.started_at IS NULL AND j.told_at IS NULL AND t.held_at IS NULL AND coalesce(t.told_at, 0) <= :told_before
  AND j.channel || '/' || j.source IN (SELECT json_array_elements_text(:sources::json))
ORDER BY c.turn DESC LIMIT :limit

-- name: tell_chat
-- Only of a job that waits still: from here to the end of the transaction nobody can begin it. The row of the queue is locked first, as
-- a claim does it, and left alone if a claim has it.
WITH locked AS MATERIALIZED (
    SELECT q.sequence FROM jobs AS j JOIN queue AS q ON q.sequence = j.sequence
    WHERE j.id = :id::uuid AND q.place IN ('ready', 'suspect', 'waiting') FOR UPDATE OF q SKIP LOCKED)
INSERT INTO conversations(tenant, channel, source, conversation, at, told_at)
SELECT tenant, channel, source, conversation, :now::float8, :now::float8 FROM jobs
WHERE sequence IN (SELECT sequence FROM locked) AND state = 'queued' AND started_at IS NULL AND told_at IS NULL AND conversation IS NOT NULL
ON CONFLICT(conversation, tenant, channel, source) DO UPDATE SET told_at = excluded.told_at
WHERE coalesce(conversations.told_at, 0) <= :told_before AND conversations.held_at IS NULL

-- name: tell_job
UPDATE jobs SET told_at = :now WHERE id = :id::uuid
