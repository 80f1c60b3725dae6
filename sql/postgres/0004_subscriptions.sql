-- What tenants may use, and what they have used. Terms are JSON: the names are those of sentinel/edge/plans.py.

CREATE TABLE plans (
    name       text PRIMARY KEY,
    terms      text NOT NULL,
    created_at double precision NOT NULL
);

CREATE TABLE subscriptions (
    tenant      text PRIMARY KEY REFERENCES tenants(name),
    plan        text NOT NULL REFERENCES plans(name),
    status      text NOT NULL CHECK (status IN ('active', 'trialing', 'past_due', 'ended', 'suspended')),
    valid_until double precision,
    terms       text NOT NULL,              -- where they differ from the plan's
    event_at    double precision NOT NULL,  -- when this was true; older news changes nothing
    updated_at  double precision NOT NULL
);

CREATE TRIGGER plans_changed         AFTER INSERT OR UPDATE ON plans         FOR EACH ROW EXECUTE FUNCTION directory_changed();
CREATE TRIGGER subscriptions_changed AFTER INSERT OR UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION directory_changed();

-- What was used in a month (UTC): by a tenant as a whole (end_user '') and, where its plan limits them, by each end user. It is the sum of
-- `usage` and `usage_news`. Triggers on `jobs` write the news, in the same transaction, so that it cannot drift from what was accepted
-- and generated; they only ever insert, so that gateways which serve one tenant do not wait for each other's commit. A worker adds them up.
CREATE TABLE usage (
    tenant     text NOT NULL,
    month      text NOT NULL,               -- 'YYYY-MM'
    end_user   text NOT NULL,               -- 'channel/source/sender'
    jobs       bigint NOT NULL,
    tokens     bigint NOT NULL,
    touched_at double precision NOT NULL,
    PRIMARY KEY (tenant, month, end_user)
) WITH (fillfactor = 70);
CREATE INDEX usage_touched ON usage(month, touched_at);

CREATE TABLE usage_news (
    place    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant   text NOT NULL,
    month    text NOT NULL,
    end_user text NOT NULL,
    jobs     bigint NOT NULL,
    tokens   bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);

-- The gateway processes that live, so that each knows how many share a limit.
CREATE TABLE gateways (name text PRIMARY KEY, seen_at double precision NOT NULL);

ALTER TABLE jobs ADD COLUMN metering smallint NOT NULL DEFAULT 0;  -- 0: not counted, 1: for its tenant, 2: for its end user too
ALTER TABLE jobs ADD COLUMN tokens   bigint   NOT NULL DEFAULT 0;  -- of the prompt and the answer, as far as they are counted

CREATE FUNCTION month_of(at double precision) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(to_timestamp(at) AT TIME ZONE 'UTC', 'YYYY-MM')
$$;

CREATE FUNCTION usage_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_news(tenant, month, end_user, jobs, tokens)
    SELECT tenant, month_of(received_at), '', count(*), 0 FROM arrived WHERE metering > 0 GROUP BY 1, 2
    UNION ALL
    SELECT tenant, month_of(received_at), concat_ws('/', channel, source, sender), count(*), 0
    FROM arrived WHERE metering = 2 AND sender <> '' GROUP BY 1, 2, 3;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_of_new AFTER INSERT ON jobs REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION usage_of_new();

-- A job that its sender was told to send again was not used; a generation has used tokens, and the same one told twice has used them once.
CREATE FUNCTION usage_of_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    jobs bigint := CASE WHEN TG_OP = 'DELETE' THEN -1 ELSE 0 END;
    tokens bigint := CASE WHEN TG_OP = 'DELETE' THEN 0 ELSE NEW.tokens - OLD.tokens END;
BEGIN
    INSERT INTO usage_news(tenant, month, end_user, jobs, tokens) VALUES (OLD.tenant, month_of(OLD.received_at), '', jobs, tokens);
    IF OLD.metering = 2 AND OLD.sender <> '' THEN
        INSERT INTO usage_news(tenant, month, end_user, jobs, tokens)
        VALUES (OLD.tenant, month_of(OLD.received_at), concat_ws('/', OLD.channel, OLD.source, OLD.sender), jobs, tokens);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_of_withdrawn AFTER DELETE ON jobs
    FOR EACH ROW WHEN (OLD.metering > 0 AND OLD.finished_at IS NULL) EXECUTE FUNCTION usage_of_changed();
CREATE TRIGGER usage_of_tokens AFTER UPDATE OF tokens ON jobs
    FOR EACH ROW WHEN (NEW.metering > 0 AND NEW.tokens <> OLD.tokens) EXECUTE FUNCTION usage_of_changed();

CREATE VIEW usage_overview AS
SELECT u.month, u.tenant, coalesce(s.plan, '') AS plan, coalesce(s.status, '') AS status, u.end_user, u.jobs, u.tokens
FROM (SELECT month, tenant, end_user, sum(jobs)::bigint AS jobs, sum(tokens)::bigint AS tokens
      FROM (SELECT month, tenant, end_user, jobs, tokens FROM usage UNION ALL SELECT month, tenant, end_user, jobs, tokens FROM usage_news) AS every
      GROUP BY 1, 2, 3) AS u LEFT JOIN subscriptions AS s ON s.tenant = u.tenant;
