-- The record in SQLite. Times are seconds since the epoch (REAL); documents are JSON text. People read `job_overview` and `job_events`.

CREATE TABLE tenants (
    name            TEXT PRIMARY KEY,
    created_at      REAL NOT NULL,
    callback_secret TEXT
);

CREATE TABLE sources (
    channel    TEXT NOT NULL,
    name       TEXT NOT NULL,
    tenant     TEXT NOT NULL REFERENCES tenants(name),
    settings   TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (channel, name)
);

CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL REFERENCES tenants(name),
    hash       TEXT NOT NULL UNIQUE,
    hint       TEXT NOT NULL,
    created_at REAL NOT NULL,
    revoked_at REAL
);

CREATE TABLE allowed_networks (
    tenant  TEXT NOT NULL REFERENCES tenants(name),
    network TEXT NOT NULL,
    PRIMARY KEY (tenant, network)
);

-- Gateways keep tenants, sources, keys and networks in memory and look at this one number to know when to read them again.
CREATE TABLE directory_version (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER NOT NULL);
INSERT INTO directory_version VALUES (1, 1);

CREATE TABLE workers (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL,
    process   TEXT NOT NULL,          -- pid and start time: tells a dead process from a reused pid
    slots     INTEGER NOT NULL,
    status    TEXT NOT NULL,          -- 'ready', or why it is not
    last_seen REAL NOT NULL,
    dead_at   REAL
);

CREATE TABLE jobs (
    sequence     INTEGER PRIMARY KEY, -- order of arrival
    id           TEXT NOT NULL UNIQUE,-- says what the job is about: writing it twice is writing it once
    state        TEXT NOT NULL CHECK (state IN ('scheduled', 'queued', 'running', 'quarantined', 'succeeded', 'failed', 'cancelled')),
    tenant       TEXT NOT NULL,
    channel      TEXT NOT NULL,
    source       TEXT NOT NULL,
    external_id  TEXT NOT NULL,
    conversation TEXT,
    sender       TEXT NOT NULL,
    priority     INTEGER NOT NULL,
    attempt      INTEGER NOT NULL DEFAULT 0,  -- claims that count
    rescues      INTEGER NOT NULL DEFAULT 0,  -- claims that ended with the death of their worker
    lease_token  TEXT,
    worker_id    INTEGER,
    received_at  REAL NOT NULL,
    created_at   REAL NOT NULL,
    run_at       REAL NOT NULL,
    started_at   REAL,
    finished_at  REAL,
    cancel_at    REAL,
    progress     REAL NOT NULL DEFAULT 0,
    last_error   TEXT,
    verified_by  TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    replay_of    TEXT,
    reply_to     TEXT NOT NULL,
    options      TEXT NOT NULL,
    input        TEXT NOT NULL,
    result       TEXT,
    waits        INTEGER NOT NULL DEFAULT 0,  -- 1: an earlier job of its conversation lives, so a claim need not look at it
    CHECK ((state = 'running') = (lease_token IS NOT NULL))
);
CREATE INDEX jobs_ready        ON jobs(waits, tenant, priority, sequence) WHERE state = 'queued';
CREATE INDEX jobs_due          ON jobs(run_at)                     WHERE state = 'scheduled';
CREATE INDEX jobs_running      ON jobs(worker_id)                  WHERE state = 'running';
CREATE INDEX jobs_conversation ON jobs(conversation, tenant, channel, source, CASE WHEN state = 'running' THEN 0 ELSE sequence END)
                                                                   WHERE state IN ('scheduled', 'queued', 'running');
CREATE INDEX jobs_finished     ON jobs(finished_at)                WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_external     ON jobs(external_id);

