-- Every statement of the PostgreSQL store, by name, with one sentence each. A statement that changes a status or a lease
-- names what it expects. Many rows travel as arrays, one per column, and are taken apart with unnest. Nothing newer than
-- PostgreSQL 13 is used.

-- name: meta_put
-- A setting that belongs to the store; the first one stays.
INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: meta_get
-- What it is.
SELECT value FROM meta WHERE name = $1;

-- name: aging_set
-- A rank is worth so much waiting from now on: every job in the queue gets its new place.
WITH changed AS (UPDATE meta SET value = $1 WHERE name = 'aging_s'),
less AS (SELECT round($1::float8 * 1000000)::bigint - round(value * 1000000)::bigint AS us FROM meta WHERE name = 'aging_s')
UPDATE jobs SET sort_at = sort_at - rank * less.us FROM less WHERE status = 'QUEUED' RETURNING key;

-- name: aging_lock
-- Nobody writes jobs until the COMMIT: whoever had begun to, by the order before, is waited for.
LOCK TABLE jobs IN EXCLUSIVE MODE;

-- name: shares_make
-- Accounts of keys that have none yet, in the order in which they are locked.
INSERT INTO shares (key, weight) SELECT key, 1 FROM unnest($1::text[]) AS given (key) ORDER BY key COLLATE "C"
ON CONFLICT (key) DO NOTHING RETURNING key;

-- name: shares_lock
-- Lock the accounts of keys, all in one order.
SELECT key FROM shares WHERE key = ANY($1::text[]) ORDER BY key FOR NO KEY UPDATE;

-- name: shares_lock_free
-- The same, but for those that somebody else has locked.
SELECT key FROM shares WHERE key = ANY($1::text[]) ORDER BY key FOR NO KEY UPDATE SKIP LOCKED;

-- name: shares_there
-- The keys of both.
SELECT key FROM shares WHERE key = ANY($1::text[]);

-- name: shares_get
-- The accounts of keys, which are locked.
SELECT key, weight, finish_us FROM shares WHERE key = ANY($1::text[]);

-- name: shares_put
-- Write them.
INSERT INTO shares (key, weight, finish_us)
SELECT * FROM unnest($1::text[], $2::float8[], $3::bigint[]) AS given (key, weight, finish_us)
ORDER BY key COLLATE "C"
ON CONFLICT (key) DO UPDATE SET weight = excluded.weight, finish_us = excluded.finish_us;

-- name: share_weight_set
-- A key has another weight from now on.
INSERT INTO shares (key, weight) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET weight = excluded.weight;

-- name: shares_count
-- How many accounts there are.
SELECT count(*) FROM shares;

-- name: shares_forget
-- Those go that say nothing which a new one would not say, but for those that somebody has locked.
DELETE FROM shares WHERE key IN (
  SELECT key FROM shares WHERE weight = 1 AND finish_us <= $1 FOR UPDATE SKIP LOCKED);

-- name: shares_after
-- Accounts by key.
SELECT key, weight, finish_us FROM shares WHERE key > $1 ORDER BY key LIMIT $2;

-- name: share_lines
-- What lines follow from: the first tag in the queue, how far the farthest key is, and for each rank the last tag that
-- runs.
SELECT store_now($1) AS now,
       (SELECT share_tag_us FROM jobs WHERE status = 'QUEUED' AND share_tag_us IS NOT NULL
        ORDER BY share_tag_us LIMIT 1) AS first_us,
       (SELECT max(finish_us) FROM shares WHERE finish_us IS NOT NULL) AS farthest_us,
       ARRAY(SELECT (SELECT share_tag_us FROM jobs WHERE status = 'RUNNING' AND share_tag_us IS NOT NULL
                     AND jobs.rank = ranks.rank ORDER BY share_tag_us DESC LIMIT 1)
             FROM generate_series(0, 3) AS ranks (rank) ORDER BY ranks.rank) AS running;

-- name: places_of
-- What the places of jobs in the queue follow from.
SELECT key, share_tag_us, share_charged_us, queued_us, queued_total_us,
       (SELECT value FROM meta WHERE name = 'aging_s') AS aging_s
FROM jobs WHERE key = ANY($1::bigint[]);

-- name: tags_clear
-- Jobs come back into the queue: where they stood says nothing of the line at which they do.
UPDATE jobs SET share_tag_us = NULL WHERE key = ANY($1::bigint[]) AND share_tag_us IS NOT NULL;

-- name: places_set
-- The places of jobs that were just written, if they are in the queue, with their shares and deadlines.
UPDATE jobs SET
  sort_at = coalesce(to_be.sort_at, jobs.sort_at), share_key = to_be.share_key,
  share_expected_us = to_be.share_expected_us, share_used_us = to_be.share_used_us,
  share_charged_us = to_be.share_charged_us, share_tag_us = to_be.share_tag_us, start_by_us = to_be.start_by_us,
  deadline_us = to_be.deadline_us, at_risk = to_be.at_risk, risk_us = to_be.risk_us
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::boolean[], $11::bigint[])
  AS to_be (key, sort_at, share_key, share_expected_us, share_used_us, share_charged_us, share_tag_us, deadline_us,
            start_by_us, at_risk, risk_us)
WHERE jobs.key = to_be.key RETURNING jobs.key;

-- name: risks_set
-- Running jobs are at risk to miss their deadlines.
UPDATE jobs SET at_risk = TRUE WHERE key = ANY($1::bigint[]) AND NOT at_risk RETURNING key;

-- name: now
-- The time, the server's or a test's.
SELECT store_now($1);

-- name: durations_of
-- What was learned of workflows.
SELECT workflow_id, step_id, mean_us, runs, learned_us FROM durations WHERE workflow_id = ANY($1::text[]);

-- name: durations_put
-- It was learned.
INSERT INTO durations (workflow_id, step_id, mean_us, runs, learned_us)
SELECT given.*, $5::bigint FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS given
ON CONFLICT (workflow_id, step_id) DO UPDATE SET mean_us = excluded.mean_us, runs = excluded.runs,
                                                 learned_us = excluded.learned_us;

-- name: durations_forget
-- Only so many are kept: those that were learned last.
DELETE FROM durations WHERE (workflow_id, step_id) IN (
  SELECT workflow_id, step_id FROM durations ORDER BY learned_us DESC, workflow_id, step_id OFFSET $1
  FOR UPDATE SKIP LOCKED);

-- name: queued_limits
-- The keys of limits that jobs in the queue have.
SELECT DISTINCT limit_key FROM jobs WHERE limit_key IS NOT NULL AND status = 'QUEUED';

-- name: definition_get
-- The document of a content hash.
SELECT document FROM definitions WHERE hash = $1;

-- name: jobs_put
-- Accept jobs with their definitions and first events. One whose id or idempotency key is there already changes
-- nothing, and is not among those that come back. Each comes with the first row of its history; further rows, of jobs
-- that begin with very many events, follow in arrays of their own.
WITH moment AS MATERIALIZED (
  SELECT store_now($1) AS now, coalesce((SELECT round(value * 1000000)::bigint FROM meta WHERE name = 'aging_s'),
                                        $2::bigint) AS aging_us),
