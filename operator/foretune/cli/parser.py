"""What can be typed after `foretune`: commands, arguments, and their help. Imports the standard library only."""

from __future__ import annotations

import argparse
from typing import Any, Final

from foretune import __version__, contract

MAX_PARALLEL: Final = 256
"""Largest `--parallel`, as the largest `spec.parallelism`."""

MAX_GRACE_S: Final = 3600
"""Longest `--grace`, in seconds."""

EXTRAS: Final[dict[str, str | None]] = {
    "run": "local",
    "status": "tracker",
    "trials": "tracker",
    "best": "tracker",
    "explain": "tracker",
    "history": "local",
    "prior": "local",
    "parse": None,
    "sdk": None,
    "data": "trainer",
    "operator": "operator",
    "tracker": "tracker",
    "suggestion": "suggestion",
    "experiment": "local",
}
"""The extra of the Python package that brings what a command needs; None for the package alone."""

DATASETS: Final = tuple(name for name in contract.BUILTIN_DATASETS if name != "digits")
"""Data sets that `data warm` takes; digits ship with the trainer."""

PROCESSES: Final = {
    "operator": "watch TuningJobs of a cluster, and run their trials",
    "tracker": "own the history: proposals, reports of trials, costs",
    "suggestion": "propose configurations",
}
"""Commands that are processes of a cluster, with what they do."""

HISTORY_HELP: Final = (
    "history database of local runs; default: foretune/history.db in the user's data folder "
    "($XDG_DATA_HOME, else ~/.local/share)"
)

