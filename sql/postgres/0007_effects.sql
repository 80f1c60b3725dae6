-- What an agent does on the way to an answer, a row for each step: written as `intent` before, as `done` with its result after. So a
-- job that is taken up again knows what was done, and what may have been.

CREATE TABLE effects (
    job_id     uuid NOT NULL,
    step       integer NOT NULL,
    name       text NOT NULL,             -- the tool, or the kind of step
    request    text NOT NULL,             -- what it was asked, as JSON
    state      text NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'done')),
    result     text,
    started_at double precision NOT NULL,
    settled_at double precision,
    PRIMARY KEY (job_id, step)
);
