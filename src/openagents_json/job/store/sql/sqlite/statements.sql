-- Every statement of the SQLite store, by name, with one sentence each. A statement that changes a status or a lease
-- names what it expects.

-- name: meta_get
-- A setting that belongs to the store.
SELECT value FROM meta WHERE name = ?;

-- name: meta_put
-- Set it.
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: aging_set
-- A rank is worth so many microseconds more than before: every job in the queue gets its new place.
UPDATE jobs SET sort_at = sort_at - rank * ? WHERE status = 'QUEUED';

-- name: share_lines
-- What lines follow from: the first tag in the queue, and how far the farthest key is;
SELECT (SELECT share_tag_us FROM jobs WHERE status = 'QUEUED' AND share_tag_us IS NOT NULL
        ORDER BY share_tag_us LIMIT 1),
       (SELECT max(finish_us) FROM shares WHERE finish_us IS NOT NULL);

-- name: share_running
-- and the last tag of a rank that runs.
SELECT (SELECT share_tag_us FROM jobs WHERE status = 'RUNNING' AND share_tag_us IS NOT NULL AND rank = ?
        ORDER BY share_tag_us DESC LIMIT 1);

-- name: share_get
-- The account of a key.
SELECT weight, finish_us FROM shares WHERE key = ?;

-- name: share_put
-- Write it.
INSERT INTO shares (key, weight, finish_us) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET weight = excluded.weight, finish_us = excluded.finish_us;

-- name: shares_count
-- How many accounts there are.
SELECT count(*) FROM shares;

-- name: shares_forget
-- Those go that say nothing which a new one would not say.
DELETE FROM shares WHERE weight = 1.0 AND finish_us <= coalesce(
  (SELECT min(share_tag_us) FROM jobs WHERE status = 'QUEUED' AND share_tag_us IS NOT NULL),
  max(:now, (SELECT max(finish_us) FROM shares WHERE finish_us IS NOT NULL)), :now);

-- name: shares_after
-- Accounts by key.
SELECT key, weight, finish_us FROM shares WHERE key > ? ORDER BY key LIMIT ?;

-- name: durations_of
-- What was learned of a workflow.
SELECT workflow_id, step_id, mean_us, runs, learned_us FROM durations WHERE workflow_id = ?;

-- name: duration_get
-- Of one step, or of the whole job.
SELECT workflow_id, step_id, mean_us, runs, learned_us FROM durations WHERE workflow_id = ? AND step_id = ?;