documents AS (
  INSERT INTO definitions (hash, workflow_id, version, document)
  SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bytea[]) ON CONFLICT (hash) DO NOTHING
),
new AS MATERIALIZED (
  SELECT nextval('jobs_key_seq') AS key, given.*
  FROM unnest($7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::smallint[], $13::bigint[],
              $14::bigint[], $15::bigint[], $16::float8[], $17::text[], $18::text[], $19::text[], $20::text[],
              $21::text[], $22::bigint[], $23::bigint[], $24::bytea[], $29::text[], $30::text[], $31::bigint[],
              $32::text[], $33::text[], $34::integer[], $35::text[], $36::text[], $37::text[])
    AS given (id, workflow_id, version, definition, status, rank, last_event, created_us, due_us, progress,
              idempotency_key, body_hash, tags, parent_id, origin_id, first, last, events, requires, owner, started_us,
              current_step, limit_key, limit_max, limit_hold, limit_overflow, spending)
),
added AS (
  INSERT INTO jobs (key, id, workflow_id, version, definition, status, rank, sort_at, last_event, created_us,
                    queued_us, due_us, progress, idempotency_key, body_hash, tags, parent_id, origin_id,
                    queued_total_us, requires, owner, epoch, started_us, current_step, spending, limit_key, limit_max,
                    limit_hold, limit_overflow, slot)
  OVERRIDING SYSTEM VALUE
  SELECT new.key, new.id, new.workflow_id, new.version, new.definition, new.status, new.rank,
         CASE WHEN new.status = 'QUEUED'
           THEN (SELECT now FROM moment) - coalesce(parent.queued_total_us, 0) - new.rank * (SELECT aging_us FROM moment) ELSE 0 END,
         new.last_event, new.created_us, CASE WHEN new.status IN ('QUEUED', 'RUNNING') THEN (SELECT now FROM moment) END,
         new.due_us, new.progress, new.idempotency_key, new.body_hash, new.tags::jsonb, new.parent_id, new.origin_id,
         coalesce(parent.queued_total_us, 0), new.requires, new.owner, CASE WHEN new.owner IS NULL THEN 0 ELSE 1 END,
         new.started_us, new.current_step, new.spending, new.limit_key, new.limit_max, new.limit_hold, new.limit_overflow,
         CASE WHEN new.limit_key IS NOT NULL THEN FALSE END
  FROM new LEFT JOIN jobs AS parent ON parent.id = new.parent_id
  ON CONFLICT DO NOTHING
  RETURNING key, id
),
begun AS (
  INSERT INTO history (job, first, last, events)
  SELECT key, first, last, events FROM new WHERE key = ANY(ARRAY(SELECT key FROM added))
),
continued AS (
  INSERT INTO history (job, first, last, events)
  SELECT added.key, part.first, part.last, part.events
  FROM unnest($25::text[], $26::bigint[], $27::bigint[], $28::bytea[]) AS part (id, first, last, events)
  JOIN added ON added.id = part.id
)
SELECT id, key FROM added;

-- name: jobs_known
-- The jobs that stood in the way of others: by id, or by workflow and idempotency key.
SELECT id, workflow_id, idempotency_key, body_hash FROM jobs WHERE id = ANY($1::text[])
UNION
SELECT jobs.id, jobs.workflow_id, jobs.idempotency_key, jobs.body_hash
FROM unnest($2::text[], $3::text[]) AS given (workflow_id, idempotency_key)
JOIN jobs ON jobs.workflow_id = given.workflow_id AND jobs.idempotency_key = given.idempotency_key;

-- name: lock
-- Lock the rows that a transaction will change, all in one order, so that two stores do not wait for each other. What
-- follows sees them as they are now. LATERAL makes it one look-up after the other, however small the table was when the
-- statement was planned.
WITH wanted AS (
  SELECT unnest($1::bigint[]) AS key
  UNION SELECT known.key FROM unnest($2::text[]) AS given (id),
    LATERAL (SELECT key FROM jobs WHERE jobs.id = given.id LIMIT 1) AS known
)
SELECT locked.key, locked.id FROM (SELECT key FROM wanted ORDER BY key) AS ordered,
  LATERAL (SELECT key, id FROM jobs WHERE jobs.key = ordered.key FOR NO KEY UPDATE) AS locked;

-- name: lock_free
-- The same, but for the rows that somebody else has locked.
WITH wanted AS (
  SELECT unnest($1::bigint[]) AS key
  UNION SELECT known.key FROM unnest($2::text[]) AS given (id),
    LATERAL (SELECT key FROM jobs WHERE jobs.id = given.id LIMIT 1) AS known
)
SELECT locked.key, locked.id FROM (SELECT key FROM wanted ORDER BY key) AS ordered,
  LATERAL (SELECT key, id FROM jobs WHERE jobs.key = ordered.key FOR NO KEY UPDATE SKIP LOCKED) AS locked;

-- name: lockable
-- The rows of both.
WITH wanted AS (
  SELECT unnest($1::bigint[]) AS key
  UNION SELECT known.key FROM unnest($2::text[]) AS given (id),
    LATERAL (SELECT key FROM jobs WHERE jobs.id = given.id LIMIT 1) AS known
)
SELECT jobs.key, jobs.id FROM wanted JOIN jobs ON jobs.key = wanted.key;

-- name: commit
-- The next events of jobs, each only by the holder of its lease and, if they are the last ones, only with an empty
-- inbox. What does not match is left alone; the keys that come back are those written. A job that begins to run adds up
-- its wait in the queue, which one that was taken over at once did not have. Each comes with the first row that its
-- events take, if there are any; further rows, of commits of very many events, follow in arrays of their own. A slot of
-- a limit is kept as `limits.keeps_slot` says.
WITH moment AS MATERIALIZED (
  SELECT store_now($1) AS now, coalesce((SELECT round(value * 1000000)::bigint FROM meta WHERE name = 'aging_s'),
                                        $2::bigint) AS aging_us),
