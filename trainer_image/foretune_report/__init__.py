"""Reports of a training program to Foretune: one line, standard library only, no torch.

    from foretune_report import report

    for epoch in range(1, epochs + 1):
        ...
        if report(epoch=epoch, accuracy=accuracy, val_loss=loss).should_stop:
            break

In a trial each report is sent from a background thread and printed as a marked line; outside a trial it
is only printed. Nothing here ever raises, or keeps the training waiting.
"""

from __future__ import annotations

from foretune_report.reporter import Reply, Reporter, current, finish, report

__all__ = ["Reply", "Reporter", "current", "finish", "report"]