-- name: duration_put
-- It was learned.
INSERT INTO durations (workflow_id, step_id, mean_us, runs, learned_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (workflow_id, step_id) DO UPDATE SET mean_us = excluded.mean_us, runs = excluded.runs,
                                                 learned_us = excluded.learned_us;

-- name: durations_forget
-- Only so many are kept: those that were learned last.
DELETE FROM durations WHERE (workflow_id, step_id) IN (
  SELECT workflow_id, step_id FROM durations ORDER BY learned_us DESC, workflow_id, step_id LIMIT -1 OFFSET ?);

-- name: share_of_job
-- What the place of a job in the queue follows from.
SELECT share_tag_us, share_charged_us, queued_us, queued_total_us FROM jobs WHERE key = ?;

-- name: tag_clear
-- A job comes back into the queue: where it stood says nothing of the line at which it does.
UPDATE jobs SET share_tag_us = NULL WHERE key = ? AND share_tag_us IS NOT NULL;

-- name: place_set
-- The place of a job that was just written, if it is in the queue, with its share and deadline.
UPDATE jobs SET sort_at = coalesce(?, sort_at), share_key = ?, share_expected_us = ?, share_used_us = ?,
                share_charged_us = ?, share_tag_us = ?, deadline_us = ?, start_by_us = ?, at_risk = ?,
                risk_us = ?
WHERE key = ?;

-- name: risk_set
-- A running job is at risk to miss its deadline, or not.
UPDATE jobs SET at_risk = ?1 WHERE key = ?2 AND at_risk <> ?1;

-- name: queued_limits
-- The keys of limits that jobs in the queue have.
SELECT DISTINCT limit_key FROM jobs WHERE limit_key IS NOT NULL AND status = 'QUEUED';

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
                  due_us, progress, idempotency_key, body_hash, tags, parent_id, origin_id, queued_total_us, requires,
                  owner, epoch, started_us, current_step, spending, limit_key, limit_max, limit_hold, limit_overflow,
                  slot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING;

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

-- name: requirements
-- The different requirements of the jobs in the queue, from index entry to index entry.
WITH RECURSIVE sets (requires) AS (
  SELECT * FROM (SELECT requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0
                 AND (deaths >= 2) = :suspects ORDER BY requires LIMIT 1)
  UNION ALL
  SELECT (SELECT requires FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0
          AND (deaths >= 2) = :suspects AND requires > sets.requires ORDER BY requires LIMIT 1) FROM sets WHERE requires IS NOT NULL
)
SELECT requires FROM sets WHERE requires IS NOT NULL LIMIT :limit;

-- name: claimable
-- The queue of jobs with some requirements that nobody holds, by virtual arrival time, without those that are blocked
-- or set aside.
SELECT sort_at, key FROM jobs
WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0 AND (deaths >= 2) = :suspects
  AND requires = :requires
ORDER BY sort_at, key LIMIT :limit;

-- name: waiting
-- What a job in the queue says of itself there, and whether its workflow is paused.
SELECT id, rank, sort_at, room_by,
       NOT cancel_requested AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow')
FROM jobs WHERE key = ?;

-- name: queue_place
-- Where a job stands in the queue, if claims find it.
SELECT key, rank, sort_at, queued_us, queued_total_us, room_by FROM jobs
WHERE id = ? AND status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0 AND deaths < 2
  AND NOT (NOT cancel_requested AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow'));

-- name: queue_ahead
-- How many with some requirements stand before it.
SELECT count(*) FROM (
  SELECT 1 FROM jobs
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0 AND (deaths >= 2) = 0
    AND requires = :requires AND (sort_at, key) < (:sort_at, :key) LIMIT :limit);

-- name: room_of
-- Which worker makes room for a job that waits in the queue.
SELECT room_by FROM jobs WHERE id = ? AND status = 'QUEUED' AND owner IS NULL;

-- name: room_make
-- This one does.
UPDATE jobs SET room_by = ? WHERE id = ? AND status = 'QUEUED' AND owner IS NULL;
-- name: has_paused_workflow
-- Whether any workflow is paused.
SELECT 1 FROM pauses WHERE kind = 'workflow' LIMIT 1;

-- name: claimable_of_paused
-- Of the first ones in that queue those whose workflow is paused, unless they are to be cancelled.
SELECT key FROM (
  SELECT key, workflow_id, cancel_requested FROM jobs
  WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0 AND (deaths >= 2) = :suspects
    AND requires = :requires
  ORDER BY sort_at, key LIMIT :limit)
WHERE cancel_requested = 0 AND workflow_id IN (SELECT name FROM pauses WHERE kind = 'workflow');

-- name: set_aside
-- No claim meets these jobs until their workflow goes on, or something is recorded of them.
UPDATE jobs SET aside = 1 WHERE key IN (VALUES (?)) AND aside = 0;

-- name: put_back
-- The workflow goes on.
UPDATE jobs SET aside = 0 WHERE workflow_id = ? AND aside = 1;

-- name: due
-- Jobs that nobody holds and whose timer is due,
SELECT due_us, key FROM jobs WHERE due_us IS NOT NULL AND due_us <= :now AND owner IS NULL ORDER BY due_us LIMIT :limit;

-- name: at_risk
-- and the others whose deadline is at risk.
SELECT risk_us, key FROM jobs
WHERE risk_us IS NOT NULL AND risk_us <= :now AND owner IS NULL AND (due_us IS NULL OR due_us > :now)
ORDER BY risk_us LIMIT :limit;

-- name: next_due
-- When the first of them will be.
SELECT min(at_us) FROM (
  SELECT min(due_us) AS at_us FROM jobs WHERE due_us IS NOT NULL AND owner IS NULL
  UNION ALL SELECT min(risk_us) FROM jobs WHERE risk_us IS NOT NULL AND owner IS NULL);

-- name: owners
-- Everybody who holds a lease.
SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL;

-- name: owned_by
-- The jobs that an owner holds.
SELECT key FROM jobs WHERE owner = ? LIMIT ?;

-- name: leases_of
-- The leases that an owner has.
SELECT id, epoch FROM jobs WHERE owner = ?;

-- name: held
-- A job, if somebody holds it in an epoch.
SELECT key FROM jobs WHERE id = ? AND owner = ? AND epoch = ?;

-- name: lease
-- Take leases: only if the owner is still who was seen. Columns: key, new owner, expected owner.
UPDATE jobs SET owner = column2, epoch = epoch + 1 FROM (VALUES (?, ?, ?))
WHERE jobs.key = column1 AND owner IS column3;

-- name: leased
-- Jobs with their requests, and with the whole history of those that have no snapshot, as one JSON array in no order.
-- What is JSON already is put together as text: nothing of it is read here.
SELECT CAST('[' || group_concat(
  '[' || json_array(key, id, epoch, definition, last_event, snapshot_event,
                    limit_key, limit_max, limit_hold, limit_overflow, slot,
                    CASE WHEN status = 'QUEUED' THEN sort_at END, rank, queued_total_us, share_tag_us,
                    started_us IS NOT NULL)
  || ',[' || coalesce((
    SELECT group_concat(
      '[' || json_array(inbox.key, kind, by, reason, at_us, sequence) || ',' || CAST(payload AS TEXT) || ']')
    FROM inbox WHERE job = jobs.key AND drained = 0), '')
  || '],' || CASE WHEN snapshot_event = 0 THEN
    '[' || coalesce((SELECT group_concat(CAST(events AS TEXT)) FROM history WHERE job = jobs.key), '') || ']'
    ELSE 'null' END
  || ']') || ']' AS BLOB)
FROM jobs WHERE key IN (VALUES (?));

-- name: release
-- Give a lease back with nothing recorded.
UPDATE jobs SET owner = NULL WHERE key = ? AND owner = ? AND epoch = ? AND status <> 'RUNNING';

-- name: commit_running
-- Jobs go on: nothing that an index holds changes. Columns: key, owner, epoch, expected last event; then what is set.
UPDATE jobs SET last_event = column5, rank = column6, progress = column7, current_step = column8,
                error_type = column9, error_message = column10, pause_requested = column11,
                cancel_requested = column12, abandoned = abandoned + column13, spending = column14
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
WHERE jobs.key = column1 AND owner = column2 AND epoch = column3 AND last_event = column4 AND status = 'RUNNING';

-- name: commit_starting
-- Jobs begin to run: the wait in the queue is added up, which one that was taken over at once did not have. Columns as
-- above, then: status before, started_us, now.
UPDATE jobs SET last_event = column5, rank = column6, progress = column7, current_step = column8,
                error_type = column9, error_message = column10, pause_requested = column11,
                cancel_requested = column12, abandoned = abandoned + column13, spending = column14,
                queued_total_us = queued_total_us + CASE WHEN status = 'QUEUED' THEN column17 - queued_us ELSE 0 END,
                queued_us = CASE WHEN status = 'QUEUED' THEN queued_us ELSE column17 END,
                status = 'RUNNING', started_us = column16, due_us = NULL
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
WHERE jobs.key = column1 AND owner = column2 AND epoch = column3 AND last_event = column4 AND status = column15;

-- name: commit_settled
-- Jobs stop running (or change while nobody runs them): the lease ends. A final row only with an empty inbox. Columns as
-- above, then: status before, started_us, now, status, completed_us, due_us, microseconds that a rank is worth,
-- requires, deaths. A slot of a limit is kept as `limits.keeps_slot` says.
UPDATE jobs SET last_event = column5, rank = column6, progress = column7, current_step = column8,
                error_type = column9, error_message = column10, pause_requested = column11,
                cancel_requested = column12, abandoned = abandoned + column13, spending = column14,
                requires = column22, deaths = column23,
                queued_total_us = queued_total_us
                  + CASE WHEN status = 'QUEUED' AND column18 <> 'QUEUED' THEN column17 - queued_us ELSE 0 END,
                queued_us = CASE WHEN status <> 'QUEUED' AND column18 = 'QUEUED' THEN column17 ELSE queued_us END,
                sort_at = CASE WHEN column18 = 'QUEUED'
                  THEN (CASE WHEN status = 'QUEUED' THEN queued_us ELSE column17 END)
                    - queued_total_us - column6 * column21 - (column16 IS NOT NULL)
                  ELSE sort_at END,
                slot = CASE WHEN column19 IS NOT NULL THEN min(slot, 0)
                  WHEN status = 'QUEUED' AND column18 = 'QUEUED' THEN slot
                  WHEN limit_hold = 'running' OR column16 IS NULL THEN min(slot, 0) ELSE slot END,
                status = column18, started_us = column16, completed_us = column19, due_us = column20, owner = NULL,
                room_by = CASE WHEN status = 'QUEUED' AND column18 = 'QUEUED' THEN room_by END,
                aside = 0
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
WHERE jobs.key = column1 AND owner = column2 AND epoch = column3 AND last_event = column4 AND status = column15
  AND (column19 IS NULL OR NOT EXISTS (SELECT 1 FROM inbox WHERE job = jobs.key AND drained = 0));

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
-- Requests have become events; only their keys stay.
UPDATE inbox SET drained = 1, payload = x'' WHERE sequence IN (VALUES (?)) AND drained = 0;

-- name: jobs_with_requests
-- Jobs of a worker that somebody asks something of.
SELECT DISTINCT jobs.id FROM inbox JOIN jobs ON jobs.key = inbox.job WHERE inbox.drained = 0 AND jobs.owner = ?;

-- name: definition_of
-- Which definition a job was made from.
SELECT definition FROM jobs WHERE id = ?;

-- name: job_to_hold
-- What a request needs to know of the job.
SELECT key, owner, status FROM jobs WHERE id = ?;

-- name: jobs_to_hold
-- The same of many jobs, as one JSON array.
SELECT json_group_array(json_array(id, key, owner, status)) FROM jobs WHERE id IN (VALUES (?));

-- name: job_by_id
-- The row of a job.
SELECT * FROM jobs WHERE id = ?;

-- name: ids_like
-- Ids that begin or end with some characters.
SELECT id FROM jobs WHERE id >= :text AND id < :text || char(0x10FFFF)
UNION SELECT id FROM jobs WHERE substr(id, -length(:text)) = :text ORDER BY id LIMIT :limit;

-- name: threads_abandoned
-- So many threads of a job that a worker could not stop.
INSERT INTO abandoned (job, worker, threads) VALUES (?, ?, ?)
ON CONFLICT (job, worker) DO UPDATE SET threads = threads + excluded.threads;

-- name: last_thread_ended
-- The only thread of a job that a worker had abandoned has ended,
DELETE FROM abandoned WHERE job = (SELECT key FROM jobs WHERE id = ?) AND worker = ? AND threads = 1;

-- name: thread_ended
-- or one of several,
UPDATE abandoned SET threads = threads - 1 WHERE job = (SELECT key FROM jobs WHERE id = ?) AND worker = ?;

-- name: thread_counted_out
-- and its row counts one less.
UPDATE jobs SET abandoned = abandoned - 1 WHERE id = ?;

-- name: abandoning_workers
-- Whose threads rows count.
SELECT DISTINCT worker FROM abandoned;

-- name: threads_counted_out
-- The threads of a worker have ended with it: rows count them no more,
UPDATE jobs SET abandoned = abandoned - (SELECT threads FROM abandoned WHERE job = jobs.key AND worker = ?1)
WHERE key IN (SELECT job FROM abandoned WHERE worker = ?1);

-- name: threads_forgotten
-- and neither do we.
DELETE FROM abandoned WHERE worker = ?;

-- name: worker_put
-- A worker lives until its lease ends, which the steady clock (?9) says; since when, if it did before.
INSERT INTO workers (id, registered_us, heartbeat_us, lease_until_us, host, pid, version, components, max_jobs, resources)
VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?10)
ON CONFLICT (id) DO UPDATE SET heartbeat_us = ?2, lease_until_us = ?3, host = ?4, pid = ?5, version = ?6,
  components = ?7, max_jobs = ?8, resources = ?10,
  registered_us = CASE WHEN lease_until_us > ?9 THEN registered_us ELSE ?2 END;

-- name: worker_renew
-- Renew a lease that has not ended.
UPDATE workers SET heartbeat_us = :now, lease_until_us = :until WHERE id = :worker AND lease_until_us > :steady;

-- name: workers
-- The workers whose lease has not ended, with how many jobs each holds.
SELECT id, host, pid, version, components, max_jobs, resources, registered_us, heartbeat_us, lease_until_us,
       (SELECT count(*) FROM jobs WHERE owner = workers.id) AS jobs
FROM workers WHERE lease_until_us > ? ORDER BY registered_us, id;

-- name: worker_ids
-- Everybody who has registered and was not taken for dead.
SELECT id FROM workers;

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
-- Jobs that became final before a time, and are no attached children, from a place in their order on.
SELECT key, id, completed_us FROM jobs
WHERE completed_us IS NOT NULL AND (completed_us, key) > (?, ?) AND completed_us < ? AND parent_id IS NULL
ORDER BY completed_us, key LIMIT ?;

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

-- name: delete_abandoned
-- what we know of its threads,
DELETE FROM abandoned WHERE job = ?;

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
-- How many jobs there are by status, and since when those QUEUED wait; of a bounded number of rows. Those in the queue,
-- those that are set aside and those that are blocked stand in three indexes.
SELECT status, count(*), min(since) FROM (
  SELECT status, queued_us AS since FROM (
    SELECT status, queued_us FROM jobs WHERE status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0 AND aside = 0
    UNION ALL
    SELECT status, queued_us FROM jobs WHERE aside = 1 AND status = 'QUEUED' AND owner IS NULL AND slot IS NOT 0
    UNION ALL
    SELECT status, queued_us FROM jobs
    WHERE limit_key IS NOT NULL AND status = 'QUEUED' AND owner IS NULL AND slot = 0
    LIMIT :limit)
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

-- name: slots_held
-- How many jobs have a slot of a key.
SELECT count(*) FROM jobs WHERE limit_key = ? AND slot = 1;

-- name: slot_holders
-- Which ones, the oldest first.
SELECT id FROM jobs WHERE limit_key = ? AND slot = 1 ORDER BY key LIMIT ?;

-- name: first_blocked
-- The blocked job of a key that comes first in the queue.
SELECT sort_at, key, limit_max FROM jobs WHERE limit_key = ? AND status = 'QUEUED' AND slot = 0
ORDER BY sort_at, key LIMIT 1;

-- name: last_unbegun
-- The last in the queue of those that have a slot of a key and could wait as well.
SELECT sort_at, key FROM jobs WHERE limit_key = ? AND status = 'QUEUED' AND slot = 1 AND owner IS NULL
AND (started_us IS NULL OR limit_hold = 'running') AND limit_overflow <> 'reject'
ORDER BY sort_at DESC, key DESC LIMIT 1;

-- name: live_of_key
-- The jobs of a key that have a slot or are blocked, and are not to make way already.
SELECT key FROM (
  SELECT key, cancel_requested FROM jobs WHERE limit_key = :limit AND slot = 1
  UNION ALL
  SELECT key, cancel_requested FROM jobs WHERE limit_key = :limit AND status = 'QUEUED' AND slot = 0
) AS live
WHERE cancel_requested = 0 AND NOT EXISTS (SELECT 1 FROM inbox WHERE job = live.key AND inbox.key = :request)
ORDER BY key;

-- name: slot_give
-- A blocked job gets a slot.
UPDATE jobs SET slot = 1 WHERE key = ? AND status = 'QUEUED' AND slot = 0;

-- name: slot_take
-- One that has a slot and was not begun is blocked.
UPDATE jobs SET slot = 0 WHERE key = ? AND status = 'QUEUED' AND slot = 1 AND owner IS NULL;

-- name: limit_of
-- How a job stands with its limit.
SELECT limit_key, limit_max, limit_hold, limit_overflow, slot FROM jobs WHERE id = ? AND limit_key IS NOT NULL;

-- name: facts_of_jobs
-- How many jobs there are by status, how many events they have, and when the first and the last of them was created. In
-- every schema, like the next two.
SELECT status, count(*), sum(last_event), min(created_us), max(created_us) FROM jobs GROUP BY status ORDER BY status;

-- name: facts_beside_jobs
-- How many definitions and leaks there are.
SELECT (SELECT count(*) FROM definitions), (SELECT count(*) FROM leaks);

-- name: workers_leased
-- Everybody whose lease has not ended.
SELECT id FROM workers WHERE lease_until_us > ?;

-- name: definition_hashes
-- Hashes of definitions above one, in order.
SELECT hash FROM definitions WHERE hash > ? ORDER BY hash LIMIT ?;

-- name: stray_rows
-- Rows that belong to no job, by table: how many, and the keys of some of the jobs.
WITH stray (name, job) AS (
  SELECT 'history', job FROM history UNION ALL SELECT 'inbox', job FROM inbox
  UNION ALL SELECT 'snapshots', job FROM snapshots UNION ALL SELECT 'output', job FROM output
  UNION ALL SELECT 'abandoned', job FROM abandoned
), counted (name, job, number) AS (
  SELECT name, job, count(*) FROM stray WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.key = stray.job)
  GROUP BY name, job
), ranked (name, job, number, place) AS (
  SELECT name, job, number, row_number() OVER (PARTITION BY name ORDER BY job) FROM counted
)
SELECT name, sum(number), group_concat(CASE WHEN place <= ? THEN 'key ' || job END, ', ') FROM ranked GROUP BY name;

-- name: family
-- A job and its attached children, and theirs: parents first.
WITH RECURSIVE tree (key, id, level) AS (
  SELECT key, id, 0 FROM jobs WHERE id = ?
  UNION ALL
  SELECT jobs.key, jobs.id, tree.level + 1 FROM jobs JOIN tree ON jobs.parent_id = tree.id
)
SELECT jobs.* FROM tree JOIN jobs ON jobs.key = tree.key ORDER BY tree.level, tree.key;

-- name: inbox_keys_drained
-- The keys of the requests to a job that were carried out.
SELECT key FROM inbox WHERE job = ? AND drained = 1 ORDER BY sequence;

-- name: leaks_of
-- The leaks of a job.
SELECT key, job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries FROM leaks
WHERE job_id = ? ORDER BY key;

-- name: job_restore
-- A job that comes from another store.
INSERT INTO jobs (key, id, workflow_id, version, definition, status, rank, sort_at, owner, epoch, last_event,
                  created_us, queued_us, queued_total_us, started_us, completed_us, due_us, progress, current_step,
                  error_type, error_message, pause_requested, cancel_requested, idempotency_key, body_hash, tags,
                  parent_id, origin_id, requires, deaths, spending, limit_key, limit_max, limit_hold, limit_overflow,
                  slot)
VALUES (:key, :id, :workflow_id, :version, :definition, :status, :rank, :sort_at, :owner, :epoch, :last_event,
        :created_us, :queued_us, :queued_total_us, :started_us, :completed_us, :due_us, :progress, :current_step,
        :error_type, :error_message, :pause_requested, :cancel_requested, :idempotency_key, :body_hash, :tags,
        :parent_id, :origin_id, :requires, :deaths, :spending, :limit_key, :limit_max, :limit_hold, :limit_overflow,
        :slot);

-- name: inbox_put_drained
-- The key of a request that was carried out before the job came here.
INSERT INTO inbox (job, key, kind, payload, at_us, drained) VALUES (?, ?, '', x'', 0, 1) ON CONFLICT (job, key) DO NOTHING;

-- name: leak_restore
-- A leak that comes with its job; one that has stayed here since the job was deleted stays as it is.
INSERT INTO leaks (job_id, resource, workflow_id, path, name, release, inputs, error, leaked_us, tries)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id, resource) DO NOTHING;

