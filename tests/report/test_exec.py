"""`foretune-exec` and the stand-ins, as processes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from tests.support.until import until

EXEC = ("-m", "foretune_report.exec")

RAY = """
from ray import train
for i in range(3):
    train.report({"accuracy": 0.5 + i / 10, "training_iteration": i + 1})
"""
KATIB = """
from kubeflow.katib import report_metrics
report_metrics({"accuracy": "0.75"})
"""
TRAINJOB = """
from kubeflow.trainer import update_trainjob_status
update_trainjob_status(progress_percentage=10)
update_trainjob_status(metrics={"accuracy": 0.625})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "values"),
    [(RAY, [0.5, 0.6, 0.7]), (KATIB, [0.75]), (TRAINJOB, [0.625])],
    ids=["ray", "katib", "trainjob"],
)
def test_programs_for_other_tools_report(tracked, program, values):
    """A program written for another tool, which is not installed, reports to the tracker unchanged."""
    code, _, err = tracked.pod().run(*EXEC, "--shims", "--", sys.executable, "-c", program)
    assert code == 0, err
    assert [p.metrics["accuracy"] for p in tracked.curve()] == pytest.approx(values)


@pytest.mark.slow
def test_a_stop_ends_a_program_for_ray(tracked):
    """`ray.train.report` leaves the program when the tracker wants the trial stopped."""
    tracked.stop()
    endless = RAY.replace("range(3)", "range(10**9)") + "\nimport time; time.sleep(0.01)"
    code, _, err = tracked.pod().run(*EXEC, "--shims", "--", sys.executable, "-c", endless)
    assert code == 0, err


def test_a_real_module_is_left_alone(tmp_path, pod):
    """Where `ray` is installed the stand-in is not used, and a `sitecustomize` of the user's still runs."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("real = True")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.mine = True")
    one = pod()
    one.env["PYTHONPATH"] = str(tmp_path)
    program = "import ray, sys; print(ray.real, sys.mine); import ray.train"
    code, out, err = one.run(*EXEC, "--shims", "--", sys.executable, "-c", program)
    assert out == "True True\n"
    assert code == 1
    assert "No module named 'ray.train'" in err


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_commands_code_is_passed_on(pod, code):
    """The wrapper ends as the command does, and leaves no message where it has nothing to say."""
    one = pod()
    assert one.run(*EXEC, "--", sys.executable, "-c", f"raise SystemExit({code})")[0] == code
    assert not one.message


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 64, "usage"),
        (("--shim", "--", "true"), 64, "usage"),
        (("--", "no-such-command"), 127, "no-such-command: No such file"),
        (("--", "/etc"), 126, "/etc: Permission denied"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(pod, words, code, said):
    """A missing command, an unknown option, and a file that can't be run each give one line."""
    found, _, err = pod().run(*EXEC, *words)
    assert found == code
    assert said in err


def test_signals_reach_the_whole_group_and_nobody_is_left(tmp_path, pod):
    """SIGTERM reaches a grandchild behind a shell; its code is passed on, and nothing survives."""
    beat = tmp_path / "grandchild"
    inner = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open({str(beat)!r}, "w").write(str(os.getpid()))
while True: time.sleep(0.05)
"""
    script = tmp_path / "inner.py"
    script.write_text(inner)
    one = pod()
    process = one.command(*EXEC, "--", "sh", "-c", f"{sys.executable} {script}; exit $?")
    pid = int(until(lambda: beat.read_text() if beat.exists() else "", "the grandchild runs"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (
        process.returncode == 128 + signal.SIGTERM
    )  # of the shell, which was asked to leave as well
    assert one.message == "sh: ended by SIGTERM"
    until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "it is gone")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_signal_of_its_own_is_named(pod):
    """A command that a signal ended gives 128 + n, and the termination message names the signal."""
    one = pod()
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert one.run(*EXEC, "--", sys.executable, "-c", program)[0] == 128 + signal.SIGSEGV
    assert one.message == f"{sys.executable}: ended by SIGSEGV"
