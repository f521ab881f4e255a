"""Debian packages as sources of data. Nothing in them is installed or run."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepwell.errors import DeepwellError, DownloadError

__all__ = ["debian_members", "debian_package"]


def debian_package(name: str, folder: Path) -> Path:
    """Returns a Debian package in `folder`; asks apt for it if it is not there.

    Raises:
        DownloadError: apt cannot fetch it; the fix is the command that does.
    """
    if found := sorted(folder.glob(f"{name}_*.deb")):
        return found[-1]
    fix = f"run `apt-get download {name}`"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", "-q", name], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise DownloadError(
            f"no apt-get here to fetch {name}",
            fix=f"{fix} on a Debian machine, and put the file into {folder}",
        ) from None
    found = sorted(folder.glob(f"{name}_*.deb"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise DownloadError(
            f"apt-get cannot fetch {name}: {reason}", fix=f"{fix}, and put the file into {folder}"
        )
    return found[-1]


def debian_members(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a Debian package. Nothing of the package is run or unpacked."""
    with tempfile.TemporaryFile() as data:
        try:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=data, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise DeepwellError(
                f"dpkg-deb cannot read {deb.name}", fix=f"delete {deb}, and run it on Debian"
            ) from error
        data.seek(0)
        with tarfile.open(fileobj=data) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()
