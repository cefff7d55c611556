-- Limits: at most so many jobs of a key are on at a time. Who has a slot stands in the job's row, so that a slot cannot
-- outlive its job.

ALTER TABLE jobs ADD COLUMN limit_key      TEXT;     -- NULL: no limit
ALTER TABLE jobs ADD COLUMN limit_max      INTEGER;  -- how many jobs the job's own definition lets be on
ALTER TABLE jobs ADD COLUMN limit_hold     TEXT CHECK (limit_hold IN ('job', 'running'));
ALTER TABLE jobs ADD COLUMN limit_overflow TEXT CHECK (limit_overflow IN ('queue', 'reject', 'replace'));
-- 1: it has a slot. 0: it has none; QUEUED, it is blocked.
ALTER TABLE jobs ADD COLUMN slot INTEGER CHECK (
  (slot IS NULL) = (limit_key IS NULL) AND (slot IS NULL OR slot IN (0, 1))
  AND (slot IS NOT 0 OR status <> 'RUNNING') AND (slot IS NOT 1 OR completed_us IS NULL)
);

-- Claims do not meet what is blocked.
DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (deaths >= 2, requires, sort_at, key)
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0;
-- Who has a slot of a key, and who of the queue has one or waits for one, in its order.
CREATE INDEX jobs_slots ON jobs (limit_key) WHERE slot = 1;
CREATE INDEX jobs_turns ON jobs (limit_key, slot, sort_at, key) WHERE limit_key IS NOT NULL AND status = 'QUEUED';
