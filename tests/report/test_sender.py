"""Delivery: against the real tracker, and against servers that misbehave."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.scripted_server import ACCEPTED, Reply, black_hole, refusing, scripted
from tests.support.until import until

from foretune import contract
from foretune.contract import Action
from foretune_report import sender as senders
from foretune_report.spool import Spool, read
from foretune_report.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.trials import Pod, Tracked

    from foretune_report import Reporter

    ReporterOf = Callable[[Pod], Reporter]
    Make = Callable[..., Pod]

BUSY = Reply(503, {"error": "not yet"}, (("Retry-After", "0"),))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once, so that no test waits for a back-off."""
    monkeypatch.setattr(senders, "BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr(senders, "GAP_S", 0.0)


def fill(reporter: Reporter, count: int, **more: Any) -> None:
    for epoch in range(1, count + 1):
        reporter.report({"accuracy": epoch / 100}, epoch=epoch, **more)


class TestRealTracker:
    """The tracker itself, over a real socket."""

    def test_curve_arrives(self, tracked: Tracked, reporter_of: ReporterOf) -> None:
        """Every report becomes a point, and the end waits for the last one."""
        reporter = reporter_of(tracked.pod())
        fill(reporter, 30)
        reporter.finish("done")
        assert [(p.epoch, p.metrics["accuracy"]) for p in tracked.curve()] == [
            (e, e / 100) for e in range(1, 31)
        ]

    def test_pod_named_later(self, tracked: Tracked, reporter_of: ReporterOf) -> None:
        """Reports of a pod that the operator has not named yet are kept and arrive once it has."""
        reporter = reporter_of(tracked.pod(named=False))
        fill(reporter, 3)
        until(lambda: reporter._sender and reporter._sender._pause > 0.01, "a refusal")
        assert tracked.reports() == 0
        tracked.name()
        until(lambda: tracked.reports() == 3, "the reports")
        assert len(tracked.curve()) == 3

    def test_stop(self, tracked: Tracked, reporter_of: ReporterOf) -> None:
        """A stop reaches the program with the answer to its next report, with the rule's name."""
        reporter = reporter_of(tracked.pod())
        assert not reporter.report({"accuracy": 0.1}, epoch=1).should_stop
        until(lambda: tracked.reports() == 1, "the first report")
        tracked.stop()
        reporter.report({"accuracy": 0.1}, epoch=2)
        until(lambda: reporter.reply.should_stop, "the stop")
        assert (reporter.reply.action, reporter.reply.reason) == (Action.STOP, "median")

    def test_newer_pod(self, tracked: Tracked, reporter_of: ReporterOf) -> None:
        """A pod that a newer one has replaced is told to stop, and sends no more."""
        old = reporter_of(tracked.pod(0))
        old.report({"accuracy": 0.1}, epoch=1)
        until(lambda: tracked.reports() == 1, "the first report")
        tracked.name(1)
        old.report({"accuracy": 0.2}, epoch=2)
        until(lambda: old.reply.should_stop, "the stop")
        assert "newer pod" in (old.reply.reason or "")
        assert tracked.reports() == 1

    def test_what_a_lost_pod_could_not_send(
        self, tracked: Tracked, reporter_of: ReporterOf
    ) -> None:
        """The next attempt delivers its predecessor's reports, up to where it goes on itself."""
        first = reporter_of(tracked.pod(0, named=False))
        fill(first, 6, resources={"cpu_s": 1.0})
        spool = tracked.folder / "checkpoints" / "reports-0-pod-0.jsonl"
        until(lambda: len(read(spool)[0]) == 6, "the spool")
        second = reporter_of(tracked.pod(1))
        second.report({"accuracy": 0.5}, epoch=4, resources={"cpu_s": 2.0})
        second.finish("done")
        assert [(p.epoch, p.metrics["accuracy"]) for p in tracked.curve()] == [
            (1, 0.01),
            (2, 0.02),
            (3, 0.03),
            (4, 0.5),
        ]
        assert tracked.tracker.service.trial("job-1", 0).cpu_s == 2.0
        assert not spool.exists()

    def test_restart_in_the_same_pod(self, tracked: Tracked, reporter_of: ReporterOf) -> None:
        """A container that starts again in its pod goes on counting: nothing is taken for a repetition."""
        pod = tracked.pod()
        first = reporter_of(pod)
        fill(first, 3)
        first.finish("exit")
        again = reporter_of(pod)
        again.report({"accuracy": 0.9}, epoch=4)
        again.finish("exit")
        assert tracked.reports() == 4
        assert tracked.curve()[-1].metrics == {"accuracy": 0.9}

    @pytest.mark.slow
    def test_foreign_program(self, tracked: Tracked) -> None:
        """A script with one line of ours reports, hears the stop, and ends with code 0."""
        pod = tracked.pod()
        program = """
import time
from foretune_report import report
epoch = 0
while not report(epoch=(epoch := epoch + 1), accuracy=1 - 1 / epoch).should_stop:
    time.sleep(0.02)
"""
        process = pod.command("-c", program)
        until(lambda: tracked.reports() >= 1, "a report")
        tracked.stop()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(pod.message)["reason"] == "exit"
        assert tracked.curve()[0].metrics == {"accuracy": 0.0}


class TestMisbehavingServers:
    """Whatever the other side does, the training does not notice."""

    @pytest.mark.parametrize("kind", ["refusing", "black hole", "slow", "errors", "nonsense", "up"])
    def test_report_is_quick(
        self,
        kind: str,
        pod: Make,
        reporter_of: ReporterOf,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """99 of 100 reports cost the training thread less than a millisecond, of its own time and by the clock.

        Its own time (of 2,000 reports) leaves out what others do with the processor, but also what it
        waits for. By the clock the best of some rounds counts: a busy machine makes a round slower, never
        quicker, and a report that waited for the server would be slow in each.
        """

        def slow(batch: Any) -> Reply:
            time.sleep(0.2)
            return Reply()

        answers = {
            "slow": slow,
            "errors": lambda _: Reply(500, {"error": "broken"}),
            "nonsense": lambda _: Reply(200, b"<html>"),
            "up": lambda _: Reply(),
        }
        opened: Any = {"refusing": refusing, "black hole": black_hole}.get(kind)
        opened = opened() if opened else scripted(answers[kind])
        with opened as server:
            reporter = reporter_of(pod(url=getattr(server, "url", server)))
            own, rounds = [], []
            for number in range(10):
                clock = []
                for step in range(200):
                    begin, begun = time.thread_time(), time.perf_counter()
                    reporter.report({"accuracy": 0.5, "val_loss": 0.1}, epoch=200 * number + step)
                    clock.append(time.perf_counter() - begun)
                    own.append(time.thread_time() - begin)
                rounds.append(sorted(clock))
            reporter._sender.close(0.0)
        assert sorted(own)[int(0.99 * len(own))] < 0.001
        assert min(clock[int(0.99 * len(clock))] for clock in rounds) < 0.001
        # The server is given ten seconds to answer: none of it is waited for here.
        assert max(clock[-1] for clock in rounds) < 2
        assert capsys.readouterr().err.count("foretune_report:") <= 2

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [refusing, black_hole])
    def test_the_end_waits_five_seconds(
        self, kind: Any, pod: Make, reporter_of: ReporterOf
    ) -> None:
        """A program whose tracker is away ends after 5 s, and says how many reports it still has."""
        with kind() as url:
            here = pod(url=url)
            reporter = reporter_of(here)
            fill(reporter, 3)
            begin = time.monotonic()
            reporter.finish("done")
            assert 4.5 < time.monotonic() - begin < 20
        assert json.loads(here.message)["dropped"] == 3
        assert (
            len(read(Path(here.env[contract.ENV_CHECKPOINT_DIR]) / "reports-0-pod-0.jsonl")[0]) == 3
        )

    def test_kill_while_a_request_hangs(self, pod: Make) -> None:
        """What was reported while a request hangs is in the spool's file, whatever ends the process."""
        program = """
import time
from foretune_report import report
report(epoch=1, accuracy=0.1)
time.sleep(0.2)
report(epoch=2, accuracy=0.2)
time.sleep(600)
"""
        with black_hole() as url:
            here = pod(url=url)
            spool = Path(here.env[contract.ENV_CHECKPOINT_DIR]) / "reports-0-pod-0.jsonl"
            process = here.command("-c", program)
            until(lambda: len(read(spool)[0]) == 2, "both reports in the file")
            process.kill()
            process.communicate()
        assert [record["epoch"] for record in read(spool)[0]] == [1, 2]

    def test_comes_back(self, pod: Make, reporter_of: ReporterOf) -> None:
        """Reports made while the tracker was away arrive in order, each once, when it is back."""
        down = True
        accepted: list[int] = []

        def answer(batch: list[dict[str, Any]]) -> Reply:
            if down:
                return BUSY
            accepted.extend(report["seq"] for report in batch)
            return Reply()

        with scripted(answer) as server:
            reporter = reporter_of(pod(url=server.url))
            fill(reporter, 20)
            until(lambda: len(server.batches) > 3, "some refusals")
            down = False
            reporter.finish("done")
            assert accepted == list(range(20))

    def test_token_is_read_anew(self, pod: Make, reporter_of: ReporterOf) -> None:
        """A token that the kubelet replaces is used from the next request on."""
        with scripted(
            lambda _: Reply() if server.tokens[-1] == "Bearer fresh" else Reply(401, {})
        ) as server:
            here = pod(url=server.url, token="stale")
            reporter = reporter_of(here)
            reporter.report({"a": 1}, epoch=1)
            until(lambda: "Bearer stale" in server.tokens, "a refusal")
            (here.folder / "token").write_text("fresh\n")
            reporter.finish("done")
            assert server.tokens[-1] == "Bearer fresh"
            assert reporter._sender.lost == 0

    def test_tls(self, pod: Make, reporter_of: ReporterOf, tmp_path: Path) -> None:
        """Over https the tracker's certificate is checked, against the CA that the trial is given."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        file = tmp_path / "certificate.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", "/CN=tracker"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(tmp_path / "key.pem"), "-out", str(file)),
            ],
            check=True,
            capture_output=True,
        )
        both = tmp_path / "both.pem"
        both.write_text((tmp_path / "key.pem").read_text() + file.read_text())
        with scripted(lambda _: Reply(), certificate=both) as server:
            stranger = reporter_of(pod(url=server.url, uid="pod-1"))
            stranger.report({"a": 1}, epoch=1)
            until(lambda: stranger._sender and "unreachable" in stranger._sender._told, "a refusal")
            here = pod(url=server.url)
            here.env[contract.ENV_CA_FILE] = str(file)
            reporter = reporter_of(here)
            reporter.report({"a": 1}, epoch=1)
            reporter.finish("done")
            assert [batch[0]["pod"] for batch in server.batches] == ["pod-0"]

    def test_bodies_stay_within_the_limit(self, pod: Make, reporter_of: ReporterOf) -> None:
        """Many large reports are sent in bodies that the tracker takes."""
        held = True
        with scripted(lambda _: BUSY if held else Reply()) as server:
            reporter = reporter_of(pod(url=server.url))
            for epoch in range(60):
                reporter.report({f"{n}{'m' * 50}": 1.5 for n in range(100)}, epoch=epoch)
            held = False
            reporter.finish("done")
            sizes = [len(json.dumps(b, separators=(",", ":"))) for b in server.batches]
            assert max(sizes) <= contract.BODY_LIMIT
            assert len(sizes) > 5
            assert set(server.seqs) == set(range(60))

    def test_one_bad_report_costs_itself_only(self, pod: Make, reporter_of: ReporterOf) -> None:
        """A report that the tracker will never take is found by halving, and the others arrive."""
        stored: set[int] = set()

        def answer(batch: list[dict[str, Any]]) -> Reply:
            if any("poison" in report["metrics"] for report in batch):
                return Reply(422, {"error": "metrics: wrong"})
            stored.update(report["seq"] for report in batch)
            return Reply()

        held = True
        with scripted(lambda batch: BUSY if held else answer(batch)) as server:
            here = pod(url=server.url)
            reporter = reporter_of(here)
            for epoch in range(20):
                reporter.report({"poison" if epoch == 13 else "a": 1}, epoch=epoch)
            held = False
            reporter.finish("done")
            assert stored == set(range(20)) - {13}
            assert json.loads(here.message)["dropped"] == 1

    def test_other_contract(self, pod: Make, reporter_of: ReporterOf) -> None:
        """A tracker of another contract is left alone after one try, and the training goes on."""
        refusal = Reply(409, {"error": "contract version 1", "code": "contract_version"})
        with scripted(lambda _: refusal) as server:
            reporter = reporter_of(pod(url=server.url))
            reporter.report({"a": 1}, epoch=1)
            until(lambda: reporter._sender and reporter._sender.refused, "the refusal")
            fill(reporter, 5)
            reporter.finish("done")
            assert len(server.batches) == 1
            assert not reporter.reply.should_stop

    def test_interval(self, pod: Make, reporter_of: ReporterOf) -> None:
        """A tracker that asks for longer intervals gets fewer requests with more in each."""
        reply = Reply(200, {**ACCEPTED, "interval": 30})
        with scripted(lambda _: reply) as server:
            reporter = reporter_of(pod(url=server.url))
            reporter.report({"a": 1}, epoch=1)
            until(lambda: len(server.batches) == 1, "the first request")
            fill(reporter, 50)
            reporter.finish("done")
            assert len(server.batches) == 2
            assert len(server.batches[1]) == 50

    def test_an_end_between_answer_and_pause(self) -> None:
        """A program that ends just before its sender begins a long pause is not kept from its last reports."""
        sender = senders.Sender(Transport("http://127.0.0.1:1", None, None), Spool(None))
        sender._spool.put(0, b"{}")
        before = sender._until
        sender._until = time.monotonic() + 60
        sender._sleep(30, before)
        assert sender._wait_for_work()
        assert time.monotonic() < sender._until - 50

    @pytest.mark.parametrize("action", ["dance", 7, None])
    def test_unknown_action(self, pod: Make, reporter_of: ReporterOf, action: Any) -> None:
        """An action that this contract does not know changes nothing."""
        with scripted(lambda _: Reply(200, {"ack": 0, "action": action})) as server:
            reporter = reporter_of(pod(url=server.url))
            reporter.report({"a": 1}, epoch=1)
            reporter.finish("done")
            assert server.seqs == [0]
            assert not reporter.reply.should_stop