moved AS (
  UPDATE jobs SET
    last_event = to_be.last_event, rank = to_be.rank, progress = to_be.progress, current_step = to_be.current_step,
    error_type = to_be.error_type, error_message = to_be.error_message, error_folded = to_be.error_folded,
    pause_requested = to_be.pause_requested, cancel_requested = to_be.cancel_requested,
    abandoned = jobs.abandoned + to_be.abandoned,
    queued_total_us = jobs.queued_total_us
      + CASE WHEN jobs.status = 'QUEUED' AND to_be.status <> 'QUEUED'
          THEN (SELECT now FROM moment) - jobs.queued_us ELSE 0 END,
    queued_us = CASE
      WHEN to_be.status = 'QUEUED' AND jobs.status <> 'QUEUED' THEN (SELECT now FROM moment)
      WHEN to_be.status = 'RUNNING' AND jobs.status NOT IN ('QUEUED', 'RUNNING') THEN (SELECT now FROM moment)
      ELSE jobs.queued_us END,
    sort_at = CASE WHEN to_be.status = 'QUEUED'
      THEN (CASE WHEN jobs.status = 'QUEUED' THEN jobs.queued_us ELSE (SELECT now FROM moment) END)
           - jobs.queued_total_us - to_be.rank * (SELECT aging_us FROM moment) - (to_be.started_us IS NOT NULL)::int
      ELSE jobs.sort_at END,
    slot = CASE WHEN jobs.slot THEN to_be.completed_us IS NULL AND (to_be.status = 'RUNNING'
        OR (jobs.status = 'QUEUED' AND to_be.status = 'QUEUED')
        OR (jobs.limit_hold = 'job' AND to_be.started_us IS NOT NULL))
      ELSE jobs.slot END,
    room_by = CASE WHEN jobs.status = 'QUEUED' AND to_be.status = 'QUEUED' THEN jobs.room_by END,
    status = to_be.status, started_us = to_be.started_us, completed_us = to_be.completed_us,
    due_us = CASE WHEN to_be.status = 'RUNNING' THEN NULL ELSE to_be.due_us END,
    owner = CASE WHEN to_be.status = 'RUNNING' THEN jobs.owner END, requires = to_be.requires, deaths = to_be.deaths,
    spending = to_be.spending, aside = FALSE
  FROM unnest($3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::smallint[],
              $10::bigint[], $11::float8[], $12::text[], $13::text[], $14::text[], $15::text[], $16::boolean[],
              $17::boolean[], $18::integer[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[],
              $23::bigint[], $24::bytea[], $30::text[], $31::integer[], $32::text[])
    AS to_be (key, owner, epoch, expected, previous_status, status, rank, last_event, progress, current_step,
              error_type, error_message, error_folded, pause_requested, cancel_requested, abandoned, started_us,
              completed_us, due_us, first, last, events, requires, deaths, spending)
  WHERE jobs.key = to_be.key AND jobs.owner = to_be.owner AND jobs.epoch = to_be.epoch
    AND jobs.last_event = to_be.expected AND jobs.status = to_be.previous_status
    AND (to_be.completed_us IS NULL OR NOT EXISTS (
      SELECT 1 FROM inbox WHERE inbox.job = to_be.key AND NOT inbox.drained AND inbox.sequence <> ALL($25::bigint[])))
  RETURNING jobs.key, to_be.first, to_be.last, to_be.events
),
written AS (
  INSERT INTO history (job, first, last, events)
  SELECT key, first, last, events FROM moved WHERE first IS NOT NULL
),
continued AS (
  INSERT INTO history (job, first, last, events)
  SELECT part.job, part.first, part.last, part.events
  FROM unnest($26::bigint[], $27::bigint[], $28::bigint[], $29::bytea[]) AS part (job, first, last, events)
  WHERE part.job IN (SELECT key FROM moved)
),
answered AS (
  UPDATE inbox SET drained = TRUE, payload = ''
  WHERE sequence = ANY($25::bigint[]) AND NOT drained AND job IN (SELECT key FROM moved)
)
SELECT key FROM moved;

-- name: commit_running
-- The same for one job that goes on, without an answer to anybody: what a step of a chain costs.
WITH moved AS (
  UPDATE jobs SET
    last_event = $5, rank = $6, progress = $7, current_step = $8, error_type = $9, error_message = $10,
    error_folded = $11, pause_requested = $12, cancel_requested = $13, spending = $14
  WHERE key = $1 AND owner = $2 AND epoch = $3 AND last_event = $4 AND status = 'RUNNING'
  RETURNING key
)
INSERT INTO history (job, first, last, events)
SELECT key, $15::bigint, $16::bigint, $17::bytea FROM moved RETURNING job;

-- name: as_it_is
-- What a refused commit met, with the events that it would have followed.
SELECT owner, epoch, last_event, status,
       ARRAY(SELECT events FROM history WHERE history.job = jobs.key AND last > $2 ORDER BY first) AS history
FROM jobs WHERE key = $1;

-- name: snapshots_put
-- Keep the latest snapshots of jobs, and say in their rows that there are some.
WITH given AS (
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS given (job, last_event, state)
),
kept AS (
  INSERT INTO snapshots (job, fold_version, last_event, state)
  SELECT job, $4, last_event, state FROM given
  ON CONFLICT (job) DO UPDATE SET fold_version = excluded.fold_version, last_event = excluded.last_event,
                                  state = excluded.state
)
UPDATE jobs SET snapshot_event = given.last_event FROM given WHERE jobs.key = given.job;

-- name: posts_put
-- Requests for jobs that are not final; the same key a second time changes nothing.
INSERT INTO inbox (job, key, kind, payload, by, reason, at_us)
SELECT jobs.key, post.key, post.kind, post.payload, post.by, post.reason, post.at_us
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bigint[])
  WITH ORDINALITY AS post (id, key, kind, payload, by, reason, at_us, place)
JOIN jobs ON jobs.id = post.id AND jobs.completed_us IS NULL
ORDER BY post.place
ON CONFLICT (job, key) DO NOTHING;

-- name: leaks_put
-- Resources that jobs give up.
INSERT INTO leaks (resource, path, name, release, inputs, error, leaked_us, job_id, workflow_id)
SELECT leak.resource, leak.path, leak.name, leak.release, leak.inputs, leak.error, store_now($1), jobs.id,
       jobs.workflow_id
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
  WITH ORDINALITY AS leak (job, resource, path, name, release, inputs, error, place)
JOIN jobs ON jobs.key = leak.job
ORDER BY leak.place;

