"""What to do next, as pure functions: `plan(snapshot, now) -> actions`. All policy lives here.

No I/O, no clock, no framework: time is an argument, everything seen is in the snapshot. One policy a
file: `admit` (what to start), `outcomes` (how an attempt ended), `finish` (when the job is over),
`prune` (what to stop and remove), `status` (what the user is told); `reconcile` puts them together.
"""
