-- A gateway asks each second for what was used by others since it asked last. A time cannot say that: a transaction that was under way
-- then may have an earlier one. So each row says which transaction changed its sum last, and adding up, which changes no sum, keeps that.

ALTER TABLE usage_news ADD COLUMN changed_by bigint NOT NULL DEFAULT txid_current();
ALTER TABLE usage ADD COLUMN changed_by bigint NOT NULL DEFAULT 0, DROP COLUMN touched_at;
CREATE INDEX usage_changed ON usage(month, changed_by);

