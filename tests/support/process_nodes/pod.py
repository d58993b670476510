"""One pod: its containers' lives, and its status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

from .api import STRATEGIC, expand, now, spawn, write
from .content import Content
from .probes import Probes, enter, said

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


class Pod(Content):
    """One pod, from its binding to its end."""

    def __init__(self, agent: Any, node: Any, obj: dict[str, Any]) -> None:
        self.agent, self.node, self.obj, self.spec = agent, node, obj, obj["spec"]
        self.ns, self.name, self.uid = (obj["metadata"][k] for k in ("namespace", "name", "uid"))
        self.dir, self.path = (
            agent.root / "pods" / self.uid,
            f"/api/v1/namespaces/{self.ns}/pods/{self.name}",
        )
        self.inits, self.mains = self.spec.get("initContainers") or [], self.spec["containers"]
        self.sidecars = [c for c in self.inits if c.get("restartPolicy") == "Always"]
        self.procs, self.probes, self.why, self.gpus, self.final, self.deleting = (
            {},
            {},
            {},
            [],
            {},
            False,
        )
        self.stopping, self.lock, self.news, self.grace = (
            asyncio.get_running_loop().create_future(),
            asyncio.Lock(),
            asyncio.Event(),
            5,
        )
        self.phase, self.started, self.conditions = "Pending", now(), {}
        self.network = None if self.spec.get("hostNetwork") else agent.network
        self.ip, self.netns = (
            self.network.next_ip() if self.network else agent.network.host_ip,
            None,
        )
        self.state = {
            c["name"]: {
                "name": c["name"],
                "image": c.get("image", ""),
                "imageID": "",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}},
                "lastState": {},
            }
            for c in self.inits + self.mains
        }
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        """Lives the pod's life: volumes, init containers and sidecars, containers, end."""
        policy, codes, side = self.spec.get("restartPolicy", "Always"), [1], []
        wanted = sum(
            int((c.get("resources", {}).get("limits") or {}).get("nvidia.com/gpu", 0))
            for c in self.mains
        )
        self.gpus = [
            self.node.free_gpus.pop() for _ in range(min(wanted, len(self.node.free_gpus)))
        ]
        try:
            while not self.stopping.done() and (
                problem := await self.connect() or await self.volumes()
            ):
                await self.report(message=problem)
                await self.pause(1)
            if limit := self.spec.get("activeDeadlineSeconds"):
                late = self.end(
                    "DeadlineExceeded",
                    "Pod was active on the node longer than the specified deadline",
                    self.spec.get("terminationGracePeriodSeconds", 30),
                )
                asyncio.get_running_loop().call_later(limit, asyncio.create_task, late)
            ok = True
            for c in self.inits:
                if c in self.sidecars:
                    side.append(asyncio.create_task(self.container(c, "Always")))
                    while not self.stopping.done() and not self.state[c["name"]]["started"]:
                        await self.pause(1, self.news)
                elif ok:
                    ok = await self.container(c, "OnFailure" if policy == "Always" else policy) == 0
            if ok and not self.stopping.done():
                codes = await asyncio.gather(*(self.container(c, policy) for c in self.mains))
            self.stopping.cancel()
            await asyncio.gather(*(self.terminate(n, self.grace) for n in list(self.procs)), *side)
            self.phase = "Failed" if any(codes) or self.final else "Succeeded"
            await self.report(**self.final)
        finally:
            self.node.free_gpus.update(self.gpus)
            if self.netns is not None:
                os.close(self.netns)

    async def connect(self) -> str | None:
        """Makes the pod's network namespace; returns the problem, if any."""
        try:
            if self.network and self.netns is None:
                self.netns = await self.network.attach(self.ip)
        except OSError as e:
            return f"FailedCreatePodSandBox: {e}"

    async def pause(self, seconds: float, event: asyncio.Event | None = None) -> None:
        """Waits until the time is over, the pod is to stop, or the event comes."""
        waiting = [self.stopping, *([asyncio.ensure_future(event.wait())] if event else [])]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if event:
            waiting[1].cancel()
            event.clear()

    async def container(self, c: dict[str, Any], policy: str) -> int:
        """Runs a container and starts it again as the policy says; returns the last exit code."""
        state, backoff = self.state[c["name"]], self.agent.args.backoff
        while True:
            code = await self.once(c, state)
            if self.stopping.done() or policy == "Never" or (policy == "OnFailure" and code == 0):
                return code
            state.update(lastState=state["state"], restartCount=state["restartCount"] + 1)
            state["state"] = {
                "waiting": {
                    "reason": "CrashLoopBackOff",
                    "message": f"back-off {backoff:g}s restarting failed container={c['name']}",
                }
            }
            await self.report()
            await self.pause(backoff)
            backoff = min(backoff * 2, 300)

    async def once(self, c: dict[str, Any], state: dict[str, Any]) -> int:
        """Runs the container once and returns its exit code."""
        name, here, env = c["name"], self.dir / "containers" / c["name"], None
        note, log, code, began, problem = (
            here / "termination-log",
            here / f"{state['restartCount']}.log",
            137,
            now(),
            ("ContainerStatusUnknown", "never started"),
        )
        while env is None and not self.stopping.done():
            try:
                if any(re.search(bad, c.get("image", "")) for bad in self.agent.bad_images):
                    raise LookupError(
                        "ErrImagePull", f"failed to pull image {c.get('image')}: not found"
                    )
                user = self.user(c)
                env = await self.env(c)
            except LookupError as e:
                reason, message = (
                    e.args if len(e.args) == 2 else ("CreateContainerConfigError", str(e.args[0]))
                )
                state["state"] = {"waiting": {"reason": reason, "message": message}}
                await self.report()
                await self.pause(1)
        for file in (note, log):
            write(file, b"")
            file.chmod(0o666)
        if env is not None and not self.stopping.done():
            argv = [
                expand(a, env)
                for a in (c.get("command") or self.agent.images.get(c.get("image"), []))
                + (c.get("args") or [])
            ]
            try:
                if not argv:
                    raise OSError("no command")
                spec_file = self.describe(c, argv, env, user, here, note)
                with log.open("ab") as out:
                    proc, trouble = await enter(spec_file, out=out)
                self.procs[name] = proc
                if message := await said(trouble):
                    await proc.wait()
                    del self.procs[name]
                    raise OSError(message)
            except OSError as e:
                code, problem = 128, ("StartError", f"failed to start {argv}: {e}")
            else:
                problem = None
                if c in self.mains:
                    self.phase = "Running"
                state.update(
                    state={"running": {"startedAt": began}},
                    started="startupProbe" not in c,
                    ready=not c.keys() & {"startupProbe", "readinessProbe"},
                )
                self.news.set()
                self.probes[name] = Probes(self, c, state, proc, spec_file)
                watcher = asyncio.create_task(self.watch(c))
                await self.report()
                code = await proc.wait()
                watcher.cancel()
                code = 128 - code if code < 0 else code
                self.signal(name, signal.SIGKILL)  # what it left running
                del self.procs[name]
        text = note.read_text(errors="replace")[:4096]
        if not text and code and c.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            text = "".join(log.read_text(errors="replace")[-2048:].splitlines(True)[-80:])
        reason, text = (
            self.why.pop(name, None) or problem or ("Error" if code else "Completed", text)
        )
        state.update(
            ready=False,
            started=False,
            state={
                "terminated": {
                    "exitCode": code,
                    "reason": reason,
                    "message": text,
                    "startedAt": began,
                    "finishedAt": now(),
                    "containerID": f"process://{self.uid}/{name}/{state['restartCount']}",
                }
            },
        )
        return code

    def describe(
        self,
        c: dict[str, Any],
        argv: Any,
        env: dict[str, str],
        user: dict[str, Any],
        here: Path,
        note: Path,
    ) -> Path:
        """Writes what enter.py must know; returns the file."""
        lower, security = (
            self.agent.image_roots.get(c.get("image"), "/"),
            c.get("securityContext") or {},
        )
        mounts = [
            (note, c.get("terminationMessagePath", "/dev/termination-log"), "rw"),
            *self.mounts(c, env),
            *self.network_files(),
        ]
        spec = {
            "argv": argv,
            "env": env,
            "cwd": c.get("workingDir") or "/",
            "lower": lower,
            "open": self.agent.args.open if lower == "/" else [],
            "work": str(here),
            "mounts": [[str(x) for x in m] for m in mounts],
            "readonly": bool(security.get("readOnlyRootFilesystem")),
            "no_new_privileges": security.get("allowPrivilegeEscalation") is False,
            **user,
            "net": self.netns and f"/proc/{os.getpid()}/fd/{self.netns}",
            "hostname": self.hostname() if self.network else self.node.name,
        }
        write(here / "spec.json", json.dumps(spec).encode())
        (here / "spec.json").chmod(0o600)
        return here / "spec.json"

    async def watch(self, c: dict[str, Any]) -> None:
        """Follows the probes of a running container and ends it when they say so."""
        failed = await self.probes[c["name"]].run()
        if failed:
            own = c[failed + "Probe"].get(
                "terminationGracePeriodSeconds", self.spec.get("terminationGracePeriodSeconds", 30)
            )
            spawn(self.terminate(c["name"], own))

    def signal(self, name: str, number: int) -> None:
        """Sends SIGTERM to a container's process, any other signal to its process group."""
        with contextlib.suppress(ProcessLookupError, KeyError):
            (os.kill if number == signal.SIGTERM else os.killpg)(self.procs[name].pid, number)

    async def terminate(self, name: str, grace: float) -> None:
        """preStop, SIGTERM, and SIGKILL after the grace."""
        process, began = self.procs.get(name), time.monotonic()
        if not process:
            return
        ended = asyncio.create_task(process.wait())
        hook = next(
            (c.get("lifecycle") or {} for c in self.inits + self.mains if c["name"] == name), {}
        ).get("preStop")
        if grace and hook and name in self.probes:
            acting = asyncio.create_task(self.probes[name].act(hook))
            await asyncio.wait([acting, ended], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
            grace = max(2, grace - (time.monotonic() - began))
        if self.procs.get(name) is process:
            self.signal(name, signal.SIGTERM if grace else signal.SIGKILL)
            await asyncio.wait([ended], timeout=grace)
        if self.procs.get(name) is process:
            self.signal(name, signal.SIGKILL)

    async def end(
        self,
        reason: str | None = None,
        message: str | None = None,
        grace: float = 0,
        target: Any = None,
    ) -> None:
        """Stops the pod, its sidecars last. With a reason, its phase becomes Failed."""
        if not self.task.done():
            self.final, self.grace = (
                self.final
                or ({"reason": reason, "message": message, "target": target} if reason else {}),
                min(grace, 5),
            )
            self.stopping.cancel()
            late = [c["name"] for c in self.sidecars]
            await asyncio.gather(
                *(self.terminate(n, grace) for n in list(self.procs) if n not in late)
            )
            await self.task

    async def delete(self) -> None:
        """Ends the pod within its grace and removes the object."""
        await self.end(grace=self.obj["metadata"].get("deletionGracePeriodSeconds") or 0)
        await self.agent.api(
            "DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        )

    async def report(
        self, reason: str | None = None, message: str | None = None, target: Any = None
    ) -> None:
        """Writes the pod's status to the API server, unless its node is down."""
        async with self.lock:
            if not self.node.up:
                return
            done, (inits, mains) = (
                self.phase in ("Succeeded", "Failed"),
                ([self.state[c["name"]] for c in cs] for cs in (self.inits, self.mains)),
            )
            ready = not done and all(
                self.state[c["name"]]["ready"] for c in self.mains + self.sidecars
            )
            why = (
                "PodCompleted"
                if self.phase == "Succeeded"
                else "PodFailed"
                if done
                else "ContainersNotReady"
            )
            flags = {
                "PodReadyToStartContainers": not done,
                "Initialized": self.phase != "Pending",
                "ContainersReady": ready,
                "Ready": ready,
            }
            for kind, flag in flags.items():
                if self.conditions.get(kind, {}).get("status") != str(flag):
                    self.conditions[kind] = {
                        "type": kind,
                        "status": str(flag),
                        "lastTransitionTime": now(),
                    }
                self.conditions[kind]["reason"] = None if flag else why
            conditions = list(self.conditions.values())
            if target:
                conditions.append(
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": target,
                        "message": message,
                        "lastTransitionTime": now(),
                    }
                )
            host, only = (
                self.agent.network.host_ip,
                {"$patch": "replace"},
            )  # else the lists would keep addresses of an earlier run
            status = {
                "phase": self.phase,
                "startTime": self.started,
                "hostIP": host,
                "hostIPs": [{"ip": host}, only],
                "podIP": self.ip,
                "podIPs": [{"ip": self.ip}, only],
                "reason": reason,
                "message": message,
                "conditions": conditions,
                "containerStatuses": mains,
                "initContainerStatuses": inits,
            }
            await self.agent.api(
                "PATCH",
                self.path + "/status",
                {"metadata": {"uid": self.uid}, "status": status},
                STRATEGIC,
            )
