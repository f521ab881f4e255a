"""A process that takes turns on command: `python -m tests.process.takers PATH`.

Each line of its input is a command, `take` or `give`; it answers with the command once that is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deepwell.process.turns import Turn


def main(path: str) -> None:
    turn = Turn(Path(path))
    for line in sys.stdin:
        command = line.strip()
        if command == "take":
            turn.take()
        else:
            turn.give()
        print(command, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
