-- Half of each page of the queue is kept free, so that a claim finds room for its change of a row beside the row: its log names one page
-- instead of two, and holds the end of the row only.

ALTER TABLE queue SET (fillfactor = 50);
