-- What tenants may use, and what they have used. Terms are JSON: the names are those of sentinel/edge/plans.py.

CREATE TABLE plans (
    name       TEXT PRIMARY KEY,
    terms      TEXT NOT NULL,
    created_at REAL NOT NULL
);

CREATE TABLE subscriptions (
    tenant      TEXT PRIMARY KEY REFERENCES tenants(name),
    plan        TEXT NOT NULL REFERENCES plans(name),
    status      TEXT NOT NULL CHECK (status IN ('active', 'trialing', 'past_due', 'ended', 'suspended')),
    valid_until REAL,
    terms       TEXT NOT NULL,          -- where they differ from the plan's
    event_at    REAL NOT NULL,          -- when this was true; older news changes nothing
    updated_at  REAL NOT NULL
);

CREATE TRIGGER plans_added           AFTER INSERT ON plans         BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER plans_changed         AFTER UPDATE ON plans         BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER subscriptions_added   AFTER INSERT ON subscriptions BEGIN UPDATE directory_version SET version = version + 1; END;
CREATE TRIGGER subscriptions_changed AFTER UPDATE ON subscriptions BEGIN UPDATE directory_version SET version = version + 1; END;

-- What was used in a month (UTC): by a tenant as a whole (end_user '') and, where its plan limits them, by each end user. Triggers on
-- `jobs` keep it, in the same transaction, so it cannot drift from what was accepted and generated.
CREATE TABLE usage (
    tenant     TEXT NOT NULL,
    month      TEXT NOT NULL,           -- 'YYYY-MM'
    end_user   TEXT NOT NULL,           -- 'channel/source/sender'
    jobs       INTEGER NOT NULL,
    tokens     INTEGER NOT NULL,
    touched_at REAL NOT NULL,
    PRIMARY KEY (tenant, month, end_user)
) WITHOUT ROWID;
CREATE INDEX usage_touched ON usage(month, touched_at);

-- The gateway processes that live, so that each knows how many share a limit.
CREATE TABLE gateways (name TEXT PRIMARY KEY, seen_at REAL NOT NULL);

ALTER TABLE jobs ADD COLUMN metering INTEGER NOT NULL DEFAULT 0;  -- 0: not counted, 1: for its tenant, 2: for its end user too
ALTER TABLE jobs ADD COLUMN tokens   INTEGER NOT NULL DEFAULT 0;  -- of the prompt and the answer, as far as they are counted

CREATE TRIGGER usage_of_new AFTER INSERT ON jobs WHEN NEW.metering > 0
BEGIN
    INSERT INTO usage(tenant, month, end_user, jobs, tokens, touched_at)
    SELECT NEW.tenant, strftime('%Y-%m', NEW.received_at, 'unixepoch'), column1, 1, 0, (julianday('now') - 2440587.5) * 86400
    FROM (VALUES (''), (NEW.channel || '/' || NEW.source || '/' || NEW.sender))
    WHERE column1 = '' OR (NEW.metering = 2 AND NEW.sender <> '')
    ON CONFLICT DO UPDATE SET jobs = jobs + 1, touched_at = excluded.touched_at;
END;
CREATE TRIGGER usage_of_withdrawn AFTER DELETE ON jobs WHEN OLD.metering > 0 AND OLD.finished_at IS NULL
BEGIN
    UPDATE usage SET jobs = jobs - 1, touched_at = (julianday('now') - 2440587.5) * 86400
    WHERE tenant = OLD.tenant AND month = strftime('%Y-%m', OLD.received_at, 'unixepoch')
      AND (end_user = '' OR (OLD.metering = 2 AND end_user = OLD.channel || '/' || OLD.source || '/' || OLD.sender));
END;
CREATE TRIGGER usage_of_tokens AFTER UPDATE OF tokens ON jobs WHEN NEW.metering > 0 AND NEW.tokens <> OLD.tokens
BEGIN
    UPDATE usage SET tokens = tokens + NEW.tokens - OLD.tokens, touched_at = (julianday('now') - 2440587.5) * 86400
    WHERE tenant = NEW.tenant AND month = strftime('%Y-%m', NEW.received_at, 'unixepoch')
      AND (end_user = '' OR (NEW.metering = 2 AND end_user = NEW.channel || '/' || NEW.source || '/' || NEW.sender));
END;

CREATE VIEW usage_overview AS
SELECT u.month, u.tenant, coalesce(s.plan, '') AS plan, coalesce(s.status, '') AS status, u.end_user, u.jobs, u.tokens
FROM usage AS u LEFT JOIN subscriptions AS s ON s.tenant = u.tenant;