-- name: pause_put
-- A component or a workflow is paused; one that is already stays as it is.
INSERT INTO pauses (kind, name, by, reason, at_us) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO NOTHING;

-- name: pause_of
-- Whether it is.
SELECT 1 FROM pauses WHERE kind = ? AND name = ?;

-- name: pauses_count
-- How many are.
SELECT count(*) FROM pauses;

-- name: pause_drop
-- It is paused no more.
DELETE FROM pauses WHERE kind = ? AND name = ?;

-- name: pauses
-- What is paused, the oldest first.
SELECT kind, name, by, reason, at_us FROM pauses ORDER BY at_us, kind, name;

-- name: grants_of_keys
-- What workers hold and want of some keys, given as a JSON array.
SELECT key, worker, held, most, per_us, waits FROM grants WHERE key IN (SELECT value FROM json_each(?));

-- name: grant_keys_of_worker
-- The keys of which a worker holds or wants something.
SELECT key FROM grants WHERE worker = ?;

-- name: grants_put
-- What a worker holds and wants of a key from now on.
INSERT INTO grants (key, worker, held, most, per_us, waits) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key, worker) DO UPDATE SET held = excluded.held, most = excluded.most, per_us = excluded.per_us,
                                        waits = excluded.waits;

-- name: grants_drop
-- It holds and wants nothing of it.
DELETE FROM grants WHERE key = ? AND worker = ?;

