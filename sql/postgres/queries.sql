-- The record's statements, by name; `sql/sqlite/queries.sql` has the same names, so that `diff` shows the dialect. What SQLite does in
-- several statements under its one write lock, PostgreSQL does in one, for many jobs at a time: one round trip, no open transaction.

-- name: known
-- Which of the ids are there already.
SELECT id FROM jobs WHERE id = ANY(:ids::text[]::uuid[])

-- name: written
-- Which of the ids were written by the batch of that time: one whose answer was lost knows its own again.
SELECT id FROM jobs WHERE id = ANY(:ids::text[]::uuid[]) AND created_at = :now::float8

-- name: accept
-- The careful way, for few jobs or when a COPY met an id that is there already: what is known is left as it is.
INSERT INTO jobs(id, tenant, channel, source, external_id, conversation, sender, priority, state, received_at, created_at, run_at,
                 finished_at, last_error, verified_by, fingerprint, replay_of, reply_to, options, input, metering)
SELECT (value->>0)::uuid, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, (value->>7)::integer, value->>8,
       (value->>9)::float8, :now, coalesce((value->>17)::float8, :now), CASE WHEN value->>8 IN ('quarantined', 'cancelled') THEN :now::float8 END, value->>10, value->>11, value->>12,
       value->>13, value->>14, value->>15, value->>16, (value->>18)::smallint
FROM json_array_elements(:rows::json) WITH ORDINALITY AS given(value, key) ORDER BY key
ON CONFLICT (id) DO NOTHING RETURNING id

-- name: accept_many
-- The fast way: the triggers put what arrives into the queue.
COPY jobs(id, tenant, channel, source, external_id, sender, priority, state, received_at, created_at, run_at, verified_by, fingerprint,
          reply_to, options, input, metering, conversation, last_error, replay_of, finished_at) FROM STDIN

-- name: withdraw
-- Only what nobody has begun: a job that its sender was told to send again. The row of the queue is locked first, as a claim does it.
WITH locked AS MATERIALIZED (
    SELECT q.sequence FROM jobs AS j JOIN queue AS q ON q.sequence = j.sequence WHERE j.id = ANY(:ids::text[]::uuid[]) FOR UPDATE OF q)
DELETE FROM jobs WHERE sequence IN (SELECT sequence FROM locked) AND state = 'queued' AND started_at IS NULL

-- name: find_job
SELECT * FROM jobs WHERE id = :id::uuid AND (:tenant::text IS NULL OR tenant = :tenant::text)

-- name: list_jobs
SELECT * FROM jobs
WHERE (:tenant::text IS NULL OR tenant = :tenant::text)
  AND (:states::text IS NULL OR state IN (SELECT json_array_elements_text(:states::json)))
  AND (:channel::text IS NULL OR channel = :channel::text)
  AND (:before::bigint IS NULL OR sequence < :before::bigint)
ORDER BY sequence DESC LIMIT :limit

-- name: list_jobs_called
-- The same for one external id, by its index: what support asks first.
SELECT * FROM jobs
WHERE external_id = :external_id
  AND (:tenant::text IS NULL OR tenant = :tenant::text)
  AND (:states::text IS NULL OR state IN (SELECT json_array_elements_text(:states::json)))
  AND (:channel::text IS NULL OR channel = :channel::text)
  AND (:before::bigint IS NULL OR sequence < :before::bigint)
ORDER BY sequence DESC LIMIT :limit

-- name: list_jobs_live
-- The same for states whose jobs are all in the queue, which is read first: in `jobs` they may be few among a million.
SELECT j.*
FROM queue AS q CROSS JOIN LATERAL (SELECT * FROM jobs WHERE sequence = q.sequence OFFSET 0) AS j
WHERE (:tenant::text IS NULL OR q.tenant = :tenant::text)
  AND CASE WHEN q.place IN ('ready', 'suspect', 'waiting') THEN 'queued' ELSE q.place END IN (SELECT json_array_elements_text(:states::json))
  AND (:channel::text IS NULL OR channel = :channel::text)
  AND (:before::bigint IS NULL OR q.sequence < :before::bigint)
ORDER BY q.sequence DESC LIMIT :limit

-- name: list_jobs_gone_wrong
-- The same for states that have a table of their own.
SELECT j.*
FROM gone_wrong AS w CROSS JOIN LATERAL (SELECT * FROM jobs WHERE sequence = w.sequence OFFSET 0) AS j
WHERE (:tenant::text IS NULL OR w.tenant = :tenant::text)
  AND state IN (SELECT json_array_elements_text(:states::json))
  AND (:channel::text IS NULL OR channel = :channel::text)
  AND (:before::bigint IS NULL OR w.sequence < :before::bigint)
