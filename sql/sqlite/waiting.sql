-- Chats that wait for their turn, and are told so. `sql/postgres/waiting.sql` has the same names.

-- name: waiting_by_tenant
SELECT count(*) AS jobs FROM jobs WHERE state = 'queued' GROUP BY tenant

-- name: waiting_chats
-- The last message of each chat that was not told lately, unless it was begun before; those that wait longest first.
WITH line AS MATERIALIZED (
    SELECT sequence, tenant, channel, source, conversation, row_number() OVER (PARTITION BY tenant ORDER BY priority, sequence) AS turn
    FROM jobs WHERE state = 'queued'),
chats AS MATERIALIZED (
    SELECT max(sequence) AS last, min(turn) AS first_turn, max(turn) AS turn, count(*) AS jobs FROM line
    WHERE conversation IS NOT NULL AND channel || '/' || source IN (SELECT value FROM json_each(:sources))
    GROUP BY conversation, tenant, channel, source)
SELECT j.id, j.tenant, j.channel, j.source, j.reply_to, j.received_at, c.turn, c.first_turn, c.jobs,
       (SELECT count(*) FROM jobs AS r WHERE r.conversation = j.conversation AND r.tenant = j.tenant AND r.channel = j.channel
           AND r.source = j.source AND r.state IN ('scheduled', 'queued', 'running')
           AND CASE WHEN r.state = 'running' THEN 0 ELSE r.sequence END = 0) AS running
FROM chats AS c JOIN jobs AS j ON j.sequence = c.last LEFT JOIN conversations AS t
    ON t.conversation = j.conversation AND t.tenant = j.tenant AND t.channel = j.channel AND t.source = j.source
WHERE j.started_at IS NULL AND j.told_at IS NULL AND t.held_at IS NULL AND coalesce(t.told_at, 0) <= :told_before
ORDER BY c.turn DESC LIMIT :limit

-- name: tell_chat
-- Only of a job that waits still: from here to the end of the transaction nobody can begin it.
INSERT INTO conversations(tenant, channel, source, conversation, at, told_at)
SELECT tenant, channel, source, conversation, :now, :now FROM jobs
WHERE id = :id AND state = 'queued' AND started_at IS NULL AND told_at IS NULL AND conversation IS NOT NULL
ON CONFLICT(conversation, tenant, channel, source) DO UPDATE SET told_at = excluded.told_at
WHERE coalesce(conversations.told_at, 0) <= :told_before AND conversations.held_at IS NULL

-- name: tell_job
UPDATE jobs SET told_at = :now WHERE id = :id
