-- Two thirds of each page of the jobs are kept free: a job that is accepted, claimed and ended within the time of another statement has
-- three versions of its row, of which the first cannot be removed yet. Where the third finds no room beside the others, an end writes the
-- row whole on another page and touches each index. The table is larger by half.

ALTER TABLE jobs SET (fillfactor = 33);
