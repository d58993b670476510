"""docs/reference/cli.md from the parser and the settings.

python -m foretune.cli.docs            writes it
python -m foretune.cli.docs --check    says when it is stale; exit code 1
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.api import generated
from foretune.cli.exits import MEANINGS
from foretune.cli.parser import EXTRAS, PROCESSES, make_parser
from foretune.settings import OperatorSettings, SuggestionSettings, TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path("docs/reference/cli.md")
"""Where the page is, below the repository's root."""

SETTINGS: Final[dict[str, type[Any]]] = {
    "operator": OperatorSettings,
    "tracker": TrackerSettings,
    "suggestion": SuggestionSettings,
}
"""Settings of each process."""

HEAD: Final = """\
<!-- Written by `python -m foretune.cli.docs` from the parser: do not edit. -->

# Command line

`foretune run`, `status`, `trials`, `best` and `explain` are for people; `operator`, `tracker` and `suggestion` are the processes
of a cluster, which the Helm chart starts. `foretune --version` and `foretune COMMAND --help` are always there.

## Exit codes

| code | meaning |
|---|---|
"""

FORMS: Final = """\
## What programs can read

`foretune trials JOB -o json` is a list with an object for each trial, `foretune best JOB -o json` one such object:

| key | value |
|---|---|
| `index` | number of the trial, from 0 |
| `state` | `Proposed`, `Pending`, `Running`, `Retrying`, or how it ended: `Completed`, `EarlyStopped`, `Infeasible`, `Failed`, `TimedOut`, `Cancelled` |
| `params` | its configuration |
| `value` | the objective, so far while it runs; null without any |
| `value_sd` | standard deviation of a value that is a prediction, as of a trial stopped early; 0 = reported |
| `epochs` | highest epoch reported |
| `seconds` | how long its ended attempts ran; null without any |
| `attempts` | how often it was started: more than once after a preemption or Ctrl-C |
| `proposer` | who proposed it: `default`, `sobol`, `random`, `grid`, `gp`; `sobol/fallback` when it stood in |
| `reason`, `message` | why it ended; null and empty while it has not |
| `resources` | what its processes reported to have used, added up: `cpu_s`, `gpu_busy_s`, `energy_j`, ... ([The built-in trainer](../guides/trainer.md#what-a-trial-reports)); what is unknown is not there |

`foretune status JOB -o json` has `namespace`, `name`, `uid`, `phase`, `reason`, `message`, `metric`, `goal`, `budget`
(trials), `ended` (trials), `counts` (by state), `best` (a trial or null), `prior` (`decision`, `reason` and `tasks`, or
null), `created` and `closed`; without JOB it is a list of them, without `prior`. `phase` is `Running`, `Complete`, `Failed`, `Deleted`, or `Stopped` for a local job that has not ended
and that nobody runs now. With `-o csv` nested keys are columns with dots, as `params.lr`. Keys may be added.

`foretune explain JOB -o json` is a list with an object for each proposal, `foretune explain JOB TRIAL -o json` one:

| key | value |
|---|---|
| `index`, `state`, `params`, `proposer` | as above |
| `expert` | `meta` knows past jobs, `plain` this job only, `starter` what has been good elsewhere; null for none of them |
| `prior` | what past jobs were good for: `used`, `rejected`, `none`; null where nothing is said |
| `reason` | why they were not used, or why another method stood in |
| `weights` | the share of `meta` and `plain` in what is proposed next |
| `sources` | the past jobs that the prediction leans on most, each with `task` and `share` |
| `mean`, `low`, `high` | what was expected of the objective, and between which values with 90 % |
| `value`, `inside` | what came of it, and whether that lies in the interval; null without a value |
| `detail` | the whole audit, as [the surrogate](../concepts/surrogate.md) writes it |

## A cluster's jobs

The tracker of a cluster is read over HTTP, with the token of a service account or user that may
`get tuningjobs.foretune.io`:

```sh
kubectl -n foretune port-forward service/foretune-tracker 8080 &
export FORETUNE_TOKEN=$(kubectl create token default --audience foretune)
foretune status --tracker http://127.0.0.1:8080
foretune trials team-a/digits-cnn --tracker http://127.0.0.1:8080 -o csv
```

## Where local runs keep things

| what | where |
|---|---|
| history | `--history FILE`, else `foretune/history.db` in the user's data folder: `$XDG_DATA_HOME`, else `~/.local/share` |
| logs of trials | `foretune/runs/<history>/<job uid>/t0007-a0/log.txt` in the data folder |
| checkpoints | beside the logs, until the trial has ended; those of the best trial stay |

One history for all jobs lets them learn from each other. A job is known by its name and by `spec.objective`,
`spec.space` and `spec.trial`: with the same ones the same job goes on, with others it is another job.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD + "".join(f"| {code} | {text} |\n" for code, text in MEANINGS.items())]
    commands = _commands(make_parser())
    for name, command in commands.items():
        if name not in PROCESSES:
            parts.append(_section(name, command))
    parts.append(FORMS)
    for name in PROCESSES:
        parts += [_section(name, commands[name]), "".join(_settings(name))]
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return each command by its name, and each subcommand by `command subcommand`."""
    found: dict[str, argparse.ArgumentParser] = {}
    # argparse has no public way to ask a parser what it holds.
    for action in parser._actions:  # noqa: SLF001 - as above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for name, command in action.choices.items():
                below = {f"{name} {sub}": one for sub, one in _commands(command).items()}
                found |= below or {name: command}
    return found


def _section(name: str, command: argparse.ArgumentParser) -> str:
    rows = []
    usage = [f"foretune {name}"]
    for action in command._actions:  # noqa: SLF001 - as above
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001 - as above
            continue
        value = str(action.metavar or "") or "|".join(map(str, action.choices or ()))
        if not action.option_strings:
            usage.append({"?": f"[{value}]", "*": f"[{value} ...]"}.get(str(action.nargs), value))
            rows.append((value, action.help))
            continue
        flags = ", ".join(action.option_strings)
        shown = f"{flags} {value}" if action.nargs != 0 else flags
        usage.append(f"[{action.option_strings[0]}{f' {value}' if action.nargs != 0 else ''}]")
        rows.append((shown, action.help))
    table = "".join(f"| `{_escaped(left)}` | {_escaped(str(text))} |\n" for left, text in rows)
    head = f"## foretune {name}\n\n{_escaped(command.description or '')}\n"
    extra = EXTRAS[name.partition(" ")[0]]
    needs = f"Needs `pip install 'foretune[{extra}]'`.\n\n" if extra is not None else ""
    return f"{head}\n```\n{' '.join(usage)}\n```\n\n{needs}| argument | |\n|---|---|\n{table}"


def _settings(name: str) -> Iterator[str]:
    """Yield the lines of the table of a process's variables."""
    yield "| variable | default | |\n|---|---|---|\n"
    kind = SETTINGS[name]
    notes = _notes(kind)
    for field in fields(kind):
        default = field.default
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        shown = f"`{text.lower() if isinstance(default, bool) else text}`" if text else "empty"
        variable, _, note = notes[field.name].partition(": ")
        yield f"| `{variable}` | {shown} | {_escaped(note)} |\n"


def _notes(kind: type[Any]) -> dict[str, str]:
    """Return the text that stands below each field of a settings class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write or check the page in the current folder; return the exit code."""
    return generated.run(arguments, module="foretune.cli.docs", path=PAGE, text=page())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
