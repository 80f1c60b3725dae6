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

-- name: usage_mark
-- Whatever changes a sum and cannot be seen yet is done by this transaction or by a later one.
SELECT txid_snapshot_xmin(txid_current_snapshot()) AS mark

-- name: usage
-- What was added up, and the news that nobody has added up yet.
SELECT tenant, end_user, sum(jobs)::bigint AS jobs, sum(tokens)::bigint AS tokens
FROM (SELECT tenant, end_user, jobs, tokens FROM usage WHERE month = :month
      UNION ALL SELECT tenant, unnest(end_users), jobs, tokens FROM usage_news WHERE month = :month) AS every(tenant, end_user, jobs, tokens)
GROUP BY end_user, tenant

-- name: usage_news
-- What the transaction `since` and later ones have changed, but for what was seen before.
SELECT tenant, end_users, jobs, tokens FROM usage_news
WHERE changed_by >= :since::bigint AND month = :month AND NOT place = ANY(:seen::bigint[])

-- name: usage_seen
SELECT place FROM usage_news WHERE changed_by >= :since::bigint

-- name: add_up_usage
-- The news that was there to be seen when the oldest transaction under way was `before`; so much of it as takes no long time.
WITH picked AS MATERIALIZED (
    SELECT changed_by, place FROM usage_news WHERE changed_by < :before::bigint ORDER BY changed_by, place LIMIT 200 FOR UPDATE SKIP LOCKED),
taken AS (
    DELETE FROM usage_news AS n USING picked AS p WHERE n.changed_by = p.changed_by AND n.place = p.place
    RETURNING n.tenant, n.month, n.end_users, n.jobs, n.tokens)
INSERT INTO usage(tenant, month, end_user, jobs, tokens)
SELECT tenant, month, end_user, sum(jobs), sum(tokens) FROM taken CROSS JOIN unnest(end_users) AS end_user GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (tenant, month, end_user) DO UPDATE SET jobs = usage.jobs + excluded.jobs, tokens = usage.tokens + excluded.tokens

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
