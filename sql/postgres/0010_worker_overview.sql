-- Running jobs by the index that names their workers, whatever the planner thinks of the queue's size.

CREATE OR REPLACE VIEW worker_overview AS
SELECT w.id, w.name, w.status, w.slots, (SELECT count(*) FROM queue AS q WHERE q.worker_id = w.id) AS running,
       round((extract(epoch FROM clock_timestamp()) - w.last_seen)::numeric, 1) AS silent_seconds,
       to_timestamp(w.dead_at) AS declared_dead_at
FROM workers AS w ORDER BY w.id DESC;
