"""`foretune history import`, `export` and `list`: past tasks from other tools and for other tools."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.app.clock import SystemClock
from foretune.app.exchange import (
    Summary,
    Wanted,
    chosen_jobs,
    export_aside,
    export_jobs,
    format_of,
    history_url,
    import_file,
    open_archive,
    standard_input,
)
from foretune.cli import words
from foretune.cli.exits import COMPLETE
from foretune.cli.output import as_json, table
from foretune.cli.read import stamp
from foretune.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

STDIN: Final = "-"
"""SOURCE that is standard input."""

SHOWN: Final = 10
"""Reasons that a summary lists at most; JSON has them all."""


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand that `arguments` names."""
    commands = {"import": _import, "export": _export, "list": _list}
    return commands[arguments.subcommand](arguments)


# ---------------------------------------------------------------------- import
def _import(arguments: argparse.Namespace) -> int:
    mapping = None
    if arguments.mapping is not None:
        mapping = _text(arguments.mapping)
    with _source(arguments) as path:
        wanted = Wanted(
            path=path,
            source=Path(arguments.source).name if arguments.source != STDIN else "stdin",
            format=format_of(path, arguments.format),
            mapping=mapping,
            mapping_source=arguments.mapping or "mapping",
            namespace=arguments.namespace,
            as_is=arguments.as_is,
        )
        if arguments.dry_run:
            summary = import_file(wanted, None, SystemClock())
        else:
            with open_archive(history_url(arguments.history, os.environ)) as archive:
                summary = import_file(wanted, archive, SystemClock())
    _tell(summary, arguments)
    return COMPLETE


@contextlib.contextmanager
def _source(arguments: argparse.Namespace) -> Iterator[Path]:
    if arguments.source != STDIN:
        yield Path(arguments.source)
        return
    if arguments.format is None:
        raise InvalidInputError("--format: is required with standard input")
    with standard_input() as path:
        yield path


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise InvalidInputError(f"--mapping: {file}: can't be read: {reason}") from None


def _tell(summary: Summary, arguments: argparse.Namespace) -> None:
    if arguments.output == "json":
        print(as_json(_json(summary, dry=arguments.dry_run)))
    elif arguments.dry_run and summary.guess is not None:
        print(f"# mapping guessed from {summary.source}: look at it, and give it with --mapping")
        print(summary.guess, end="")
        for line in _page(summary, dry=True).splitlines() if summary.tasks else ():
            print(f"# {line}")
    else:
        if summary.guess is not None:
            print(f"no mapping given; guessed:\n{summary.guess}")
        print(_page(summary, dry=arguments.dry_run))
    for note in summary.notes:
        print(f"foretune: {note}", file=sys.stderr)
    aside = summary.total.set_aside
    if aside:
        where = (
            "they would be kept with their reasons"
            if arguments.dry_run
            else "`foretune history list --set-aside` shows them, `foretune history export --set-aside` gives them back"
        )
        rows = "1 row was" if aside == 1 else f"{aside} rows were"
        print(f"foretune: warning: {rows} set aside; {where}", file=sys.stderr)


def _page(summary: Summary, *, dry: bool) -> str:
    total = summary.total
    head = ["NAMESPACE", "NAME", "ADDED", "KNOWN", "SET ASIDE"]
    rows = [
        [t.namespace, t.name, *map(str, (t.counts.added, t.counts.known, t.counts.set_aside))]
        for t in summary.tasks
    ]
    lines = [table(head, rows, right=head[2:])] if rows else []
    would = "would be added" if dry else "added"
    lines.append(
        f"{summary.source} ({summary.format}): {words.plural(len(summary.tasks), 'task')}, "
        f"{words.plural(total.added, 'trial')} {would}, {total.known} known, {total.set_aside} set aside"
    )
    if summary.unfinished:
        left = words.plural(summary.unfinished, "trial")
        lines.append(f"left out  {left} that had not ended: import again when they have")
    reasons = summary.reasons.most_common()
    for reason, count in reasons[:SHOWN]:
        lines.append(f"set aside  {count} x {reason} (first: row {summary.first[reason]})")
    if len(reasons) > SHOWN:
        lines.append(f"set aside  and for {len(reasons) - SHOWN} more reasons")
    return "\n".join(lines)


def _json(summary: Summary, *, dry: bool) -> dict[str, Any]:
    total = summary.total
    return {
        "source": summary.source,
        "format": summary.format,
        "sha256": summary.sha256,
        "dryRun": dry,
        "added": total.added,
        "known": total.known,
        "setAside": total.set_aside,
        "unfinished": summary.unfinished,
        "reasons": [
            {"reason": reason, "rows": rows, "first": summary.first[reason]}
            for reason, rows in summary.reasons.most_common()
        ],
        "notes": summary.notes,
        "mapping": summary.guess,
        "tasks": [
            {
                "namespace": task.namespace,
                "name": task.name,
                "uid": task.uid,
                "added": task.counts.added,
                "known": task.counts.known,
                "setAside": task.counts.set_aside,
            }
            for task in summary.tasks
        ],
    }


# ---------------------------------------------------------------- export, list
def _export(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out) if arguments.out is not None else None
    form = arguments.format or _form_of(out)
    with open_archive(_existing(arguments), read_only=True) as archive:
        if arguments.set_aside:
            if arguments.job:
                raise InvalidInputError("--set-aside: gives back all rows; name no job with it")
            count, what = export_aside(archive, form, out), "row"
        else:
            count, what = (
                export_jobs(archive, chosen_jobs(archive, arguments.job), form, out),
                "trial",
            )
    if out is not None:
        print(f"{out}: {words.plural(count, what)}")
    return COMPLETE


def _form_of(out: Path | None) -> str:
    suffix = out.suffix.lower().lstrip(".") if out is not None else ""
    return suffix if suffix in {"parquet", "jsonl"} else "csv"


def _list(arguments: argparse.Namespace) -> int:
    with open_archive(_existing(arguments), read_only=True) as archive:
        if arguments.set_aside:
            found = [
                {
                    "source": s,
                    "line": a.line,
                    "task": a.task,
                    "reason": a.reason,
                    "row": dict(a.row),
                }
                for s, a in archive.set_aside()
            ]
            head = ["SOURCE", "ROW", "TASK", "REASON"]
            rows = [[str(one[k]) for k in ("source", "line", "task", "reason")] for one in found]
        else:
            found = [
                {
                    "import": number,
                    "source": imported.source,
                    "format": imported.format,
                    "sha256": imported.sha256,
                    "at": stamp(imported.at),
                    "setAside": sum(reasons.values()),
                    "reasons": dict(reasons),
                }
                for number, imported, reasons in archive.imports()
            ]
            head = ["IMPORT", "SOURCE", "FORMAT", "AT", "SET ASIDE"]
            keys = ("import", "source", "format", "at", "setAside")
            rows = [[str(one[key]) for key in keys] for one in found]
    print(
        as_json(found)
        if arguments.output == "json"
        else table(head, rows, right=["ROW", "IMPORT", "SET ASIDE"])
    )
    return COMPLETE


def _existing(arguments: argparse.Namespace) -> str:
    url = history_url(arguments.history, os.environ)
    if "://" not in url and not Path(url).exists():
        raise NotFoundError(f"there is no history at {url}")
    return url