-- name: grants_forgotten
-- What workers held that are not there any more.
DELETE FROM grants WHERE worker NOT IN (SELECT id FROM workers);

-- name: shortages_put
-- What steps of a worker's jobs are short of.
INSERT INTO shortages (worker, told) VALUES (?, ?) ON CONFLICT (worker) DO UPDATE SET told = excluded.told;

-- name: shortages_of
-- What the worker that holds a job has told of all its jobs.
SELECT told FROM shortages JOIN jobs ON jobs.owner = shortages.worker WHERE jobs.id = ?;

-- name: shortages_forgotten
-- What workers told that are not there any more.
DELETE FROM shortages WHERE worker NOT IN (SELECT id FROM workers);

-- name: buckets_of_keys
-- The buckets of some keys that are perhaps not full, given as a JSON array.
SELECT key, full_us FROM buckets WHERE key IN (SELECT value FROM json_each(?));

-- name: bucket_put
-- Tokens were taken.
INSERT INTO buckets (key, full_us) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET full_us = excluded.full_us;

-- name: buckets_swept
-- Full buckets are as good as none.
DELETE FROM buckets WHERE key IN (SELECT key FROM buckets WHERE full_us <= ? ORDER BY full_us LIMIT ?);

-- name: owner_of
-- Who holds a job.
SELECT owner FROM jobs WHERE id = ?;
