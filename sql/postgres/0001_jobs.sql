-- The record in PostgreSQL (12 or newer). Times are seconds since the epoch; documents are JSON text. People read `job_overview`,
-- `job_events`, `tenant_backlog`, `worker_overview` and `storage_health`.

CREATE TABLE tenants (
    name            text PRIMARY KEY,
    created_at      double precision NOT NULL,
    callback_secret text
);

CREATE TABLE sources (
    channel    text NOT NULL,
    name       text NOT NULL,
    tenant     text NOT NULL REFERENCES tenants(name),
    settings   text NOT NULL,
    created_at double precision NOT NULL,
    PRIMARY KEY (channel, name)
);

CREATE TABLE keys (
    id         text PRIMARY KEY,
    tenant     text NOT NULL REFERENCES tenants(name),
    hash       text NOT NULL UNIQUE,
    hint       text NOT NULL,
    created_at double precision NOT NULL,
    revoked_at double precision
);

CREATE TABLE allowed_networks (
    tenant  text NOT NULL REFERENCES tenants(name),
    network text NOT NULL,
    PRIMARY KEY (tenant, network)
);

-- Gateways keep tenants, sources, keys and networks in memory and look at this one number to know when to read them again.
CREATE TABLE directory_version (only_row integer PRIMARY KEY CHECK (only_row = 1), version bigint NOT NULL);
INSERT INTO directory_version VALUES (1, 1);

CREATE FUNCTION directory_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE directory_version SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_changed  AFTER INSERT OR UPDATE OR DELETE ON tenants          FOR EACH ROW EXECUTE FUNCTION directory_changed();
CREATE TRIGGER sources_changed  AFTER INSERT OR UPDATE OR DELETE ON sources          FOR EACH ROW EXECUTE FUNCTION directory_changed();
CREATE TRIGGER keys_changed     AFTER INSERT OR UPDATE OR DELETE ON keys             FOR EACH ROW EXECUTE FUNCTION directory_changed();
CREATE TRIGGER networks_changed AFTER INSERT OR UPDATE OR DELETE ON allowed_networks FOR EACH ROW EXECUTE FUNCTION directory_changed();

CREATE TABLE workers (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL,
    process   text NOT NULL,          -- pid, start time and machine: tells a dead process from a reused pid
    slots     integer NOT NULL,
    status    text NOT NULL,          -- 'ready', or why it is not
    last_seen double precision NOT NULL,
    dead_at   double precision
) WITH (fillfactor = 50);

