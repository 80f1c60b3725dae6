-- The statements that move a job keep the queue themselves, and a claim and its end are facts of the job's own row: two rows changed per
-- move instead of a trigger's look at every changed job, and no step written where nothing but a claim and its end happened.

DROP TRIGGER jobs_move ON jobs;
DROP FUNCTION jobs_move;

-- The places, among the steps, of the last claim and of the end that followed it. What came before the last claim is in `job_steps`.
-- `claimed_place` speaks while the job is running or has an `ended_place`; `worker_id` stays when the job ends.
ALTER TABLE jobs ADD COLUMN claimed_place bigint, ADD COLUMN ended_place bigint;

-- The same hash as before, of functions that the planner can see through.
CREATE OR REPLACE FUNCTION chat_of(conversation text, tenant text, channel text, source text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN conversation IS NOT NULL
                THEN hashtextextended(tenant || E'\x1f' || channel || E'\x1f' || source || E'\x1f' || conversation, 0) END
$$;

-- Whoever takes a job out of its chat lets the next one go on. A statement of its own, so it sees who was told to wait behind a job that
-- has just left (see `claim`); the planner, which knows little of a queue that is empty one second and full the next, is given no choice.
CREATE FUNCTION chats_move_on() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM gone WHERE chat IS NOT NULL) THEN
        UPDATE queue SET place = 'ready'
        WHERE place = 'waiting' AND sequence = ANY(ARRAY(
            SELECT n.sequence FROM gone AS g CROSS JOIN LATERAL (
                SELECT sequence FROM queue WHERE chat = g.chat ORDER BY sequence LIMIT 1) AS n
            WHERE g.chat IS NOT NULL));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER queue_left AFTER DELETE ON queue REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION chats_move_on();

-- The same for a job that stays in the queue, outside of its chat: one that waits for a person. (With a list of columns there is no
-- transition table.)
CREATE FUNCTION chat_moves_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue SET place = 'ready'
    WHERE place = 'waiting' AND sequence = (SELECT sequence FROM queue WHERE chat = OLD.chat ORDER BY sequence LIMIT 1);
    RETURN NULL;
END $$;
CREATE TRIGGER queue_set_aside AFTER UPDATE OF chat ON queue FOR EACH ROW WHEN (OLD.chat IS NOT NULL AND NEW.chat IS NULL)
    EXECUTE FUNCTION chat_moves_on();

CREATE OR REPLACE FUNCTION jobs_leave() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM queue WHERE sequence = OLD.sequence;
    RETURN NULL;
END $$;

CREATE OR REPLACE VIEW job_events AS
SELECT job_id, external_id, to_timestamp(at) AS at, step, attempt, detail, at AS at_seconds, place
FROM (
    SELECT id AS job_id, external_id, received_at AS at, 'received' AS step, 0 AS attempt, channel || '/' || source AS detail, -1::bigint AS place
    FROM jobs
    UNION ALL SELECT id, external_id, received_at, 'verified', 0, verified_by, 0 FROM jobs WHERE verified_by <> ''
    UNION ALL SELECT id, external_id, received_at, 'screened', 0, options::json->>'screening', 1 FROM jobs
    WHERE options LIKE '%"screening":{%' AND options::json->>'screening' IS NOT NULL
    UNION ALL SELECT id, external_id, created_at, 'accepted', 0, NULL, 2 FROM jobs
    UNION ALL SELECT id, external_id, at, step, s.attempt, detail, 2 + s.place FROM job_steps AS s JOIN jobs ON jobs.sequence = s.job
    UNION ALL SELECT id, external_id, started_at, 'claimed', attempt, 'worker ' || worker_id, 2 + claimed_place
    FROM jobs WHERE claimed_place IS NOT NULL AND (state = 'running' OR ended_place IS NOT NULL)
    UNION ALL SELECT id, external_id, finished_at, state, attempt, last_error, 2 + ended_place FROM jobs WHERE ended_place IS NOT NULL
) AS s
ORDER BY s.at, place;
