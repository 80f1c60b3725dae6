-- What watchers of jobs are told. `sql/postgres/watching.sql` has the same names.

-- name: put_partial
INSERT INTO partials(job_id, text) SELECT id, :text FROM jobs WHERE id = :id AND lease_token = :token
ON CONFLICT(job_id) DO UPDATE SET text = excluded.text

-- name: glimpses
SELECT j.id, j.state, j.progress, j.attempt, coalesce(p.text, '') AS text,
       (SELECT count(*) FROM job_steps AS s WHERE s.job_id = j.id) AS steps
FROM jobs AS j LEFT JOIN partials AS p ON p.job_id = j.id WHERE j.id IN (SELECT value FROM json_each(:ids))

-- name: erase_partials
DELETE FROM partials WHERE job_id IN (SELECT value FROM json_each(:ids))

-- name: prune_partials
DELETE FROM partials WHERE job_id IN (SELECT id FROM jobs WHERE finished_at < :before AND state <> 'quarantined' ORDER BY finished_at LIMIT 1000)
