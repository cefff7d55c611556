-- Jobs make room for more urgent ones: which worker sees to it, for a job in the queue, so that one job does for each.

ALTER TABLE jobs ADD COLUMN room_by TEXT;
