-- What the screening found stands among a job's options: a step of its story, and a view of the jobs that were marked.

DROP VIEW job_events;
-- `place` is the order of writing, whatever the clock did. The external id is in each branch, so that a search for it uses the index.
CREATE VIEW job_events AS
SELECT job_id, external_id, strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS at, step, attempt, detail, at AS at_seconds, place
FROM (
    SELECT id AS job_id, external_id, received_at AS at, 'received' AS step, 0 AS attempt, channel || '/' || source AS detail, -1 AS place
    FROM jobs
    UNION ALL SELECT id, external_id, received_at, 'verified', 0, verified_by, 0 FROM jobs WHERE verified_by <> ''
    UNION ALL SELECT id, external_id, received_at, 'screened', 0, options->'screening', 1 FROM jobs
    WHERE options LIKE '%"screening":{%' AND options->'screening' IS NOT NULL
    UNION ALL SELECT id, external_id, created_at, 'accepted', 0, NULL, 2 FROM jobs
    UNION ALL SELECT job_id, external_id, at, step, s.attempt, detail, 2 + s.rowid FROM job_steps AS s JOIN jobs ON jobs.id = s.job_id
) AS s
ORDER BY s.at, place;

CREATE VIEW screened_jobs AS
SELECT id, state, tenant, channel, source, external_id, strftime('%Y-%m-%dT%H:%M:%fZ', created_at, 'unixepoch') AS created_at,
       options->>'$.screening.score' AS score, options->>'$.screening.reasons' AS reasons, last_error
FROM jobs WHERE options LIKE '%"screening":{%' AND options->'screening' IS NOT NULL;
