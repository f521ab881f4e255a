"""One of the processes of the all-reduce probe: `python all_reduce.py RANK WORLD PORT BACKEND MEGABYTES...`.

Rank 0 prints one line of JSON for each size: its megabytes, and the median milliseconds of an all-reduce in float32.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
import statistics
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

_ROUNDS = 5
_TIMEOUT_S = 20.0


def main(rank: int, world: int, port: int, backend: str, sizes: list[int]) -> None:
    """Joins the group, and times one all-reduce of each size after a first that is not counted."""
    dist.init_process_group(
        backend,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=_TIMEOUT_S),
    )
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    for size in sizes:
        values = torch.ones(size * 250_000, device=device)
        times: list[float] = []
        for _ in range(_ROUNDS + 1):
            dist.barrier()
            begin = time.perf_counter()
            dist.all_reduce(values)
            if backend == "nccl":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
        if rank == 0:
            print(json.dumps({"mb": size, "ms": round(statistics.median(times[1:]) * 1000, 2)}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    RANK, WORLD, PORT, BACKEND, *SIZES = sys.argv[1:]
    main(int(RANK), int(WORLD), int(PORT), BACKEND, [int(size) for size in SIZES])
