"""Make the environments of the peers that a replay is compared with: `python -m scripts.peers [NAME ...]`.

Each peer's pins are beside its module, since they clash with each other and with ours.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "operator" / "foretune" / "experiment" / "peers"
WHERE = ROOT / "build" / "peers"


def main(names: list[str]) -> int:
    """Make the named environments, or all; one that is there with the same pins is kept."""
    known = sorted(path.stem for path in PINS.glob("*.txt"))
    for name in names or known:
        if name not in known:
            print(f"peers: must be of {', '.join(known)}, not {name}", file=sys.stderr)
            return 2
        make(name)
    return 0


def make(name: str) -> None:
    """Make one environment."""
    pins, folder = PINS / f"{name}.txt", WHERE / name
    stamp = folder / "pins.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins.read_text(encoding="utf-8"):
        return
    print(f"making {folder}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(pins)], check=True)
    stamp.write_text(pins.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
