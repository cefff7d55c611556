-- The first schema: job rows, histories, inboxes, definitions, snapshots, workers.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value
) WITHOUT ROWID;

-- A workflow document, once per content. A running job keeps its own whatever is registered later.
CREATE TABLE definitions (
  hash        TEXT PRIMARY KEY,
  workflow_id TEXT NOT NULL,
  version     TEXT NOT NULL,
  document    BLOB NOT NULL
);

-- The index for listing and claiming. The truth is the history; this row is its projection, plus the lease.
-- Times are UTC microseconds. The hot row is narrow: inputs and outputs stand in the history, once.
CREATE TABLE jobs (
  key              INTEGER PRIMARY KEY,
  id               TEXT NOT NULL UNIQUE,
  workflow_id      TEXT NOT NULL,
  version          TEXT NOT NULL,
  definition       TEXT NOT NULL REFERENCES definitions (hash),
  status           TEXT NOT NULL,
  rank             INTEGER NOT NULL CHECK (rank BETWEEN 0 AND 3),
  sort_at          INTEGER NOT NULL DEFAULT 0,  -- virtual arrival time: the order of the queue
  owner            TEXT,                        -- the worker that holds the lease
  epoch            INTEGER NOT NULL DEFAULT 0,  -- rises with each lease, never falls
  last_event       INTEGER NOT NULL CHECK (last_event >= 1),
  snapshot_event   INTEGER NOT NULL DEFAULT 0,  -- last event of the snapshot; 0: there is none
  created_us       INTEGER NOT NULL,
  queued_us        INTEGER,
  queued_total_us  INTEGER NOT NULL DEFAULT 0,  -- time spent QUEUED before the present wait
  started_us       INTEGER,
  completed_us     INTEGER,
  due_us           INTEGER,                     -- when a timer wakes it (CREATED: start_at, WAITING: wake time, if any)
  progress         REAL NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
  current_step     TEXT,
  error_type       TEXT,
  error_message    TEXT,
  abandoned        INTEGER NOT NULL DEFAULT 0 CHECK (abandoned >= 0),
  pause_requested  INTEGER NOT NULL DEFAULT 0,
  cancel_requested INTEGER NOT NULL DEFAULT 0,
  idempotency_key  TEXT,
  body_hash        TEXT NOT NULL,
  tags             TEXT,                        -- JSON array
  parent_id        TEXT,                        -- of an attached child: kept and deleted with that job
  origin_id        TEXT,                        -- the job that this one retries; it may be gone
  CHECK (status IN ('CREATED', 'QUEUED', 'RUNNING', 'WAITING', 'PAUSED', 'COMPLETED', 'FAILED', 'CANCELLED')),
  CHECK ((completed_us IS NOT NULL) = (status IN ('COMPLETED', 'FAILED', 'CANCELLED'))),
  CHECK (owner IS NULL OR status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')),
  CHECK (status <> 'RUNNING' OR (owner IS NOT NULL AND started_us IS NOT NULL)),
  CHECK (status <> 'FAILED' OR error_type IS NOT NULL),
  CHECK (status <> 'QUEUED' OR queued_us IS NOT NULL)
);
CREATE INDEX jobs_queue     ON jobs (sort_at, key)   WHERE status = 'QUEUED' AND owner IS NULL;
CREATE INDEX jobs_due       ON jobs (due_us)         WHERE due_us IS NOT NULL;
CREATE INDEX jobs_owned     ON jobs (owner)          WHERE owner IS NOT NULL;
CREATE INDEX jobs_completed ON jobs (completed_us)   WHERE completed_us IS NOT NULL;
CREATE INDEX jobs_children  ON jobs (parent_id)      WHERE parent_id IS NOT NULL;
CREATE INDEX jobs_retries   ON jobs (origin_id)      WHERE origin_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Histories, append-only: a row holds the events of one commit (256 at most) as JSON [[number, type, at_us, data], …].
-- Rows are appended in commit order, so that the commits of many jobs touch one page and not one page each.
CREATE TABLE history (
  sequence INTEGER PRIMARY KEY,
  job      INTEGER NOT NULL,
  first    INTEGER NOT NULL,
  last     INTEGER NOT NULL,
  events   BLOB NOT NULL,
  CHECK (last >= first)
);
CREATE UNIQUE INDEX history_of_job ON history (job, first);

-- What others ask of a job, until its owner turns it into events. A drained request stays, without its payload, as long
-- as the job: the same key again, after a lost reply, must not ask a second time.
CREATE TABLE inbox (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  job      INTEGER NOT NULL,
  key      TEXT NOT NULL,
  kind     TEXT NOT NULL,
  payload  BLOB NOT NULL,
  by       TEXT,
  reason   TEXT,
  at_us    INTEGER NOT NULL,
  drained  INTEGER NOT NULL DEFAULT 0,
  UNIQUE (job, key)
);
CREATE INDEX inbox_waiting ON inbox (job) WHERE drained = 0;

-- A cache of folds: deleting all of them changes no answer.
CREATE TABLE snapshots (
  job          INTEGER PRIMARY KEY,
  fold_version INTEGER NOT NULL,
  last_event   INTEGER NOT NULL,
  state        BLOB NOT NULL
);

-- What attempts print, log and emit, beside the history: chunks of 16 KiB or so as JSON [[stream, at_us, text], …]. The
-- beginning and the end of each attempt are kept, and the latest attempts of a job. A sequence is never used twice: it
-- is where a reader goes on.
CREATE TABLE output (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  job      INTEGER NOT NULL,
  path     TEXT NOT NULL,
  attempt  INTEGER NOT NULL,
  first    INTEGER NOT NULL,
  last     INTEGER NOT NULL,
  pieces   BLOB NOT NULL,
  CHECK (last > first)
);
CREATE UNIQUE INDEX output_of_attempt ON output (job, path, attempt, first, last);
CREATE INDEX output_of_job ON output (job);

-- Resources that jobs could not release. They stay when their jobs are deleted. A key is never used twice.
CREATE TABLE leaks (
  key         INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id      TEXT NOT NULL,
  resource    TEXT NOT NULL,
  workflow_id TEXT NOT NULL,
  path        TEXT NOT NULL,
  name        TEXT NOT NULL,
  release     TEXT NOT NULL,
  inputs      BLOB NOT NULL,
  error       BLOB NOT NULL,
  leaked_us   INTEGER NOT NULL,
  tries       INTEGER NOT NULL DEFAULT 0,
  UNIQUE (job_id, resource)
);

CREATE TABLE workers (
  id             TEXT PRIMARY KEY,
  registered_us  INTEGER NOT NULL,
  lease_until_us INTEGER NOT NULL
) WITHOUT ROWID;
