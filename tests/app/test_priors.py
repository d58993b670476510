"""The folder of priors, and how a new one is judged: what is promoted, what is refused, what survives."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.designs import problem
from tests.support.sources import source
from tests.support.until import until

from foretune.app import learn
from foretune.app.artefact import HEADER, TENSORS, packed, read, unpacked
from foretune.app.learn import BUDGET, data_set, due, trained, verdict
from foretune.app.priors import KEPT, PriorStore
from foretune.app.starter import ElsewherePrior, elsewhere, starter_tasks
from foretune.domain.space import Float, Scale, Space
from foretune.errors import ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from foretune.domain.history import SourceTask
    from foretune.domain.space import Params

PLANE = Space(
    (
        Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG),
        Float(name="x", low=0.0, high=1.0),
    )
)


def hill(shift: float, sign: float = 1.0) -> Any:
    """A smooth objective with its top at lr = 10^-3 and x near 0.3."""

    def value(params: Params) -> float:
        away = (math.log10(params["lr"]) + 3) ** 2 + 9 * (params["x"] - 0.3 - shift) ** 2
        return sign * math.exp(-away)

    return value


def hills(count: int = 4, sign: float = 1.0) -> tuple[SourceTask, ...]:
    """Tasks whose tops lie close together."""
    found = [
        source(f"team/h{i}", PLANE, hill(0.03 * i, sign), count=30, seed=i) for i in range(count)
    ]
    return tuple(replace(task, space=PLANE) for task in found)


def some(seed: int = 0) -> dict[str, bytes]:
    """The files of a small prior."""
    return packed([source("t", PLANE, hill(0), count=8, seed=seed)], version="1")


# --------------------------------------------------------------------------- the folder
def test_a_prior_is_kept_and_found_by_the_start_of_its_id(tmp_path: Path) -> None:
    """What was added is there, by four digits or more, and never by a path."""
    store = PriorStore(tmp_path / "p")
    prior = store.add(some(), note="why", promote=False)
    assert store.get(prior.id[:4]) == store.get(prior.id) == prior
    for name in ("", prior.id[:3], "../p", "champion", f"{prior.id}/..", "ffff0000"):
        with pytest.raises(NotFoundError):
            store.get(name)


def test_states_tell_what_became_of_each(tmp_path: Path) -> None:
    """The one in use, those that were, those that never were, and a broken one with its fault."""
    store = PriorStore(tmp_path / "p")
    ids = [store.add(some(i), note=f"n{i}", promote=i < 2).id for i in range(4)]
    (store.folder / ids[3] / TENSORS).write_bytes(b"changed")
    states = {entry.id: entry.state for entry in store.entries()}
    assert [states[i] for i in ids] == ["retired", "champion", "challenger", "broken"]
    notes = {entry.id: entry.note for entry in store.entries()}
    assert notes[ids[2]] == "n2"
    assert "is not the file" in notes[ids[3]]
    with pytest.raises(InvalidInputError, match="is not the file"):
        store.get(ids[3])
    store.promote(ids[0][:6])
    assert store.champion() == store.get(ids[0])


def test_a_prior_under_another_s_id_is_refused(tmp_path: Path) -> None:
    """A whole prior put in place of the champion is not the champion."""
    store = PriorStore(tmp_path / "p")
    prior = store.add(some(), note="", promote=True)
    for name, content in some(1).items():
        (store.folder / prior.id / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match="was changed"):
        store.champion()


def test_the_same_prior_is_kept_once(tmp_path: Path) -> None:
    """A second training on the same jobs adds nothing, and may promote what is there."""
    store = PriorStore(tmp_path / "p")
    first = store.add(some(), note="a", promote=False)
    again = store.add(some(), note="b", promote=True)
    assert first == again
    assert [entry.state for entry in store.entries()] == ["champion"]


def test_old_priors_go_but_never_the_champion(tmp_path: Path) -> None:
    """The folder is bounded whatever happens."""
    store = PriorStore(tmp_path / "p")
    champion = store.add(some(), note="", promote=True)
    for seed in range(1, KEPT + 4):
        store.add(some(seed), note="", promote=False)
    assert len(store.entries()) == KEPT + 1
    assert store.champion() == champion


def test_a_prior_travels_to_another_store(tmp_path: Path) -> None:
    """Export, import, promote: the same prior; the folder of an export must be empty."""
    here, there = PriorStore(tmp_path / "a"), PriorStore(tmp_path / "b")
    prior = here.add(some(), note="", promote=True)
    out = tmp_path / "out"
    assert here.export("champion", out) == prior
    assert sorted(path.name for path in out.iterdir()) == [HEADER, TENSORS]
    with pytest.raises(ConflictError, match="not empty"):
        here.export(prior.id, out)
    assert there.receive(out) == prior
    assert there.champion() is None
    there.promote(prior.id)
    assert there.champion() == prior


def test_an_unsound_import_leaves_nothing_behind(tmp_path: Path) -> None:
    """What can't be read is not kept."""
    bad = tmp_path / "bad"
    bad.mkdir()
    for name, content in some().items():
        (bad / name).write_bytes(content[:-1])
    store = PriorStore(tmp_path / "p")
    with pytest.raises(InvalidInputError):
        store.receive(bad)
    assert store.entries() == []