ORDER BY w.sequence DESC LIMIT :limit

-- name: queue_position
SELECT count(*) AS ahead FROM queue WHERE place IN ('ready', 'suspect', 'waiting') AND (priority, sequence) < (:priority::integer, :sequence::bigint)

-- name: ended
SELECT id FROM jobs WHERE id = ANY(:ids::text[]::uuid[]) AND state IN ('succeeded', 'failed', 'cancelled', 'quarantined')

-- name: story
SELECT at_seconds AS at, step, attempt, detail FROM job_events WHERE job_id = :id::uuid ORDER BY place

-- name: counts
SELECT CASE WHEN place IN ('ready', 'suspect', 'waiting') THEN 'queued' ELSE place END AS state, count(*) AS jobs FROM queue GROUP BY 1

-- name: ready
-- What may be claimed, to fill the dispatch again or to find what it forgot; one that is not the next of its chat has no id here. The queue
-- is read first, whatever the planner thinks of its size: else an empty queue can cost a walk through all jobs.
WITH due AS MATERIALIZED (
    SELECT sequence, tenant, priority, chat FROM queue
    WHERE place = 'ready' AND sequence > :after AND run_at <= :before ORDER BY sequence LIMIT :limit)
SELECT d.sequence, j.id, d.tenant, d.priority, j.received_at, j.channel, j.source, j.conversation
FROM due AS d LEFT JOIN LATERAL (
    SELECT id, received_at, channel, source, conversation FROM jobs
    WHERE sequence = d.sequence
      AND (d.chat IS NULL OR NOT EXISTS (SELECT 1 FROM queue WHERE chat = d.chat AND place = 'running')
                             AND d.sequence = (SELECT sequence FROM queue WHERE chat = d.chat ORDER BY sequence LIMIT 1))
    OFFSET 0) AS j ON true
ORDER BY d.sequence

-- name: successors
-- What may be claimed now in the conversations of jobs that have just left the queue.
SELECT DISTINCT n.id, q.tenant, q.priority, n.received_at, n.channel, n.source, n.conversation
FROM jobs AS j CROSS JOIN LATERAL (
    SELECT sequence, tenant, priority, place FROM queue WHERE chat = chat_of(j.conversation, j.tenant, j.channel, j.source) ORDER BY sequence LIMIT 1
) AS q JOIN jobs AS n ON n.sequence = q.sequence
WHERE j.id = ANY(:ids::text[]::uuid[]) AND j.conversation IS NOT NULL AND q.place = 'ready'

-- name: cancel_waiting
-- The row of the queue is locked first, as a claim does it: in the other order the two could wait for each other.
WITH locked AS MATERIALIZED (SELECT q.sequence FROM jobs AS j JOIN queue AS q ON q.sequence = j.sequence WHERE j.id = :id::uuid FOR UPDATE OF q),
cancelled AS (
    UPDATE jobs SET state = 'cancelled', cancel_at = :now, finished_at = :now, last_error = 'cancelled before it began'
    WHERE sequence IN (SELECT sequence FROM locked) AND tenant = :tenant AND state IN ('scheduled', 'queued') RETURNING sequence)
DELETE FROM queue WHERE sequence IN (SELECT sequence FROM cancelled)

-- name: cancel_running
UPDATE jobs SET cancel_at = :now WHERE id = :id::uuid AND tenant = :tenant AND state = 'running' AND cancel_at IS NULL

-- name: set_aside
WITH locked AS MATERIALIZED (SELECT q.sequence FROM jobs AS j JOIN queue AS q ON q.sequence = j.sequence WHERE j.id = :id::uuid FOR UPDATE OF q),
aside AS (
    UPDATE jobs SET state = 'quarantined', finished_at = :now, last_error = :reason
    WHERE sequence IN (SELECT sequence FROM locked) AND state IN ('scheduled', 'queued') RETURNING sequence)
UPDATE queue SET place = 'quarantined', chat = NULL WHERE sequence IN (SELECT sequence FROM aside)

-- name: retry_ended
-- The claim and its end, which the row tells of, are written down before they are forgotten.
WITH old AS MATERIALIZED (
    SELECT * FROM jobs WHERE id = :id::uuid AND state IN ('failed', 'cancelled', 'quarantined') AND input NOT LIKE '[{"role":"raw"%' FOR UPDATE),
