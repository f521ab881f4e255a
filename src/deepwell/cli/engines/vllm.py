"""vLLM as a supervised child: where it is installed, which GPUs it gets, and the command that serves one model."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.process.programs import Program

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["VllmChild", "find_vllm", "vllm_program", "wants_vllm"]

_DTYPES: Final = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_MODULE: Final = "vllm.entrypoints.openai.api_server"  # the command `vllm` fails in builds of another name
_RANK: Final = 64  # largest of an adapter


def wants_vllm(settings: Settings) -> bool:
    """Returns whether vLLM is to be started here: by name, or for GPUs that Deepwell's own engine does not use."""
    if settings.engine != "native":
        return settings.engine == "vllm"
    return settings.gpus not in (None, "0") or (settings.tensor_parallel or 1) > 1


def find_vllm(settings: Settings) -> Path | None:
    """Returns the Python of the environment that has vLLM: of the setting, this one, or that of the command `vllm`.

    Raises:
        MissingDependency: the one that the setting names cannot be run.
    """
    if settings.vllm_python is not None:
        if not os.access(settings.vllm_python, os.X_OK):
            raise MissingDependency.of("engine_vllm_missing", where=settings.vllm_python)
        return settings.vllm_python
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    command = shutil.which("vllm")
    beside = Path(command).resolve().with_name("python") if command else None
    return beside if beside is not None and os.access(beside, os.X_OK) else None


def vllm_program(
    settings: Settings, name: str, folder: Path, port: int, key: str, *, adapters: bool
) -> Program:
    """Returns vLLM for one model, on loopback alone. It gets no setting of Deepwell's, and asks nothing of the network.

    Args:
        folder: the model, as safetensors.
        key: the key that it asks for.
        adapters: whether it is to load LoRA adapters at run time.

    Raises:
        MissingDependency: vLLM is not installed.
        InvalidRequest: the precision is one of Deepwell's own.
    """
    python = find_vllm(settings)
    if python is None:
        raise MissingDependency.of("engine_vllm_missing", where="DEEPWELL_VLLM_PYTHON, this Python, PATH")
    if settings.precision not in _DTYPES:
        option = f"--precision {settings.precision}"
        raise InvalidRequest.of("engine_main_only", option=option, engine="vLLM")
    options: dict[str, object] = {
        "model": folder,
        "served-model-name": name,
        "host": "127.0.0.1",
        "port": port,
        "dtype": _DTYPES[settings.precision],
        "tensor-parallel-size": settings.tensor_parallel or 1,
        # Its grammars are then those that Deepwell's own engine reads.
        "structured-outputs-config": '{"backend": "guidance"}',
        "max-model-len": settings.context,
        "max-num-seqs": settings.batch_size,
        "max-lora-rank": _RANK if adapters else None,
    }
    given = [
        part for option, value in options.items() if value is not None for part in (f"--{option}", str(value))
    ]
    flags = ["--enable-prompt-tokens-details", *(["--enable-lora"] if adapters else [])]
    command = (str(python), "-m", _MODULE, *given, *flags, *_further(settings))
    environ = _environment(key, adapters=adapters) | _devices(settings)
    return Program("vllm", command, environ, Path.cwd(), ("127.0.0.1", port), required=True)


def _further(settings: Settings) -> list[str]:
    try:
        return shlex.split(settings.vllm_options)
    except ValueError as error:
        raise InvalidRequest.of("engine_vllm_options", reason=error) from None


def _environment(key: str, *, adapters: bool) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.upper().startswith("DEEPWELL_")}
    # A list of processes shows commands, so the key travels by the environment.
    own = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return known | own | ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if adapters else {})


def _devices(settings: Settings) -> dict[str, str]:
    if settings.gpus in (None, "all"):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(int(str(settings.gpus)))))}


class VllmChild:
    """A running vLLM.

    Attributes:
        url: its address.
        key: the key that it asks for: the setting's, or one that is made for this run.
    """

    def __init__(self, settings: Settings, name: str, folder: Path, *, adapters: bool, as_json: bool) -> None:
        from deepwell.process.background import BackgroundProgram

        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        given = settings.engine_key
        self.key = secrets.token_urlsafe(32) if given is None else given.get_secret_value()
        self._as_json = as_json
        program = vllm_program(settings, name, folder, port, self.key, adapters=adapters)
        self._program = BackgroundProgram(program, self._line)
        self._program.start()

    def check(self) -> None:
        """Looks whether it may still become ready.

        Raises:
            MissingDependency: it has ended.
        """
        if self._program.state in ("failed", "stopped"):
            raise MissingDependency.of("engine_vllm_ended", how=self._program.last_end)

    def stop(self) -> None:
        """Ends it."""
        self._program.stop()

    def _line(self, name: str, text: str) -> None:
        print(f"{name} | {text}", file=sys.stderr, flush=True)


def _free_port() -> int:
    from deepwell.server.http.listen import bind

    with bind("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])
