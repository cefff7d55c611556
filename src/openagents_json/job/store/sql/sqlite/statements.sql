-- Every statement of the SQLite store, by name, with one sentence each. A statement that changes a status or a lease
-- names what it expects.

-- name: meta_get
-- A setting that belongs to the store.
SELECT value FROM meta WHERE name = ?;

-- name: meta_put
-- Set it.
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: definition_put
-- A document is stored once per content.
INSERT INTO definitions (hash, workflow_id, version, document) VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING;

-- name: definition_get
-- The document of a content hash.
SELECT document FROM definitions WHERE hash = ?;

-- name: next_key
-- The key of the next job; stable within the transaction, which is the only writer. Never one that was used before: an
-- old claim must not fit a new job.
SELECT max(coalesce((SELECT max(key) FROM jobs), 0), coalesce((SELECT value FROM meta WHERE name = 'last_key'), 0)) + 1;

-- name: key_used
-- Remember the key of a job that is deleted.
INSERT INTO meta (name, value) VALUES ('last_key', ?)
ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value);

-- name: job_put
-- Accept a job; a repeated create with the same id changes nothing.
INSERT INTO jobs (key, id, workflow_id, version, definition, status, rank, sort_at, last_event, created_us, queued_us,
                  due_us, progress, idempotency_key, body_hash, tags, parent_id, origin_id, queued_total_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: job_with_idempotency_key
-- The job that used this key before.
SELECT id, body_hash FROM jobs WHERE workflow_id = ? AND idempotency_key = ?;

-- name: history_put
-- Append the events of a commit.
INSERT INTO history (job, first, last, events) VALUES (?, ?, ?, ?);

-- name: history_after
-- The rows that hold events above a number, in order.
SELECT events FROM history WHERE job = ? AND last > ? ORDER BY first;

-- name: history_after_by_id
-- The same for readers that know the id only, a bounded number of rows.
SELECT events FROM history
WHERE job = (SELECT key FROM jobs WHERE id = ?) AND first >= ? AND last > ? ORDER BY first LIMIT ?;

-- name: history_row_of
-- Where the row begins that holds a given event.
SELECT max(first) FROM history WHERE job = (SELECT key FROM jobs WHERE id = ?) AND first <= ?;

-- name: claimable
-- The queue: jobs that nobody holds, by virtual arrival time.
SELECT key FROM jobs WHERE status = 'QUEUED' AND owner IS NULL ORDER BY sort_at, key LIMIT ?;

-- name: claimable_without
-- The same, but for jobs of some definitions (a JSON array of their hashes).
SELECT key FROM jobs WHERE status = 'QUEUED' AND owner IS NULL
AND definition NOT IN (SELECT value FROM json_each(:without)) ORDER BY sort_at, key LIMIT :limit;

-- name: due
-- Jobs that nobody holds and whose timer is due.
SELECT key FROM jobs WHERE due_us IS NOT NULL AND due_us <= ? AND owner IS NULL ORDER BY due_us LIMIT ?;

-- name: next_due
-- The earliest timer of a job that nobody holds.
SELECT min(due_us) FROM jobs WHERE due_us IS NOT NULL AND owner IS NULL;

-- name: owners
-- Everybody who holds a lease.
SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL;

-- name: owned_by
-- The jobs that an owner holds.
SELECT key FROM jobs WHERE owner = ? LIMIT ?;

-- name: lease
-- Take a lease: only if the owner is still who was seen.
UPDATE jobs SET owner = :worker, epoch = epoch + 1 WHERE key = :key AND owner IS :expected
RETURNING id, epoch, definition, last_event, snapshot_event;

-- name: release
-- Give a lease back with nothing recorded.
UPDATE jobs SET owner = NULL WHERE key = ? AND owner = ? AND epoch = ? AND status <> 'RUNNING';

-- name: commit_running
-- A job goes on: nothing that an index holds changes.
UPDATE jobs SET last_event = ?, rank = ?, progress = ?, current_step = ?, error_type = ?, error_message = ?,
                pause_requested = ?, cancel_requested = ?, abandoned = abandoned + ?
WHERE key = ? AND owner = ? AND epoch = ? AND last_event = ? AND status = 'RUNNING';

-- name: commit_starting
-- A job begins to run: the wait in the queue is added up, which one that was taken over at once did not have.
UPDATE jobs SET last_event = ?1, rank = ?2, progress = ?3, current_step = ?4, error_type = ?5, error_message = ?6,
                pause_requested = ?7, cancel_requested = ?8, abandoned = abandoned + ?9,
                queued_total_us = queued_total_us + CASE WHEN status = 'QUEUED' THEN ?11 - queued_us ELSE 0 END,
                queued_us = CASE WHEN status = 'QUEUED' THEN queued_us ELSE ?11 END,
                status = 'RUNNING', started_us = ?10, due_us = NULL
WHERE key = ?12 AND owner = ?13 AND epoch = ?14 AND last_event = ?15 AND status = ?16;

-- name: commit_settled
-- A job stops running (or changes while nobody runs it): the lease ends. A final row only with an empty inbox.
UPDATE jobs SET last_event = :last_event, rank = :rank, progress = :progress, current_step = :current_step,
                error_type = :error_type, error_message = :error_message,
                pause_requested = :pause_requested, cancel_requested = :cancel_requested,
                abandoned = abandoned + :abandoned,
                queued_total_us = queued_total_us
                  + CASE WHEN status = 'QUEUED' AND :status <> 'QUEUED' THEN :now - queued_us ELSE 0 END,
                queued_us = CASE WHEN status <> 'QUEUED' AND :status = 'QUEUED' THEN :now ELSE queued_us END,
                sort_at = CASE WHEN :status = 'QUEUED'
                  THEN (CASE WHEN status = 'QUEUED' THEN queued_us ELSE :now END) - queued_total_us - :rank * :aging_us
                  ELSE sort_at END,
                status = :status, started_us = :started_us, completed_us = :completed_us, due_us = :due_us,
                owner = NULL
WHERE key = :key AND owner = :owner AND epoch = :epoch AND last_event = :expected AND status = :previous_status
  AND (:completed_us IS NULL OR NOT EXISTS (SELECT 1 FROM inbox WHERE job = :key AND drained = 0));

-- name: lease_of
-- What a refused commit met.
SELECT owner, epoch, last_event, status FROM jobs WHERE key = ?;

-- name: snapshot_put
-- Keep the latest snapshot of a job.
INSERT INTO snapshots (job, fold_version, last_event, state) VALUES (?, ?, ?, ?)
ON CONFLICT (job) DO UPDATE SET fold_version = excluded.fold_version, last_event = excluded.last_event,
                                state = excluded.state;

-- name: snapshot_mark
-- Say in the row that there is one.
UPDATE jobs SET snapshot_event = ? WHERE key = ?;

-- name: snapshot_get
-- The snapshot of a job, if it was made by this fold.
SELECT last_event, state FROM snapshots WHERE job = ? AND fold_version = ?;

-- name: inbox_put
-- A request; the same key a second time changes nothing.
INSERT INTO inbox (job, key, kind, payload, by, reason, at_us) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job, key) DO NOTHING;

