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

-- What steps of a worker's jobs are short of, as the worker has told.
CREATE TABLE shortages (
  worker TEXT PRIMARY KEY,
  told   BLOB NOT NULL  -- JSON, see `store/shortages.py`
) WITHOUT ROWID;

-- Shares and deadlines: what the place of a job in the queue depends on besides time and priority. Empty for the others.

ALTER TABLE jobs ADD COLUMN share_key         TEXT;     -- to whose share it counts
ALTER TABLE jobs ADD COLUMN share_expected_us INTEGER;  -- what it is expected to use in all
ALTER TABLE jobs ADD COLUMN share_used_us     INTEGER;  -- what it had used when it was last at rest
ALTER TABLE jobs ADD COLUMN share_charged_us  INTEGER;  -- what its share was charged for it until now
ALTER TABLE jobs ADD COLUMN share_tag_us      INTEGER;  -- where it begins, from the queue until it rests or ends
ALTER TABLE jobs ADD COLUMN deadline_us       INTEGER;
ALTER TABLE jobs ADD COLUMN start_by_us       INTEGER;  -- while QUEUED: when it has to begin to meet its deadline
ALTER TABLE jobs ADD COLUMN at_risk           INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN risk_us           INTEGER;  -- while nobody runs it: from when on its deadline is at risk

CREATE INDEX jobs_risks ON jobs (risk_us) WHERE risk_us IS NOT NULL AND owner IS NULL;

-- Where keys begin that are not ahead: at the first tag in the queue, or the last one that runs.
CREATE INDEX jobs_shares_queued  ON jobs (share_tag_us) WHERE status = 'QUEUED' AND share_tag_us IS NOT NULL;
CREATE INDEX jobs_shares_running ON jobs (share_tag_us) WHERE status = 'RUNNING' AND share_tag_us IS NOT NULL;

-- The accounts of shares: weight, and where the next job of the key begins.
CREATE TABLE shares (
  key       TEXT PRIMARY KEY,
  weight    REAL NOT NULL CHECK (weight > 0),
  finish_us INTEGER
) WITHOUT ROWID;
CREATE INDEX shares_farthest ON shares (finish_us) WHERE finish_us IS NOT NULL;

-- How long attempts of the steps of a workflow were on, and those of a whole job of it (step ''): a mean in which the
-- latest counts most, and of how many.
CREATE TABLE durations (
  workflow_id TEXT NOT NULL,
  step_id     TEXT NOT NULL,
  mean_us     INTEGER NOT NULL,
  runs        INTEGER NOT NULL,
  learned_us  INTEGER NOT NULL,  -- when it was learned last
  PRIMARY KEY (workflow_id, step_id)
) WITHOUT ROWID;
CREATE INDEX durations_learned ON durations (learned_us);
