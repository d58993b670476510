"""`foretune prior train|list|show|promote|export|import`: priors made ahead of any job."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import __version__
from foretune.app.artefact import Prior, packed
from foretune.app.learn import due, trained
from foretune.app.priors import Entry, PriorStore, exported
from foretune.app.starter import FOLDER, STARTER, starter
from foretune.cli import words
from foretune.cli.exits import COMPLETE
from foretune.cli.live import fits
from foretune.cli.output import as_json, table
from foretune.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from foretune.app.learn import Progress
    from foretune.domain.history import SourceTask

DEPTH: Final = 3
"""How far the lists of a card are unfolded."""


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand that `arguments` names."""
    commands = {
        "train": _train,
        "list": _list,
        "show": _show,
        "promote": _promote,
        "export": _export,
        "import": _import,
    }
    return commands[arguments.subcommand](arguments)


# ------------------------------------------------------------------------ train
def _train(arguments: argparse.Namespace) -> int:
    if arguments.out is not None:
        return _train_into(Path(arguments.out), arguments)
    store = _store(arguments)
    tasks = _tasks(arguments)
    latest = next((e for e in store.entries() if e.prior is not None and not e.foreign), None)
    if arguments.if_new and latest is not None:
        age_s = time.time() - latest.made_at
        if not due(tasks, latest.prior, age_s):
            print(f"{latest.id}: nothing worth a new prior has happened since")
            return COMPLETE
    champion = None
    try:
        champion = store.champion()
    except InvalidInputError as error:
        print(f"foretune: warning: {error}; going on as without a champion", file=sys.stderr)
    with _progress() as progress:
        made = trained(tasks, champion=champion, progress=progress)
    prior = store.add(made.files, note=made.why, promote=made.promoted)
    print(f"{prior.id}: {words.plural(len(prior.tasks), 'task')}, favour {_favour(prior)}")
    for line in _figures(prior):
        print(f"  {line}")
    print(f"{'promoted' if made.promoted else 'not promoted'}: {made.why}")
    return COMPLETE


def _train_into(folder: Path, arguments: argparse.Namespace) -> int:
    """Make a prior without judging it, as the one that ships: the same data gives the same bytes."""
    figures: dict[str, Any] = {}
    if arguments.card is not None:
        figures["card"] = _card(Path(arguments.card))
    licences: dict[str, str] = {}
    if arguments.source is not None:
        from foretune.experiment.starter import starter_tasks  # noqa: PLC0415 - pyarrow

        tasks, licences = starter_tasks(Path(arguments.source))
    else:
        tasks = tuple(_tasks(arguments))
    files = packed(tasks, version=__version__, figures=figures, licences=licences)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    total = sum(map(len, files.values()))
    print(f"{folder}: {words.plural(len(tasks), 'task')}, {total} bytes")
    return COMPLETE


