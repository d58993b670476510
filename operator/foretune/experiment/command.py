"""`foretune experiment replay | latency | report`: arguments, and what they do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foretune.errors import ForetuneError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""

DEFAULT_FAMILIES: Final = (
    "lcbench_a,fcnet,taskset_imdb_rnn,deepar_forecasting,tst_svm,xgb34,xgboost_libsvm"
)
DEFAULT_METHODS: Final = "random,sobol,plain,past-bests,ours"


def from_cli(arguments: argparse.Namespace) -> int:
    """Run `foretune experiment ...`, whose own parser leaves the rest of the line to this one."""
    return main(arguments.arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code: 1 when runs failed, 2 when it was wrong, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="foretune experiment", description="Compare search methods on recorded histories."
    )
    add_arguments(parser)
    try:
        return execute(parser.parse_args(argv))
    except ForetuneError as error:
        print(f"foretune: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 2
    except KeyboardInterrupt:
        print("foretune: stopped; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands to the parser of `foretune experiment`."""
    commands = parser.add_subparsers(dest="experiment", metavar="WHAT", required=True)
    replay = commands.add_parser("replay", help="tune recorded tasks again, with several methods")
    replay.add_argument("--families", default=DEFAULT_FAMILIES, help="recorded histories, by comma")
    replay.add_argument(
        "--methods",
        default=DEFAULT_METHODS,
        help="by comma; NAME=MODULE:FUNCTION adds a designer of your own",
    )
    replay.add_argument("--tasks", type=int, default=0, help="tasks of each family; 0: all")
    replay.add_argument("--seeds", type=int, default=5, help="runs of each task and method")
    replay.add_argument("--budget", type=int, default=50, help="evaluations of a run")
    replay.add_argument("--batch", default="1", help="proposals at a time, by comma (1,4)")
    replay.add_argument("--protocol", default="pool", help="pool, nearest, or both by comma")
    replay.add_argument("--rows", type=int, default=200, help="rows of each source task")
    replay.add_argument(
        "--sources",
        default="0",
        help="source tasks, drawn by seed, by comma (3,5,7); 0: all others",
    )
    replay.add_argument(
        "--battery", default="", help="spoilt histories by comma (N1,...,N8), or `all`"
    )
    replay.add_argument(
        "--split",
        action="store_true",
        help="history of the tasks for choosing settings alone, targets of those for reporting",
    )
    replay.add_argument("--half", default="", help="tasks of one half only: choosing or reporting")
    replay.add_argument("--jobs", type=int, default=1, help="processes")
    replay.add_argument(
        "--out",
        type=Path,
        default=Path("build/replay"),
        help="folder of the runs; resumed if there",
    )
    latency = commands.add_parser(
        "latency", help="measure suggestions with made-up histories of many rows"
    )
    latency.add_argument(
        "--shapes",
        default="100x1000,1000x1000,1x1000000",
        help="tasks and rows of each, as 100x1000, by comma",
    )
    latency.add_argument("--repeats", type=int, default=24, help="suggestions that count")
    latency.add_argument(
        "--out", type=Path, default=Path("build/replay"), help="folder of the figures"
    )
    curves = commands.add_parser("curves", help="early stopping on recorded learning curves")
    curves.add_argument("--trials", type=int, default=30, help="trials of a run")
    curves.add_argument("--runs", type=int, default=10, help="runs of each task in random order")
    curves.add_argument("--design", type=int, default=0, help="runs of each task chosen by the GP")
    curves.add_argument("--families", default="", help="recorded histories, by comma; empty: all")
    curves.add_argument("--rules", default="", help="median, asha, own-curve, curve; empty: all")
    curves.add_argument("--half", default="", help="tasks of one half only: choosing or reporting")
    curves.add_argument("--to", type=Path, default=None, help="page to write the table to")
    report = commands.add_parser("report", help="write tables and plots of stored runs")
    report.add_argument(
        "--out",
        type=Path,
        nargs="+",
        default=[Path("build/replay")],
        help="folders of the runs and of the latency",
    )
    report.add_argument("--to", type=Path, required=True, help="folder to write")
    report.add_argument("--command", dest="said", default="", help="how the runs were made")


