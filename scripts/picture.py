"""Draws the README's picture: a real run of an example in a terminal, half-way and at its end.

`python -m scripts.picture` runs `foretune run examples/digits-cnn.yaml` in a pseudo-terminal with a
history of its own, keeps what the screen shows, and writes docs/pictures/demo.svg.
"""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import sys
import tempfile
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import TYPE_CHECKING, Final

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent
COLUMNS, LINES = 110, 60
MANIFEST: Final = "examples/digits-cnn.yaml"
TARGET: Final = ROOT / "docs" / "pictures" / "demo.svg"

HALF: Final = re.compile(r"\b7/14 trials")
"""What the live display says when its picture is kept."""


def output(command: list[str], environ: dict[str, str]) -> Iterator[bytes]:
    """Yield what a command writes to a terminal of `COLUMNS` by `LINES`; raises if it fails."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvpe(command[0], command, environ)  # noqa: S606 - the project's own command
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    while select.select([terminal], [], [], None)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the child has closed its end
            break
        if not data:
            break
        yield data
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")


def shown(screen: pyte.Screen) -> list[Text]:
    """Return the lines of a screen with their styles, without the empty ones at the end."""
    lines = []
    for row in range(screen.lines):
        line = Text()
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            style = Style(color=_color(cell.fg), bold=cell.bold or None)
            line.append(cell.data, style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def _color(name: str) -> str | None:
    if name == "default":
        return None
    names = {"brown": "yellow"}
    return f"#{name}" if re.fullmatch(r"[0-9a-f]{6}", name) else names.get(name, name)


def main() -> None:
    """Run the example and write the picture."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    half: list[Text] | None = None
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "XDG_DATA_HOME": folder, "TERM": "xterm-256color"}
        command = [str(Path(sys.executable).parent / "foretune"), "run", MANIFEST]
        for data in output(command, environ):
            stream.feed(data)
            if half is None and any(HALF.search(line) for line in screen.display):
                half = shown(screen)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(Text(f"$ foretune run {MANIFEST}", style="bold"))
    for line in half or ():
        console.print(line)
    console.print(Text("\n... and at its end:\n", style="dim"))
    whole = shown(screen)
    chart = next(number for number, line in enumerate(whole) if "best so far" in line.plain)
    for line in whole[chart:]:
        console.print(line)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    # Without the fonts that rich fetches from elsewhere: a page that shows the picture asks nobody.
    drawn = re.sub(
        r"@font-face \{.*?\}\s*", "", console.export_svg(title="foretune run"), flags=re.DOTALL
    )
    TARGET.write_text(drawn, encoding="utf-8")
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
