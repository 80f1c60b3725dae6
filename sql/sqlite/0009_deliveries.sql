-- The log of deliveries: one row per attempt to bring a result to its caller; and the receivers that want nothing more.

ALTER TABLE callbacks ADD COLUMN host TEXT GENERATED ALWAYS AS (substr(replace(lower(url), '?', '/'), instr(url, '//') + 2,
    instr(substr(replace(lower(url), '?', '/'), instr(url, '//') + 2) || '/', '/') - 1)) VIRTUAL;  -- with its port, if the URL has one

CREATE TABLE callback_attempts (
    place      INTEGER PRIMARY KEY,
    job_id     TEXT NOT NULL,
    webhook_id TEXT NOT NULL,          -- the message's: the same in every attempt
    attempt    INTEGER NOT NULL,
    at         REAL NOT NULL,
    seconds    REAL NOT NULL,
    status     INTEGER,                -- of the answer; NULL where there was none
    outcome    TEXT NOT NULL,          -- 'delivered', 'failed' for good, or 'pending' another attempt
    error      TEXT
);
CREATE INDEX callback_attempts_job ON callback_attempts(job_id);

-- They answered 410. Nothing is sent there any more until a person has one of their callbacks sent again.
CREATE TABLE gone_receivers (
    tenant  TEXT NOT NULL,
    url     TEXT NOT NULL,
    gone_at REAL NOT NULL,
    PRIMARY KEY (tenant, url)
) WITHOUT ROWID;

CREATE VIEW delivery_overview AS
SELECT c.job_id, c.tenant, c.host, c.state, c.attempts, c.last_error,
       strftime('%Y-%m-%dT%H:%M:%fZ', CASE WHEN c.state = 'pending' THEN c.next_at END, 'unixepoch') AS next_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', c.settled_at, 'unixepoch') AS settled_at
FROM callbacks AS c;
