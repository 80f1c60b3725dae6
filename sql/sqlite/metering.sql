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
SELECT t.name, p.name, :status, :valid_until, :terms, :event_at, :now FROM tenants AS t, plans AS p WHERE t.name = :tenant AND p.name = :plan
ON CONFLICT(tenant) DO UPDATE SET plan = excluded.plan, status = excluded.status, valid_until = excluded.valid_until,
    terms = excluded.terms, event_at = excluded.event_at, updated_at = excluded.updated_at
WHERE subscriptions.event_at <= excluded.event_at

-- name: usage_mark
-- Writers take turns, so what comes later is not earlier by the clock; unless that was set back, and then the present counts.
SELECT min(coalesce(max(touched_at), 0), (julianday('now') - 2440587.5) * 86400) AS mark FROM usage WHERE month = :month

-- name: usage
-- What was touched since, in full.
SELECT tenant, end_user, jobs, tokens FROM usage WHERE month = :month AND touched_at >= :since

-- name: see_gateway
INSERT INTO gateways(name, seen_at) VALUES (:name, (julianday('now') - 2440587.5) * 86400) ON CONFLICT(name) DO UPDATE SET seen_at = excluded.seen_at

-- name: forget_gateways
DELETE FROM gateways WHERE seen_at < (julianday('now') - 2440587.5) * 86400 - :silent_seconds OR name = :name

-- name: gateways
SELECT count(*) AS gateways FROM gateways

-- name: prune_usage
-- Months that are over: of end users only; what a tenant has used in a month stays.
DELETE FROM usage WHERE end_user <> '' AND month < strftime('%Y-%m', :before, 'unixepoch')
