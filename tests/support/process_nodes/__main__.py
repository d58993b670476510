r"""A node agent for tests: nodes whose pods run as real local processes.

    python -m tests.support.process_nodes --kubeconfig FILE --root DIR --nodes 2 \
        --capacity cpu=8,memory=32Gi,nvidia.com/gpu=8

Each container gets a mount namespace of its own (this needs root): an overlay of this machine's /
whose writes vanish, with volumes, /dev/termination-log and the service-account token at their real
paths. Faults, over HTTP on the port of the READY line:

    POST /kill/NS/POD/CONTAINER?signal=9   a signal to the container's process group
    POST /oom/NS/POD/CONTAINER             SIGKILL, reported as OOMKilled, exit code 137
    POST /evict/NS/POD?message=TEXT        node-pressure eviction: Failed, Evicted, DisruptionTarget
    POST /image?bad=REGEX                  matching images get ErrImagePull (without bad: none do)
    POST /capacity/NODE?nvidia.com/gpu=6   another capacity (a GPU is lost)
    POST /node/NODE/down|lost|up           down: silent, processes go on; lost: they die too; up: back
"""

from __future__ import annotations

import argparse
import os

from tests.support.process_nodes.agent import run


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="process_nodes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--kubeconfig", required=True)
    add("--root", required=True, help="folder for volumes and logs")
    add("--nodes", type=int, default=1)
    add("--prefix", default="node-", help="node names are PREFIX0, PREFIX1, ...")
    add("--capacity", default="cpu=8,memory=32Gi,nvidia.com/gpu=8", help="of each node")
    add("--labels", default="", help="more node labels, k=v,k=v")
    add(
        "--image",
        action="append",
        default=[],
        metavar="IMAGE=COMMAND",
        help="entry point of an image whose pods give no command (repeatable)",
    )
    add(
        "--image-root",
        action="append",
        default=[],
        metavar="IMAGE=DIR",
        help="unpacked root file system of an image; others see this machine's (repeatable)",
    )
    add(
        "--image-user",
        action="append",
        default=[],
        metavar="IMAGE=UID[:GID]",
        help="user of an image (repeatable); others run as root",
    )
    add(
        "--path",
        default=os.environ.get("PATH", "/usr/bin:/bin"),
        help="PATH inside containers, except with --image-root",
    )
    add(
        "--open",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder that inside containers without an --image-root everybody may read and "
        "pass, though on this machine only its owner may (repeatable)",
    )
    add("--backoff", type=float, default=1, help="first restart back-off in seconds")
    add("--control-port", type=int, default=0)
    add(
        "--network",
        choices=("host", "pods"),
        help="pods: a network namespace per pod, Services and DNS; host: none of that. "
        "Default: pods if permitted",
    )
    add(
        "--pod-range",
        default="10.200.0.0/16",
        help="pod addresses of the first agent on this machine; others take the next ranges",
    )
    return made


if __name__ == "__main__":
    run(parser().parse_args())
