-- What a gateway keeps on its own disk while the record cannot take it. A row leaves when the record has it.

CREATE TABLE spool (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival, in which it is brought to the record
    id       TEXT NOT NULL UNIQUE,               -- the job's: keeping it twice is keeping it once
    kept_at  REAL NOT NULL,
    job      TEXT NOT NULL                       -- everything that will be a row of `jobs`, as a JSON array
);

-- What the record refused for what it is, not for how the record is. A person has to look.
CREATE TABLE rejected (
    id          TEXT PRIMARY KEY,
    rejected_at REAL NOT NULL,
    reason      TEXT NOT NULL,
    job         TEXT NOT NULL
);