told AS (
    INSERT INTO job_steps(place, job, at, step, attempt, detail) OVERRIDING SYSTEM VALUE
    SELECT claimed_place, sequence, started_at, 'claimed', attempt, 'worker ' || worker_id FROM old WHERE ended_place IS NOT NULL AND claimed_place IS NOT NULL
    UNION ALL SELECT ended_place, sequence, finished_at, state, attempt, last_error FROM old WHERE ended_place IS NOT NULL),
righted AS (DELETE FROM gone_wrong WHERE sequence IN (SELECT sequence FROM old)),
back AS (
    UPDATE jobs SET state = 'queued', attempt = 0, rescues = 0, run_at = :now, finished_at = NULL, cancel_at = NULL, last_error = NULL,
        ended_place = NULL, result = CASE WHEN result LIKE '%"apology_for":%' THEN NULL ELSE result END
    WHERE sequence IN (SELECT sequence FROM old) RETURNING *)
INSERT INTO queue(sequence, tenant, priority, place, chat, run_at)
SELECT sequence, tenant, priority, 'ready', chat_of(conversation, tenant, channel, source), run_at FROM back
ON CONFLICT (sequence) DO UPDATE SET place = 'ready', chat = EXCLUDED.chat, run_at = EXCLUDED.run_at

-- name: drop_apology
-- What was said instead of an answer is not said again; the answer takes its place.
DELETE FROM outbox WHERE job_id IN (
    SELECT id FROM jobs WHERE id = :id::uuid AND state IN ('failed', 'cancelled', 'quarantined') AND result LIKE '%"apology_for":%')

-- name: reopen_outbox
UPDATE outbox SET state = 'pending', attempts = 0 WHERE job_id = :id::uuid AND state = 'failed'

-- name: add_step
INSERT INTO job_steps(job, at, step, attempt, detail) SELECT sequence, :now, :step, attempt, :detail FROM jobs WHERE id = :id::uuid

-- name: register_worker
INSERT INTO workers(name, process, slots, status, last_seen) VALUES (:name, :process, :slots, :status, :now) RETURNING id

-- name: see_worker
UPDATE workers SET last_seen = :now, status = :status, slots = :slots WHERE id = :worker AND dead_at IS NULL

-- name: set_progress
-- A report that comes late takes nothing back: the reply may be there by now.
UPDATE jobs AS j SET progress = greatest(j.progress, g.progress)
FROM unnest(:ids::uuid[], :tokens::uuid[], :progress::float8[]) AS g(id, token, progress)
WHERE j.id = g.id AND j.lease_token = g.token

-- name: leases
SELECT j.id, j.lease_token, j.cancel_at
-- By the one index that names workers (only what runs has one), and each job by its key: with statistics of an empty queue, a join of the
-- two could be a walk through all of both.
FROM (SELECT sequence FROM queue WHERE worker_id = :worker OFFSET 0) AS mine
CROSS JOIN LATERAL (SELECT id, lease_token, cancel_at FROM jobs WHERE sequence = mine.sequence OFFSET 0) AS j

-- name: workers
SELECT id, name, process, slots, status, last_seen FROM workers WHERE dead_at IS NULL ORDER BY id

-- name: bury_worker
UPDATE workers SET dead_at = :now WHERE id = :worker AND dead_at IS NULL

-- name: weak_points
-- What a promise rests on, and an operator may have changed. Without one of these indexes nothing is claimed, or two of a chat at a time.
SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('default_transaction_isolation') AS default_transaction_isolation, extract(epoch FROM clock_timestamp())::float8 AS now,
       ARRAY(SELECT name FROM unnest(ARRAY['jobs_pkey', 'jobs_sequence', 'jobs_external', 'queue_pkey', 'queue_ready', 'queue_suspect', 'queue_due',
                                           'queue_running', 'queue_chat', 'queue_one_at_a_time']) AS name
             WHERE NOT EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(name) AND indisvalid)) AS missing

-- name: orphans
SELECT 1 FROM queue WHERE worker_id IS NOT NULL AND worker_id NOT IN (SELECT id FROM workers WHERE dead_at IS NULL) LIMIT 1

-- name: rescue
-- The claim counts as a rescue and not as an attempt. What is quarantined is in nobody's way: it leaves its chat.
WITH left_alone AS MATERIALIZED (
    SELECT sequence FROM queue WHERE worker_id IS NOT NULL AND worker_id NOT IN (SELECT id FROM workers WHERE dead_at IS NULL)
    ORDER BY worker_id, sequence LIMIT 500),
orphans AS MATERIALIZED (
    SELECT j.id FROM left_alone AS l CROSS JOIN LATERAL (SELECT id FROM jobs WHERE sequence = l.sequence FOR UPDATE SKIP LOCKED) AS j),
