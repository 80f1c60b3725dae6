-- What an agent remembers of its chats. A chat is told from all others by tenant, channel, source and conversation.

CREATE TABLE turns (
    place        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- order of writing, which is the order of the chat
    job_id       uuid NOT NULL UNIQUE,      -- a job leaves one turn, however often its end is written
    tenant       text NOT NULL,
    channel      text NOT NULL,
    source       text NOT NULL,
    conversation text NOT NULL,
    sender       text NOT NULL,
    said         text NOT NULL,             -- the job's messages, as JSON
    answered     text NOT NULL,             -- "" where nobody answered
    at           double precision NOT NULL
);
CREATE INDEX turns_chat   ON turns(conversation, tenant, channel, source, place);
CREATE INDEX turns_sender ON turns(sender, tenant);
CREATE INDEX turns_at     ON turns(at);

-- A chat has a row when there is more to say of it than its turns.
CREATE TABLE conversations (
    tenant       text NOT NULL,
    channel      text NOT NULL,
    source       text NOT NULL,
    conversation text NOT NULL,
    summary      text NOT NULL DEFAULT '',  -- of the turns that are no longer there
    at           double precision NOT NULL,             -- when the summary was written
    held_at      double precision,                      -- since when a person answers in place of the model
    PRIMARY KEY (conversation, tenant, channel, source)
);
CREATE INDEX conversations_held ON conversations(held_at) WHERE held_at IS NOT NULL;

CREATE TABLE notes (
    tenant       text NOT NULL,
    channel      text NOT NULL,
    source       text NOT NULL,
    conversation text NOT NULL,
    name         text NOT NULL,
    text         text NOT NULL,
    at           double precision NOT NULL,
    PRIMARY KEY (conversation, tenant, channel, source, name)
);

-- Requests to erase what is kept of a chat (conversation) or of a person (sender). The jobs are walked through by sequence.
CREATE TABLE erasures (
    id           text PRIMARY KEY,
    tenant       text NOT NULL,
    channel      text,
    source       text,
    conversation text,
    sender       text,
    requested_at double precision NOT NULL,
    reached      bigint NOT NULL DEFAULT 0,  -- jobs up to this sequence are done
    up_to        bigint NOT NULL,            -- the last job that was there when it was asked for
    jobs         bigint NOT NULL DEFAULT 0,  -- how many were erased
    done_at      double precision,
    CHECK (conversation IS NOT NULL OR sender IS NOT NULL)
);
CREATE INDEX erasures_pending ON erasures(requested_at) WHERE done_at IS NULL;
