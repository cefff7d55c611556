-- Jobs make room for more urgent ones: which worker sees to it, for a job in the queue, so that one job does for each.

ALTER TABLE jobs ADD COLUMN room_by TEXT;

-- Which jobs began last, and which began while another one waited: for `explain`.
CREATE INDEX jobs_started ON jobs (started_us, key) WHERE started_us IS NOT NULL;

-- What a job may spend and has spent, as JSON {"budget", "spent"}, each of time_us, tokens and cost_nanos. NULL: it has
-- no budget, and nothing was reported.
ALTER TABLE jobs ADD COLUMN spending TEXT;

-- Components and workflows of which nothing starts, and what workers hold of the limits of components.

CREATE TABLE pauses (
  kind   TEXT NOT NULL CHECK (kind IN ('component', 'workflow')),
  name   TEXT NOT NULL,     -- of the component, or id of the workflow
  by     TEXT,
  reason TEXT,
  at_us  INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) WITHOUT ROWID;

-- 1: a claim has met the job while its workflow was paused, and no claim meets it again until that has ended.
ALTER TABLE jobs ADD COLUMN aside INTEGER NOT NULL DEFAULT 0 CHECK (aside IN (0, 1));

DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (deaths >= 2, requires, sort_at, key)
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0;
CREATE INDEX jobs_aside ON jobs (workflow_id) WHERE aside = 1;

-- What a worker holds of a limit of a component, and who of it waits for it. A row with neither is taken away; those of
-- a dead worker do not count.
CREATE TABLE grants (
  key    TEXT NOT NULL,     -- see `store/grants.py`
  worker TEXT NOT NULL,
  held   INTEGER NOT NULL CHECK (held >= 0),
  most   INTEGER NOT NULL,  -- the limit, as the worker knows it
  per_us INTEGER,           -- NULL: so many at a time; else so many in this time
  waits  BLOB NOT NULL,     -- JSON array of [sort_at, handle, job id, path, since_us], the first ones
  PRIMARY KEY (key, worker)
) WITHOUT ROWID;
CREATE INDEX grants_of_worker ON grants (worker);

-- Token buckets of rates that are not full; a full one is taken away.
CREATE TABLE buckets (
  key     TEXT PRIMARY KEY,
  full_us INTEGER NOT NULL  -- when it will be
) WITHOUT ROWID;
CREATE INDEX buckets_full ON buckets (full_us);

-- Workers say what they have of each resource: {name: amount}.

ALTER TABLE workers ADD COLUMN resources TEXT NOT NULL DEFAULT '{}';