rescued AS (
    UPDATE jobs SET rescues = rescues + 1, attempt = attempt - 1, lease_token = NULL, run_at = :now,
        state = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled' WHEN rescues + 1 >= :rescues_max THEN 'quarantined' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_at IS NOT NULL OR rescues + 1 >= :rescues_max THEN :now::float8 END,
        last_error = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled'
                          WHEN rescues + 1 >= :rescues_max THEN 'its worker died ' || :rescues_max || ' times' ELSE 'its worker died' END
    WHERE id = ANY(ARRAY(SELECT id FROM orphans)) AND state = 'running' RETURNING *),
gone AS (DELETE FROM queue WHERE sequence IN (SELECT sequence FROM rescued WHERE state = 'cancelled')),
back AS (
    UPDATE queue AS q SET place = place_of(r.state, r.rescues), run_at = r.run_at, worker_id = NULL,
        chat = CASE WHEN r.state = 'queued' THEN q.chat END
    FROM rescued AS r WHERE q.sequence = r.sequence AND r.state <> 'cancelled'),
steps AS (
    INSERT INTO job_steps(place, job, at, step, attempt, detail) OVERRIDING SYSTEM VALUE
    SELECT claimed_place, sequence, started_at, 'claimed', attempt + 1, 'worker ' || worker_id FROM rescued WHERE claimed_place IS NOT NULL
    UNION ALL SELECT nextval('job_steps_place_seq'), sequence, :now, CASE state WHEN 'queued' THEN 'rescued' ELSE state END, attempt, last_error
    FROM rescued),
called AS (
    INSERT INTO callbacks(job_id, tenant, url, next_at) SELECT id, tenant, options::json->>'callback_url', :now FROM rescued
    WHERE finished_at IS NOT NULL AND options::json->>'callback_url' IS NOT NULL ON CONFLICT DO NOTHING)
SELECT id FROM rescued