-- name: inbox_key
-- Whether a key was used for a job, drained or not.
SELECT 1 FROM inbox WHERE job = ? AND key = ?;

-- name: inbox_of
-- The requests of a job, oldest first.
SELECT key, kind, by, reason, at_us, payload, sequence FROM inbox WHERE job = ? AND drained = 0 ORDER BY sequence;

-- name: inbox_of_id
-- The same for readers that know the id only.
SELECT key, kind, by, reason, at_us, payload, sequence FROM inbox
WHERE job = (SELECT key FROM jobs WHERE id = ?) AND drained = 0 ORDER BY sequence;

-- name: inbox_drained
-- A request has become an event; only its key stays.
UPDATE inbox SET drained = 1, payload = x'' WHERE sequence = ? AND drained = 0;

-- name: inbox_is_used
-- Whether any request is waiting at all.
SELECT EXISTS (SELECT 1 FROM inbox WHERE drained = 0);

-- name: jobs_with_requests
-- Jobs of a worker that somebody asks something of.
SELECT DISTINCT jobs.id FROM inbox JOIN jobs ON jobs.key = inbox.job WHERE inbox.drained = 0 AND jobs.owner = ?;

-- name: definition_of
-- Which definition a job was made from.
SELECT definition FROM jobs WHERE id = ?;

-- name: job_to_hold
-- What a request needs to know of the job.
SELECT key, owner, status FROM jobs WHERE id = ?;

-- name: job_by_id
-- The row of a job.
SELECT * FROM jobs WHERE id = ?;

-- name: ids_like
-- Ids that begin or end with some characters.
SELECT id FROM jobs WHERE id >= :text AND id < :text || char(0x10FFFF)
UNION SELECT id FROM jobs WHERE substr(id, -length(:text)) = :text ORDER BY id LIMIT :limit;

-- name: thread_ended
-- An abandoned thread has ended.
UPDATE jobs SET abandoned = abandoned - 1 WHERE id = ? AND abandoned > 0;

-- name: worker_put
-- A worker lives until its lease ends.
INSERT INTO workers (id, registered_us, lease_until_us) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET lease_until_us = excluded.lease_until_us;

-- name: worker_renew
-- Renew a lease that has not ended.
UPDATE workers SET lease_until_us = ? WHERE id = ? AND lease_until_us > ?;

-- name: workers_dead
-- Forget the workers whose lease has ended: whoever is not here is dead as well.
DELETE FROM workers WHERE lease_until_us <= ?;

-- name: worker_lease
-- When a worker's lease ends.
SELECT lease_until_us FROM workers WHERE id = ?;

-- name: worker_delete
-- The worker is gone.
DELETE FROM workers WHERE id = ?;

