-- Limits: at most so many jobs of a key are on at a time. Who has a slot stands in the job's row, so that a slot cannot
-- outlive its job. What the columns mean stands in the SQLite schema; here is said what differs.

ALTER TABLE jobs ADD COLUMN limit_key      text COLLATE "C";
ALTER TABLE jobs ADD COLUMN limit_max      integer;
ALTER TABLE jobs ADD COLUMN limit_hold     text;
ALTER TABLE jobs ADD COLUMN limit_overflow text;
ALTER TABLE jobs ADD COLUMN slot           boolean;  -- NULL: no limit. FALSE: it has none; QUEUED, it is blocked
ALTER TABLE jobs ADD CHECK (
  slot IS NULL OR (limit_key IS NOT NULL AND CASE WHEN slot THEN completed_us IS NULL ELSE status <> 'RUNNING' END)
);

-- Claims do not meet what is blocked.
DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs ((deaths >= 2), requires, sort_at, key)
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE;
-- Who has a slot of a key, and who of the queue has one or waits for one, in its order.
CREATE INDEX jobs_slots ON jobs (limit_key, key) WHERE slot IS TRUE;
CREATE INDEX jobs_turns ON jobs (limit_key, slot, sort_at, key) WHERE limit_key IS NOT NULL AND status = 'QUEUED';
