"""Prints the parts of this Python as JSON: program, folder of its library, and the shared libraries that its modules load.

It is run by its path, without the package: `python -I -S libraries.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

_SKIPPED = (
    "_tkinter",
    "_test",
    "xx",
    "_xx",
    "_ctypes_test",
)  # libraries of a display, and modules of Python's own tests


class _Loaded(ctypes.Structure):
    """The head of struct dl_phdr_info (man 3 dl_iterate_phdr)."""

    _fields_ = (("address", ctypes.c_size_t), ("name", ctypes.c_char_p))


def _load_all(extensions: Path) -> None:
    """Imports every extension module, so that the libraries which it needs are loaded."""
    for file in sorted(extensions.glob("*.so")):
        name = file.name.split(".")[0]
        if not name.startswith(_SKIPPED):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")  # the C library loads it when a thread ends early


def _loaded() -> list[str]:
    names: list[str] = []
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)

    def told(one: ctypes._Pointer[_Loaded], _size: int, _data: int) -> int:
        names.append(os.fsdecode(one.contents.name or b""))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(callback(told), None)
    return [name for name in names if name.startswith("/")]


def _main() -> None:
    library = Path(os.__file__).resolve().parent
    _load_all(library / "lib-dynload")
    libraries = {
        name: os.path.realpath(name)
        for name in _loaded()
        if not os.path.realpath(name).startswith(f"{library}/")
    }
    print(
        json.dumps(
            {
                "program": os.path.realpath(sys.executable),
                "library": str(library),
                "target": f"{sys.platlibdir}/{library.name}",
                "libraries": libraries,
            }
        )
    )


if __name__ == "__main__":
    _main()