def _add_for_ever(folder: Path) -> None:
    store = PriorStore(folder)
    seed = 1
    while True:
        store.add(some(seed), note="", promote=True)
        seed += 1


@pytest.mark.slow
def test_a_killed_training_harms_nothing(tmp_path: Path) -> None:
    """Whenever a process dies that adds and promotes priors, the champion is whole, and work goes on."""
    store = PriorStore(tmp_path / "p")
    store.add(some(), note="", promote=True)
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        before = store.champion_id()
        process = context.Process(target=_add_for_ever, args=(store.folder,))
        process.start()
        until(lambda before=before: store.champion_id() != before, "a new champion", limit_s=240)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert store.champion() is not None
        assert all(entry.state != "broken" for entry in store.entries())
        again = store.add(some(), note="", promote=True)
        assert store.champion() == again


# --------------------------------------------------------------------------- the judgement
@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks are held out, for six evaluations each."""
    monkeypatch.setattr(learn, "HELD_OUT", 2)
    monkeypatch.setattr(learn, "BUDGET", 6)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_good_history_becomes_the_champion() -> None:
    """Held-out tasks say that it helps: less regret than without, evidence for it, and odds in its favour."""
    steps: list[tuple[int, int, str]] = []
    made = trained(hills(), progress=lambda *step: steps.append(step))
    regret = made.figures["regret_6"]
    assert made.promoted
    assert regret["prior"] <= regret["plain"]
    assert made.figures["nats_a_value"]["prior"] < 0
    prior = unpacked(made.files, "x")
    assert prior.favour is not None
    assert prior.favour > 0
    assert prior.figures == made.figures
    assert [step[:2] for step in steps] == [(i, 4) for i in range(5)]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_tasks_that_say_nothing_make_a_prior_worse_than_the_champion() -> None:
    """Noise among the tasks is seen in the predictions for those held out, with both figures."""
    good = hills()
    champion = unpacked(packed(good, version="1"), "x")
    noise = tuple(
        replace(
            source(f"team/n{i}", PLANE, lambda p: math.sin(1e6 * p["x"]), count=30, seed=9 + i),
            space=None,
        )
        for i in range(6)
    )
    made = trained((*good[:1], *noise), champion=champion)
    assert set(made.figures["regret_6"]) == {"prior", "plain", "champion"}
    losses = made.figures["nats_a_value"]
    assert losses["prior"] > losses["champion"] + 0.05
    assert not made.promoted
    assert "worse than" in made.why


def test_nothing_of_a_held_out_data_set_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks on one data set are held out together, of the champion, too."""
    tasks = tuple(
        replace(task, context={"dataset": f"d{i // 2}"}) for i, task in enumerate(hills(6))
    )
    seen: list[tuple[str, set[str]]] = []

    def watch(task: SourceTask, history: tuple[SourceTask, ...]) -> learn.Replay:
        seen.append((data_set(task), {data_set(other) for other in history}))
        return learn.Replay(0.0, (), (0.0, 0.0))

    monkeypatch.setattr(learn, "replayed", watch)
    champion = unpacked(packed(tasks, version="1"), "x")
    trained(tasks, champion=champion)
    assert len(seen) == 18
    assert all(held not in others for held, others in seen)
    assert {held for held, _ in seen} == {"d0", "d1", "d2"}


def figures(
    prior: float, rival: float, nats: float = -0.1, champion: float | None = None
) -> dict[str, Any]:
    """Figures of a judgement, against a champion of so many nats a value or against no prior."""
    name = "plain" if champion is None else "champion"
    losses = {"prior": nats} | ({} if champion is None else {"champion": champion})
    return {f"regret_{BUDGET}": {"plain": 0.3, "prior": prior, name: rival}, "nats_a_value": losses}


