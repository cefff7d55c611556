-- Jobs make room for more urgent ones: which worker sees to it, for a job in the queue, so that one job does for each.

ALTER TABLE jobs ADD COLUMN room_by text;

-- Which jobs began last, and which began while another one waited: for `explain`.
CREATE INDEX jobs_started ON jobs (started_us, key) WHERE started_us IS NOT NULL;

-- What a job may spend and has spent, as JSON {"budget", "spent"}, each of time_us, tokens and cost_nanos. NULL: it has
-- no budget, and nothing was reported.
ALTER TABLE jobs ADD COLUMN spending text;

-- Components and workflows of which nothing starts, and what workers hold of the limits of components. What the columns
-- mean stands in the SQLite schema; here is said what differs.

CREATE TABLE pauses (
  kind   text NOT NULL CHECK (kind IN ('component', 'workflow')),
  name   text COLLATE "C" NOT NULL,
  by     text,
  reason text,
  at_us  bigint NOT NULL,
  PRIMARY KEY (kind, name)
);

ALTER TABLE jobs ADD COLUMN aside boolean NOT NULL DEFAULT FALSE;

DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs ((deaths >= 2), requires, sort_at, key)
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside;
CREATE INDEX jobs_aside ON jobs (workflow_id, key) WHERE aside;

-- Whoever reads or writes the rows of a key has its lock, as with limits of workflows.
CREATE TABLE grants (
  key    text COLLATE "C" NOT NULL,
  worker text NOT NULL,
  held   integer NOT NULL CHECK (held >= 0),
  most   integer NOT NULL,
  per_us bigint,
  waits  bytea NOT NULL,
  PRIMARY KEY (key, worker)
);
CREATE INDEX grants_of_worker ON grants (worker);

CREATE TABLE buckets (
  key     text COLLATE "C" PRIMARY KEY,
  full_us bigint NOT NULL
);
CREATE INDEX buckets_full ON buckets (full_us);

-- Workers say what they have of each resource: {name: amount} as JSON.

ALTER TABLE workers ADD COLUMN resources bytea NOT NULL DEFAULT '{}';
