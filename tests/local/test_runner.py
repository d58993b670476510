"""ProcessRunner with real processes: starting, watching, ending, and what is left on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.until import until
from tests.support.world import make_job

from foretune import contract
from foretune.adapters.local.folders import Folder
from foretune.adapters.local.runner import ProcessRunner, check
from foretune.adapters.local.workload import Program, render
from foretune.domain.job import Builtin, Image, Inject, Template
from foretune.domain.trial import AttemptPhase, ObservedAttempt, Trial, TrialState
from foretune.errors import ConflictError, InvalidJobError, UnavailableError
from foretune.planner.naming import attempt_name, config_hash
from foretune.planner.outcomes import classify
from foretune.planner.snapshot import Recovered
from foretune.ports import LaunchRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.domain.job import Job

PARAMS = {"lr": 0.01, "layers": 3}


def job_of(code: str, *, gpu: int = 0, timeout_s: float | None = None, **image: Any) -> Job:
    """Return a job whose trials run `code` with this Python."""
    job = make_job()
    command = (sys.executable, "-c", textwrap.dedent(code))
    workload = Image(**{"image": "example/none:1", "command": command, **image})
    trial = replace(job.spec.trial, workload=workload, gpu=gpu, timeout_s=timeout_s)
    return replace(job, spec=replace(job.spec, trial=trial))


def runner_at(path: Path, **options: Any) -> ProcessRunner:
    """Return a runner below `path` whose tokens name what they were issued for."""
    options.setdefault("issue_token", lambda *of: "token " + " ".join(map(str, of)))
    return ProcessRunner(path, report_url="http://127.0.0.1:1", **options)


def start(runner: ProcessRunner, job: Job, index: int = 0, number: int = 0) -> str:
    """Launch an attempt and return its name."""
    name = attempt_name(job, index, number)
    runner.launch(
        LaunchRequest(
            job=job,
            name=name,
            index=index,
            number=number,
            params=dict(PARAMS),
            config_hash=config_hash(PARAMS),
        )
    )
    return name


def ended(runner: ProcessRunner, job: Job, name: str) -> ObservedAttempt:
    """Wait for an attempt's end."""

    def look() -> ObservedAttempt | None:
        seen = runner.lookup(job, name)
        assert seen is not None
        return seen if seen.phase.ended else None

    return until(look, f"the end of {name}")


def line_of(path: Path) -> Callable[[], str]:
    """Return a condition: the file's text once it holds a whole line."""
    return lambda: path.read_text() if path.exists() and "\n" in path.read_text() else ""