-- When a job of a conversation ends or is withdrawn, the next one waits no longer. Without `waits`, a claim would walk past every
-- message of a flooded chat, each time.
CREATE TRIGGER conversation_moves_on AFTER UPDATE OF state ON jobs
WHEN NEW.conversation IS NOT NULL AND NEW.state NOT IN ('scheduled', 'queued', 'running')
BEGIN
    UPDATE jobs SET waits = 0 WHERE sequence = (
        SELECT sequence FROM jobs
        WHERE conversation = NEW.conversation AND tenant = NEW.tenant AND channel = NEW.channel AND source = NEW.source
          AND state IN ('scheduled', 'queued', 'running')
        ORDER BY CASE WHEN state = 'running' THEN 0 ELSE sequence END LIMIT 1);
END;
CREATE TRIGGER conversation_loses_one AFTER DELETE ON jobs
WHEN OLD.conversation IS NOT NULL AND OLD.state IN ('scheduled', 'queued', 'running')
BEGIN
    UPDATE jobs SET waits = 0 WHERE sequence = (
        SELECT sequence FROM jobs
        WHERE conversation = OLD.conversation AND tenant = OLD.tenant AND channel = OLD.channel AND source = OLD.source
          AND state IN ('scheduled', 'queued', 'running')
        ORDER BY CASE WHEN state = 'running' THEN 0 ELSE sequence END LIMIT 1);
END;

-- What happened after acceptance. The first steps are facts of the job's own row, so that accepting writes one row, not four.
CREATE TABLE job_steps (
    job_id  TEXT NOT NULL,
    at      REAL NOT NULL,
    step    TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    detail  TEXT
);
CREATE INDEX job_steps_job ON job_steps(job_id, at);

-- The reply in parts, written before the first is sent. A part that is 'sent' is never sent again.
CREATE TABLE outbox (
    job_id     TEXT NOT NULL,
    part       INTEGER NOT NULL,
    text       TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'failed')),
    attempts   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    settled_at REAL,
    PRIMARY KEY (job_id, part)
) WITHOUT ROWID;

-- Results on their way to a caller's URL. They have a life of their own: the job has ended already.
CREATE TABLE callbacks (
    job_id      TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    url         TEXT NOT NULL,
    state       TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     REAL NOT NULL,
    lease_token TEXT,
    last_error  TEXT,
    settled_at  REAL
);
CREATE INDEX callbacks_due ON callbacks(next_at) WHERE state = 'pending';

CREATE TRIGGER tenants_added   AFTER INSERT ON tenants          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER tenants_changed AFTER UPDATE ON tenants          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER sources_added   AFTER INSERT ON sources          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER sources_changed AFTER UPDATE ON sources          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER sources_removed AFTER DELETE ON sources          BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER keys_added      AFTER INSERT ON keys             BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER keys_changed    AFTER UPDATE ON keys             BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER networks_added  AFTER INSERT ON allowed_networks BEGIN UPDATE directory_version SET version = version + 1; END;

INSERT INTO tenants(name, created_at) VALUES ('default', unixepoch());

CREATE VIEW job_overview AS
SELECT id, state, tenant, channel, source, external_id, conversation, priority, attempt, rescues,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at, 'unixepoch')  AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', run_at, 'unixepoch')      AS run_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch')  AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', finished_at, 'unixepoch') AS finished_at,
       round(progress, 2) AS progress, last_error, replay_of
FROM jobs;

-- `place` is the order of writing, whatever the clock did. The external id is in each branch, so that a search for it uses the index.
CREATE VIEW job_events AS
SELECT job_id, external_id, strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS at, step, attempt, detail, at AS at_seconds, place
FROM (
    SELECT id AS job_id, external_id, received_at AS at, 'received' AS step, 0 AS attempt, channel || '/' || source AS detail, 0 AS place
    FROM jobs
    UNION ALL SELECT id, external_id, received_at, 'verified', 0, verified_by, 1 FROM jobs WHERE verified_by <> ''
    UNION ALL SELECT id, external_id, created_at, 'accepted', 0, NULL, 2 FROM jobs
    UNION ALL SELECT job_id, external_id, at, step, s.attempt, detail, 2 + s.rowid FROM job_steps AS s JOIN jobs ON jobs.id = s.job_id
) AS s
ORDER BY s.at, place;
