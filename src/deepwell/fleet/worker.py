"""One HTTP process of several, which decides about roll-outs: `python -m deepwell.fleet.worker FD`, run by its parent."""

from __future__ import annotations

import sys

from deepwell.fleet.desk import attach_desk
from deepwell.server.workers.worker import main

if __name__ == "__main__":
    main(sys.argv[1], attach_desk)
