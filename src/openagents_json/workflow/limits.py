"""The published limits of a definition and of what a job may hold. Each is tested at the limit and one above."""

from __future__ import annotations

DEFINITION_BYTES = 256 * 1024
NESTING = 64  # levels of JSON nesting in a definition
STEPS = 1_000  # steps of a definition, nested ones included
ID_CHARACTERS = 100
INPUTS_BYTES = 1024 * 1024  # inputs of a job, and of one step
OUTPUT_BYTES = 1024 * 1024  # output of one step
FOREACH_ITEMS = 10_000
SPREAD_ITEMS = 30_000  # of a foreach whose items are child jobs
ITERATIONS = 10_000  # of a repeat
CHILD_DEPTH = 16  # workflows started by workflows
CONCURRENT_JOBS = 10_000  # of one workflow, or of one key of its `concurrency`
CONCURRENCY_KEY_CHARACTERS = 200  # of such a key as JSON
SHARE_KEY_CHARACTERS = 200
SIGNALS_KEPT = 1_000  # signals of a job that no step has taken yet
TEMPLATE_BYTES = 64 * 1024  # of one string with expressions in it
VIEW_BYTES = 64 * 1024 * 1024  # a container's output
EVENTS_PER_JOB = 100_000
EVENTS_KEPT_FOR_THE_END = 1_000  # of these, kept for finally steps and the final event
RESOURCES_PER_JOB = 1_000  # in the cleanup ledger at a time
MAX_ATTEMPTS = 1_000
MAX_SECONDS = 366 * 24 * 3600.0  # the longest timeout or delay
