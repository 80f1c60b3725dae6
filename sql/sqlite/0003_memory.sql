-- What an agent remembers of its chats. A chat is told from all others by tenant, channel, source and conversation.

CREATE TABLE turns (
    place        INTEGER PRIMARY KEY,       -- order of writing, which is the order of the chat
    job_id       TEXT NOT NULL UNIQUE,      -- a job leaves one turn, however often its end is written
    tenant       TEXT NOT NULL,
    channel      TEXT NOT NULL,
    source       TEXT NOT NULL,
    conversation TEXT NOT NULL,
    sender       TEXT NOT NULL,
    said         TEXT NOT NULL,             -- the job's messages, as JSON
    answered     TEXT NOT NULL,             -- "" where nobody answered
    at           REAL NOT NULL
);
CREATE INDEX turns_chat   ON turns(conversation, tenant, channel, source, place);
CREATE INDEX turns_sender ON turns(sender, tenant);
CREATE INDEX turns_at     ON turns(at);

-- A chat has a row when there is more to say of it than its turns.
CREATE TABLE conversations (
    tenant       TEXT NOT NULL,
    channel      TEXT NOT NULL,
    source       TEXT NOT NULL,
    conversation TEXT NOT NULL,
    summary      TEXT NOT NULL DEFAULT '',  -- of the turns that are no longer there
    at           REAL NOT NULL,             -- when the summary was written
    held_at      REAL,                      -- since when a person answers in place of the model
    PRIMARY KEY (conversation, tenant, channel, source)
) WITHOUT ROWID;
CREATE INDEX conversations_held ON conversations(held_at) WHERE held_at IS NOT NULL;

CREATE TABLE notes (
    tenant       TEXT NOT NULL,
    channel      TEXT NOT NULL,
    source       TEXT NOT NULL,
    conversation TEXT NOT NULL,
    name         TEXT NOT NULL,
    text         TEXT NOT NULL,
    at           REAL NOT NULL,
    PRIMARY KEY (conversation, tenant, channel, source, name)
) WITHOUT ROWID;

-- Requests to erase what is kept of a chat (conversation) or of a person (sender). The jobs are walked through by sequence.
CREATE TABLE erasures (
    id           TEXT PRIMARY KEY,
    tenant       TEXT NOT NULL,
    channel      TEXT,
    source       TEXT,
    conversation TEXT,
    sender       TEXT,
    requested_at REAL NOT NULL,
    reached      INTEGER NOT NULL DEFAULT 0,  -- jobs up to this sequence are done
    up_to        INTEGER NOT NULL,            -- the last job that was there when it was asked for
    jobs         INTEGER NOT NULL DEFAULT 0,  -- how many were erased
    done_at      REAL,
    CHECK (conversation IS NOT NULL OR sender IS NOT NULL)
);
CREATE INDEX erasures_pending ON erasures(requested_at) WHERE done_at IS NULL;
