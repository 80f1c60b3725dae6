-- Plans, subscriptions and what was used, by name.

-- name: plans
SELECT name, terms FROM plans ORDER BY name

-- name: put_plan
INSERT INTO plans(name, terms, created_at) VALUES (:name, :terms, :now) ON CONFLICT(name) DO UPDATE SET terms = :terms

-- name: subscriptions
SELECT tenant, plan, status, valid_until, terms, event_at FROM subscriptions ORDER BY tenant

-- name: put_subscription
-- Only with a tenant and a plan that are there, and not over what is newer.
INSERT INTO subscriptions(tenant, plan, status, valid_until, terms, event_at, updated_at)
SELECT t.name, p.name, :status, :valid_until::float8, :terms, :event_at, :now FROM tenants AS t, plans AS p WHERE t.name = :tenant AND p.name = :plan
ON CONFLICT(tenant) DO UPDATE SET plan = excluded.plan, status = excluded.status, valid_until = excluded.valid_until,
    terms = excluded.terms, event_at = excluded.event_at, updated_at = excluded.updated_at
WHERE subscriptions.event_at <= excluded.event_at

-- name: usage
-- What was touched lately, in full: the news that nobody has added up yet, and what was added up within `age_seconds`.
WITH news AS MATERIALIZED (SELECT tenant, end_user, sum(jobs)::bigint AS jobs, sum(tokens)::bigint AS tokens FROM usage_news WHERE month = :month GROUP BY 1, 2)
SELECT tenant, end_user, coalesce(n.jobs, 0) + coalesce(u.jobs, 0) AS jobs, coalesce(n.tokens, 0) + coalesce(u.tokens, 0) AS tokens
FROM news AS n FULL JOIN (
    SELECT tenant, end_user, jobs, tokens FROM usage
    WHERE month = :month AND (touched_at >= extract(epoch FROM clock_timestamp()) - :age_seconds::float8 OR (tenant, end_user) IN (SELECT tenant, end_user FROM news))
) AS u USING (tenant, end_user)

-- name: add_up_usage
WITH taken AS (
    DELETE FROM usage_news WHERE place = ANY(ARRAY(SELECT place FROM usage_news ORDER BY place LIMIT 10000 FOR UPDATE SKIP LOCKED)) RETURNING *)
INSERT INTO usage(tenant, month, end_user, jobs, tokens, touched_at)
SELECT tenant, month, end_user, sum(jobs), sum(tokens), extract(epoch FROM clock_timestamp()) FROM taken GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (tenant, month, end_user) DO UPDATE
SET jobs = usage.jobs + excluded.jobs, tokens = usage.tokens + excluded.tokens, touched_at = excluded.touched_at

-- name: see_gateway
INSERT INTO gateways(name, seen_at) VALUES (:name, extract(epoch FROM clock_timestamp()))
ON CONFLICT(name) DO UPDATE SET seen_at = excluded.seen_at

-- name: forget_gateways
DELETE FROM gateways WHERE seen_at < extract(epoch FROM clock_timestamp()) - :silent_seconds::float8 OR name = :name

-- name: gateways
SELECT count(*) AS gateways FROM gateways

-- name: prune_usage
-- Months that are over: of end users only; what a tenant has used in a month stays.
DELETE FROM usage WHERE end_user <> '' AND month < month_of(:before)
