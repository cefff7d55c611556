-- The first schema: job rows, histories, inboxes, definitions, snapshots, output, leaks, workers. What the columns mean
-- stands in the SQLite schema; here is said what differs.
--
-- There are no foreign keys: each would lock a row of the other table at every insert, and what is deleted is deleted
-- in one transaction by hand. Text that is compared by its order is in the order of its code points (COLLATE "C").

CREATE TABLE meta (
  name  text PRIMARY KEY,
  value double precision NOT NULL
);

-- The server's clock in UTC microseconds, or the time that a test gives.
CREATE FUNCTION store_now(bigint) RETURNS bigint LANGUAGE sql VOLATILE
  AS 'SELECT coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)';

CREATE TABLE definitions (
  hash        text PRIMARY KEY,
  workflow_id text NOT NULL,
  version     text NOT NULL,
  document    bytea NOT NULL
);

-- A key comes from a sequence and never comes again. Rows change often, so pages keep room for the next version (HOT),
-- and the dead ones are cleaned up early. Each statement reads the text of the CHECKs anew, so they are few and short.
CREATE TABLE jobs (
  key              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id               text COLLATE "C" NOT NULL UNIQUE,
  workflow_id      text NOT NULL,
  version          text NOT NULL,
  definition       text NOT NULL,
  status           text NOT NULL,
  rank             smallint NOT NULL,
  sort_at          bigint NOT NULL DEFAULT 0,
  owner            text,
  epoch            bigint NOT NULL DEFAULT 0,
  last_event       bigint NOT NULL,
  snapshot_event   bigint NOT NULL DEFAULT 0,
  created_us       bigint NOT NULL,
  queued_us        bigint,
  queued_total_us  bigint NOT NULL DEFAULT 0,
  started_us       bigint,
  completed_us     bigint,
  due_us           bigint,
  progress         double precision NOT NULL DEFAULT 0,
  current_step     text,
  error_type       text,
  error_message    text,
  error_folded     text,              -- message and type in one case, for searching: Python folds what SQL does not
  abandoned        integer NOT NULL DEFAULT 0,
  pause_requested  boolean NOT NULL DEFAULT FALSE,
  cancel_requested boolean NOT NULL DEFAULT FALSE,
  idempotency_key  text,
  body_hash        text NOT NULL,
  tags             jsonb,             -- array of text; NUL is written otherwise, see postgres_driver
  parent_id        text COLLATE "C",
  origin_id        text COLLATE "C",
  requires         text COLLATE "C" NOT NULL DEFAULT '',
  deaths           integer NOT NULL DEFAULT 0,
  CHECK (CASE status
    WHEN 'RUNNING'   THEN completed_us IS NULL AND owner IS NOT NULL AND started_us IS NOT NULL
    WHEN 'QUEUED'    THEN completed_us IS NULL AND queued_us IS NOT NULL
    WHEN 'CREATED'   THEN completed_us IS NULL
    WHEN 'WAITING'   THEN completed_us IS NULL
    WHEN 'PAUSED'    THEN completed_us IS NULL
    WHEN 'COMPLETED' THEN completed_us IS NOT NULL AND owner IS NULL
    WHEN 'FAILED'    THEN completed_us IS NOT NULL AND owner IS NULL AND error_type IS NOT NULL
    WHEN 'CANCELLED' THEN completed_us IS NOT NULL AND owner IS NULL
    ELSE FALSE END),
  CHECK (rank BETWEEN 0 AND 3 AND last_event >= 1 AND progress BETWEEN '0'::float8 AND '1'::float8 AND abandoned >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX jobs_queue ON jobs ((deaths >= 2), requires, sort_at, key) WHERE status = 'QUEUED' AND owner IS NULL;
CREATE INDEX jobs_due       ON jobs (due_us)         WHERE due_us IS NOT NULL AND owner IS NULL;
CREATE INDEX jobs_owned     ON jobs (owner)          WHERE owner IS NOT NULL;
CREATE INDEX jobs_completed ON jobs (completed_us)   WHERE completed_us IS NOT NULL;
CREATE INDEX jobs_children  ON jobs (parent_id)      WHERE parent_id IS NOT NULL;
CREATE INDEX jobs_retries   ON jobs (origin_id)      WHERE origin_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE history (
  job    bigint NOT NULL,
  first  bigint NOT NULL,
  last   bigint NOT NULL,
  events bytea NOT NULL,
  PRIMARY KEY (job, first),
  CHECK (last >= first)
);

-- Sequences of one job rise in the order of their commits: each is given under the lock of the job's row.
CREATE TABLE inbox (
  sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job      bigint NOT NULL,
  key      text NOT NULL,
  kind     text NOT NULL,
  payload  bytea NOT NULL,
  by       text,
  reason   text,
  at_us    bigint NOT NULL,
  drained  boolean NOT NULL DEFAULT FALSE,
  UNIQUE (job, key)
);
CREATE INDEX inbox_waiting ON inbox (job) WHERE NOT drained;

CREATE TABLE snapshots (
  job          bigint PRIMARY KEY,
  fold_version integer NOT NULL,
  last_event   bigint NOT NULL,
  state        bytea NOT NULL
);

CREATE TABLE output (
  sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job      bigint NOT NULL,
  path     text NOT NULL,
  attempt  integer NOT NULL,
  first    bigint NOT NULL,
  last     bigint NOT NULL,
  pieces   bytea NOT NULL,
  CHECK (last > first),
  UNIQUE (job, path, attempt, first, last)
);

CREATE TABLE leaks (
  key         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id      text NOT NULL,
  resource    text NOT NULL,
  workflow_id text NOT NULL,
  path        text NOT NULL,
  name        text NOT NULL,
  release     text NOT NULL,
  inputs      bytea NOT NULL,
  error       bytea NOT NULL,
  leaked_us   bigint NOT NULL,
  tries       integer NOT NULL DEFAULT 0,
  UNIQUE (job_id, resource)
);

-- Whoever is not here is dead. Rows whose time is over are taken away before anybody takes a job of theirs, so that a
-- worker that renews its lease at that moment either keeps it or hears that it lost it.
CREATE TABLE workers (
  id             text PRIMARY KEY,
  registered_us  bigint NOT NULL,
  heartbeat_us   bigint NOT NULL,
  lease_until_us bigint NOT NULL,
  has_left       boolean NOT NULL DEFAULT FALSE,  -- dead but for threads of it, which are counted until the lease ends
  host           text NOT NULL,
  pid            bigint NOT NULL,
  version        text NOT NULL,
  components     bytea NOT NULL,
  max_jobs       integer NOT NULL
);

-- No lock of the operating system tells of a process on another machine: the threads that a worker abandoned are
-- presumed over when its lease has ended.
CREATE TABLE abandoned (
  job     bigint NOT NULL,
  worker  text NOT NULL,
  threads integer NOT NULL CHECK (threads >= 0),
  PRIMARY KEY (job, worker)
);
CREATE INDEX abandoned_by ON abandoned (worker);