-- name: promote
WITH due AS (
    UPDATE queue SET place = 'ready' WHERE place = 'scheduled' AND sequence = ANY(ARRAY(
        SELECT sequence FROM queue WHERE place = 'scheduled' AND run_at <= :now ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
    RETURNING sequence)
UPDATE jobs SET state = 'queued' WHERE state = 'scheduled' AND sequence = ANY(ARRAY(SELECT sequence FROM due))

-- name: look_for_ids
-- The beginning of `claim`: of the jobs named by `ids`, those that may be claimed. `place || ''` keeps it off the index of what is ready:
-- with statistics of an empty queue, which the planner often has, that can be a walk past all its dead rows.
WITH found AS MATERIALIZED (
    SELECT q.*, 1::bigint AS turn FROM unnest(:ids::text[]::uuid[]) AS given(id) JOIN jobs AS j ON j.id = given.id CROSS JOIN LATERAL (
        SELECT ctid AS at, sequence, tenant, priority, chat FROM queue WHERE sequence = j.sequence AND place || '' = 'ready' FOR UPDATE SKIP LOCKED) AS q),
told AS MATERIALIZED (
    SELECT false AS more, NULL::text AS lines, NULL::bigint AS mark, NULL::bigint AS entries, NULL::bigint AS jobs, false AS passing)

-- name: look_everywhere
-- The beginning of `claim`: a fair pick. Tenants by chance, an even share for each, by priority and age. If it is `passing`, what has to
-- wait for a job that runs is passed over and left as it is.
WITH RECURSIVE counter AS MATERIALIZED (
    SELECT pg_stat_get_xact_tuples_returned('queue_ready'::regclass) AS entries, pg_stat_get_xact_tuples_fetched('queue_ready'::regclass) AS jobs),
busy AS MATERIALIZED (SELECT chat FROM queue WHERE :passing::boolean AND chat IS NOT NULL AND place = 'running'),
tenants(tenant) AS (
    (SELECT q.tenant FROM counter CROSS JOIN LATERAL (
        SELECT tenant FROM queue WHERE place = 'ready' AND entries IS NOT NULL ORDER BY tenant LIMIT 1) AS q)
    UNION ALL
    SELECT (SELECT q.tenant FROM queue AS q WHERE q.place = 'ready' AND q.tenant > t.tenant ORDER BY q.tenant LIMIT 1)
    FROM tenants AS t WHERE t.tenant IS NOT NULL),
drawn AS MATERIALIZED (SELECT tenant FROM tenants WHERE tenant IS NOT NULL ORDER BY random() LIMIT :count),
share AS MATERIALIZED (SELECT :looked / nullif(count(*), 0) AS jobs FROM drawn),
found AS MATERIALIZED (
    SELECT q.*, row_number() OVER (PARTITION BY q.tenant ORDER BY q.priority, q.sequence) AS turn
    FROM drawn CROSS JOIN LATERAL (
        SELECT ctid AS at, sequence, tenant, priority, chat FROM queue
        WHERE place = 'ready' AND tenant = drawn.tenant AND (chat IS NULL OR chat NOT IN (SELECT chat FROM busy))
        ORDER BY priority, sequence LIMIT (SELECT jobs + 1 FROM share) FOR UPDATE SKIP LOCKED) AS q),
told AS MATERIALIZED (
    SELECT (SELECT max(turn) FROM found) > (SELECT jobs FROM share) AS more, NULL::text AS lines, NULL::bigint AS mark,
           (SELECT entries FROM counter) AS entries, (SELECT jobs FROM counter) AS jobs, :passing::boolean AS passing)

-- name: look_at_lines
-- The beginning of `claim` while an old snapshot keeps the index entries of what was taken: the same pick, from some of the lines in which
-- something waits, each from its first job on, and from what has a number greater than `mark`. The answer names these lines anew.
WITH lines AS MATERIALIZED (
    SELECT tenant, priority, min(sequence) AS first FROM (
        SELECT l.tenant, l.priority, q.sequence FROM unnest(:tenants::text[], :priorities::integer[], :firsts::bigint[]) AS l(tenant, priority, first)
        CROSS JOIN LATERAL (
            SELECT sequence FROM queue WHERE place = 'ready' AND tenant = l.tenant AND priority = l.priority AND sequence >= l.first
            ORDER BY sequence LIMIT 1) AS q
        UNION ALL SELECT tenant, priority, sequence FROM queue WHERE sequence > :mark::bigint AND place || '' = 'ready') AS waiting
    GROUP BY tenant, priority),
drawn AS MATERIALIZED (
    SELECT tenant, array_agg(priority ORDER BY priority) AS priorities, array_agg(first ORDER BY priority) AS firsts
    FROM lines GROUP BY tenant ORDER BY random() LIMIT :count),
share AS MATERIALIZED (SELECT :looked / nullif(count(*), 0) AS jobs FROM drawn),
found AS MATERIALIZED (
    SELECT q.*, row_number() OVER (PARTITION BY q.tenant ORDER BY q.priority, q.sequence) AS turn
    FROM drawn CROSS JOIN LATERAL (
        SELECT q.* FROM unnest(priorities, firsts) AS l(priority, first) CROSS JOIN LATERAL (
            SELECT ctid AS at, sequence, tenant, priority, chat FROM queue
            WHERE place = 'ready' AND tenant = drawn.tenant AND priority = l.priority AND sequence >= l.first
            ORDER BY sequence LIMIT (SELECT jobs + 1 FROM share) FOR UPDATE SKIP LOCKED) AS q
        LIMIT (SELECT jobs + 1 FROM share)) AS q),
told AS MATERIALIZED (
    SELECT (SELECT max(turn) FROM found) > (SELECT jobs FROM share) AS more, (SELECT coalesce(json_agg(lines), '[]')::text FROM lines) AS lines,
           (SELECT last_value FROM jobs_sequence_seq) AS mark, NULL::bigint AS entries, NULL::bigint AS jobs, false AS passing)

-- name: claim
-- It goes on from one of the looks above: what they `found` is locked before it is asked whether an earlier job of the same conversation
-- is in the way; one that has to wait is marked, so that the next claim need not look at it, but only while the job in its way is held
-- (FOR SHARE), or the mark could come after the last look of the transaction that ends that job and nobody would take it away. Of
-- suspects, one at a time; only if there are any is it asked (CASE) whether this worker runs one, for that may be a walk past dead rows
-- too. Of the index of what is ready, `walked` says how many dead entries were passed, and `passed` how many jobs. A token is half chance,
-- which is drawn once, and half the job's number, in as many digits; PostgreSQL would spend more on chance for each than on finding it.
-- Of a job, what all that is claimed has in common (its state, when it was started, no end) is not sent with each.
lone AS MATERIALIZED (
    SELECT ctid AS at, sequence, tenant, priority, chat, 0::bigint AS turn FROM queue
    WHERE place = 'suspect' AND CASE WHEN EXISTS (SELECT 1 FROM queue WHERE place = 'suspect') THEN NOT EXISTS (
        SELECT 1 FROM queue AS r JOIN jobs AS j ON j.sequence = r.sequence
        WHERE r.place = 'running' AND r.worker_id = :worker AND j.rescues >= 2) END
    ORDER BY sequence LIMIT 1 FOR UPDATE SKIP LOCKED),
candidates AS MATERIALIZED (SELECT * FROM lone UNION ALL SELECT * FROM found),
blocked AS MATERIALIZED (
    SELECT c.sequence, coalesce(
        (SELECT e.sequence FROM queue AS e WHERE e.chat = c.chat AND e.place = 'running'),
        (SELECT nullif(e.sequence, c.sequence) FROM queue AS e WHERE e.chat = c.chat ORDER BY e.sequence LIMIT 1)) AS blocker
    FROM candidates AS c WHERE c.chat IS NOT NULL),
held AS MATERIALIZED (
    SELECT sequence FROM queue WHERE sequence = ANY(ARRAY(SELECT blocker FROM blocked WHERE blocker IS NOT NULL))
      AND (place <> 'running' OR NOT (SELECT passing FROM told)) FOR SHARE SKIP LOCKED),
parked AS (
    UPDATE queue SET place = 'waiting'
    WHERE sequence = ANY(ARRAY(SELECT b.sequence FROM blocked AS b JOIN held AS h ON h.sequence = b.blocker)) RETURNING 1),
picked AS MATERIALIZED (
    SELECT at FROM candidates WHERE sequence NOT IN (SELECT sequence FROM blocked WHERE blocker IS NOT NULL)
      AND EXISTS (SELECT 1 FROM workers WHERE id = :worker AND dead_at IS NULL)
    ORDER BY turn, priority, sequence LIMIT :count),
taken AS (
    UPDATE queue SET place = 'running', worker_id = :worker WHERE ctid = ANY(ARRAY(SELECT at FROM picked)) RETURNING sequence),
claimed AS (
    UPDATE jobs SET state = 'running', attempt = attempt + 1, worker_id = :worker, started_at = :now,
        lease_token = ((SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)) || to_hex(sequence | (1::bigint << 62)))::uuid,
        claimed_place = (SELECT nextval('job_steps_place_seq'))
    WHERE sequence = ANY(ARRAY(SELECT sequence FROM taken)) AND state = 'queued'
    RETURNING lease_token, id, sequence, tenant, channel, source, external_id, conversation, sender, input, reply_to, options, fingerprint,
              priority, attempt, rescues, received_at, created_at, run_at, progress, result, last_error, replay_of, told_at)
SELECT CASE WHEN claimed.sequence IS NOT DISTINCT FROM (SELECT sequence FROM claimed LIMIT 1) THEN json_build_object(  -- once, not with each job
           'parked', (SELECT count(*) FROM parked), 'more', coalesce(more, false), 'lines', lines, 'mark', mark,
           'walked', coalesce(pg_stat_get_xact_tuples_returned('queue_ready'::regclass) - entries - looked_at, 0),
           'passed', coalesce(looked_at - (SELECT count(*) FROM found), 0))::text
       END AS told, claimed.*
FROM told CROSS JOIN LATERAL (SELECT pg_stat_get_xact_tuples_fetched('queue_ready'::regclass) - jobs AS looked_at OFFSET 0) AS c
LEFT JOIN claimed ON true

-- name: lines
-- Which tenants have something to claim, of which priority, and the number of each's first: all that `claim` need look at, beside what
-- comes after the job that now has the greatest number (`mark`).
WITH RECURSIVE counter AS MATERIALIZED (SELECT pg_stat_get_xact_tuples_returned('queue_ready'::regclass) AS passed),
lines(tenant, priority, first) AS (
    (SELECT q.* FROM counter CROSS JOIN LATERAL (
        SELECT tenant, priority, sequence FROM queue WHERE place = 'ready' AND passed IS NOT NULL
        ORDER BY tenant, priority, sequence LIMIT 1) AS q)
    UNION ALL
    SELECT n.* FROM lines AS l CROSS JOIN LATERAL (
        SELECT tenant, priority, sequence FROM queue WHERE place = 'ready' AND (tenant, priority) > (l.tenant, l.priority)
        ORDER BY tenant, priority, sequence LIMIT 1) AS n)
SELECT (SELECT coalesce(json_agg(lines), '[]')::text FROM lines) AS lines, (SELECT last_value FROM jobs_sequence_seq) AS mark,
       pg_stat_get_xact_tuples_returned('queue_ready'::regclass) - (SELECT passed FROM counter) - (SELECT count(*) FROM lines) AS walked

-- name: mergeable
-- Later messages of the conversation of a job that we run, as far as nobody has begun them.
SELECT j.id, j.input, j.reply_to, j.told_at
FROM jobs AS m JOIN queue AS q ON q.chat = chat_of(m.conversation, m.tenant, m.channel, m.source) AND q.sequence > m.sequence
JOIN jobs AS j ON j.sequence = q.sequence AND j.conversation = m.conversation AND j.tenant = m.tenant
WHERE m.id = :id::uuid AND m.lease_token = :token::uuid AND q.place <> 'running' AND j.started_at IS NULL
ORDER BY q.sequence LIMIT :limit

-- name: merge_away
WITH locked AS MATERIALIZED (SELECT q.sequence FROM jobs AS j JOIN queue AS q ON q.sequence = j.sequence WHERE j.id = :id::uuid FOR UPDATE OF q),
merged AS (
    UPDATE jobs SET state = 'succeeded', finished_at = :now, progress = 1, result = :result
    WHERE sequence IN (SELECT sequence FROM locked) AND state IN ('scheduled', 'queued') AND started_at IS NULL RETURNING sequence)
DELETE FROM queue WHERE sequence IN (SELECT sequence FROM merged)

-- name: merge_in
UPDATE jobs SET input = :input, reply_to = :reply_to WHERE id = :id::uuid AND lease_token = :token::uuid

-- name: save_replies
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(:ids::uuid[], :tokens::uuid[], :results::text[], :parts::text[], :tokens_used::bigint[])
    WITH ORDINALITY AS g(id, token, result, parts, tokens_used, place)),
