-- Jobs make room for more urgent ones: which worker sees to it, for a job in the queue, so that one job does for each.

ALTER TABLE jobs ADD COLUMN room_by text;

-- Which jobs began last, and which began while another one waited: for `explain`.
CREATE INDEX jobs_started ON jobs (started_us, key) WHERE started_us IS NOT NULL;

-- What a job may spend and has spent, as JSON {"budget", "spent"}, each of time_us, tokens and cost_nanos. NULL: it has
-- no budget, and nothing was reported.
ALTER TABLE jobs ADD COLUMN spending text;
