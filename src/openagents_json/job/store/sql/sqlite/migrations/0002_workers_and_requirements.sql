-- Workers say who they are, jobs which components they need next, and a thread that still runs whose it is.

ALTER TABLE workers ADD COLUMN host         TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN pid          INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN version      TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN components   TEXT NOT NULL DEFAULT '[]';  -- JSON array of sorted names
ALTER TABLE workers ADD COLUMN max_jobs     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN heartbeat_us INTEGER NOT NULL DEFAULT 0;

-- While QUEUED: a JSON array of sorted names; a worker that has one of these components can go on with the job. Empty
-- text: every worker can.
ALTER TABLE jobs ADD COLUMN requires TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN deaths   INTEGER NOT NULL DEFAULT 0;  -- workers that died under it since its last progress

-- A queue for each set of requirements, so that a worker only looks at the sets that it can serve, and apart from them
-- the jobs under which so many workers have died that they are run alone.
DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (deaths >= 2, requires, sort_at, key) WHERE status = 'QUEUED' AND owner IS NULL;

-- Threads that could not be stopped and still run, by the worker that they belong to; `jobs.abandoned` is their sum.
CREATE TABLE abandoned (
  job     INTEGER NOT NULL,
  worker  TEXT NOT NULL,
  threads INTEGER NOT NULL CHECK (threads > 0),
  PRIMARY KEY (job, worker)
) WITHOUT ROWID;
CREATE INDEX abandoned_by ON abandoned (worker);

-- Whose threads the rows counted until now is not known; the programs of that version are gone.
UPDATE jobs SET abandoned = 0 WHERE abandoned > 0;