written AS (
    UPDATE jobs AS j SET result = g.result, tokens = g.tokens_used, progress = 1 FROM given AS g WHERE j.id = g.id AND j.lease_token = g.token
    RETURNING j.id, j.sequence, j.attempt, g.parts, g.place),
added AS (
    INSERT INTO outbox(job_id, part, text) SELECT w.id, p.part, p.text
    FROM written AS w CROSS JOIN LATERAL json_array_elements_text(w.parts::json) WITH ORDINALITY AS p(text, part) ON CONFLICT DO NOTHING),
steps AS (
    INSERT INTO job_steps(job, at, step, attempt, detail)
    SELECT sequence, :now, 'generated', attempt, json_array_length(parts::json) || ' part(s) to send' FROM written)
SELECT place FROM given WHERE place NOT IN (SELECT place FROM written)

-- name: pending_parts
SELECT part, text, attempts FROM outbox WHERE job_id = :id::uuid AND state = 'pending' ORDER BY part

-- name: settle_parts
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(:ids::uuid[], :tokens::uuid[], :parts::integer[], :states::text[], :errors::text[], :reply_tos::text[])
    WITH ORDINALITY AS g(id, token, part, state, error, reply_to, place)),
owned AS MATERIALIZED (SELECT g.*, j.sequence, j.attempt FROM given AS g JOIN jobs AS j ON j.id = g.id AND j.lease_token = g.token),
settled AS (
    UPDATE outbox AS o SET state = g.state, attempts = o.attempts + 1, last_error = g.error, settled_at = :now
    FROM owned AS g WHERE o.job_id = g.id AND o.part = g.part AND o.state = 'pending' RETURNING g.*),