-- One row per accepted item, live or finished. Nothing that changes during a job's life is indexed and pages keep room for a second
-- version of their rows, so a change of state touches no index (a heap-only tuple). What changes stands behind what does not: then
-- the write-ahead log of a change holds the end of the row only.
CREATE TABLE jobs (
    sequence     bigint GENERATED ALWAYS AS IDENTITY,  -- order of arrival
    id           uuid PRIMARY KEY,    -- says what the job is about: writing it twice is writing it once
    tenant       text NOT NULL,
    channel      text NOT NULL,
    source       text NOT NULL,
    external_id  text NOT NULL,
    conversation text,
    sender       text NOT NULL,
    priority     integer NOT NULL,
    received_at  double precision NOT NULL,
    created_at   double precision NOT NULL,
    verified_by  text NOT NULL,
    fingerprint  text NOT NULL,
    replay_of    text,
    options      text NOT NULL,
    input        text NOT NULL,
    reply_to     text NOT NULL,
    state        text NOT NULL CHECK (state IN ('scheduled', 'queued', 'running', 'quarantined', 'succeeded', 'failed', 'cancelled')),
    attempt      integer NOT NULL DEFAULT 0,  -- claims that count
    rescues      integer NOT NULL DEFAULT 0,  -- claims that ended with the death of their worker
    lease_token  uuid,
    worker_id    bigint,
    run_at       double precision NOT NULL,
    started_at   double precision,
    finished_at  double precision,
    cancel_at    double precision,
    progress     double precision NOT NULL DEFAULT 0,
    last_error   text,
    result       text,
    CHECK ((state = 'running') = (lease_token IS NOT NULL))
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX jobs_sequence ON jobs(sequence);
CREATE INDEX jobs_external        ON jobs(external_id);
CREATE INDEX jobs_created         ON jobs USING brin (created_at);

-- An index of the jobs that are not over, in a small table of its own so that a million finished ones cost a claim nothing. Triggers on
-- `jobs` keep it; nobody else writes it, except that a claim notes in `place` that a job waits for an earlier one of its conversation.
CREATE TABLE queue (
    sequence  bigint PRIMARY KEY,
    tenant    text NOT NULL,
    priority  integer NOT NULL,
    place     text NOT NULL CHECK (place IN ('ready', 'suspect', 'waiting', 'scheduled', 'running', 'quarantined')),
    chat      bigint,                 -- a hash of the conversation, where others may have to wait for this job
    run_at    double precision NOT NULL,
    worker_id bigint
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_ready      ON queue(tenant, priority, sequence) WHERE place = 'ready';
CREATE INDEX queue_suspect    ON queue(sequence)                   WHERE place = 'suspect';
CREATE INDEX queue_due        ON queue(run_at)                     WHERE place = 'scheduled';
CREATE INDEX queue_running    ON queue(worker_id)                  WHERE worker_id IS NOT NULL;
CREATE INDEX queue_chat       ON queue(chat, sequence)             WHERE chat IS NOT NULL;
-- Two gateways may commit two messages of a chat in either order, and two workers look at once; here it is decided.
CREATE UNIQUE INDEX queue_one_at_a_time ON queue(chat)             WHERE chat IS NOT NULL AND place = 'running';

-- A job that was there at two deaths of a worker is a suspect: a worker runs one of them at a time, so that the third death is blamed
-- on the right one.
CREATE FUNCTION place_of(state text, rescues integer) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN state <> 'queued' THEN state WHEN rescues >= 2 THEN 'suspect' ELSE 'ready' END
$$;

CREATE FUNCTION chat_of(conversation text, tenant text, channel text, source text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN conversation IS NOT NULL THEN hashtextextended(concat_ws(E'\x1f', tenant, channel, source, conversation), 0) END
$$;

-- One notification per statement, however many jobs it brings: notifications are sent under one lock of the whole database.
CREATE FUNCTION jobs_arrive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO queue(sequence, tenant, priority, place, chat, run_at)
    SELECT sequence, tenant, priority, place_of(state, 0),
           CASE WHEN finished_at IS NULL THEN chat_of(conversation, tenant, channel, source) END, run_at
    FROM arrived WHERE state IN ('scheduled', 'queued', 'quarantined');
    IF EXISTS (SELECT 1 FROM arrived WHERE state = 'queued') THEN NOTIFY sentinel_jobs; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_arrive AFTER INSERT ON jobs REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION jobs_arrive();

-- The planner knows nothing of a transition table and little of a queue that is empty one second and full the next, so the one good
-- plan (each changed job's row by its key) is not left to it.
CREATE FUNCTION jobs_move() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE queue AS q SET place = place_of(j.state, j.rescues), run_at = j.run_at, worker_id = j.worker_id
    FROM changed AS j
    WHERE q.sequence = j.sequence AND j.finished_at IS NULL AND q.place <> place_of(j.state, j.rescues)
      AND NOT (q.place = 'waiting' AND j.state = 'queued');
    UPDATE queue AS q SET place = 'quarantined', worker_id = NULL, chat = NULL
    FROM changed AS j WHERE q.sequence = j.sequence AND j.state = 'quarantined';
    DELETE FROM queue AS q USING changed AS j WHERE q.sequence = j.sequence AND j.state IN ('succeeded', 'failed', 'cancelled');
    IF EXISTS (SELECT 1 FROM changed WHERE finished_at IS NOT NULL AND conversation IS NOT NULL) THEN
        -- A new statement, so it sees whoever was told to wait behind a job that has just left (see `claim`).
        UPDATE queue SET place = 'ready'
        WHERE place = 'waiting' AND sequence IN (
            SELECT n.sequence FROM changed AS j CROSS JOIN LATERAL (
                SELECT sequence FROM queue WHERE chat = chat_of(j.conversation, j.tenant, j.channel, j.source) ORDER BY sequence LIMIT 1) AS n
            WHERE j.finished_at IS NOT NULL AND j.conversation IS NOT NULL);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_move AFTER UPDATE ON jobs REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION jobs_move();

CREATE FUNCTION jobs_leave() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM queue WHERE sequence = OLD.sequence;
    IF FOUND AND OLD.conversation IS NOT NULL THEN
        UPDATE queue SET place = 'ready' WHERE place = 'waiting' AND sequence = (
            SELECT sequence FROM queue WHERE chat = chat_of(OLD.conversation, OLD.tenant, OLD.channel, OLD.source) ORDER BY sequence LIMIT 1);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_leave AFTER DELETE ON jobs FOR EACH ROW WHEN (OLD.finished_at IS NULL) EXECUTE FUNCTION jobs_leave();

-- What happened after acceptance. The first steps are facts of the job's own row, so that accepting writes one row, not four.
CREATE TABLE job_steps (
    place   bigint GENERATED ALWAYS AS IDENTITY,
    job     bigint NOT NULL,          -- its sequence: shorter than its id, and neighbours are written to the same pages
    at      double precision NOT NULL,
    step    text NOT NULL,
    attempt integer NOT NULL,
    detail  text
);
CREATE INDEX job_steps_job ON job_steps(job);

-- The reply in parts, written before the first is sent. A part that is 'sent' is never sent again.
CREATE TABLE outbox (
    job_id     uuid NOT NULL,
    part       integer NOT NULL,
    text       text NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed')),
    attempts   integer NOT NULL DEFAULT 0,
    last_error text,
    settled_at double precision,
    PRIMARY KEY (job_id, part)
) WITH (fillfactor = 70);

-- Results on their way to a caller's URL. They have a life of their own: the job has ended already.
CREATE TABLE callbacks (
    job_id      uuid PRIMARY KEY,
    tenant      text NOT NULL,
    url         text NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts    integer NOT NULL DEFAULT 0,
    next_at     double precision NOT NULL,
    lease_token uuid,
    last_error  text,
    settled_at  double precision
);
CREATE INDEX callbacks_due ON callbacks(next_at) WHERE state = 'pending';

INSERT INTO tenants(name, created_at) VALUES ('default', extract(epoch FROM now()));

CREATE VIEW job_overview AS
SELECT id, state, tenant, channel, source, external_id, conversation, priority, attempt, rescues,
       to_timestamp(created_at)  AS created_at,
       to_timestamp(run_at)      AS run_at,
       to_timestamp(started_at)  AS started_at,
       to_timestamp(finished_at) AS finished_at,
       round(progress::numeric, 2) AS progress, last_error, replay_of
FROM jobs;

-- `place` is the order of writing, whatever the clock did. The external id is in each branch, so that a search for it uses the index.
CREATE VIEW job_events AS
SELECT job_id, external_id, to_timestamp(at) AS at, step, attempt, detail, at AS at_seconds, place
FROM (
    SELECT id AS job_id, external_id, received_at AS at, 'received' AS step, 0 AS attempt, channel || '/' || source AS detail, 0::bigint AS place
    FROM jobs
    UNION ALL SELECT id, external_id, received_at, 'verified', 0, verified_by, 1 FROM jobs WHERE verified_by <> ''
    UNION ALL SELECT id, external_id, created_at, 'accepted', 0, NULL, 2 FROM jobs
    UNION ALL SELECT id, external_id, at, step, s.attempt, detail, 2 + s.place FROM job_steps AS s JOIN jobs ON jobs.sequence = s.job
) AS s
ORDER BY s.at, place;

-- Who waits, how long, and who is being served: "why does nothing happen for this tenant?"
CREATE VIEW tenant_backlog AS
SELECT q.tenant,
       count(*) FILTER (WHERE place = 'ready')     AS ready,
       count(*) FILTER (WHERE place = 'waiting')   AS behind_their_chat,
       count(*) FILTER (WHERE place = 'scheduled') AS scheduled,
       count(*) FILTER (WHERE place = 'running')   AS running,
       count(*) FILTER (WHERE place = 'quarantined') AS quarantined,
       round((extract(epoch FROM clock_timestamp()) - min(q.run_at) FILTER (WHERE place = 'ready'))::numeric, 1) AS oldest_ready_seconds
FROM queue AS q GROUP BY q.tenant ORDER BY ready DESC;

-- Who works, on how much, and when we last heard of it: "is anybody there?"
CREATE VIEW worker_overview AS
SELECT w.id, w.name, w.status, w.slots, (SELECT count(*) FROM queue AS q WHERE q.place = 'running' AND q.worker_id = w.id) AS running,
       round((extract(epoch FROM clock_timestamp()) - w.last_seen)::numeric, 1) AS silent_seconds,
       to_timestamp(w.dead_at) AS declared_dead_at
FROM workers AS w ORDER BY w.id DESC;

-- What slows a queue in PostgreSQL: dead rows that cannot be removed because of an old snapshot. "Why is it slow today?"
CREATE VIEW storage_health AS
SELECT s.relname AS "table", s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows, pg_size_pretty(pg_total_relation_size(s.relid)) AS size,
       s.last_autovacuum, s.last_autoanalyze,
       (SELECT max(age(a.backend_xmin)) FROM pg_stat_activity AS a WHERE a.backend_xmin IS NOT NULL) AS oldest_snapshot_transactions,
       (SELECT round(max(extract(epoch FROM clock_timestamp() - a.xact_start))::numeric, 1)
          FROM pg_stat_activity AS a WHERE a.backend_xmin IS NOT NULL) AS oldest_transaction_seconds
FROM pg_stat_user_tables AS s WHERE s.relname IN ('jobs', 'queue', 'job_steps', 'outbox', 'callbacks', 'workers') ORDER BY s.relname;