-- name: claim
-- The queue: jobs that nobody holds, by virtual arrival time, without those that are blocked; those that require what
-- the worker does not have are left to others. There is a queue for each set of requirements ($5: at most so many are
-- looked at), found from index entry to index entry, from the end: in front of each queue stand the dead entries of those
-- that were claimed since the last VACUUM. What was found is locked, so the update repeats no condition: with
-- one, the planner would look for it in the whole queue. Jobs of paused workflows are found and not leased: whoever
-- gets one back sets it aside, and asks again. A requirement is a component's name ($4 are the worker's), or that with
-- the amounts of resources behind a space ($6 are the worker's): `resources.requirement` makes them.
WITH RECURSIVE sets (requires) AS (
  (SELECT requires FROM jobs
   WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = $3
   ORDER BY requires DESC LIMIT 1)
  UNION ALL
  SELECT (SELECT jobs.requires FROM jobs
          WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = $3
            AND jobs.requires < sets.requires ORDER BY jobs.requires DESC LIMIT 1)
  FROM sets WHERE sets.requires IS NOT NULL
),
served AS MATERIALIZED (
  SELECT requires FROM (SELECT requires FROM sets WHERE requires IS NOT NULL LIMIT $5) AS seen
  WHERE CASE
    WHEN requires = '' OR $4::text[] IS NULL OR requires::jsonb ?| $4::text[] THEN TRUE
    WHEN strpos(requires, ' ') > 0 THEN EXISTS (
      SELECT FROM jsonb_array_elements_text(requires::jsonb) AS one
      WHERE CASE WHEN strpos(one, ' ') > 0 AND split_part(one, ' ', 1) = ANY ($4::text[]) THEN NOT EXISTS (
        SELECT FROM jsonb_each_text(substr(one, strpos(one, ' '))::jsonb) AS need
        WHERE need.value::numeric > COALESCE(($6::text::jsonb ->> need.key)::numeric, 0)) END)
    ELSE FALSE END
),
found AS MATERIALIZED (
  SELECT one.key, one.sort_at, one.workflow_id, one.cancel_requested, served.requires FROM served, LATERAL (
    SELECT key, sort_at, workflow_id, cancel_requested FROM jobs
    WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = $3
      AND jobs.requires = served.requires
    ORDER BY sort_at, key LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) AS one
),
next AS MATERIALIZED (
  SELECT key, requires, NOT cancel_requested AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow') AS is_paused
  FROM found ORDER BY sort_at, key LIMIT $2
),
leased AS (
  UPDATE jobs SET owner = $1, epoch = epoch + 1 WHERE key = ANY (ARRAY(SELECT key FROM next WHERE NOT is_paused))
  RETURNING key
)
SELECT key, FALSE AS is_paused, NULL::text AS requires FROM leased
UNION ALL SELECT key, TRUE, requires FROM next WHERE is_paused;

-- name: set_aside
-- No claim meets these jobs until their workflow goes on, or something is recorded of them: the jobs of paused workflows
-- among the first ($3) of some queues ($2), unless they are to be cancelled. Who ends the pause waits for us, or we for
-- it: none is set aside for a pause that is over.
WITH paused AS MATERIALIZED (SELECT name FROM pauses WHERE kind = 'workflow' FOR SHARE),
found AS MATERIALIZED (
  SELECT one.key, one.workflow_id, one.cancel_requested FROM unnest($2::text[]) AS queue (requires), LATERAL (
    SELECT key, workflow_id, cancel_requested FROM jobs
    WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = $1
      AND jobs.requires = queue.requires
    ORDER BY sort_at, key LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE jobs SET aside = TRUE WHERE key = ANY (ARRAY(
  SELECT key FROM found WHERE NOT cancel_requested AND workflow_id IN (SELECT name FROM paused)))
RETURNING key;

-- name: put_back
-- A workflow goes on, whose pause was taken away before.
WITH ordered AS MATERIALIZED (
  SELECT key FROM jobs WHERE workflow_id = $1 AND aside ORDER BY key FOR NO KEY UPDATE
)
UPDATE jobs SET aside = FALSE WHERE key = ANY (ARRAY(SELECT key FROM ordered));

-- name: first_waiting
-- The job that a claim would take first; as there, but nothing is locked ($1 and $3: what the worker has; $2: sets of
-- requirements that are looked at). No suspects: `NOT (deaths >= 2)`, or a constant beside it, would become `deaths < 2`
-- when the statement is planned, which the index of the queue does not know.
WITH RECURSIVE sets (requires) AS (
  (SELECT requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside
   AND (deaths >= 2) = (SELECT FALSE) ORDER BY requires DESC LIMIT 1)
  UNION ALL
  SELECT (SELECT jobs.requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE
          AND NOT aside AND (deaths >= 2) = (SELECT FALSE) AND jobs.requires < sets.requires ORDER BY jobs.requires DESC LIMIT 1)
  FROM sets WHERE sets.requires IS NOT NULL
),
served AS MATERIALIZED (
  SELECT requires FROM (SELECT requires FROM sets WHERE requires IS NOT NULL LIMIT $2) AS seen
  WHERE CASE
    WHEN requires = '' OR $1::text[] IS NULL OR requires::jsonb ?| $1::text[] THEN TRUE
    WHEN strpos(requires, ' ') > 0 THEN EXISTS (
      SELECT FROM jsonb_array_elements_text(requires::jsonb) AS one
      WHERE CASE WHEN strpos(one, ' ') > 0 AND split_part(one, ' ', 1) = ANY ($1::text[]) THEN NOT EXISTS (
        SELECT FROM jsonb_each_text(substr(one, strpos(one, ' '))::jsonb) AS need
        WHERE need.value::numeric > COALESCE(($3::text::jsonb ->> need.key)::numeric, 0)) END)
    ELSE FALSE END
)
SELECT one.id, one.rank, one.sort_at, one.room_by, one.is_paused FROM served, LATERAL (
  SELECT key, id, rank, sort_at, room_by,
         NOT cancel_requested AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow') AS is_paused
  FROM jobs
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = (SELECT FALSE)
    AND jobs.requires = served.requires
  ORDER BY sort_at, key LIMIT 1) AS one
ORDER BY one.sort_at, one.key LIMIT 1;

-- name: queue_place
-- Where a job stands in the queue, if claims find it, and how many stand before it ($2: sets of requirements that are
-- looked at; $3: jobs that are counted).
WITH RECURSIVE sets (requires) AS (
  (SELECT requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside
   AND (deaths >= 2) = (SELECT FALSE) ORDER BY requires DESC LIMIT 1)
  UNION ALL
  SELECT (SELECT jobs.requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE
          AND NOT aside AND (deaths >= 2) = (SELECT FALSE) AND jobs.requires < sets.requires ORDER BY jobs.requires DESC LIMIT 1)
  FROM sets WHERE sets.requires IS NOT NULL
),
place AS MATERIALIZED (
  SELECT key, rank, sort_at, queued_us, queued_total_us, room_by FROM jobs
  WHERE id = $1 AND status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND NOT (deaths >= 2)
    AND NOT (NOT cancel_requested AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow'))
)
SELECT place.*, (SELECT count(*) FROM (
  SELECT 1 FROM (SELECT requires FROM sets WHERE requires IS NOT NULL LIMIT $2) AS seen, LATERAL (
    SELECT 1 FROM jobs
    WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = (SELECT FALSE)
      AND jobs.requires = seen.requires AND (jobs.sort_at, jobs.key) < (place.sort_at, place.key)) AS one
  LIMIT $3) AS counted) AS ahead
FROM place;

-- name: queue_first
-- The first in the queue, whatever they require ($1: sets of requirements that are looked at; $2: so many jobs).
WITH RECURSIVE sets (requires) AS (
  (SELECT requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside
   AND (deaths >= 2) = (SELECT FALSE) ORDER BY requires DESC LIMIT 1)
  UNION ALL
  SELECT (SELECT jobs.requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE
          AND NOT aside AND (deaths >= 2) = (SELECT FALSE) AND jobs.requires < sets.requires ORDER BY jobs.requires DESC LIMIT 1)
  FROM sets WHERE sets.requires IS NOT NULL
)
SELECT one.id, one.rank, one.sort_at, one.room_by
FROM (SELECT requires FROM sets WHERE requires IS NOT NULL LIMIT $1) AS seen, LATERAL (
  SELECT key, id, rank, sort_at, room_by FROM jobs
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside AND (deaths >= 2) = (SELECT FALSE)
    AND jobs.requires = seen.requires
  ORDER BY sort_at, key LIMIT $2) AS one
ORDER BY one.sort_at, one.key LIMIT $2;

-- name: room_make
-- A worker makes room for a job in the queue, if no other that lives does.
UPDATE jobs SET room_by = $1
WHERE id = $2 AND status = 'QUEUED' AND owner IS NULL AND (room_by IS NULL OR room_by = $1 OR NOT EXISTS (
  SELECT 1 FROM workers WHERE workers.id = room_by AND NOT has_left AND lease_until_us > (SELECT store_now($3))))
RETURNING key;

-- name: lease_due
-- Jobs that nobody holds and whose timer is due, or whose deadline is at risk.
WITH timers AS (
  SELECT key FROM jobs WHERE due_us <= (SELECT store_now($3)) AND owner IS NULL
  ORDER BY due_us, key LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
),
risks AS (
  SELECT key FROM jobs WHERE risk_us <= (SELECT store_now($3)) AND owner IS NULL
    AND (due_us IS NULL OR due_us > (SELECT store_now($3)))
  ORDER BY risk_us, key LIMIT $2 - (SELECT count(*) FROM timers) FOR NO KEY UPDATE SKIP LOCKED
),
next AS (SELECT key FROM timers UNION ALL SELECT key FROM risks)
UPDATE jobs SET owner = $1, epoch = epoch + 1 WHERE key = ANY (ARRAY(SELECT key FROM next))
RETURNING key, NULL::text AS previous;

-- name: lease_requested
-- Jobs that nobody holds and that somebody asks something of.
WITH next AS (
  SELECT key FROM jobs WHERE owner IS NULL AND completed_us IS NULL
  AND key IN (SELECT job FROM inbox WHERE NOT drained) ORDER BY key LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET owner = $1, epoch = epoch + 1 WHERE key = ANY (ARRAY(SELECT key FROM next))
RETURNING key, NULL::text AS previous;

-- name: lease_orphans
-- Jobs of others that do not live: `workers_dead` goes before.
WITH next AS (
  SELECT key, owner FROM jobs WHERE owner IS NOT NULL AND owner <> $1
  AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = jobs.owner AND NOT has_left)
  ORDER BY owner LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET owner = $1, epoch = epoch + 1 FROM next
WHERE jobs.key = next.key AND jobs.key = ANY (ARRAY(SELECT key FROM next))
RETURNING jobs.key, next.owner AS previous;

-- name: lease
-- Take a lease of a job that nobody holds.
UPDATE jobs SET owner = $1, epoch = epoch + 1 WHERE key = $2 AND owner IS NULL RETURNING key, NULL::text AS previous;

-- name: leases_of
-- The leases that an owner has.
SELECT id, epoch FROM jobs WHERE owner = $1;

-- name: lease_again
-- Leases of an owner that it takes anew, those that it has in these epochs. The rows are locked.
UPDATE jobs SET epoch = jobs.epoch + 1
FROM unnest($2::text[], $3::bigint[]) AS given (id, epoch)
WHERE jobs.id = given.id AND jobs.owner = $1 AND jobs.epoch = given.epoch
RETURNING jobs.key, jobs.owner AS previous;

-- name: release
-- Give a lease back with nothing recorded.
UPDATE jobs SET owner = NULL WHERE key = $1 AND owner = $2 AND epoch = $3 AND status <> 'RUNNING' RETURNING key;

-- name: whole_by_key
-- Jobs with the events after their snapshots, if this fold can read these, and with their undrained requests.
SELECT jobs.*, snapshots.state AS snapshot, snapshots.last_event AS snapshot_at, store_now($3) AS now,
       (SELECT value FROM meta WHERE name = 'aging_s') AS aging_s,
       ARRAY(SELECT events FROM history WHERE history.job = jobs.key AND last > coalesce(snapshots.last_event, 0)
             ORDER BY first) AS history,
       ARRAY(SELECT ROW(inbox.key, kind, by, reason, at_us, payload, sequence) FROM inbox
             WHERE inbox.job = jobs.key AND NOT drained ORDER BY sequence) AS requests
FROM jobs LEFT JOIN snapshots ON snapshots.job = jobs.key AND jobs.snapshot_event > 0 AND fold_version = $2
WHERE jobs.key = ANY($1::bigint[]);

-- name: whole_by_id
-- The same of one job.
SELECT jobs.*, snapshots.state AS snapshot, snapshots.last_event AS snapshot_at,
       ARRAY(SELECT events FROM history WHERE history.job = jobs.key AND last > coalesce(snapshots.last_event, 0)
             ORDER BY first) AS history,
       ARRAY(SELECT ROW(inbox.key, kind, by, reason, at_us, payload, sequence) FROM inbox
             WHERE inbox.job = jobs.key AND NOT drained ORDER BY sequence) AS requests
FROM jobs LEFT JOIN snapshots ON snapshots.job = jobs.key AND jobs.snapshot_event > 0 AND fold_version = $2
WHERE jobs.id = $1;

-- name: jobs_by_id
-- The rows of some jobs.
SELECT * FROM jobs WHERE id = ANY($1::text[]);

-- name: definition_of
-- Which definition a job was made from.
SELECT definition FROM jobs WHERE id = $1;

-- name: history_after
-- The rows that hold events above a number, in order, a bounded number of rows.
SELECT events FROM history
WHERE job = (SELECT key FROM jobs WHERE id = $1) AND last > $2
  AND first >= coalesce((SELECT max(earlier.first) FROM history AS earlier
                         WHERE earlier.job = (SELECT key FROM jobs WHERE id = $1) AND earlier.first <= $2 + 1), 0)
ORDER BY first LIMIT $3;

-- name: next_due
-- The earliest timer of a job that nobody holds.
SELECT least((SELECT min(due_us) FROM jobs WHERE due_us IS NOT NULL AND owner IS NULL),
             (SELECT min(risk_us) FROM jobs WHERE risk_us IS NOT NULL AND owner IS NULL));

-- name: has_orphans
-- Whether somebody holds jobs and does not live.
SELECT EXISTS (
  SELECT 1 FROM jobs WHERE owner IS NOT NULL AND owner <> $1 AND NOT EXISTS (
    SELECT 1 FROM workers
    WHERE workers.id = jobs.owner AND NOT has_left AND lease_until_us > (SELECT store_now($2))));

-- name: has_requested
-- Whether somebody asks something of a job that nobody holds.
SELECT EXISTS (
  SELECT 1 FROM inbox JOIN jobs ON jobs.key = inbox.job
  WHERE NOT inbox.drained AND jobs.owner IS NULL AND jobs.completed_us IS NULL);

-- name: job_to_hold
-- What a request needs to know of a job; the row is locked until the request is in.
SELECT key, owner, status FROM jobs WHERE id = $1 FOR NO KEY UPDATE;

-- name: inbox_key
-- Whether a key was used for a job, drained or not.
SELECT EXISTS (SELECT 1 FROM inbox WHERE job = $1 AND key = $2);

-- name: inbox_of_id
-- The requests of a job, oldest first.
SELECT key, kind, by, reason, at_us, payload, sequence FROM inbox
WHERE job = (SELECT key FROM jobs WHERE id = $1) AND NOT drained ORDER BY sequence;

-- name: jobs_with_requests
-- Jobs of a worker that somebody asks something of.
SELECT DISTINCT jobs.id FROM inbox JOIN jobs ON jobs.key = inbox.job WHERE NOT inbox.drained AND jobs.owner = $1;

-- name: ids_like
-- Ids that begin or end with some characters.
SELECT id FROM jobs WHERE id >= $1 AND id < $1 || chr(1114111)
UNION SELECT id FROM jobs WHERE right(id, length($1)) = $1 ORDER BY id LIMIT $2;

-- name: threads_abandoned
-- So many threads of jobs that their workers could not stop.
INSERT INTO abandoned (job, worker, threads) SELECT * FROM unnest($1::bigint[], $2::text[], $3::integer[])
ON CONFLICT (job, worker) DO UPDATE SET threads = abandoned.threads + excluded.threads;

-- name: thread_ended
-- A thread of a job that a worker had abandoned has ended: its row counts one less. The row is locked before.
WITH ended AS (
  UPDATE abandoned SET threads = threads - 1
  WHERE job = (SELECT key FROM jobs WHERE id = $1) AND worker = $2 AND threads > 0 RETURNING job
)
UPDATE jobs SET abandoned = jobs.abandoned - 1 FROM ended WHERE jobs.key = ended.job RETURNING jobs.key;

-- name: threads_forgotten
-- The threads of a worker have ended with it.
WITH ended AS (DELETE FROM abandoned WHERE worker = $1 RETURNING job, threads),
ordered AS (SELECT job, threads FROM ended ORDER BY job)
UPDATE jobs SET abandoned = jobs.abandoned - ordered.threads FROM ordered WHERE jobs.key = ordered.job
RETURNING jobs.key;

-- name: worker_put
-- A worker lives until its lease ends; since when, if it did before.
INSERT INTO workers (id, registered_us, heartbeat_us, lease_until_us, host, pid, version, components, max_jobs,
                     resources)
SELECT $1, now, now, now + $2::bigint, $4, $5, $6, $7, $8, $9 FROM store_now($3) AS now
ON CONFLICT (id) DO UPDATE SET
  registered_us = CASE WHEN NOT workers.has_left AND workers.lease_until_us > excluded.heartbeat_us
    THEN workers.registered_us ELSE excluded.registered_us END,
  heartbeat_us = excluded.heartbeat_us, lease_until_us = excluded.lease_until_us, has_left = FALSE,
  host = excluded.host, pid = excluded.pid, version = excluded.version, components = excluded.components,
  max_jobs = excluded.max_jobs, resources = excluded.resources;

-- name: worker_renew
-- Renew a lease that has not ended.
UPDATE workers SET heartbeat_us = now, lease_until_us = now + $2::bigint FROM store_now($3) AS now
WHERE id = $1 AND lease_until_us > now AND NOT has_left RETURNING id;

-- name: workers
-- The workers whose lease has not ended, with how many jobs each holds.
SELECT id, host, pid, version, components, max_jobs, resources, registered_us, heartbeat_us, lease_until_us,
       (SELECT count(*) FROM jobs WHERE owner = workers.id) AS jobs
FROM workers WHERE lease_until_us > (SELECT store_now($1)) AND NOT has_left ORDER BY registered_us, id;

-- name: workers_dead
-- Forget the workers whose lease has ended, and with them the threads that they had abandoned; how many of them had not
-- said that they leave. Whoever is not here is dead as well.
WITH dead AS (DELETE FROM workers WHERE lease_until_us <= store_now($1) RETURNING id, has_left),
ended AS (DELETE FROM abandoned USING dead WHERE abandoned.worker = dead.id RETURNING job, threads),
let_go AS (DELETE FROM grants USING dead WHERE grants.worker = dead.id),
told AS (DELETE FROM shortages USING dead WHERE shortages.worker = dead.id),
ordered AS (SELECT job, sum(threads)::integer AS threads FROM ended GROUP BY job ORDER BY job),
counted AS (UPDATE jobs SET abandoned = jobs.abandoned - ordered.threads FROM ordered WHERE jobs.key = ordered.job)
SELECT count(*) FROM dead WHERE NOT has_left;

-- name: worker_left
-- The worker is gone, but threads of it may run.
UPDATE workers SET has_left = TRUE WHERE id = $1 RETURNING id;

-- name: worker_delete
-- The worker is gone.
DELETE FROM workers WHERE id = $1 RETURNING id;

-- name: deletable
-- A job that may be deleted: final or never started, held by nobody, and no attached child.
SELECT key, id FROM jobs WHERE id = $1 AND owner IS NULL AND parent_id IS NULL
AND status IN ('CREATED', 'COMPLETED', 'FAILED', 'CANCELLED') FOR UPDATE;

-- name: final_before
-- Jobs that became final before a time, and are no attached children, from a place in their order on.
SELECT key, id, completed_us FROM jobs
WHERE completed_us IS NOT NULL AND (completed_us, key) > ($1, $2) AND completed_us < $3 AND parent_id IS NULL
ORDER BY completed_us, key LIMIT $4 FOR UPDATE SKIP LOCKED;

-- name: attached
-- The attached children of jobs, and theirs, with whether each may be deleted.
WITH RECURSIVE tree (root, key, id, may_go) AS (
  SELECT parent_id, key, id, owner IS NULL AND completed_us IS NOT NULL FROM jobs WHERE parent_id = ANY($1::text[])
  UNION ALL
  SELECT tree.root, jobs.key, jobs.id, jobs.owner IS NULL AND jobs.completed_us IS NOT NULL
  FROM jobs JOIN tree ON jobs.parent_id = tree.id
)
SELECT root, key, may_go FROM tree;

-- name: delete
-- With the jobs go their histories, inboxes, snapshots, output, and what is known of their threads.
WITH keys AS (SELECT unnest($1::bigint[]) AS key),
histories AS (DELETE FROM history USING keys WHERE history.job = keys.key),
inboxes AS (DELETE FROM inbox USING keys WHERE inbox.job = keys.key),
folds AS (DELETE FROM snapshots USING keys WHERE snapshots.job = keys.key),
outputs AS (DELETE FROM output USING keys WHERE output.job = keys.key),
threads AS (DELETE FROM abandoned USING keys WHERE abandoned.job = keys.key)
DELETE FROM jobs USING keys WHERE jobs.key = keys.key RETURNING jobs.key;

-- name: output_put
-- Chunks of output; the same one again changes nothing. The job cannot be deleted meanwhile.
WITH owner AS MATERIALIZED (SELECT key FROM jobs WHERE id = $1 FOR KEY SHARE),
kept AS (
  INSERT INTO output (job, path, attempt, first, last, pieces)
  SELECT owner.key, $2, $3, chunk.first, chunk.last, chunk.pieces
  FROM owner, unnest($4::bigint[], $5::bigint[], $6::bytea[])
    WITH ORDINALITY AS chunk (first, last, pieces, place)
  ORDER BY chunk.place
  ON CONFLICT DO NOTHING
)
SELECT key FROM owner;

-- name: output_cut
-- Between the beginning and the end of an attempt nothing is kept.
DELETE FROM output WHERE job = $1 AND path = $2 AND attempt = $3 AND first >= $4 AND last <= $5;

-- name: output_bytes
-- The bytes of a job's output.
SELECT coalesce(sum(last - first), 0)::bigint FROM output WHERE job = $1;

-- name: output_oldest
-- Which attempt of a job wrote first.
SELECT path, attempt FROM output WHERE job = $1 ORDER BY sequence LIMIT 1;

-- name: output_drop
-- Forget the output of an attempt.
DELETE FROM output WHERE job = $1 AND path = $2 AND attempt = $3;

-- name: output_of
-- The output of a job, of a step run and those inside it, or of one attempt, in the order in which it was stored; with
-- each chunk the bytes right before it that are not kept.
SELECT one.sequence, one.path, one.attempt, one.first, one.last,
       one.first - coalesce((SELECT earlier.last FROM output AS earlier
                             WHERE earlier.job = one.job AND earlier.path = one.path AND earlier.attempt = one.attempt
                               AND earlier.first < one.first ORDER BY earlier.first DESC LIMIT 1), 0) AS cut,
       one.pieces
FROM output AS one
WHERE one.job = (SELECT key FROM jobs WHERE id = $1) AND one.sequence > $4
  AND ($3::integer IS NULL OR one.attempt = $3)
  AND ($2::text IS NULL OR one.path = $2 OR left(one.path, length($2) + 1) IN ($2 || '.', $2 || '['))
ORDER BY one.sequence LIMIT $5;

-- name: job_counts
-- How many jobs there are by status, and since when those QUEUED wait; of a bounded number of rows. Those in the queue,
-- those that are set aside and those that are blocked stand in three indexes.
SELECT status, count(*) AS count, min(since) AS since FROM (
  SELECT status, queued_us AS since FROM (
    SELECT status, queued_us FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE AND NOT aside
    UNION ALL
    SELECT status, queued_us FROM jobs WHERE aside AND status = 'QUEUED' AND owner IS NULL AND slot IS NOT FALSE
    UNION ALL
    SELECT status, queued_us FROM jobs
    WHERE limit_key IS NOT NULL AND status = 'QUEUED' AND owner IS NULL AND slot IS FALSE
    LIMIT $1) AS waiting
  UNION ALL
  SELECT status, NULL FROM (SELECT status, owner FROM jobs ORDER BY key DESC LIMIT $1) AS latest
  WHERE status <> 'QUEUED' OR owner IS NOT NULL
) AS counted GROUP BY status;

-- name: leaks_after
-- The oldest leaks first.
SELECT key, job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries FROM leaks
WHERE key > $1 ORDER BY key LIMIT $2;

-- name: leaks_count
-- How many leaks there are.
SELECT count(*) FROM leaks;

-- name: leak_note
-- A leak was tried again.
UPDATE leaks SET error = $2, tries = tries + 1 WHERE key = $1 RETURNING key;

-- name: leak_drop
-- A leak is gone.
DELETE FROM leaks WHERE key = $1 RETURNING key;

-- name: facts_of_jobs
-- How many jobs there are by status, how many events they have, and when the first and the last of them was created.
SELECT status, count(*) AS count, sum(last_event)::bigint AS events, min(created_us) AS oldest_us,
       max(created_us) AS newest_us
FROM jobs GROUP BY status ORDER BY status;

-- name: facts_beside_jobs
-- How many definitions, leaks and live workers there are, and how the queue ages.
SELECT (SELECT count(*) FROM definitions) AS definitions, (SELECT count(*) FROM leaks) AS leaks,
       (SELECT count(*) FROM workers WHERE lease_until_us > (SELECT store_now($1)) AND NOT has_left) AS workers,
       (SELECT value FROM meta WHERE name = 'aging_s') AS aging_s;

-- name: sizes
-- Tables of a schema with their bytes, indexes and all.
SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1 AND relname = ANY($2::text[]) AND relkind = 'r' ORDER BY 2 DESC, 1;

-- name: definition_hashes
-- Hashes of definitions above one, in order.
SELECT hash FROM definitions WHERE hash COLLATE "C" > $1 ORDER BY hash COLLATE "C" LIMIT $2;

-- name: invalid_indexes
-- Indexes of a schema that the server does not use.
SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1 AND NOT (indisvalid AND indisready) ORDER BY relname;

-- name: checksum_failures
-- Pages of this database whose checksum was wrong when they were read; NULL where the server keeps none.
SELECT checksum_failures FROM pg_catalog.pg_stat_database WHERE datname = current_database();

-- name: stray_rows
-- Rows that belong to no job, by table: how many, and the keys of some of the jobs.
WITH stray AS (
  SELECT 'history' AS name, job FROM history UNION ALL SELECT 'inbox', job FROM inbox
  UNION ALL SELECT 'snapshots', job FROM snapshots UNION ALL SELECT 'output', job FROM output
  UNION ALL SELECT 'abandoned', job FROM abandoned
), counted AS (
  SELECT name, job, count(*) AS number FROM stray WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = stray.job)
  GROUP BY name, job
), ranked AS (
  SELECT name, job, number, row_number() OVER (PARTITION BY name ORDER BY job) AS place FROM counted
)
SELECT name, sum(number)::bigint, string_agg('key ' || job, ', ' ORDER BY job) FILTER (WHERE place <= $1)
FROM ranked GROUP BY name ORDER BY name;

-- name: limits_lock
-- From here to the end of the transaction nobody else changes who has a slot of these keys, or waits for one. The locks
-- are advisory, by the hash of a key, all in one order: two keys of one hash share a lock, and no row of a key has to be
-- made, or taken away. The first lock is that of all keys of the schema; $2: take it alone, in the place of very many.
SELECT CASE WHEN is_key OR $2 THEN pg_advisory_xact_lock(number)::text
            ELSE pg_advisory_xact_lock_shared(number)::text END
FROM (
  SELECT FALSE AS is_key, hashtextextended(current_schema()::text COLLATE "C", 1) AS number
  UNION SELECT TRUE, hashtextextended(current_schema()::text || ' ' || key COLLATE "C", 0)
  FROM unnest($1::text[]) AS given (key) WHERE NOT $2
  ORDER BY is_key, number
) AS ordered;

-- name: limits_lock_free
-- The same without waiting: of each key (NULL: of all) whether it is ours.
SELECT key, CASE WHEN key IS NOT NULL OR $2 THEN pg_try_advisory_xact_lock(number)
                 ELSE pg_try_advisory_xact_lock_shared(number) END AS is_ours
FROM (
  SELECT NULL::text AS key, hashtextextended(current_schema()::text COLLATE "C", 1) AS number
  UNION SELECT key, hashtextextended(current_schema()::text || ' ' || key COLLATE "C", 0)
  FROM unnest($1::text[]) AS given (key) WHERE NOT $2
) AS wanted;

-- name: limits_next
-- The jobs whose rows will perhaps change with their keys: the first that wait for a slot ($2: so many of each), and
-- those that have one, of keys ($3) of which newer jobs replace older ones.
SELECT given.limit_key, one.key FROM unnest($1::text[]) AS given (limit_key), LATERAL (
  SELECT key FROM jobs WHERE limit_key = given.limit_key AND status = 'QUEUED' AND slot IS FALSE
  ORDER BY sort_at, key LIMIT $2) AS one
UNION ALL
SELECT given.limit_key, one.key FROM unnest($3::text[]) AS given (limit_key), LATERAL (
  SELECT key FROM jobs WHERE limit_key = given.limit_key AND slot IS TRUE OFFSET 0) AS one;

-- name: limits_of_keys
-- How each key stands: its slots that are held; the first that are blocked, and the last that have a slot and could wait
-- as well ($2: so many of each); the ids of the first holders ($3: so many); and if $4 says so those that have a slot or
-- are blocked, and were not asked to make way (by a request with the key $5).
SELECT given.limit_key,
  (SELECT count(*) FROM jobs WHERE limit_key = given.limit_key AND slot IS TRUE) AS held,
  ARRAY(SELECT ROW(sort_at, key, limit_max) FROM jobs
        WHERE limit_key = given.limit_key AND status = 'QUEUED' AND slot IS FALSE
        ORDER BY sort_at, key LIMIT $2) AS blocked,
  ARRAY(SELECT ROW(sort_at, key, limit_max) FROM jobs
        WHERE limit_key = given.limit_key AND status = 'QUEUED' AND slot IS TRUE AND owner IS NULL
          AND (started_us IS NULL OR limit_hold = 'running') AND limit_overflow <> 'reject'
        ORDER BY sort_at DESC, key DESC LIMIT $2) AS unbegun,
  ARRAY(SELECT id FROM jobs WHERE limit_key = given.limit_key AND slot IS TRUE ORDER BY key LIMIT $3) AS holders,
  ARRAY(SELECT key FROM (
          SELECT key, cancel_requested FROM jobs WHERE limit_key = given.limit_key AND slot IS TRUE
          UNION ALL
          SELECT key, cancel_requested FROM jobs
          WHERE limit_key = given.limit_key AND status = 'QUEUED' AND slot IS FALSE
        ) AS live
        WHERE $4 AND NOT cancel_requested
          AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.job = live.key AND inbox.key = $5)
        ORDER BY key) AS live
FROM unnest($1::text[]) AS given (limit_key);

-- name: slots_take
-- Jobs that have a slot and were not begun are blocked. One that is being claimed at this moment is left alone, and is
-- not among the keys that come back.
WITH free AS MATERIALIZED (
  SELECT one.* FROM unnest($1::bigint[]) AS given (key), LATERAL (
    SELECT key, status, owner, slot FROM jobs WHERE jobs.key = given.key FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE jobs SET slot = FALSE
WHERE key = ANY (ARRAY(SELECT key FROM free WHERE status = 'QUEUED' AND owner IS NULL AND slot)) RETURNING key;

-- name: slots_give
-- Blocked jobs get a slot: from now on claims find them.
WITH blocked AS MATERIALIZED (
  SELECT one.* FROM (SELECT unnest($1::bigint[]) AS key ORDER BY 1) AS given, LATERAL (
    SELECT key, status, slot FROM jobs WHERE jobs.key = given.key FOR NO KEY UPDATE) AS one
)
UPDATE jobs SET slot = TRUE
WHERE key = ANY (ARRAY(SELECT key FROM blocked WHERE status = 'QUEUED' AND NOT slot)) RETURNING key;

-- name: replaced_put
-- The request by which jobs make way for a newer one; a job is asked once. Their rows are locked, so that none of them
-- ends without having seen it.
WITH asked AS MATERIALIZED (
  SELECT one.key, given.reason FROM unnest($1::bigint[], $2::text[]) AS given (key, reason), LATERAL (
    SELECT key FROM jobs WHERE jobs.key = given.key FOR NO KEY UPDATE) AS one
)
INSERT INTO inbox (job, key, kind, payload, by, reason, at_us)
SELECT asked.key, $3, 'cancel', $4, $5, asked.reason, store_now($6) FROM asked ON CONFLICT (job, key) DO NOTHING;

-- name: limit_of
-- How a job stands with its limit, and the oldest of those who have a slot of its key ($2: so many).
SELECT limit_key, limit_max, limit_hold, limit_overflow, slot,
       ARRAY(SELECT id FROM jobs AS holder WHERE holder.limit_key = jobs.limit_key AND holder.slot IS TRUE
             ORDER BY holder.key LIMIT $2) AS holders
FROM jobs WHERE id = $1 AND limit_key IS NOT NULL;

-- name: family
-- A job and its attached children, and theirs, parents first, with their requests, the keys of those that were carried
-- out, and their leaks: all as it is at one moment.
WITH RECURSIVE tree (key, id, level) AS (
  SELECT key, id, 0 FROM jobs WHERE id = $1
  UNION ALL
  SELECT jobs.key, jobs.id, tree.level + 1 FROM jobs JOIN tree ON jobs.parent_id = tree.id
)
SELECT jobs.*,
       ARRAY(SELECT ROW(inbox.key, kind, by, reason, at_us, payload, sequence) FROM inbox
             WHERE inbox.job = jobs.key AND NOT drained ORDER BY sequence) AS requests,
       ARRAY(SELECT inbox.key FROM inbox WHERE inbox.job = jobs.key AND drained ORDER BY sequence) AS drained,
       ARRAY(SELECT ROW(leaks.key, job_id, resource, leaks.workflow_id, path, name, release, inputs, error, leaked_us,
                        tries) FROM leaks WHERE leaks.job_id = jobs.id ORDER BY leaks.key) AS leaks
FROM tree JOIN jobs ON jobs.key = tree.key ORDER BY tree.level, tree.key;

-- name: definitions_put
-- Documents are stored once per content.
INSERT INTO definitions (hash, workflow_id, version, document)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) ON CONFLICT (hash) DO NOTHING;

-- name: jobs_restore
-- Jobs that come from another store. One whose id or idempotency key is there already does not come back.
INSERT INTO jobs (id, workflow_id, version, definition, status, rank, sort_at, owner, epoch, last_event, created_us,
                  queued_us, queued_total_us, started_us, completed_us, due_us, progress, current_step, error_type,
                  error_message, pause_requested, cancel_requested, idempotency_key, body_hash, parent_id,
                  origin_id, requires, deaths, spending, error_folded, tags, limit_key, limit_max, limit_hold,
                  limit_overflow, slot)
SELECT id, workflow_id, version, definition, status, rank, sort_at, owner, epoch, last_event, created_us, queued_us,
       queued_total_us, started_us, completed_us, due_us, progress, current_step, error_type, error_message,
       pause_requested, cancel_requested, idempotency_key, body_hash, parent_id, origin_id, requires, deaths, spending,
       error_folded, tags::jsonb, limit_key, limit_max, limit_hold, limit_overflow, slot
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::bigint[], $8::text[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
            $16::bigint[], $17::float8[], $18::text[], $19::text[], $20::text[], $21::boolean[], $22::boolean[],
            $23::text[], $24::text[], $25::text[], $26::text[], $27::text[], $28::integer[], $29::text[],
            $30::text[], $31::text[], $32::text[], $33::integer[], $34::text[], $35::text[], $36::boolean[])
  WITH ORDINALITY
  AS given (id, workflow_id, version, definition, status, rank, sort_at, owner, epoch, last_event, created_us,
            queued_us, queued_total_us, started_us, completed_us, due_us, progress, current_step, error_type,
            error_message, pause_requested, cancel_requested, idempotency_key, body_hash, parent_id, origin_id,
            requires, deaths, spending, error_folded, tags, limit_key, limit_max, limit_hold, limit_overflow, slot, place)
ORDER BY place ON CONFLICT DO NOTHING RETURNING id, key;

-- name: histories_restore
-- Their histories,
INSERT INTO history (job, first, last, events)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]);

-- name: inboxes_restore
-- the requests to them, those of each job in order, also the keys of those that were carried out,
INSERT INTO inbox (job, key, kind, payload, by, reason, at_us, drained)
SELECT job, key, kind, payload, by, reason, at_us, drained
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bigint[], $8::boolean[])
  WITH ORDINALITY AS given (job, key, kind, payload, by, reason, at_us, drained, place)
ORDER BY place ON CONFLICT (job, key) DO NOTHING;

-- name: leaks_restore
-- and their leaks; one that has stayed here since the job was deleted stays as it is.
INSERT INTO leaks (job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries)
SELECT job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[],
            $9::bigint[], $10::integer[])
  WITH ORDINALITY AS given (job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries, place)
