-- What was used is told in lists: one row of news for all people of a tenant whose jobs are accepted together, and not one for each. A
-- gateway adds up what is new itself, so it never asks for sums but when it begins; `usage` need not say any more what has changed.

LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE;  -- whoever writes waits, and then finds the new functions
DROP VIEW usage_overview;

INSERT INTO usage(tenant, month, end_user, jobs, tokens)
SELECT tenant, month, end_user, sum(jobs), sum(tokens) FROM usage_news GROUP BY 1, 2, 3
ON CONFLICT (tenant, month, end_user) DO UPDATE SET jobs = usage.jobs + excluded.jobs, tokens = usage.tokens + excluded.tokens;
DROP TABLE usage_news;
DROP INDEX usage_changed;
ALTER TABLE usage DROP COLUMN changed_by;

CREATE TABLE usage_news (
    changed_by bigint NOT NULL DEFAULT txid_current(),
    place      bigint GENERATED ALWAYS AS IDENTITY,
    tenant     text   NOT NULL,
    month      text   NOT NULL,
    end_users  text[] NOT NULL,             -- each of them has used so many more; '' is the tenant as a whole, who is named twice, twice
    jobs       bigint NOT NULL,
    tokens     bigint NOT NULL,
    PRIMARY KEY (changed_by, place)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

CREATE OR REPLACE FUNCTION usage_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    month_of_all text;
BEGIN
    SELECT CASE WHEN month_of(min(received_at)) = month_of(max(received_at)) THEN month_of(min(received_at)) END
    INTO month_of_all FROM arrived WHERE metering > 0;
    INSERT INTO usage_news(tenant, month, end_users, jobs, tokens)
    SELECT tenant, coalesce(month_of_all, month_of(received_at)), ARRAY[''], count(*), 0 FROM arrived WHERE metering > 0 GROUP BY 1, 2
    UNION ALL
    SELECT tenant, coalesce(month_of_all, month_of(received_at)), array_agg(concat_ws('/', channel, source, sender)), 1, 0
    FROM arrived WHERE metering = 2 AND sender <> '' GROUP BY 1, 2;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION usage_of_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_news(tenant, month, end_users, jobs, tokens)
    VALUES (OLD.tenant, month_of(OLD.received_at),
            CASE WHEN OLD.metering = 2 AND OLD.sender <> '' THEN ARRAY['', concat_ws('/', OLD.channel, OLD.source, OLD.sender)] ELSE ARRAY[''] END,
            CASE WHEN TG_OP = 'DELETE' THEN -1 ELSE 0 END,
            CASE WHEN TG_OP = 'DELETE' THEN 0 ELSE NEW.tokens - OLD.tokens END);
    RETURN NULL;
END $$;

CREATE VIEW usage_overview AS
SELECT u.month, u.tenant, coalesce(s.plan, '') AS plan, coalesce(s.status, '') AS status, u.end_user, u.jobs, u.tokens
FROM (SELECT month, tenant, end_user, sum(jobs)::bigint AS jobs, sum(tokens)::bigint AS tokens
      FROM (SELECT month, tenant, end_user, jobs, tokens FROM usage
            UNION ALL SELECT month, tenant, unnest(end_users), jobs, tokens FROM usage_news) AS every
      GROUP BY 1, 2, 3) AS u LEFT JOIN subscriptions AS s ON s.tenant = u.tenant;