def running(pid: int) -> bool:
    """Whether a process runs, zombies aside."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in {"Z", "X"}


@pytest.mark.parametrize(
    ("code", "phase", "exit_code"),
    [
        ("pass", AttemptPhase.SUCCEEDED, 0),
        ("raise SystemExit(3)", AttemptPhase.FAILED, 3),
        ("import sys; sys.exit(79)", AttemptPhase.FAILED, 79),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", AttemptPhase.FAILED, 139),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", AttemptPhase.FAILED, 137),
    ],
)
def test_an_end_is_mapped_as_a_containers(
    tmp_path: Path, code: str, phase: AttemptPhase, exit_code: int
) -> None:
    """Exit codes arrive as they are, a signal n as 128 + n, with the times of start and end."""
    runner, job = runner_at(tmp_path), job_of(code)
    seen = ended(runner, job, start(runner, job))
    assert (seen.phase, seen.exit_code) == (phase, exit_code)
    assert seen.created_at is not None
    assert seen.started_at is not None
    assert seen.ended_at is not None
    assert seen.created_at <= seen.started_at <= seen.ended_at
    assert seen.disruption is None


def test_what_is_injected_is_on_the_path(tmp_path: Path) -> None:
    """`trial.inject` puts a copy of the SDK before the PYTHONPATH of shell or manifest."""
    code = """
        import os, foretune_report
        from ray.train import report
        print(foretune_report.__file__)
        print(os.environ["PYTHONPATH"])
        """
    job = job_of(code, env=({"name": "PYTHONPATH", "value": "/theirs"},))
    trial = replace(job.spec.trial, inject=frozenset({Inject.SHIMS}))
    job = replace(job, spec=replace(job.spec, trial=trial))
    runner = runner_at(tmp_path)
    seen = ended(runner, job, start(runner, job))
    log = runner.log_tail(job, seen)
    assert seen.exit_code == 0, log
    sdk = tmp_path / job.uid / "sdk"
    found, path = log.splitlines()
    assert found.startswith(str(sdk / "foretune_report"))
    assert path == f"{sdk}/foretune_report/shims/startup:{sdk}:/theirs"


def test_a_kubeflow_of_the_shell_is_not_the_trials(tmp_path: Path) -> None:
    """What a shell says of Kubeflow Trainer is ours in a trial; what the manifest says stays, alone."""
    code = "import os; print(*[f'{k}={v}' for k, v in os.environ.items() if 'KUBEFLOW' in k])"
    url = contract.ENV_KUBEFLOW_URL
    runner = runner_at(
        tmp_path, environ={**os.environ, url: "shell", "KUBEFLOW_TRAINER_SERVER_CA_CERT": "x"}
    )
    for index, env in enumerate(((), ({"name": url, "value": "manifest"},))):
        job = job_of(code, env=env)
        log = runner.log_tail(job, ended(runner, job, start(runner, job, index)))
        said = dict(word.split("=", 1) for word in log.split())
        token = str(tmp_path / job.uid / f"t{index:04d}-a0" / "token")
        ours = {
            url: f"http://127.0.0.1:1/compat/kubeflow/{job.uid}/{index}",
            contract.ENV_KUBEFLOW_TOKEN: token,
        }
        assert said == ({url: "manifest"} if env else ours)


def test_a_parameters_own_dollars_stay() -> None:
    """A value that looks like a reference to a variable reaches command and environment as it is, as in a pod."""
    note = "$(HOME) costs $$5"
    found = Program(
        command=("sh", "--note=$(params.note)", "$(HOME)"), env={"NOTE": "$(params.note)"}
    )
    command, env = render(found, {"note": note}, {"HOME": "/root"}, {})
    assert command == ["sh", f"--note={note}", "/root"]
    assert env["NOTE"] == note


def test_the_contracts_environment_reaches_the_program(tmp_path: Path) -> None:
    """Parameters, identity, paths and thread limits are there; the runner's own variables are not."""
    out = tmp_path / "env.json"
    job = job_of(
        "import json, os, sys; json.dump([dict(os.environ), sys.argv], open(sys.argv[1], 'w'))",
        args=(str(out), "--lr=$(params.lr)", "$(FORETUNE_ATTEMPT)", "$$(params.lr)"),
        env=({"name": "DEPTH", "value": "$(params.layers)"},),
    )
    base = {"PATH": os.environ["PATH"], "MINE": "1", "FORETUNE_TOKEN_FILE": "/etc/other"}
    runner = runner_at(tmp_path / "state", environ=base)
    seen = ended(runner, job, start(runner, job, 7))
    assert seen.exit_code == 0, runner.log_tail(job, seen)
    env, argv = json.loads(out.read_text())
    folder = tmp_path / "state" / job.uid / "t0007-a0"
    assert argv[2:] == ["--lr=0.01", "0", "$(params.lr)"]
    assert env["DEPTH"] == "3"
    assert env["MINE"] == "1"
    assert json.loads(env["FORETUNE_PARAMS"]) == PARAMS
    assert (env["FORETUNE_PARAM_LR"], env["FORETUNE_PARAM_LAYERS"]) == ("0.01", "3")
    assert env["FORETUNE_TRIAL"] == f"{job.uid}/7"
    assert env["FORETUNE_ATTEMPT"] == "0"
    assert env["FORETUNE_POD_UID"] == seen.pod_uid
    assert env["FORETUNE_REPORT_URL"] == "http://127.0.0.1:1"
    assert env["FORETUNE_TOKEN_FILE"] == str(folder / "token")
    assert env["OMP_NUM_THREADS"] == "1"
    assert Path(env["FORETUNE_CHECKPOINT_DIR"]).is_dir()
    config = json.loads(Path(env["FORETUNE_CONFIG"]).read_text())
    assert config["params"] == PARAMS
    assert config["trial"]["index"] == 7
    assert config["checkpoint"]["dir"] == env["FORETUNE_CHECKPOINT_DIR"]


