-- What a person looks for among a million jobs that went well.

CREATE INDEX jobs_gone_wrong ON jobs(sequence) WHERE state IN ('quarantined', 'failed', 'cancelled');
