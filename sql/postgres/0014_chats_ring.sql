-- Whoever lets a chat go on rings: a worker that found nothing because all chats were busy would sleep until its next look.

CREATE OR REPLACE FUNCTION chats_move_on() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    following bigint[];
BEGIN
    IF EXISTS (SELECT 1 FROM gone WHERE chat IS NOT NULL) THEN
        following := ARRAY(
            SELECT n.sequence FROM gone AS g CROSS JOIN LATERAL (
                SELECT sequence FROM queue WHERE chat = g.chat ORDER BY sequence LIMIT 1) AS n
            WHERE g.chat IS NOT NULL);
        IF following <> '{}' THEN
            UPDATE queue SET place = 'ready' WHERE place = 'waiting' AND sequence = ANY(following);
            NOTIFY sentinel_jobs;
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION chat_moves_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue SET place = 'ready'
    WHERE place = 'waiting' AND sequence = (SELECT sequence FROM queue WHERE chat = OLD.chat ORDER BY sequence LIMIT 1);
    NOTIFY sentinel_jobs;
    RETURN NULL;
END $$;