def execute(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command, and return its exit code: 1 when runs failed."""
    if arguments.experiment == "report":
        return _report(arguments)
    if arguments.experiment == "curves":
        return _curves(arguments)
    if arguments.experiment == "latency":
        return _latency(arguments)
    return _replay(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from foretune.experiment import latency, report  # noqa: PLC0415 - numpy and scipy, only when they are used
    from foretune.experiment.ledger import Ledger  # noqa: PLC0415

    runs = [run for folder in arguments.out for run in Ledger(folder).records()]
    if all("error" in run for run in runs):
        raise InvalidInputError(f"out: no run in {', '.join(map(str, arguments.out))}")
    report.write(runs, arguments.to, command=arguments.said, latency=latency.read(arguments.out))
    print(arguments.to / "README.md")  # noqa: T201 - a command's answer
    return 0


def _curves(arguments: argparse.Namespace) -> int:
    from foretune.experiment import curves  # noqa: PLC0415 - numpy and scipy, only when they are used
    from foretune.experiment.tasks import HALVES, data_folder  # noqa: PLC0415

    half = _listed(arguments.half)
    _known("half", half, HALVES)
    for name in ("trials", "runs"):
        if getattr(arguments, name) < 1:
            raise InvalidInputError(f"{name}: must be at least 1, not {getattr(arguments, name)}")
    families = _listed(arguments.families)
    _known("families", families, tuple(curves.READERS))
    rules = _listed(arguments.rules) or tuple(curves.RULES)
    _known("rules", rules, tuple(curves.RULES))
    found = curves.measure(
        curves.load(data_folder(), families),
        trials=arguments.trials,
        runs=arguments.runs,
        half=arguments.half,
        design=arguments.design,
        rules=rules,
    )
    print(curves.table(found))  # noqa: T201 - a command's answer
    if arguments.to is not None:
        said = f"--trials {arguments.trials} --runs {arguments.runs} --design {arguments.design}"
        said += "".join(
            f" --{name} {value}"
            for name in ("families", "rules", "half")
            if (value := getattr(arguments, name))
        )
        curves.write(found, arguments.to, command=f"foretune experiment curves {said}")
    return 0


def _latency(arguments: argparse.Namespace) -> int:
    from foretune.experiment import latency  # noqa: PLC0415

    shapes = [latency.shape_of(shape) for shape in _listed(arguments.shapes)]
    found = latency.measure(shapes, arguments.out, repeats=arguments.repeats)
    for case in found["cases"]:
        print(", ".join(f"{name} {value:.4g}" for name, value in case.items()))  # noqa: T201
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from foretune.experiment import report  # noqa: PLC0415
    from foretune.experiment.campaign import Campaign, carry_out  # noqa: PLC0415
    from foretune.experiment.histories import BATTERY, SPLIT  # noqa: PLC0415
    from foretune.experiment.ledger import Ledger, cell_of  # noqa: PLC0415
    from foretune.experiment.methods import method  # noqa: PLC0415
    from foretune.experiment.replay import PROTOCOLS  # noqa: PLC0415
    from foretune.experiment.tasks import HALVES, family_of  # noqa: PLC0415

    families, methods = _listed(arguments.families), _listed(arguments.methods)
    protocols = _listed(arguments.protocol)
    battery = _listed(arguments.battery)
    variants = tuple(BATTERY) if battery == ("all",) else battery
    for name in families:
        family_of(name)
    for name in methods:
        method(name)
    _known("protocol", protocols, PROTOCOLS)
    _known("battery", variants, tuple(BATTERY))
    _known("half", _listed(arguments.half), HALVES)
    if arguments.split:
        variants = (*variants, SPLIT)
    for name in ("seeds", "budget", "rows", "jobs"):
        if getattr(arguments, name) < 1:
            raise InvalidInputError(f"{name}: must be at least 1, not {getattr(arguments, name)}")
    campaign = Campaign(
        families=families,
        methods=methods,
        seeds=arguments.seeds,
        tasks=arguments.tasks,
        half=arguments.half,
        protocols=protocols,
        batches=_numbers("batch", arguments.batch),
        variants=variants or ("",),
        budget=arguments.budget,
        rows=arguments.rows,
        sources=_numbers("sources", arguments.sources, least=0),
    )
    cells = campaign.cells()
    ledger = Ledger(arguments.out)
    failed = carry_out(cells, ledger, jobs=arguments.jobs, out=sys.stderr)
    wanted = set(cells)
    print(report.short(run for run in ledger.records() if cell_of(run) in wanted))  # noqa: T201
    return 1 if failed else 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(what: str, text: str, *, least: int = 1) -> tuple[int, ...]:
    try:
        found = tuple(int(number) for number in _listed(text))
    except ValueError:
        found = ()
    if not found or min(found) < least:
        raise InvalidInputError(f"{what}: must be whole numbers of at least {least}, not {text}")
    return found


def _known(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise InvalidInputError(f"{what}: must be one of {', '.join(known)}, not {name!r}")