def test_the_users_own_thread_limit_holds(tmp_path: Path) -> None:
    """OMP_NUM_THREADS of the shell is not overridden."""
    job = job_of("import os; print(os.environ['OMP_NUM_THREADS'])")
    runner = runner_at(tmp_path, environ={**os.environ, "OMP_NUM_THREADS": "3"})
    seen = ended(runner, job, start(runner, job))
    assert runner.log_tail(job, seen) == "3\n"


def test_the_token_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The token file has mode 0600, holds this attempt's token, and goes once the outcome is committed."""
    runner, job = runner_at(tmp_path), job_of("pass")
    name = start(runner, job, 2)
    seen = ended(runner, job, name)
    token = tmp_path / job.uid / "t0002-a0" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == f"token {job.uid} 2 0 {seen.pod_uid}"
    runner.set_ttl(job, name, 3600)
    assert not token.exists()
    after = runner.lookup(job, name)
    assert after is not None
    assert after.ttl_set
    assert after.exit_code == 0
    assert runner.log_path(job, name).exists()


def test_attempts_of_a_trial_share_their_checkpoints(tmp_path: Path) -> None:
    """The second attempt finds what the first one wrote; dropping removes it."""
    job = job_of(
        """
        import os, pathlib
        mark = pathlib.Path(os.environ["FORETUNE_CHECKPOINT_DIR"], "mark")
        print(mark.exists())
        mark.touch()
        """
    )
    runner = runner_at(tmp_path)
    said = [
        runner.log_tail(job, ended(runner, job, start(runner, job, 0, number))) for number in (0, 1)
    ]
    assert said == ["False\n", "True\n"]
    runner.drop_checkpoints(job, 0)
    assert not (tmp_path / job.uid / "checkpoints" / "t0000").exists()


def test_the_log_tail_starts_at_a_line(tmp_path: Path) -> None:
    """A long log gives its last lines, stdout and stderr in order, and never half a line."""
    job = job_of(
        "import sys\nfor i in range(2000): print('line', i)\nprint('end', file=sys.stderr)"
    )
    runner = runner_at(tmp_path)
    seen = ended(runner, job, start(runner, job))
    lines = runner.log_tail(job, seen, limit_bytes=100).splitlines()
    assert lines[-2:] == ["line 1999", "end"]
    assert all(line.startswith(("line ", "end")) for line in lines)
    assert len("\n".join(lines)) <= 100


def test_the_termination_message_is_read(tmp_path: Path) -> None:
    """What the program writes to its termination log is shown, cut at Kubernetes' limit."""
    job = job_of("import os; open(os.environ['FORETUNE_TERMINATION_LOG'], 'w').write('x' * 5000)")
    runner = runner_at(tmp_path)
    assert ended(runner, job, start(runner, job)).termination_message == "x" * 4096


def test_launching_twice_starts_once(tmp_path: Path) -> None:
    """A name is the lock: the same configuration is left alone, another is a conflict."""
    out = tmp_path / "starts"
    job = job_of("import sys; open(sys.argv[1], 'a').write('start\\n')", args=(str(out),))
    runner = runner_at(tmp_path / "state")
    name = start(runner, job)
    start(runner, job)
    ended(runner, job, name)
    start(runner_at(tmp_path / "state"), job)
    assert out.read_text() == "start\n"
    other = {"lr": 0.02, "layers": 3}
    request = LaunchRequest(
        job=job, name=name, index=0, number=0, params=other, config_hash=config_hash(other)
    )
    with pytest.raises(ConflictError):
        runner.launch(request)


