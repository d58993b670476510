"""A process that writes to a history: `python -m tests.support.history_writer URL WHAT ARGUMENTS...`.

It prints a line for each write that was committed, so that a test that kills it knows what must be there.
"""

from __future__ import annotations

import sys

from tests.support.histories import a_batch, a_job, a_proposal, epochs

from foretune.adapters.store import SqlHistory


def migrate(history: SqlHistory) -> None:
    """Migrate, and write the job."""
    history.migrate()
    history.put_job(a_job())
    print("done", flush=True)


def propose(history: SqlHistory, who: str, count: str) -> None:
    """Propose configurations of its own for the first `count` indices; print whose are kept."""
    for index in range(int(count)):
        kept = history.put_proposal(a_proposal(index=index, proposer=who))
        print(index, kept.proposer, flush=True)


def report(history: SqlHistory, pod: str, count: str) -> None:
    """Report `count` epochs of trial 0, each on its own."""
    for one in epochs(*(i / 1000 for i in range(int(count)))):
        print(one["seq"], history.add_reports(a_batch([one], pod_uid=pod)), flush=True)


def endless(history: SqlHistory) -> None:
    """Write trials, each with five reports, until killed; print each once all of it is committed."""
    index = 0
    while True:
        history.put_proposal(a_proposal(index=index))
        history.add_reports(a_batch(epochs(0.1, 0.2, 0.3, 0.4, 0.5), index=index))
        print(index, flush=True)
        index += 1


if __name__ == "__main__":
    url, what, *arguments = sys.argv[1:]
    writer = SqlHistory(url)
    {"migrate": migrate, "propose": propose, "report": report, "endless": endless}[what](
        writer, *arguments
    )
    writer.close()
