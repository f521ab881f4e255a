"""A small program that speaks the protocol of `deepwell.tuning.compress.worker`. The text says what it does."""

import json
import sys
import time
from pathlib import Path


def say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def main() -> int:
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_bytes())
    word = Path(config["text"]).read_text()
    for share in (0.0, 0.5):
        say("progress", step="candidates", done=share)
    if word == "made":  # the result is in the store, and nobody was told
        made = Path(config["models_dir"]) / config["name"]
        made.mkdir(parents=True)
        (made / "deepwell.json").write_text(json.dumps({"made_by": config["made_by"]}))
        (made / "manifest.json").write_text("{}")
        word = "wait"
    while word == "wait":
        time.sleep(0.01)
    say("progress", step="recovery", done=1.0)
    record = {"method": "pruned", "loss": 4.5, "loss_before": 4.0, "made_by": config["made_by"]}
    say("done", model=config["name"], bytes=70, base_bytes=100, record=record)
    return 0


sys.exit(main())
