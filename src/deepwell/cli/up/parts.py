"""The parts of the platform: the API server, TensorBoard and JupyterLab, each with its command, environment and folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from deepwell.process.programs import Program

__all__ = ["api_program", "jupyter_program", "notebook_folder", "runs_folder", "tensorboard_program"]

# What programs need that run other people's code. No setting is among them, so no key either.
_INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_PYTHON = (sys.executable, "-P", "-m")


def api_program(
    folder: Path, models: Sequence[str], flags: Mapping[str, object], address: tuple[str, int]
) -> Program:
    """Returns `deepwell serve`. It prints JSON, reads the same settings as this process, and loads other models on demand.

    So a model that the console pulls can be asked at once.

    Args:
        flags: options by name; None: not given.
        address: host and port that it binds.
    """
    given = [part for name, value in flags.items() if value is not None for part in (f"--{name}", str(value))]
    command = (*_PYTHON, "deepwell", "serve", *models, "--models-on-demand", "--json", *given)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()}
    return Program("api", command, environ, folder, _local(*address), required=True)


def tensorboard_program(folder: Path, host: str, port: int) -> Program:
    """Returns TensorBoard over the folder of runs."""
    # Without its fast loader, which is experimental and a program of its own.
    arguments = ("--load_fast", "false", "--logdir", str(folder), "--host", host, "--port", str(port))
    command = (*_PYTHON, "tensorboard.main", *arguments)
    return Program("tensorboard", command, _bare_environment(), folder, _local(host, port))


def jupyter_program(data_dir: Path, host: str, port: int, url: str) -> tuple[Program, str]:
    """Returns JupyterLab over the folder of notebooks, and its token, which is new each time.

    The token lies in a file that its owner alone can read: neither the list of processes nor the environment of a notebook
    has it. A notebook is told the URL of the API, and no key.

    Args:
        url: URL of the API.
    """
    token, notebooks = secrets.token_urlsafe(32), notebook_folder(data_dir)
    own = data_dir / "jupyter"
    for name in ("config", "data", "runtime"):
        (own / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {
        "ServerApp": {
            "ip": host,
            "port": port,
            "port_retries": 0,
            "open_browser": False,
            "root_dir": str(notebooks),
            "allow_root": os.geteuid() == 0,
            "allow_unauthenticated_access": False,  # nor may an extension open a page without the token
            "allow_remote_access": host not in ("127.0.0.1", "::1", "localhost"),
        },
        "Application": {"log_level": "WARN"},
        "IdentityProvider": {"token": token},
        # Nothing is asked of the network, and the page installs nothing.
        "LabApp": {
            "extension_manager": "readonly",
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "news_url": None,
        },
    }
    _write_private(own / "config" / "jupyter_server_config.json", json.dumps(settings))
    environ = _bare_environment() | {
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "DEEPWELL_URL": url,
    }
    arguments = ("--no-browser", f"--ServerApp.ip={host}", f"--ServerApp.port={port}")
    # Jupyter takes settings from the folder that it starts in: from its own, then, and not from that of the notebooks.
    command = (*_PYTHON, "jupyterlab", *arguments)
    return Program("jupyter", command, environ, own / "config", _local(host, port)), token


def runs_folder(data_dir: Path) -> Path:
    """Returns the folder of the runs that TensorBoard shows, which is made."""
    folder = data_dir / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def notebook_folder(data_dir: Path) -> Path:
    """Returns the folder of notebooks. Examples are copied into it where there is no file of their name."""
    folder = data_dir / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for one in files("deepwell.cli.up").joinpath("notebooks").iterdir():
        if one.name.endswith(".ipynb") and not (target := folder / one.name).exists():
            with one.open("rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    return folder


def _local(host: str, port: int) -> tuple[str, int]:
    """Returns where this machine reaches a program that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def _bare_environment() -> dict[str, str]:
    known = {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")
    }
    return known | {"PYTHONUNBUFFERED": "1"}


def _python_path() -> str:
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
