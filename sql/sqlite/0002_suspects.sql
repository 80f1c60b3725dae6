-- Jobs that were there at two deaths of a worker: each worker runs one of them at a time.

CREATE INDEX jobs_suspect ON jobs(sequence) WHERE state = 'queued' AND rescues >= 2;