moved AS (UPDATE jobs AS j SET reply_to = s.reply_to FROM settled AS s WHERE j.id = s.id AND j.lease_token = s.token AND s.reply_to IS NOT NULL),
steps AS (
    INSERT INTO job_steps(job, at, step, attempt, detail)
    SELECT sequence, :now, CASE state WHEN 'sent' THEN 'delivered' WHEN 'failed' THEN 'delivery_refused' ELSE 'delivery_postponed' END, attempt,
           'part ' || part || coalesce(': ' || nullif(error, ''), '')
    FROM settled ORDER BY place)
SELECT place FROM given WHERE place NOT IN (SELECT place FROM owned)

-- name: end
-- A retry, or a release that gives the attempt back, of a job that was cancelled meanwhile ends it instead. The claim and its end stand in
-- the job's row (`claimed_place`, `ended_place`); where there will be another claim, they are written down as steps.
-- An array that is empty says that all items have the usual value. The answer is the places of those whose lease was lost: mostly none.
WITH given AS MATERIALIZED (
    SELECT id, token, coalesce(state, 'succeeded') AS state, error, coalesce(run_at, 0) AS run_at, coalesce(uncount, 0) AS uncount, remember, place
    FROM unnest(:ids::uuid[], :tokens::uuid[], :states::text[], :errors::text[], :run_ats::float8[], :uncounts::integer[], :remembers::integer[])
    WITH ORDINALITY AS g(id, token, state, error, run_at, uncount, remember, place)),
