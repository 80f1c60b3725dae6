-- Jobs that are accepted together are of one month, but at its turn: then it is worked out once for all of them, and not for each.

CREATE OR REPLACE FUNCTION usage_of_new() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    month_of_all text;
BEGIN
    SELECT CASE WHEN month_of(min(received_at)) = month_of(max(received_at)) THEN month_of(min(received_at)) END
    INTO month_of_all FROM arrived WHERE metering > 0;
    INSERT INTO usage_news(tenant, month, end_user, jobs, tokens)
    SELECT tenant, coalesce(month_of_all, month_of(received_at)), '', count(*), 0 FROM arrived WHERE metering > 0 GROUP BY 1, 2
    UNION ALL
    SELECT tenant, coalesce(month_of_all, month_of(received_at)), concat_ws('/', channel, source, sender), count(*), 0
    FROM arrived WHERE metering = 2 AND sender <> '' GROUP BY 1, 2, 3;
    RETURN NULL;
END $$;
