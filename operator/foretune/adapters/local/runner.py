"""Attempts as processes of this machine: `ProcessRunner` implements `ports.Runner`.

Each attempt has a folder (see `folders`) and a supervisor (see `supervisor`). No attempt outlives the
runner: when the runner's end of the lifeline closes, by whatever death, the supervisor ends the program.
A later runner reads the folders and goes on from there.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foretune import contract
from foretune.adapters.local import devices, supervisor, workload
from foretune.adapters.local.folders import NAME, Folder, attempts
from foretune.domain.job import Builtin, Inject
from foretune.errors import ConflictError, UnavailableError
from foretune.planner import launch
from foretune_report import bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foretune.domain.job import Job, JobSpec
    from foretune.domain.trial import ObservedAttempt
    from foretune.ports import LaunchRequest

GRACE_S: Final = 10.0
"""Seconds a program has between SIGTERM and SIGKILL: enough to write a checkpoint of a small model."""

START_S: Final = 60.0
"""Seconds within which a supervisor must have started its program, however busy the machine."""

POLL_S: Final = 0.05
"""Seconds between two looks at the lock of a supervisor that another process started."""

KEPT: Final = frozenset(
    {"attempt.json", "child.json", "exit.json", "trial.json", "log.txt", "lock"}
)
"""Files that stay of an attempt whose outcome is committed."""


@dataclass(frozen=True)
class _Live:
    """An attempt that this runner started."""

    process: subprocess.Popen[bytes]
    lifeline: int
    devices: tuple[str, ...]

    def order(self, word: bytes) -> None:
        with suppress(BrokenPipeError):  # it has ended meanwhile
            os.write(self.lifeline, word)


def check(
    spec: JobSpec, environ: Mapping[str, str], device_folder: Path = Path("/dev")
) -> list[str]:
    """Return what a user should know of how a job runs on this machine, a line each.

    Raises `InvalidJobError` for a workload that can't run here.
    """
    notes = list(workload.program(spec, environ).notes)
    wanted, found = spec.trial.gpu, len(devices.available(environ, device_folder))
    if wanted and not found:
        notes.append(f"trial.gpu is {wanted}, but this machine has no GPU: trials run on the CPU")
    elif wanted > found:
        notes.append(f"trial.gpu is {wanted}, but only {found} can be used on this machine")
    return notes


class ProcessRunner:
    """Starts and watches attempts of one machine; may be called from several threads."""

    def __init__(
        self,
        state: Path,
        *,
        report_url: str,
        issue_token: Callable[[str, int, int, str], str],
        environ: Mapping[str, str] | None = None,
        on_exit: Callable[[], None] = lambda: None,
        grace_s: float = GRACE_S,
        device_folder: Path = Path("/dev"),
    ) -> None:
        """Keep attempts below `state`.

        `issue_token(job_uid, index, attempt, pod_uid)` returns the token with which an attempt reports to
        `report_url`; `on_exit` is called, from a thread, whenever an attempt ends.
        """
        self._state = state
        self._report_url = report_url
        self._issue_token = issue_token
        self._environ = dict(os.environ if environ is None else environ)
        self._on_exit = on_exit
        self._grace_s = grace_s
        self._devices = devices.available(self._environ, device_folder)
        self._lock = threading.RLock()
        self._stopping = False
        self._live: dict[Path, _Live] = {}
        self._ended: dict[Path, ObservedAttempt] = {}
        self._with_sdk: set[str] = set()

    def observe(self, job: Job) -> Sequence[ObservedAttempt]:
        """Return every attempt of the job whose folder is there, ended ones included."""
        seen = (self._look(folder) for folder in attempts(self._state / job.uid))
        return [attempt for attempt in seen if attempt is not None]

    def lookup(self, job: Job, name: str) -> ObservedAttempt | None:
        """Return one attempt, or None when its folder is gone."""
        return self._folder(job, name).observe()

    def launch(self, request: LaunchRequest) -> None:
        """Start an attempt; one that is there already with the same configuration is left alone.

        Raises `ConflictError` when the folder holds another configuration, `InvalidJobError` when the
        workload can't run here, `UnavailableError` when the operating system refuses another process, and
        after `interrupt` or `kill`.
        """
        folder = self._folder(request.job, request.name)
        there = folder.read("attempt.json")
        if there is not None:
            if there["config_hash"] != request.config_hash:
                raise ConflictError(f"{folder.path}: holds another configuration")
            return
        found = workload.program(request.job.spec, self._environ)
        with self._lock:
            if self._stopping:
                raise UnavailableError("the run is being stopped: nothing is started any more")
            held = [live.devices for live in self._live.values()]
            dealt = devices.deal(self._devices, request.job.spec.trial.gpu, held)
            sdk_path = self._sdk(request.job)
            pod_uid = self._prepare(request, folder, dealt)
            given = self._given(request, folder, dealt, pod_uid)
            token = str(folder.path / "token")
            given |= launch.kubeflow_env(
                request, report_url=self._report_url, token_file=token, taken=found.env
            )
            command, env = workload.render(
                found, request.params, self._environ, given, sdk_path=sdk_path
            )
            self._start(request, folder, command, env, dealt)

    def delete(self, job: Job, name: str) -> None:
        """Ask an attempt to leave: SIGTERM, the grace, SIGKILL. Its record and log stay."""
        folder = self._folder(job, name)
        if not folder.path.is_dir():
            return
        folder.mark("deleting")
        with self._lock:
            self._ended.pop(folder.path, None)
            if (live := self._live.get(folder.path)) is not None:
                live.order(supervisor.TERMINATE)

    def set_ttl(self, job: Job, name: str, seconds: int) -> None:
        """Reduce an ended attempt to its log and its records, at once, whatever `seconds`.

        A cluster removes the whole Job; on a laptop the log is what its owner looks for later, and it is
        small. Checkpoints belong to the trial, not to the attempt: see `drop_checkpoints`.
        """
        del seconds
        folder = self._folder(job, name)
        if not folder.path.is_dir():
            return
        for path in folder.path.iterdir():
            if path.name not in KEPT:
                path.unlink(missing_ok=True)
        folder.mark("ttl")
        with self._lock:
            self._ended.pop(folder.path, None)

    def log_tail(self, job: Job, attempt: ObservedAttempt, *, limit_bytes: int = 65536) -> str:
        """Return the end of the attempt's log; empty when there is none any more."""
        return self._folder(job, attempt.name).tail(limit_bytes)

    def log_path(self, job: Job, name: str) -> Path:
        """Return where an attempt's log is."""
        return self._folder(job, name).log

    def drop_checkpoints(self, job: Job, index: int) -> None:
        """Remove the checkpoints of a trial that has ended."""
        shutil.rmtree(self._checkpoints(job, index), ignore_errors=True)

    def settle(self, job: Job) -> int:
        """Wait for attempts that an earlier runner left to end, and return how many there were.

        Their supervisors know that their runner is gone, so the wait is at most the grace and a little;
        raises `UnavailableError` when it is not.
        """
        waiting = [
            folder
            for folder in attempts(self._state / job.uid)
            if folder.path not in self._live and folder.alive()
        ]
        limit = time.monotonic() + 2 * self._grace_s + START_S
        for folder in waiting:
            while folder.alive():
                if time.monotonic() > limit:
                    raise UnavailableError(f"{folder.path}: is still running and does not end")
                time.sleep(POLL_S)
        return len(waiting)

    def interrupt(self) -> int:
        """Ask every running attempt to leave, and return how many there are; see `wait`.

        Nothing is started from now on.
        """
        return self._order(supervisor.INTERRUPT)

    def kill(self) -> None:
        """End every running attempt without grace."""
        self._order(supervisor.KILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait until no attempt of this runner runs; False when some still does after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        with self._lock:
            running = [live.process for live in self._live.values()]
        for process in running:
            try:
                process.wait(max(0.0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                return False
        return True

    def _order(self, word: bytes) -> int:
        with self._lock:
            self._stopping = True
            running = [live for live in self._live.values() if live.process.poll() is None]
            for live in running:
                live.order(word)
        return len(running)

    def _folder(self, job: Job, name: str) -> Folder:
        match = NAME.fullmatch(name)
        assert match is not None, name
        return Folder(self._state / job.uid / match[1])

    def _checkpoints(self, job: Job, index: int) -> Path:
        return self._state / job.uid / "checkpoints" / f"t{index:04d}"

    def _look(self, folder: Folder) -> ObservedAttempt | None:
        """Observe a folder; what has ended is remembered, since it changes no more."""
        with self._lock:
            if (known := self._ended.get(folder.path)) is not None:
                return known
            seen = folder.observe()
            if seen is not None and seen.phase.ended:
                self._ended[folder.path] = seen
            return seen

    def _sdk(self, job: Job) -> str | None:
        """Return what goes in front of PYTHONPATH for `trial.inject`; None for a job without it."""
        wanted = job.spec.trial.inject
        if not wanted or isinstance(job.spec.trial.workload, Builtin):
            return None
        folder = self._state / job.uid / "sdk"
        if job.uid not in self._with_sdk:  # what an earlier run left may be of another version
            bundle.copy(folder)
            self._with_sdk.add(job.uid)
        return contract.sdk_python_path(str(folder), shims=Inject.SHIMS in wanted)

    def _prepare(self, request: LaunchRequest, folder: Folder, dealt: Sequence[str]) -> str:
        """Make the attempt's folder, whole or not at all, and return the uid of its process."""
        pod_uid = str(uuid.uuid4())
        checkpoints = self._checkpoints(request.job, request.index)
        checkpoints.mkdir(parents=True, exist_ok=True)
        making = folder.path.with_name(f".{folder.path.name}.{pod_uid}")
        making.mkdir()
        draft = Folder(making)
        config = launch.trial_config(
            request, report_url=self._report_url, checkpoint_dir=str(checkpoints)
        )
        draft.write("trial.json", config)
        token = self._issue_token(request.job.uid, request.index, request.number, pod_uid)
        fd = os.open(making / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(token)
        for name in ("lock", "log.txt", "termination.txt"):
            (making / name).touch()
        draft.write(
            "attempt.json",
            {
                "name": request.name,
                "config_hash": request.config_hash,
                "params": dict(request.params),
                "created_at": time.time(),
                "pod_uid": pod_uid,
                "node": socket.gethostname(),
                "devices": list(dealt),
                "honest": isinstance(request.job.spec.trial.workload, Builtin),
            },
        )
        making.rename(folder.path)
        return pod_uid

    def _given(
        self, request: LaunchRequest, folder: Folder, dealt: Sequence[str], pod_uid: str
    ) -> dict[str, str]:
        """Return the variables of the contract, and the devices."""
        threads = str(launch.threads(request.job.spec.trial.resources))
        env = {name: self._environ.get(name, threads) for name in launch.THREAD_VARIABLES}
        if request.job.spec.trial.gpu and dealt:
            env[devices.VISIBLE] = ",".join(dealt)
        checkpoints = str(self._checkpoints(request.job, request.index))
        return {
            **env,
            **launch.identity_env(request, report_url=self._report_url, checkpoint_dir=checkpoints),
            contract.ENV_CONFIG: str(folder.path / "trial.json"),
            contract.ENV_POD_UID: pod_uid,
            contract.ENV_TOKEN_FILE: str(folder.path / "token"),
            contract.ENV_TERMINATION_LOG: str(folder.path / "termination.txt"),
        }

    def _start(
        self,
        request: LaunchRequest,
        folder: Folder,
        command: Sequence[str],
        env: Mapping[str, str],
        dealt: tuple[str, ...],
    ) -> None:
        """Start the supervisor and wait until it has started the program, or failed to."""
        lock = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC)
        life_out, life_in = os.pipe()
        ready_out, ready_in = os.pipe()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # handed over: there is no moment without it
            with folder.log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - running the user's command is the purpose
                    [
                        *(sys.executable, "-I", "-S", supervisor.__file__, str(folder.path)),
                        *(str(life_out), str(ready_in), str(lock)),
                        *(str(request.job.spec.trial.timeout_s or 0.0), str(self._grace_s)),
                        *command,
                    ],
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(life_out, ready_in, lock),
                    start_new_session=True,  # the terminal's Ctrl-C is for the runner
                )
        except OSError as error:
            os.close(life_in)
            os.close(ready_out)
            shutil.rmtree(folder.path)
            raise UnavailableError(f"can't start a process: {error}") from error
        finally:
            for fd in (lock, life_out, ready_in):
                os.close(fd)
        self._live[folder.path] = _Live(process, life_in, dealt)
        name = f"watch-{folder.path.name}"
        threading.Thread(target=self._watch, args=(folder.path,), name=name, daemon=True).start()
        select.select([ready_out], [], [], START_S)
        os.close(ready_out)

    def _watch(self, path: Path) -> None:
        """Wait for a supervisor's end and say so."""
        live = self._live[path]
        live.process.wait()
        with self._lock:
            del self._live[path]
            os.close(live.lifeline)
        self._on_exit()


__all__ = ["GRACE_S", "ProcessRunner", "check"]
