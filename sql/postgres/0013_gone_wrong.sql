-- What a person looks for among a million jobs that went well: an index of their states on `jobs` would be written at each claim and each
-- end. Triggers on `jobs` keep it instead, whose conditions a job that goes well does not meet; `retry_ended` takes a job out again.

CREATE TABLE gone_wrong (sequence bigint PRIMARY KEY, tenant text NOT NULL);

CREATE FUNCTION jobs_go_wrong() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gone_wrong VALUES (NEW.sequence, NEW.tenant) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_arrive_wrong AFTER INSERT ON jobs FOR EACH ROW WHEN (NEW.state IN ('failed', 'cancelled')) EXECUTE FUNCTION jobs_go_wrong();
CREATE TRIGGER jobs_end_wrong AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN (NEW.state IN ('failed', 'cancelled')) EXECUTE FUNCTION jobs_go_wrong();

CREATE FUNCTION jobs_leave_wrong() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM gone_wrong WHERE sequence = OLD.sequence;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_leave_wrong AFTER DELETE ON jobs FOR EACH ROW WHEN (OLD.state IN ('failed', 'cancelled')) EXECUTE FUNCTION jobs_leave_wrong();

INSERT INTO gone_wrong SELECT sequence, tenant FROM jobs WHERE state IN ('failed', 'cancelled');