ORDER BY place ON CONFLICT (job_id, resource) DO NOTHING;

-- name: pause_put
-- A component or a workflow is paused, if it is not already and there is room for one more.
INSERT INTO pauses (kind, name, by, reason, at_us) SELECT $1, $2, $3, $4, store_now($5)
ON CONFLICT (kind, name) DO NOTHING RETURNING kind;

-- name: pause_of
-- Whether it is paused, and how many are.
SELECT count(*) FILTER (WHERE kind = $1 AND name = $2) AS is_paused, count(*) AS count FROM pauses;

-- name: pause_drop
-- It is paused no more.
DELETE FROM pauses WHERE kind = $1 AND name = $2 RETURNING kind;

-- name: pauses
-- What is paused, the oldest first.
SELECT kind, name, by, reason, at_us FROM pauses ORDER BY at_us, kind, name;

-- name: grants_of_keys
-- What workers hold and want of some keys: the live ones, and the worker that it is about.
SELECT key, worker, held, most, per_us, waits FROM grants
WHERE key = ANY($1::text[]) AND (worker = $2 OR EXISTS (
  SELECT 1 FROM workers WHERE workers.id = grants.worker AND NOT has_left AND lease_until_us > store_now($3)));

-- name: buckets_of_keys
-- The buckets of some keys that are perhaps not full.
SELECT key, full_us FROM buckets WHERE key = ANY($1::text[]);