-- name: deletable
-- A job that may be deleted: final or never started, held by nobody, and no attached child.
SELECT key, id FROM jobs WHERE id = ? AND owner IS NULL AND parent_id IS NULL
AND status IN ('CREATED', 'COMPLETED', 'FAILED', 'CANCELLED');

-- name: final_before
-- Jobs that became final before a time, and are no attached children.
SELECT key, id FROM jobs WHERE completed_us IS NOT NULL AND parent_id IS NULL AND completed_us < ?
ORDER BY completed_us LIMIT ?;

-- name: attached
-- The attached children of a job, and theirs, with whether each may be deleted.
WITH RECURSIVE tree (key, id, may_go) AS (
  SELECT key, id, owner IS NULL AND completed_us IS NOT NULL FROM jobs WHERE parent_id = ?
  UNION ALL
  SELECT jobs.key, jobs.id, jobs.owner IS NULL AND jobs.completed_us IS NOT NULL
  FROM jobs JOIN tree ON jobs.parent_id = tree.id
)
SELECT key, may_go FROM tree;

-- name: queue_time_of
-- How long a job has waited in the queue: its children inherit it.
SELECT queued_total_us FROM jobs WHERE id = ?;

-- name: requested
-- Jobs that nobody holds and that somebody asks something of.
SELECT DISTINCT jobs.key FROM inbox JOIN jobs ON jobs.key = inbox.job
WHERE inbox.drained = 0 AND jobs.owner IS NULL AND jobs.completed_us IS NULL LIMIT ?;

-- name: delete_history
-- With the job goes its history,
DELETE FROM history WHERE job = ?;

-- name: delete_inbox
-- its inbox,
DELETE FROM inbox WHERE job = ?;

-- name: delete_snapshot
-- its snapshot,
DELETE FROM snapshots WHERE job = ?;

-- name: delete_output
-- its output,
DELETE FROM output WHERE job = ?;

-- name: delete_job
-- and its row.
DELETE FROM jobs WHERE key = ?;

-- name: output_put
-- A chunk of output; the same one again changes nothing.
INSERT INTO output (job, path, attempt, first, last, pieces) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: output_cut
-- Between the beginning and the end of an attempt nothing is kept.
DELETE FROM output WHERE job = ? AND path = ? AND attempt = ? AND first >= ? AND last <= ?;

-- name: output_bytes
-- The bytes of a job's output.
SELECT coalesce(sum(last - first), 0) FROM output WHERE job = ?;

-- name: output_oldest
-- Which attempt of a job wrote first.
SELECT path, attempt FROM output WHERE job = ? ORDER BY sequence LIMIT 1;

-- name: output_drop
-- Forget the output of an attempt.
DELETE FROM output WHERE job = ? AND path = ? AND attempt = ?;

-- name: output_of
-- The output of a job, of a step run and those inside it, or of one attempt, in the order in which it was stored; with
-- each chunk the bytes right before it that are not kept.
SELECT one.sequence, one.path, one.attempt, one.first, one.last,
       one.first - coalesce((SELECT earlier.last FROM output AS earlier
                             WHERE earlier.job = one.job AND earlier.path = one.path AND earlier.attempt = one.attempt
                               AND earlier.first < one.first ORDER BY earlier.first DESC LIMIT 1), 0) AS cut,
       one.pieces
FROM output AS one
WHERE one.job = (SELECT key FROM jobs WHERE id = :id) AND one.sequence > :after
  AND (:attempt IS NULL OR one.attempt = :attempt)
  AND (:path IS NULL OR one.path = :path OR substr(one.path, 1, length(:path) + 1) IN (:path || '.', :path || '['))
ORDER BY one.sequence LIMIT :limit;

-- name: job_counts
-- How many jobs there are by status, and since when those QUEUED wait; of a bounded number of rows.
SELECT status, count(*), min(since) FROM (
  SELECT status, queued_us AS since FROM (
    SELECT status, queued_us FROM jobs WHERE status = 'QUEUED' AND owner IS NULL LIMIT :limit)
  UNION ALL
  SELECT status, NULL FROM (SELECT status, owner FROM jobs ORDER BY key DESC LIMIT :limit)
  WHERE status <> 'QUEUED' OR owner IS NOT NULL
) GROUP BY status;

-- name: leak_put
-- A resource that a job gives up.
INSERT INTO leaks (resource, path, name, release, inputs, error, leaked_us, job_id, workflow_id)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, id, workflow_id FROM jobs WHERE key = ?8;

-- name: leaks_after
-- The oldest leaks first.
SELECT key, job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries FROM leaks
WHERE key > ? ORDER BY key LIMIT ?;

-- name: leaks_count
-- How many leaks there are.
SELECT COUNT(*) FROM leaks;

-- name: leak_note
-- A leak was tried again.
UPDATE leaks SET error = ?, tries = tries + 1 WHERE key = ?;

-- name: leak_drop
-- A leak is gone.
DELETE FROM leaks WHERE key = ?;
