-- The beginning of an answer that is being made, for who watches it. Only of jobs that ask for it; written a few times a second at most.

CREATE TABLE partials (
    job_id uuid PRIMARY KEY,
    text   text NOT NULL
) WITH (fillfactor = 50);
