"""A small program that speaks the protocol of `deepwell.tuning.train.worker`: what it "learns" is a digest over its steps.

Every step extends the digest, so that an adapter tells whether each step was made once, in order. The last user message of
the data may ask for mischief: "die at 3" (once at each start, before a checkpoint), "refuse", "wait at 3", "wrong template".
"""

import hashlib
import json
import os
import re
import signal
import struct
import sys
import time
from pathlib import Path

STEPS = 8
EVERY = 2


def say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def main() -> int:
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_bytes())
    text = Path(config["data"][0]).read_text()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    print("a library says hello on stdout")
    if "refuse" in text:
        say("error", code="too_large", message="the plan needs 9 GB", fix="set max_tokens to 256")
        return 2
    die = re.search(r"die at (\d+)", text)
    wait = re.search(r"wait at (\d+)", text)
    steps = config["train"].get("steps", STEPS)
    step, state = resume(folder)
    say("plan", trainable=921600, parameters=134515008, peak_bytes=1, steps=steps, tokens=1000)
    while step < steps:
        step += 1
        time.sleep(0.02 if "slow" in text else 0)
        state = hashlib.sha256(state + f"{step}{config['train']['seed']}{text}".encode()).digest()
        loss = 2.0 / step
        rewards = {"reward": 0.25 * step, "kl": 0.01} if '"say": "rewards"' in text else {}
        record(
            folder,
            "step",
            step=step,
            steps=steps,
            loss=loss,
            token_accuracy=0.5,
            learning_rate=1e-4,
            tokens_per_second=10.0,
            seconds_left=float(steps - step),
            **rewards,
        )
        if die and step == int(die[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        if step % EVERY == 0 or stopped:
            record(
                folder,
                "validation",
                step=step,
                loss=loss + 0.1,
                token_accuracy=0.4,
                **({"reward": 0.2 * step} if rewards else {}),
            )
            checkpoint(folder, step, state, config)
        while wait and step == int(wait[1]) and not stopped and not (folder / "go").exists():
            time.sleep(0.01)
        if stopped:
            checkpoint(folder, step, state, config)
            return 75
    adapter(folder / "adapter", state, config)
    say("done", adapter="adapter", metrics={"trained_tokens": 1234})
    return 0


def resume(folder):
    found = sorted(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))
    if not found:
        return 0, b""
    return int(found[-1].name[5:]), (found[-1] / "state").read_bytes()


def record(folder, event, **values):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, **values}) + "\n")
    say(event, **values)


def checkpoint(folder, step, state, config):
    final = folder / "checkpoints" / f"step-{step}"
    if final.exists():
        return
    part = final.with_name(f".part-{step}-{os.getpid()}")
    adapter(part / "adapter", state, config)
    (part / "state").write_bytes(state)
    part.rename(final)
    say("checkpoint", step=step, folder=f"checkpoints/step-{step}")


def adapter(folder, state, config):
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps(
        {"x": {"dtype": "U8", "shape": [len(state)], "data_offsets": [0, len(state)]}}
    ).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + state)
    (folder / "adapter_config.json").write_text("{}")
    template = os.environ.get("STAND_IN_TEMPLATE", "")
    if "wrong template" in Path(config["data"][0]).read_text():
        template = "0" * 64
    (folder / "deepwell.json").write_text(
        json.dumps({"format": 1, "base_fingerprint": "0", "template_hash": template})
    )


sys.exit(main())
