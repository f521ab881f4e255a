"""A small program that speaks the protocol of `deepwell.tuning.prompts.worker`. The word of the first row says what it does."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def main() -> int:
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_bytes())
    word = json.loads(Path(config["data"]).read_text().splitlines()[0])["input"].rpartition(" ")[0]
    started = folder / "started"
    if word == "die always" or (word == "die once" and not started.exists()):
        started.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "refuse":
        say("error", code="odd_rows", message="rows are odd", fix="mend them")
        return 2
    say("plan", rows={"train": 2, "development": 2, "held_out": 2}, calls=config["calls"])
    while word == "wait":
        time.sleep(0.01)
    say("progress", step="held-out", done=4, total=4)
    standing = {"score": 0.5, "chance": 0.5, "tokens": 9.0, "rows": 2, "refused": 0}
    found = [{"name": name, "key": name, **standing} for name in ("start", "best")]
    low = -0.1 if word == "unsure" else 0.1
    held_out = {"first": 0.5, "second": 0.75, "value": 0.25, "low": low, "high": 0.4, "paired": 2}
    held_out["verdict"] = "better" if low > 0 else "unsure"
    report = {
        "model": config["name"],
        "metric": config["metric"],
        "seed": config["seed"],
        "rows": {"train": 2, "development": 2, "held_out": 2, "dropped": 0},
        "data_sha256": "0" * 64,
        "candidates": found,
        "start": "start",
        "winner": "start" if word == "nothing" else "best",
        "search": {"calls": 100, "prompt_tokens": 5, "answer_tokens": 5, "remembered": 0},
        "held_out": None if word == "nothing" else held_out,
    }
    winner = config["text"] if word == "nothing" else config["text"] | {"instructions": "Better."}
    say("done", report=report, winner=winner, better=low > 0 and word != "nothing")
    return 0


sys.exit(main())