written AS (
    UPDATE jobs AS j SET
        state = CASE WHEN g.state <> 'queued' THEN g.state WHEN j.cancel_at IS NOT NULL THEN 'cancelled'
                     WHEN g.run_at <= :now THEN 'queued' ELSE 'scheduled' END,
        finished_at = CASE WHEN g.state <> 'queued' OR j.cancel_at IS NOT NULL THEN :now::float8 END,
        ended_place = CASE WHEN g.state <> 'queued' THEN (SELECT nextval('job_steps_place_seq')) END,
        run_at = CASE WHEN g.state = 'queued' THEN g.run_at ELSE j.run_at END,
        attempt = j.attempt - CASE WHEN g.state = 'queued' THEN g.uncount ELSE 0 END,
        last_error = CASE WHEN g.state <> 'queued' THEN g.error WHEN j.cancel_at IS NOT NULL THEN 'cancelled' ELSE coalesce(g.error, j.last_error) END,
        lease_token = NULL
    FROM given AS g WHERE j.id = g.id AND j.lease_token = g.token
    RETURNING j.id, j.sequence, j.tenant, CASE WHEN j.options <> '{}' THEN j.options END AS options, j.state, j.attempt, j.rescues, j.run_at,
              j.started_at, j.worker_id, j.claimed_place, j.finished_at, g.state AS wanted, g.error, g.uncount, g.place),
lost AS MATERIALIZED (SELECT id, error, place FROM given WHERE place NOT IN (SELECT place FROM written)),
gone AS (DELETE FROM queue WHERE sequence = ANY(ARRAY(SELECT sequence FROM written WHERE finished_at IS NOT NULL))),
back AS (
    UPDATE queue AS q SET place = place_of(w.state, w.rescues), run_at = w.run_at, worker_id = NULL
    FROM written AS w WHERE w.finished_at IS NULL AND q.sequence = w.sequence),
steps AS (
    INSERT INTO job_steps(place, job, at, step, attempt, detail) OVERRIDING SYSTEM VALUE
    SELECT claimed_place, sequence, started_at, 'claimed', attempt + uncount, 'worker ' || worker_id FROM written
    WHERE wanted = 'queued' AND claimed_place IS NOT NULL
    UNION ALL
    SELECT nextval('job_steps_place_seq'), sequence, :now,
           CASE WHEN finished_at IS NOT NULL THEN state WHEN uncount = 1 THEN 'released' ELSE 'retry_planned' END, attempt, error
    FROM written WHERE wanted = 'queued'
    UNION ALL
    SELECT nextval('job_steps_place_seq'), j.sequence, :now, 'stale_finish', j.attempt, l.error FROM lost AS l JOIN jobs AS j ON j.id = l.id),
called AS (
    INSERT INTO callbacks(job_id, tenant, url, next_at) SELECT id, tenant, options::json->>'callback_url', :now FROM written
    WHERE finished_at IS NOT NULL AND options::json->>'callback_url' IS NOT NULL ON CONFLICT DO NOTHING),
remembered AS (
    INSERT INTO turns(job_id, tenant, channel, source, conversation, sender, said, answered, at)
    SELECT j.id, j.tenant, j.channel, j.source, j.conversation, j.sender, j.input, coalesce(j.result::json->>'output_text', ''), :now
    FROM given AS g JOIN jobs AS j ON j.id = g.id AND j.lease_token = g.token
    WHERE g.remember = 1 AND g.state = 'succeeded' AND j.conversation IS NOT NULL AND g.place IN (SELECT place FROM written)
    ON CONFLICT DO NOTHING)
SELECT place FROM lost

-- name: prune_steps
DELETE FROM job_steps WHERE job = ANY(ARRAY(
    SELECT sequence FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))

-- name: prune_outbox
DELETE FROM outbox WHERE job_id = ANY(ARRAY(
    SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))

-- name: prune_jobs
DELETE FROM jobs WHERE id = ANY(ARRAY(
    SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))

-- name: prune_workers
DELETE FROM workers WHERE dead_at < :before

-- name: unpark
-- A safety net: what waits although nothing is in its way. It finds nothing, or there is a fault elsewhere.
UPDATE queue AS q SET place = 'ready'
WHERE q.place = 'waiting' AND NOT EXISTS (SELECT 1 FROM queue AS e WHERE e.chat = q.chat AND (e.sequence < q.sequence OR e.place = 'running'))
