"""Turns this process into a container's.

`enter.py SPEC.json FD` runs its argv, `enter.py SPEC.json FD PID ARG...` joins the running one.

FD is a socket to the agent: it closes when the program has started, after a message if it could not
be started. Started with `python -I -S`: only quick imports here, and nothing of this package but
kernel.py beside it.
"""

from __future__ import annotations

# pathlib takes longer to import than all the rest of this:
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH110, PTH112, PTH116, PTH120, PTH123, PTH208, PTH211
import json
import os
import sys
import warnings  # noqa: F401 - os.execvpe wants it, and the container's root may lack it

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes long to import
    from typing import Any

import kernel  # noqa: E402 - found through the line above
from kernel import mount  # noqa: E402


def place(target: str, folder: bool) -> None:
    """Makes the mount point if it does not exist."""
    os.makedirs(target if folder else os.path.dirname(target) or "/", exist_ok=True)
    if not folder and not os.path.lexists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))


def open_up(upper: str, folder: str) -> None:
    """Makes the folder in the upper layer, where its mode counts, readable and passable for all."""
    made = ""
    for name in folder.strip("/").split("/"):
        made += "/" + name
        os.makedirs(upper + made, exist_ok=True)
        like = os.stat(made)
        os.chown(upper + made, like.st_uid, like.st_gid)
        os.chmod(upper + made, like.st_mode & 0o7777)
    os.chmod(upper + made, like.st_mode & 0o7777 | 0o055)


def build(spec: dict[str, Any]) -> None:
    """A mount namespace with an overlay of spec's lower folder and the mounts in it; ends chrooted."""
    if spec["net"]:
        kernel.setns(os.open(spec["net"], os.O_RDONLY), kernel.NEWNET)
    kernel.unshare(kernel.NEWNS | kernel.NEWUTS)
    kernel.sethostname(spec["hostname"])
    mount("none", "/", flags=kernel.REC | kernel.PRIVATE)
    root, rw = spec["work"] + "/root", spec["work"] + "/rw"
    os.makedirs(root, exist_ok=True)
    os.makedirs(rw, exist_ok=True)
    mount("tmpfs", rw, "tmpfs", options="mode=755")
    os.mkdir(rw + "/upper")
    os.mkdir(rw + "/work")
    for folder in spec["open"]:
        open_up(rw + "/upper", folder)
    mount(
        "overlay",
        root,
        "overlay",
        options=f"lowerdir={spec['lower']},upperdir={rw}/upper,workdir={rw}/work",
    )
    for name in ("proc", "sys", "dev"):
        place(f"{root}/{name}", True)
        if name != "dev":
            mount(f"/{name}", f"{root}/{name}", flags=kernel.BIND | kernel.REC)
    dev = root + "/dev"
    mount("tmpfs", dev, "tmpfs", options="mode=755")
    for name in [
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        *(n for n in os.listdir("/dev") if n.startswith("nvidia")),
    ]:
        if os.path.exists("/dev/" + name) and not os.path.isdir("/dev/" + name):
            place(f"{dev}/{name}", False)
            mount("/dev/" + name, f"{dev}/{name}", flags=kernel.BIND)
    os.mkdir(dev + "/shm")
    os.chmod(dev + "/shm", 0o1777)
    for number, name in enumerate(("", "/0", "/1", "/2")):
        os.symlink("/proc/self/fd" + name, dev + ("/fd", "/stdin", "/stdout", "/stderr")[number])
    # sources are opened outside and mounted by their descriptors inside, where symbolic links of the container hold
    mounts = [
        (os.open(source, os.O_PATH), os.path.isdir(source), target, how)
        for source, target, how in spec["mounts"]
    ]
    os.chroot(root)
    os.chdir("/")
    for descriptor, folder, target, how in mounts:
        place(target, folder)
        mount(f"/proc/self/fd/{descriptor}", target, flags=kernel.BIND | kernel.REC)
        if how == "ro":
            mount("none", target, flags=kernel.REMOUNT | kernel.BIND | kernel.RDONLY)
    os.makedirs(spec["cwd"], exist_ok=True)
    if spec["readonly"]:
        mount("none", "/", flags=kernel.REMOUNT | kernel.BIND | kernel.RDONLY)


def join(pid: str) -> None:
    """Enters the namespaces and the root of a running container."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH)
    for name, kind in (("net", kernel.NEWNET), ("uts", kernel.NEWUTS), ("mnt", kernel.NEWNS)):
        kernel.setns(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind)
    os.fchdir(root)
    os.chroot(".")


def main(spec_file: Any, pid: Any = None, *argv: Any) -> None:
    """Becomes the container's program, or a program in a running container."""
    with open(spec_file) as file:
        spec = json.load(file)
    if pid:
        join(pid)
    else:
        build(spec)
    os.chdir(spec["cwd"])
    os.setgroups(spec["groups"])
    os.setresgid(*[spec["gid"]] * 3)
    os.setresuid(*[spec["uid"]] * 3)
    if spec["no_new_privileges"]:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.default_signals()
    argv = list(argv) or spec["argv"]
    os.execvpe(argv[0], argv, spec["env"])


if __name__ == "__main__":
    told = int(sys.argv[2])
    os.set_inheritable(told, False)
    try:
        main(sys.argv[1], *sys.argv[3:])
    except OSError as error:
        os.write(
            told, f"{error.strerror}{': ' + str(error.filename) if error.filename else ''}".encode()
        )
        os._exit(127)
