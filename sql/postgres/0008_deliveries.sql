-- The log of deliveries: one row per attempt to bring a result to its caller; and the receivers that want nothing more.

ALTER TABLE callbacks ADD COLUMN host text NOT NULL GENERATED ALWAYS AS (split_part(split_part(lower(url), '/', 3), '?', 1)) STORED;

CREATE TABLE callback_attempts (
    place      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id     uuid NOT NULL,
    webhook_id text NOT NULL,          -- the message's: the same in every attempt
    attempt    integer NOT NULL,
    at         double precision NOT NULL,
    seconds    double precision NOT NULL,
    status     integer,                -- of the answer; NULL where there was none
    outcome    text NOT NULL,          -- 'delivered', 'failed' for good, or 'pending' another attempt
    error      text
);
CREATE INDEX callback_attempts_job ON callback_attempts(job_id);

-- They answered 410. Nothing is sent there any more until a person has one of their callbacks sent again.
CREATE TABLE gone_receivers (
    tenant  text NOT NULL,
    url     text NOT NULL,
    gone_at double precision NOT NULL,
    PRIMARY KEY (tenant, url)
);

CREATE VIEW delivery_overview AS
SELECT c.job_id, c.tenant, c.host, c.state, c.attempts, c.last_error,
       to_timestamp(CASE WHEN c.state = 'pending' THEN c.next_at END) AS next_at, to_timestamp(c.settled_at) AS settled_at
FROM callbacks AS c;
