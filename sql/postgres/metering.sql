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
-- What was changed by the transaction `since` or a later one, in full: the news that nobody has added up yet, and what was. The planner
-- does not know how much news there is, so it gets no join to plan: who has changed is looked up in a hash, what was added up by its
-- key. Then it sorts, by what differs soonest.
WITH lately AS MATERIALIZED (
    SELECT tenant, end_user FROM usage_news WHERE month = :month AND changed_by >= :since::bigint
    UNION SELECT tenant, end_user FROM usage WHERE month = :month AND changed_by >= :since::bigint)
SELECT tenant, end_user, sum(jobs)::bigint AS jobs, sum(tokens)::bigint AS tokens
FROM (SELECT tenant, end_user, jobs, tokens FROM usage_news
      WHERE month = :month AND ((tenant, end_user) IN (SELECT tenant, end_user FROM lately)) IS TRUE
      UNION ALL SELECT u.* FROM lately AS l CROSS JOIN LATERAL (
          SELECT tenant, end_user, jobs, tokens FROM usage WHERE tenant = l.tenant AND month = :month AND end_user = l.end_user OFFSET 0) AS u
) AS every GROUP BY end_user, tenant

-- name: add_up_usage
WITH taken AS (
    DELETE FROM usage_news WHERE place = ANY(ARRAY(SELECT place FROM usage_news ORDER BY place LIMIT 10000 FOR UPDATE SKIP LOCKED)) RETURNING *)
INSERT INTO usage(tenant, month, end_user, jobs, tokens, changed_by)
SELECT tenant, month, end_user, sum(jobs), sum(tokens), max(changed_by) FROM taken GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (tenant, month, end_user) DO UPDATE
SET jobs = usage.jobs + excluded.jobs, tokens = usage.tokens + excluded.tokens, changed_by = greatest(usage.changed_by, excluded.changed_by)

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