def _card(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInputError(f"--card: {path}: {reason}") from None


def _tasks(arguments: argparse.Namespace) -> Sequence[SourceTask]:
    if arguments.source is not None:
        from foretune.experiment.starter import starter_tasks  # noqa: PLC0415 - pyarrow

        return starter_tasks(Path(arguments.source))[0]
    from foretune.app.history import lessons_of_file  # noqa: PLC0415 - SQLAlchemy

    return lessons_of_file(_history(arguments), namespace=arguments.namespace)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Yield what shows progress on stderr: a bar in a terminal, a line a step elsewhere."""
    if not fits(sys.stderr):

        def tell(done: int, total: int, what: str) -> None:
            print(f"[{done}/{total}] {what}", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console  # noqa: PLC0415 - for terminals
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield show


# --------------------------------------------------------------------- the others
def _list(arguments: argparse.Namespace) -> int:
    entries = _store(arguments).entries()
    if arguments.output == "json":
        print(as_json([_row(entry) for entry in entries]))
        return COMPLETE
    head = ["ID", "STATE", "MADE", "TASKS", "FAVOUR", "NOTE"]
    rows = [
        [
            entry.id,
            entry.state,
            _when(entry.made_at),
            str(len(entry.prior.tasks)) if entry.prior is not None else "",
            _favour(entry.prior) if entry.prior is not None else "",
            words.one_line(entry.note),
        ]
        for entry in entries
    ]
    ships = starter()
    rows.append(
        [STARTER, "ships", "", str(len(ships.tasks)), "", f"comes with Foretune: {ships.id}"]
    )
    print(table(head, rows, right=("TASKS", "FAVOUR")))
    return COMPLETE


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state,
        "made": _when(entry.made_at),
        "tasks": len(entry.prior.tasks) if entry.prior is not None else None,
        "favour": entry.prior.favour if entry.prior is not None else None,
        "note": entry.note,
    }


def _show(arguments: argparse.Namespace) -> int:
    prior = _prior(arguments)
    if arguments.output == "json":
        print(as_json(_whole(prior)))
        return COMPLETE
    print(f"id        {prior.id}\nversion   {prior.version}\nfavour    {_favour(prior)}")
    for line in _figures(prior):
        print(f"          {line}")
    for line in _told(prior.figures.get("card", {})):
        print(line)
    rows = [
        [
            task.name,
            task.objective.metric,
            task.objective.goal.value,
            str(kept),
            str(count),
            licence,
        ]
        for task, kept, count, licence in zip(
            prior.tasks,
            (len(task.trials) for task in prior.tasks),
            prior.counts,
            prior.licences,
            strict=True,
        )
    ]
    print(table(["TASK", "METRIC", "GOAL", "ROWS", "OF", "LICENCE"], rows, right=("ROWS", "OF")))
    return COMPLETE


def _whole(prior: Prior) -> dict[str, Any]:
    return {
        "id": prior.id,
        "version": prior.version,
        "favour": prior.favour,
        "figures": dict(prior.figures),
        "tasks": [
            {
                "name": task.name,
                "metric": task.objective.metric,
                "goal": task.objective.goal.value,
                "context": dict(task.context),
                "rows": len(task.trials),
                "trials": count,
                "digest": digest,
                "licence": licence,
            }
            for task, count, digest, licence in zip(
                prior.tasks, prior.counts, prior.digests, prior.licences, strict=True
            )
        ],
    }


def _promote(arguments: argparse.Namespace) -> int:
    prior = _store(arguments).promote(arguments.prior)
    print(f"{prior.id}: is the champion")
    return COMPLETE


def _export(arguments: argparse.Namespace) -> int:
    to = Path(arguments.folder)
    if arguments.prior == STARTER:
        prior = exported(FOLDER, to)
    else:
        prior = _store(arguments).export(arguments.prior, to)
    print(f"{prior.id}: written to {to}")
    return COMPLETE


def _import(arguments: argparse.Namespace) -> int:
    prior = _store(arguments).receive(Path(arguments.folder))
    print(
        f"{prior.id}: imported, {words.plural(len(prior.tasks), 'task')}; "
        f"`foretune prior promote {prior.id}` uses it"
    )
    return COMPLETE


# ---------------------------------------------------------------------- together
def _history(arguments: argparse.Namespace) -> Path:
    from foretune.app.place import place  # noqa: PLC0415 - SQLAlchemy

    found = place(arguments.history, os.environ).history
    if not found.exists():
        raise NotFoundError(f"there is no history at {found}: `foretune run` makes one")
    return found


def _store(arguments: argparse.Namespace) -> PriorStore:
    from foretune.app.place import place  # noqa: PLC0415 - SQLAlchemy

    return PriorStore.beside(place(arguments.history, os.environ).history)


def _prior(arguments: argparse.Namespace) -> Prior:
    return starter() if arguments.prior == STARTER else _store(arguments).get(arguments.prior)


def _favour(prior: Prior) -> str:
    return "" if prior.favour is None else f"{prior.favour:.2f}"


def _figures(prior: Prior) -> Iterator[str]:
    held = prior.figures.get("held_out")
    if held and isinstance(held, list):
        yield f"{words.plural(len(held), 'task')} held out"
    for name, value in prior.figures.items():
        if isinstance(value, dict) and name != "card":
            parts = ", ".join(f"{_shown(key)} {_shown(number)}" for key, number in value.items())
            yield f"{_shown(name.replace('_', ' '))}: {parts}"
        elif isinstance(value, int | float):
            yield f"{_shown(name.replace('_', ' '))}: {value:g}"


def _told(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the lines of a card, which may be a stranger's: what a terminal would obey is left out."""
    pad = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and depth < DEPTH:
                yield f"{pad}{_shown(key)}"
                yield from _told(item, depth + 1)
            else:
                yield f"{pad}{_shown(key)}: {_shown(item)}"
    elif isinstance(value, list):
        for item in value:
            yield f"{pad}- {_shown(item)}"


def _shown(value: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