def test_a_program_that_ignores_sigterm_is_killed_with_its_helpers(tmp_path: Path) -> None:
    """Deleting sends SIGTERM, waits for the grace, then kills the whole process group."""
    out = tmp_path / "pids"
    job = job_of(
        """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[1], "w").write(f"{os.getpid()} {helper.pid}\\n")
        time.sleep(600)
        """,
        args=(str(out),),
    )
    runner = runner_at(tmp_path / "state", grace_s=0.2)
    name = start(runner, job)
    pids = [int(word) for word in until(line_of(out), "the program's start").split()]
    runner.delete(job, name)
    seen = ended(runner, job, name)
    assert (seen.exit_code, seen.deleting) == (137, True)
    until(lambda: not any(map(running, pids)), "the end of program and helper")


def test_the_timeout_ends_an_attempt(tmp_path: Path) -> None:
    """trial.timeoutSeconds is enforced and told apart from an error, whatever the exit code."""
    job = job_of(
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(600)",
        timeout_s=0.5,
    )
    runner = runner_at(tmp_path)
    seen = ended(runner, job, start(runner, job))
    assert seen.deadline_exceeded
    assert seen.phase is AttemptPhase.FAILED


def test_interrupted_programs_are_retried_not_failed(tmp_path: Path) -> None:
    """Ctrl-C's end of a trial is a preemption for the planner, even if the program then exits with 0."""
    job = job_of(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    runner = runner_at(tmp_path)
    name = start(runner, job)
    until(line_of(runner.log_path(job, name)), "the program's start")
    assert runner.interrupt() == 1
    assert runner.wait(60)
    with pytest.raises(UnavailableError, match="being stopped"):
        start(runner, job, 1)
    seen = ended(runner, job, name)
    assert seen.disruption == "Interrupted"
    trial = Trial(
        job_uid=job.uid, index=0, params=PARAMS, state=TrialState.RUNNING, config_hash="", value=0.5
    )
    assert classify(seen, trial, job.spec, Recovered(), 0.0).state is TrialState.RETRYING


PARENT = """
import sys, time
from pathlib import Path
from tests.local.test_runner import job_of, runner_at, start
code, state, out = sys.argv[1:]
runner, job = runner_at(Path(state), grace_s=0.5), job_of(code, args=(out,))
print(start(runner, job), flush=True)
time.sleep(600)
"""

PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(f"{os.getpid()} {os.getppid()}\\n")
time.sleep(600)
"""


def parent_of(tmp_path: Path) -> tuple[subprocess.Popen[str], int, int]:
    """Start a runner in another process; return it and the pids of program and supervisor."""
    out = tmp_path / "pids"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, PROGRAM, str(tmp_path / "state"), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    program, supervisor = map(int, until(line_of(out), "the program's start").split())
    return parent, program, supervisor


@pytest.mark.slow
def test_no_program_survives_kill_9_of_the_runner(tmp_path: Path) -> None:
    """A killed runner's program is ended by its supervisor, and the next runner sees a preemption."""
    parent, program, supervisor = parent_of(tmp_path)
    parent.kill()
    parent.communicate()
    until(lambda: not running(program) and not running(supervisor), "the end of both")
    job = job_of(PROGRAM, args=(str(tmp_path / "pids"),))
    runner = runner_at(tmp_path / "state")
    runner.settle(job)
    (seen,) = runner.observe(job)
    assert (seen.phase, seen.exit_code, seen.disruption) == (AttemptPhase.FAILED, 137, "RunnerGone")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent's death")
def test_no_program_survives_kill_9_of_its_supervisor(tmp_path: Path) -> None:
    """Without a supervisor the program dies too, and the attempt is Gone: a new one will be made."""
    parent, program, supervisor = parent_of(tmp_path)
    try:
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not running(program), "the program's end")
        job = job_of(PROGRAM, args=(str(tmp_path / "pids"),))
        (seen,) = runner_at(tmp_path / "state").observe(job)
        assert (seen.phase, seen.exit_code) == (AttemptPhase.GONE, None)
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.slow
def test_a_later_runner_waits_for_what_an_earlier_one_left(tmp_path: Path) -> None:
    """`settle` returns only when the programs of a killed runner have ended."""
    parent, program, _ = parent_of(tmp_path)
    parent.kill()
    parent.communicate()
    job = job_of(PROGRAM, args=(str(tmp_path / "pids"),))
    runner = runner_at(tmp_path / "state", grace_s=0.5)
    runner.settle(job)
    assert not running(program)
    assert all(attempt.phase.ended for attempt in runner.observe(job))


