-- When a chat was last told that it has to wait, and for which of its messages: no message has it told twice.

ALTER TABLE conversations ADD COLUMN told_at REAL;
ALTER TABLE jobs          ADD COLUMN told_at REAL;
