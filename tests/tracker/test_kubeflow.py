"""What the Trainer of transformers posts as to Kubeflow Trainer becomes a curve, which the log completes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support.histories import an_outcome
from tests.support.trials import JOB, Tracked, tracked_trial

from foretune import contract
from foretune.domain.logs import parse_log
from foretune.domain.trial import Point
from foretune.errors import InvalidReportError
from foretune.services.tracker.auth import Identity
from foretune.services.tracker.kubeflow import Status, read_status, report_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Tracked]:
    """A trial that a real tracker holds."""
    with tracked_trial(tmp_path) as found:
        yield found


def body_of(**metrics: object) -> bytes:
    """Return a post of transformers 5.23 with these metrics, each as a text."""
    status = {
        "lastUpdatedTime": "2026-03-01T10:00:00.000000+00:00",
        "progressPercentage": 40,
        "estimatedRemainingSeconds": 7,
        "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items()],
    }
    return json.dumps({"trainerStatus": status}).encode()


def status_of(**metrics: object) -> Status:
    return read_status(body_of(**metrics))


def evaluated(epoch: float, accuracy: float, **more: object) -> dict[str, object]:
    """Return what is posted after an evaluation."""
    return {
        "loss": 0.5,
        "grad_norm": 1.25,
        "learning_rate": 1e-05,
        "epoch": epoch,
        "eval_loss": 1 - accuracy,
        "eval_accuracy": accuracy,
        "eval_runtime": 0.01,
        "current_step": int(epoch * 10),
        "total_steps": 100,
        "current_epoch": round(epoch, 2),
        **more,
    }


def post(tracked: Tracked, content: bytes, token: str, *, index: int = 0) -> httpx.Response:
    url = f"{tracked.tracker.url}{contract.KUBEFLOW_PATH}/{JOB}/{index}"
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(url, content=content, headers=headers, trust_env=False)


class TestStatus:
    """From a status to a report."""

    def test_names_and_numbers(self) -> None:
        """Texts are numbers, names come with and without `eval_`, and what is no metric stays behind."""
        report = report_of(status_of(**evaluated(3.0, 0.123456789012345)), [])
        assert report == {
            "epoch": 3.0,
            "step": 30,
            "kind": "epoch",
            "metrics": {
                "loss": 0.5,
                "train_loss": 0.5,
                "grad_norm": 1.25,
                "eval_loss": 1 - 0.123456789012345,
                "val_loss": 1 - 0.123456789012345,
                "eval_accuracy": 0.123456789012345,
                "accuracy": 0.123456789012345,
            },
            "nonfinite": [],
        }

    def test_the_first_post_says_nothing(self) -> None:
        """What is posted when the training begins is no report."""
        assert report_of(status_of(total_steps=100), []) is None
        assert report_of(Status(), []) is None

    def test_an_evaluation_is_told_once(self) -> None:
        """Later posts repeat it, with other losses: they are none; another value is."""
        known = [Point(epoch=3.0, metrics={"eval_accuracy": 0.5, "eval_loss": 0.5}, at=0.0)]
        assert report_of(status_of(**evaluated(3.6, 0.5, loss=0.4)), known) is None
        assert report_of(status_of(**evaluated(4.2, 0.6)), known) is not None

    @pytest.mark.parametrize(
        ("at", "before", "epoch"),
        [(4.3, 3.0, 4.0), (4.3, 4.1, 4.3), (4.0, 3.0, 4.0), (0.5, 0, 0.5)],
    )
    def test_its_epoch(self, at: float, before: float, epoch: float) -> None:
        """It is put at the last whole epoch since the one before, or where the training is."""
        known = [Point(epoch=before, metrics={"eval_accuracy": 0.5, "eval_loss": 0.5}, at=0.0)]
        report = report_of(status_of(**evaluated(at, 0.6)), known)
        assert report is not None
        assert report["epoch"] == epoch

    def test_other_clients(self) -> None:
        """Metrics of any name without an epoch are points by step, each new value one."""
        report = report_of(status_of(auc=0.7, current_step=5), [])
        assert report == {"metrics": {"auc": 0.7}, "nonfinite": [], "step": 5, "kind": "step"}
        known = [Point(epoch=5.0, metrics={"auc": 0.7}, at=0.0)]
        assert report_of(status_of(auc=0.7, current_step=9), known) is None

    def test_values_that_are_none(self) -> None:
        """NaN is named, words are left out, an impossible epoch or step is not taken."""
        wrong = {"eval_loss": "nan", "note": "warm " * 99, "n" * 200: 1, "": 1}
        wrong |= {"epoch": "inf", "current_step": -1}
        report = report_of(status_of(**{**evaluated(2.0, 0.5), **wrong}), [])
        assert report is not None
        assert report["nonfinite"] == ["eval_loss", "val_loss"]
        assert set(report["metrics"]) == {
            *("loss", "train_loss", "grad_norm", "eval_accuracy", "accuracy")
        }
        assert "epoch" not in report
        assert "step" not in report

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"[]",
            b"{}",
            b'{"trainerStatus": 3}',
            b'{"trainerStatus": {"metrics": [{"name": "a"}]}}',
        ],
    )
    def test_wrong_bodies(self, content: bytes) -> None:
        """A body that is no status is refused with the field."""
        with pytest.raises(InvalidReportError):
            read_status(content)


@pytest.mark.slow
class TestRoute:
    """Over a real socket."""

    def test_rights(self, tracked: Tracked) -> None:
        """Only the trial's own pod may post, with its token."""
        issue = tracked.tracker.issue_token
        own, other = issue(JOB, 0, 0, "pod-0"), issue(JOB, 1, 0, "pod-9")
        reader = tracked.tracker.authenticator.issue(Identity(username="reader", reads_all=True))
        content = body_of(**evaluated(1.0, 0.5))
        assert post(tracked, content, own).status_code == 503  # not named yet
        tracked.name()
        answers = {token: post(tracked, content, token) for token in ("none", reader, other, own)}
        assert [a.status_code for a in answers.values()] == [401, 403, 403, 200]
        assert answers[own].json()["action"] == "continue"
        assert post(tracked, b"{}", own).status_code == 422
        assert post(tracked, b" " * 70_000, own).status_code == 413
        assert post(tracked, content, own, index=7).status_code == 403
        tracked.name(1)
        assert post(tracked, content, own).json()["code"] == "stale_pod"
        assert [p.epoch for p in tracked.curve()] == [1.0]

    def test_the_log_completes_it(self, tracked: Tracked) -> None:
        """Every epoch of the log is there; what was posted keeps its precision, and gets the log's epoch."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()
        for given in (evaluated(2.0, 0.512345678), evaluated(4.4, 0.7123456), evaluated(6.0, 0.81)):
            assert post(tracked, body_of(**given), token).status_code == 200
        accuracies = [0.4, 0.512345678, 0.6, 0.7, 0.7123456, 0.81]
        # the fifth evaluation was in the middle of an epoch, which the post did not say
        epochs = [1, 2, 3, 4, 4.3, 6]
        log = "\n".join(
            str({"eval_accuracy": f"{accuracy:.4g}", "epoch": f"{epoch:.4g}"})
            for epoch, accuracy in zip(epochs, accuracies, strict=True)
        )
        tracked.tracker.service.commit(
            JOB, an_outcome(records=tuple(parse_log(log)), source="log_tail")
        )
        assert [(p.epoch, p.metrics["accuracy"]) for p in tracked.curve()] == list(
            zip(epochs, accuracies, strict=True)
        )
        trial = tracked.tracker.service.trial(JOB, 0)
        assert (trial.value, trial.source, trial.epochs) == (0.81, "kubeflow", 6.0)

    def test_a_plateau_keeps_its_last_value(self, tracked: Tracked) -> None:
        """Values that a log can't tell apart stay at the epochs that were posted with them."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()
        for epoch, accuracy in ((2.0, 0.91231), (3.0, 0.91232), (5.0, 0.91233)):
            post(tracked, body_of(**evaluated(epoch, accuracy)), token)
        log = "\n".join(f"epoch {epoch} eval_accuracy: 0.9123" for epoch in range(1, 6))
        records = tuple(parse_log(log))
        tracked.tracker.service.commit(JOB, an_outcome(records=records, source="log_tail"))
        expected = [0.9123, 0.91231, 0.91232, 0.9123, 0.91233]
        assert [p.metrics["eval_accuracy"] for p in tracked.curve()] == expected

    def test_nan(self, tracked: Tracked) -> None:
        """One evaluation that is NaN, however often it is posted, is no divergence; two are."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()

        def sent(epoch: float, accuracy: float | str) -> bool:
            given = {**evaluated(epoch, 0.5), "eval_accuracy": accuracy, "eval_loss": "nan"}
            assert post(tracked, body_of(**given), token).status_code == 200
            return tracked.tracker.service.trial(JOB, 0).nonfinite

        assert not any([sent(1.0, "nan"), sent(1.4, "nan"), sent(1.9, "nan")])
        assert sent(2.1, "nan")
        assert tracked.reports() == 4

    def test_a_loss_that_is_nan_beside_an_accuracy(self, tracked: Tracked) -> None:
        """The same accuracy again makes no point, though the loss is no number."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()
        for epoch in (1.0, 1.3, 1.7):
            given = evaluated(epoch, 0.5, eval_loss="nan")
            assert post(tracked, body_of(**given), token).status_code == 200
        assert [p.epoch for p in tracked.curve()] == [1.0]

    def test_a_program_that_reports_by_itself(self, tracked: Tracked) -> None:
        """Where the SDK reports, what is posted besides is passed over, whichever comes first."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()
        envelope: dict[str, Any] = {"v": 1, "trial": f"{JOB}/0", "attempt": 0, "pod": "pod-0"}
        assert post(tracked, body_of(**evaluated(1.7, 0.5)), token).status_code == 200
        reports = [
            {**envelope, "seq": n, "epoch": n + 1, "metrics": {"accuracy": 0.5 + n / 10}}
            for n in range(3)
        ]
        answer = httpx.post(
            tracked.tracker.url + contract.REPORTS_PATH,
            json=reports,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        assert answer.json()["ack"] == 2
        assert post(tracked, body_of(**evaluated(3.7, 0.71)), token).status_code == 200
        assert [(p.epoch, p.metrics) for p in tracked.curve()] == [
            (n + 1, {"accuracy": 0.5 + n / 10}) for n in range(3)
        ]
        assert tracked.tracker.service.trial(JOB, 0).source == "push"

    def test_a_newer_pod_goes_on(self, tracked: Tracked) -> None:
        """What a pod posted beyond the epoch at which its successor goes on is not part of the run."""
        for number, posts in ((0, ((1.0, 0.1), (2.0, 0.2), (3.0, 0.3))), (1, ((2.0, 0.25),))):
            token = tracked.tracker.issue_token(JOB, 0, number, f"pod-{number}")
            tracked.name(number)
            for epoch, accuracy in posts:
                answer = post(tracked, body_of(**evaluated(epoch, accuracy)), token)
                assert answer.status_code == 200
        assert [p.metrics["accuracy"] for p in tracked.curve()] == [0.1, 0.25]

    def test_a_stop_is_in_the_answer(self, tracked: Tracked) -> None:
        """Whoever reads the answer hears the stop; the Trainer of transformers does not."""
        token = tracked.tracker.issue_token(JOB, 0, 0, "pod-0")
        tracked.name()
        tracked.stop()
        answer = post(tracked, body_of(**evaluated(1.0, 0.5)), token).json()
        assert (answer["action"], answer["reason"]) == ("stop", "median")