def test_what_an_earlier_runner_finished_is_found(tmp_path: Path) -> None:
    """Another runner over the same folder sees ended attempts with their exit codes and logs."""
    job = job_of("print('accuracy=0.5'); raise SystemExit(4)")
    first = runner_at(tmp_path)
    ended(first, job, start(first, job, 3))
    second = runner_at(tmp_path)
    (seen,) = second.observe(job)
    assert (seen.index, seen.number, seen.exit_code) == (3, 0, 4)
    assert second.log_tail(job, seen) == "accuracy=0.5\n"


def test_an_attempt_whose_folder_is_gone_is_not_there(tmp_path: Path) -> None:
    """A folder removed by hand is what a deleted Job is to a cluster."""
    runner, job = runner_at(tmp_path), job_of("pass")
    name = start(runner, job)
    ended(runner, job, name)
    shutil.rmtree(tmp_path / job.uid)
    fresh = runner_at(tmp_path)
    assert fresh.lookup(job, name) is None
    assert fresh.observe(job) == []
    fresh.delete(job, name)


def test_half_made_folders_are_no_attempts(tmp_path: Path) -> None:
    """A crash while a folder is being made leaves nothing that counts as an attempt."""
    job = job_of("pass")
    (tmp_path / job.uid / ".t0000-a0.6b1f").mkdir(parents=True)
    (tmp_path / job.uid / "t0001-a0").mkdir()
    assert Folder(tmp_path / job.uid / "t0001-a0").observe() is None
    assert runner_at(tmp_path).observe(job) == []


def test_an_end_is_told_at_once(tmp_path: Path) -> None:
    """The loop is woken by a process's end, not by looking again and again."""
    told = threading.Event()
    runner, job = runner_at(tmp_path, on_exit=told.set), job_of("pass")
    name = start(runner, job)
    assert told.wait(60)
    seen = runner.lookup(job, name)
    assert seen is not None
    assert seen.phase is AttemptPhase.SUCCEEDED


def test_gpus_are_dealt_in_turn(tmp_path: Path) -> None:
    """Each of two trials of one GPU gets a device of its own, and the attempt says how many it holds."""
    for index in range(2):
        (tmp_path / f"nvidia{index}").touch()
    (tmp_path / "nvidiactl").touch()
    job = job_of(
        """
        import os, time
        print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
        time.sleep(600)
        """,
        gpu=1,
    )
    runner = runner_at(tmp_path / "state", device_folder=tmp_path)
    assert not any("GPU" in note for note in check(job.spec, {}, tmp_path))
    names = [start(runner, job, index) for index in range(2)]
    said = {until(line_of(runner.log_path(job, name)), "its start") for name in names}
    assert said == {"0\n", "1\n"}
    assert [attempt.gpus for attempt in runner.observe(job)] == [1, 1]
    runner.kill()
    assert runner.wait(60)


