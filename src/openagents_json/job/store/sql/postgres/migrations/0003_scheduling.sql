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

CREATE TABLE shortages (
  worker text PRIMARY KEY,
  told   bytea NOT NULL
);

CREATE TABLE buckets (
  key     text COLLATE "C" PRIMARY KEY,
  full_us bigint NOT NULL
);
CREATE INDEX buckets_full ON buckets (full_us);

-- Workers say what they have of each resource: {name: amount} as JSON.

ALTER TABLE workers ADD COLUMN resources bytea NOT NULL DEFAULT '{}';

-- Shares and deadlines: what the place of a job in the queue depends on besides time and priority. What the columns mean
-- stands in the SQLite schema; here is said what differs.

ALTER TABLE jobs ADD COLUMN share_key         text COLLATE "C";
ALTER TABLE jobs ADD COLUMN share_expected_us bigint;
ALTER TABLE jobs ADD COLUMN share_used_us     bigint;
ALTER TABLE jobs ADD COLUMN share_charged_us  bigint;
ALTER TABLE jobs ADD COLUMN share_tag_us      bigint;
ALTER TABLE jobs ADD COLUMN deadline_us       bigint;
ALTER TABLE jobs ADD COLUMN start_by_us       bigint;
ALTER TABLE jobs ADD COLUMN at_risk           boolean NOT NULL DEFAULT FALSE;
ALTER TABLE jobs ADD COLUMN risk_us           bigint;

CREATE INDEX jobs_risks ON jobs (risk_us) WHERE risk_us IS NOT NULL AND owner IS NULL;

CREATE INDEX jobs_shares_queued  ON jobs (share_tag_us) WHERE status = 'QUEUED' AND share_tag_us IS NOT NULL;
CREATE INDEX jobs_shares_running ON jobs (share_tag_us) WHERE status = 'RUNNING' AND share_tag_us IS NOT NULL;

-- Whoever changes an account locks it before any row of a job.
CREATE TABLE shares (
  key       text COLLATE "C" PRIMARY KEY,
  weight    double precision NOT NULL,
  finish_us bigint
);
CREATE INDEX shares_farthest ON shares (finish_us) WHERE finish_us IS NOT NULL;

CREATE TABLE durations (
  workflow_id text COLLATE "C" NOT NULL,
  step_id     text COLLATE "C" NOT NULL,
  mean_us     bigint NOT NULL,
  runs        bigint NOT NULL,
  learned_us  bigint NOT NULL,
  PRIMARY KEY (workflow_id, step_id)
);
CREATE INDEX durations_learned ON durations (learned_us);
