-- What watchers of jobs are told. `sql/sqlite/watching.sql` has the same names.

-- name: put_partial
INSERT INTO partials(job_id, text) SELECT id, :text FROM jobs WHERE id = :id::uuid AND lease_token = :token::uuid
ON CONFLICT(job_id) DO UPDATE SET text = excluded.text

-- name: glimpses
SELECT j.id, j.state, j.progress, j.attempt, coalesce(p.text, '') AS text,
       (SELECT count(*) FROM job_steps AS s WHERE s.job = j.sequence) AS steps
FROM jobs AS j LEFT JOIN partials AS p ON p.job_id = j.id WHERE j.id = ANY(:ids::text[]::uuid[])

-- name: erase_partials
DELETE FROM partials WHERE job_id = ANY(:ids::text[]::uuid[])

-- name: prune_partials
DELETE FROM partials WHERE job_id = ANY(ARRAY(SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before AND state <> 'quarantined' ORDER BY sequence LIMIT 1000))