def test_without_gpus_the_user_is_told(tmp_path: Path) -> None:
    """A job that asks for GPUs runs on the CPU of a machine without one, and says so."""
    notes = check(job_of("", gpu=2).spec, os.environ, tmp_path)
    assert "trial.gpu is 2, but this machine has no GPU: trials run on the CPU" in notes
    (tmp_path / "nvidia0").touch()
    notes = check(job_of("", gpu=2).spec, os.environ, tmp_path)
    assert "trial.gpu is 2, but only 1 can be used on this machine" in notes


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        (Image(image="example/train:2"), "spec.trial.command: is needed"),
        (Image(image="x", command=("no-such-program-here",)), "no program on this machine's PATH"),
        (
            Image(
                image="x",
                command=(sys.executable,),
                env=({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},),
            ),
            "spec.trial.env[0].valueFrom: refers to the cluster; set KEY",
        ),
        (
            Template(
                job={"spec": {"template": {"spec": {"containers": []}}}}, primary_container="a"
            ),
            "has no container 'a'",
        ),
        (
            Builtin(model="cnn", dataset="mnist", data_path="/no/such/folder"),
            "spec.trial.builtin.path: there is no /no/such/folder on this machine",
        ),
    ],
)
def test_what_only_a_cluster_can_run_is_refused(
    workload: Image | Template | Builtin, said: str
) -> None:
    """A workload without a local command gets one clear line with the field's path."""
    job = job_of("")
    job = replace(job, spec=replace(job.spec, trial=replace(job.spec.trial, workload=workload)))
    with pytest.raises(InvalidJobError) as caught:
        check(job.spec, os.environ)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_templates_primary_container_runs_here(tmp_path: Path) -> None:
    """Of a whole Job, the primary container's command and env run, with the parameters filled in."""
    container = {
        "name": "main",
        "image": "x",
        "command": [sys.executable, "-c"],
        "args": ["import os; print(os.environ['A'], $(params.layers))"],
        "env": [{"name": "A", "value": "lr=$(params.lr)"}],
    }
    template = {"spec": {"template": {"spec": {"containers": [{"name": "side"}, container]}}}}
    job = job_of("")
    workload = Template(job=template, primary_container="main")
    job = replace(job, spec=replace(job.spec, trial=replace(job.spec.trial, workload=workload)))
    runner = runner_at(tmp_path)
    seen = ended(runner, job, start(runner, job))
    assert runner.log_tail(job, seen) == "lr=0.01 3\n"


def test_the_builtin_trainer_gets_its_workload(tmp_path: Path) -> None:
    """trial.json of a built-in trial names model, data set, folder and extras."""
    job = job_of("")
    workload = Builtin(model="cnn", dataset="mnist", data_path=str(tmp_path), extras={"width": 8})
    job = replace(job, spec=replace(job.spec, trial=replace(job.spec.trial, workload=workload)))
    runner = runner_at(tmp_path)
    name = start(runner, job)
    config = json.loads((tmp_path / job.uid / "t0000-a0" / "trial.json").read_text())
    runner.kill()
    ended(runner, job, name)
    assert config["workload"] == {
        "model": "cnn",
        "dataset": "mnist",
        "path": str(tmp_path),
        "extras": {"width": 8},
    }


def test_what_is_left_to_a_cluster_is_told() -> None:
    """Mounts, init containers and variables of Secrets are no part of a local trial: a line says so."""
    mounts = {"env_from": ({"secretRef": {"name": "s"}},), "volume_mounts": ({"name": "v"},)}
    job = job_of("", **mounts)
    image, variables, volumes = check(job.spec, os.environ)
    assert "image example/none:1 is not used" in image
    assert "spec.trial.envFrom refers to the cluster" in variables
    assert "spec.trial.volumeMounts are not mounted" in volumes
    workload = Builtin(model="cnn", dataset="digits", **mounts)
    spec = replace(job.spec, trial=replace(job.spec.trial, workload=workload))
    assert check(spec, os.environ) == [variables, volumes]


def test_the_builtin_trainer_gets_the_manifests_variables(tmp_path: Path) -> None:
    """`trial.env` reaches the built-in trainer too, over what the user's shell says."""
    job = job_of("")
    env = ({"name": "HF_HOME", "value": "/cache/$(params.layers)"},)
    workload = Builtin(model="cnn", dataset="digits", env=env)
    job = replace(job, spec=replace(job.spec, trial=replace(job.spec.trial, workload=workload)))
    runner = runner_at(tmp_path, environ={**os.environ, "HF_HOME": "/home"})
    name = start(runner, job)
    child = json.loads((tmp_path / job.uid / "t0000-a0" / "child.json").read_text())
    text = Path(f"/proc/{child['pid']}/environ").read_bytes()
    runner.kill()
    ended(runner, job, name)
    assert b"HF_HOME=/cache/3\0" in text
