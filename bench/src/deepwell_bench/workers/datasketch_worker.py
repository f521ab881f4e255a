"""datasketch's MinHash and LSH with their defaults: runs in an environment that has it, and knows nothing of Deepwell.

    python datasketch_worker.py UNITS.jsonl

Reads lists of words, one a line, and prints one line of JSON: the candidate pairs, and the time that it took to find them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

WIDTH = 5


def main() -> None:
    """Finds the pairs among the texts of the file that the command line names."""
    with Path(sys.argv[1]).open(encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    began = time.perf_counter()
    index = MinHashLSH(threshold=0.9)
    pairs = []
    for number, words in enumerate(texts):
        count = max(1, len(words) - WIDTH + 1)
        shingles = {" ".join(words[at : at + WIDTH]).encode() for at in range(count)}
        sketch = MinHash()
        sketch.update_batch(shingles)
        pairs += [(found, number) for found in index.query(sketch)]
        index.insert(number, sketch)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"pairs": pairs, "took_s": took, "rss_bytes": peak, "bands": [index.b, index.r]}))


main()