-- name: grants_put
-- What a worker holds and wants of some keys from now on.
INSERT INTO grants (key, worker, held, most, per_us, waits)
SELECT key, $1, held, most, per_us, waits
FROM unnest($2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::bytea[])
  AS given (key, held, most, per_us, waits)
ON CONFLICT (key, worker) DO UPDATE SET held = excluded.held, most = excluded.most, per_us = excluded.per_us,
                                        waits = excluded.waits;

-- name: grants_drop
-- It holds and wants nothing of some keys.
DELETE FROM grants WHERE worker = $1 AND key = ANY($2::text[]);

-- name: grants_forgotten
-- A worker is gone.
DELETE FROM grants WHERE worker = $1;

-- name: shortages_put
-- What steps of a worker's jobs are short of.
INSERT INTO shortages (worker, told) VALUES ($1, $2) ON CONFLICT (worker) DO UPDATE SET told = excluded.told;

-- name: shortages_of
-- What the worker that holds a job has told of all its jobs.
SELECT told FROM shortages JOIN jobs ON jobs.owner = shortages.worker WHERE jobs.id = $1;

-- name: shortages_forgotten
-- A worker is gone.
DELETE FROM shortages WHERE worker = $1;

-- name: buckets_put
-- Tokens were taken.
INSERT INTO buckets (key, full_us) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT (key) DO UPDATE SET full_us = excluded.full_us;

-- name: buckets_swept
-- Full buckets are as good as none. One that somebody else is writing is not full any more.
DELETE FROM buckets WHERE key IN (
  SELECT key FROM buckets WHERE full_us <= $1 ORDER BY full_us LIMIT $2 FOR UPDATE SKIP LOCKED);

-- name: grant_keys_of_owner
-- Who holds a job, and the keys of which that worker holds or wants something.
SELECT owner, ARRAY(SELECT key FROM grants WHERE grants.worker = jobs.owner) AS keys FROM jobs WHERE id = $1;