JOB_HELP: Final = "name of a job, or namespace/name; of several with that name the one last active"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="foretune",
        description="Hyperparameter tuning on Kubernetes, and on this machine with the same manifest.",
        epilog="`foretune COMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"foretune {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    _add_run(commands)
    _add_readers(commands)
    _add_history(commands)
    _add_prior(commands)
    _add_programs(commands)
    experiment = _add(commands, "experiment", "compare search methods on recorded histories")
    experiment.add_argument(
        "arguments",
        metavar="...",
        nargs=argparse.REMAINDER,
        help="`replay` or `report` and their options; `foretune experiment replay --help` lists them",
    )
    for name, what in PROCESSES.items():
        process = _add(commands, name, f"{what} (a process of a cluster)")
        process.description = (
            f"{what[0].upper()}{what[1:]}. A process of a cluster: the Helm chart starts it and sets its "
            "FORETUNE_* environment variables."
        )
        process.add_argument(
            "--log-level",
            choices=("debug", "info", "warning", "error"),
            default="info",
            help="least severe messages to log to stderr; default: info",
        )
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all errors of `foretune`."""

    def error(self, message: str) -> Any:
        """Print what is wrong and where to read more, and exit with 2."""
        self.exit(2, f"foretune: {message}; see `{self.prog} --help`\n")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    return command


def _add_run(commands: Any) -> None:
    run = _add(commands, "run", "run a TuningJob on this machine")
    run.description = (
        "Run a TuningJob on this machine: its trials are processes, and no cluster is needed. Ctrl-C stops "
        "it; the same command goes on where it was, also after a crash."
    )
    run.add_argument("manifest", metavar="FILE", help="manifest of the TuningJob; - reads stdin")
    run.add_argument(
        "--parallel",
        type=_parallel,
        metavar="N",
        help="trials that run at once; default: spec.parallelism",
    )
    run.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    run.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        default=10.0,
        help="time that running trials have to write a checkpoint when they are stopped; default: 10",
    )
    run.add_argument(
        "--new",
        action="store_true",
        help="start anew, even if this job is known: the way out of one that has failed",
    )


def _add_output(command: Any, forms: tuple[str, ...]) -> None:
    command.add_argument(
        *("-o", "--output"),
        choices=forms,
        default="table",
        help="form of the output; default: table",
    )


def _add_readers(commands: Any) -> None:
    status = _add(commands, "status", "show how a job stands, or list all jobs")
    status.add_argument("job", metavar="JOB", nargs="?", help=JOB_HELP + "; none lists all jobs")
    trials = _add(commands, "trials", "list the trials of a job")
    trials.add_argument("job", metavar="JOB", help=JOB_HELP)
    best = _add(commands, "best", "show the best trial of a job")
    best.add_argument("job", metavar="JOB", help=JOB_HELP)
    explain = _add(commands, "explain", "say why configurations were proposed")
    explain.description = (
        "Say why each configuration of a job was proposed: by whom, what past jobs had to do with it, what was "
        "expected, and what came of it. With TRIAL the whole story of one."
    )
    explain.add_argument("job", metavar="JOB", help=JOB_HELP)
    explain.add_argument(
        "trial", metavar="TRIAL", nargs="?", type=_index, help="number of a trial, from 0"
    )
    for command in (status, trials, best, explain):
        forms = ("table", "json") if command is explain else ("table", "json", "csv")
        _add_output(command, forms)
        source = command.add_mutually_exclusive_group()
        source.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
        source.add_argument(
            "--tracker", metavar="URL", help="read a cluster's tracker instead, at this URL"
        )
        command.add_argument(
            "--token-file",
            metavar="FILE",
            help="token for --tracker; default: the environment variable FORETUNE_TOKEN",
        )


def _add_history(commands: Any) -> None:
    history = _add(commands, "history", "bring past tasks into a history, and out of it")
    subcommands = history.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, parser_class=_Parser
    )
    taken = _add(subcommands, "import", "import past tasks from a file of another tool")
    taken.description = (
        "Import past tasks from a file: CSV or Parquet with a mapping, Optuna's storage, Katib's objects, or "
        "what `export` wrote. A second import adds what is new, and changes nothing. Rows of another unit, "
        "sign or direction, and those outside the space, are set aside with the reason."
    )
    taken.add_argument("source", metavar="SOURCE", help="the file; - reads stdin")
    taken.add_argument(
        "--format",
        choices=("csv", "parquet", "jsonl", "optuna", "katib"),
        help="format of SOURCE; default: by its first bytes and the end of its name",
    )
    taken.add_argument(
        "--mapping",
        metavar="FILE",
        help="which columns of a table are what; without one it is guessed from the head",
    )
    taken.add_argument(
        "--namespace",
        metavar="NS",
        help="namespace that the tasks go to; default: an export's own, else local",
    )
    taken.add_argument(
        "--dry-run",
        action="store_true",
        help="import nothing: tell what would get in, and print the guessed mapping",
    )
    taken.add_argument(
        "--as-is",
        action="store_true",
        help="take rows that seem to be of another unit, sign or direction, too",
    )
    given = _add(subcommands, "export", "write the ended trials of jobs to a file")
    given.add_argument("job", metavar="JOB", nargs="*", help="jobs to export; none exports all")
    given.add_argument(
        "--format",
        choices=("csv", "parquet", "jsonl"),
        help="format of the file; default: by the end of its name, else csv",
    )
    given.add_argument("--out", metavar="FILE", help="where to write; default: stdout")
    given.add_argument(
        "--set-aside",
        action="store_true",
        help="write the rows that imports set aside, as they stood, each with its reason",
    )
    listed = _add(subcommands, "list", "list what was imported")
    listed.add_argument(
        "--set-aside",
        action="store_true",
        help="list the rows that were set aside, with the reason",
    )
    for command in (taken, listed):
        _add_output(command, ("table", "json"))
    for command in (taken, given, listed):
        command.add_argument(
            "--history",
            metavar="FILE",
            help="history database: a file or a URL; default: FORETUNE_DATABASE_URL, else the user's own",
        )


def _add_prior(commands: Any) -> None:
    prior = _add(commands, "prior", "make and manage priors: what was learned from many jobs")
    subcommands = prior.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, parser_class=_Parser
    )
    train = _add(subcommands, "train", "make a prior of past jobs, and judge it")
    train.description = (
        "Make a prior of the jobs of a history. Some of their data sets are held out and tuned again with "
        "it, with the champion and without any; it becomes the champion when it is no worse."
    )
    train.add_argument(
        "--namespace", metavar="NS", help="jobs of this namespace only; default: all"
    )
    train.add_argument(
        "--if-new",
        action="store_true",
        help="only when 3 jobs (or one in twenty of those known) are new since the last time, or after a day with any "
        "change: for a timer",
    )
    train.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="recorded histories of public benchmarks instead of jobs, as the starter is made of: those "
        "under FOLDER/history whose licence allows it",
    )
    train.add_argument(
        "--out",
        metavar="FOLDER",
        help="write the prior there, unjudged, and change nothing else; the same data gives the same bytes",
    )
    train.add_argument(
        "--card", metavar="FILE", help="JSON that goes into the prior under --out: sources, limits"
    )
    listed = _add(subcommands, "list", "list all priors with their state")
    show = _add(subcommands, "show", "show a prior: figures, sources, licences, tasks")
    promote = _add(subcommands, "promote", "use a prior, whatever its figures say")
    given = _add(subcommands, "export", "copy a prior into a folder, to take elsewhere")
    taken = _add(
        subcommands, "import", "take in a prior from a folder; it is not used until promoted"
    )
    for command in (show, given):
        command.add_argument(
            "prior",
            metavar="ID",
            help="id, or its first digits; `champion`; `starter`, which ships",
        )
    promote.add_argument("prior", metavar="ID", help="id, or its first digits")
    given.add_argument(
        "folder", metavar="FOLDER", help="where to write; must be empty or not exist"
    )
    taken.add_argument("folder", metavar="FOLDER", help="folder with prior.json, prior.safetensors")
    for command in (listed, show):
        _add_output(command, ("table", "json"))
    for command in (train, listed, show, promote, given, taken):
        command.add_argument(
            "--history", metavar="FILE", help=HISTORY_HELP + "; priors lie beside it"
        )


def _add_programs(commands: Any) -> None:
    """Add what helps with programs that know nothing of Foretune."""
    parse = _add(commands, "parse", "show what would be read from the log of a program")
    parse.description = (
        "Show which epochs and metrics would be read from a log, as after a trial that did not report: before "
        "any GPU is spent. Exit code 1 when there are none, or none of --metric."
    )
    parse.add_argument(
        "log", metavar="FILE", nargs="?", default="-", help="the log; default: -, which reads stdin"
    )
    parse.add_argument(
        "--metric", metavar="NAME", help="the metric that spec.objective will name: is it there?"
    )
    _add_output(parse, ("table", "json"))
    sdk = _add(commands, "sdk", "bring the reporting SDK into another environment")
    subcommands = sdk.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, parser_class=_Parser
    )
    copy = _add(subcommands, "copy", "copy the SDK into a folder")
    copy.description = (
        "Copy the SDK into a folder, for the PYTHONPATH of any Python from 3.8 on: what `spec.trial.inject` "
        "does in a trial's pod."
    )
    copy.add_argument(
        "folder", metavar="FOLDER", help="where to; made if needed, and its content is replaced"
    )
    data = _add(commands, "data", "prepare data sets of the built-in trainer")
    subcommands = data.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, parser_class=_Parser
    )
    warm = _add(subcommands, "warm", "fill a cache with a data set, once for all trials")
    warm.description = (
        "Fill a cache with a data set: what comes from the hub, and a copy as arrays that trials read instead of "
        "the files, whatever their parameters. Trials look in /foretune/cache, or where FORETUNE_CACHE_DIR says; "
        "they may have it read-only. A second call changes nothing."
    )
    warm.add_argument(
        "--dataset", metavar="NAME", choices=DATASETS, required=True, help=", ".join(DATASETS)
    )
    warm.add_argument(
        "--data",
        metavar="FOLDER",
        help="folder that holds the data set, the same files as trial.builtin.path; default: the hub",
    )
    warm.add_argument(
        "--cache", metavar="DIR", required=True, help="folder of the cache; made if needed"
    )


def _index(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be the number of a trial, not {text!r}")
    return int(text)


def _parallel(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= MAX_PARALLEL:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to {MAX_PARALLEL}, not {text!r}"
        )
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_GRACE_S:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {MAX_GRACE_S}, not {text!r}")
    return seconds
