-- What an agent does on the way to an answer, a row for each step: written as `intent` before, as `done` with its result after. So a
-- job that is taken up again knows what was done, and what may have been.

CREATE TABLE effects (
    job_id     TEXT NOT NULL,
    step       INTEGER NOT NULL,
    name       TEXT NOT NULL,             -- the tool, or the kind of step
    request    TEXT NOT NULL,             -- what it was asked, as JSON
    state      TEXT NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'done')),
    result     TEXT,
    started_at REAL NOT NULL,
    settled_at REAL,
    PRIMARY KEY (job_id, step)
) WITHOUT ROWID;