@pytest.mark.parametrize(
    ("told", "promoted", "said"),
    [
        (figures(0.10, 0.20), True, "no worse than no prior: regret after 10 evaluations 0.100"),
        (figures(0.22, 0.20), True, "no worse"),
        (figures(0.23, 0.20), False, "worse than no prior"),
        (figures(0.10, 0.20, nats=0.06), False, "its predictions are worse than those of no prior"),
        (figures(0.10, 0.10, champion=-0.14), True, "no worse than the champion"),
        (figures(0.10, 0.10, champion=-0.16), False, "-0.100 nats a value against -0.160"),
        (figures(0.20, 0.10, champion=0.0), False, "worse than the champion"),
        ({"held_out": []}, False, "promote it by hand"),
    ],
)
def test_the_verdict_allows_five_per_cent(told: dict[str, Any], promoted: bool, said: str) -> None:
    """Regret and predictions may each be a little worse; more is refused with the figures."""
    decided, why = verdict(told)
    assert decided is promoted
    assert said in why


def test_a_new_prior_is_due_after_new_tasks_or_a_day_with_changes() -> None:
    """Three new tasks, or any change after a day; never without a change."""
    prior = unpacked(packed(hills(4), version="1"), "x")
    assert due(hills(1), None, 0.0)
    assert not due(hills(4), prior, 1e9)
    assert not due(hills(6), prior, 0.0)
    assert due(hills(7), prior, 0.0)
    assert due(hills(5), prior, 86_401.0)
    grown = (*hills(3), replace(hills(4)[3], trials=hills(4)[3].trials[:20]))
    assert not due(grown, prior, 0.0)
    assert due(grown, prior, 86_401.0)


def test_fewer_than_three_tasks_are_no_prior() -> None:
    """One line says how many tasks there are, and how many are needed."""
    small = source("team/s", PLANE, hill(0), count=4)
    with pytest.raises(InvalidInputError, match="at least 3 tasks with 5 values each; there are 2"):
        trained((*hills(2), small))


def test_tasks_that_can_t_be_tuned_again_are_not_judged() -> None:
    """Without a space there is nothing to hold out: the prior is made, and not promoted."""
    made = trained(tuple(replace(task, space=None) for task in hills()))
    assert not made.promoted
    assert unpacked(made.files, "x").favour is None


def test_regret_is_none_at_the_best_row_and_one_from_the_middle_on() -> None:
    """Also where half of the rows are best, and only the others can be told apart."""
    assert learn._regrets([4.0, 2.0, 3.0, 1.0, -9.0]) == [0.0, 1.0, 0.5, 1.0, 1.0]
    assert learn._regrets([1.0, 1.0, 0.0]) == [0.0, 0.0, 1.0]


# --------------------------------------------------------------------------- what jobs get of it
def test_a_service_is_given_the_starter_or_none_or_a_folder(tmp_path: Path) -> None:
    """The setting names what jobs look at; a folder without a sound prior is refused at start."""
    asked = problem(PLANE)
    given = elsewhere("starter")
    assert given is not None
    assert given.extend(asked).starter == starter_tasks()
    assert given.extend(asked).starter is given.extend(asked).starter
    assert elsewhere("none") is None
    store = PriorStore(tmp_path / "p")
    prior = store.add(some(), note="", promote=True)
    more = elsewhere(str(store.folder / prior.id))
    assert more is not None
    assert [task.name for task in more.extend(asked).starter][-1] == "t"
    with pytest.raises(InvalidInputError, match="there is no"):
        elsewhere(str(tmp_path / "nowhere"))


def test_jobs_of_this_history_are_not_told_twice() -> None:
    """Of a champion only tasks of other places are given: a job must not learn from its own copy."""
    prior = unpacked(packed(hills(), version="1"), "x")
    given = ElsewherePrior([prior], known={"team/h0", "team/h2"}).extend(problem(PLANE)).starter
    assert [t.name for t in given if t.name.startswith("team/")] == ["team/h1", "team/h3"]


def test_what_is_made_is_what_is_read(tmp_path: Path) -> None:
    """An id is the checksum of what a folder holds."""
    store = PriorStore(tmp_path / "p")
    prior = store.add(some(), note="", promote=False)
    assert read(store.folder / prior.id) == prior
