"""Every header of `csrc` stands alone: it includes what it uses, and may be included twice, for each instruction set."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.needs import COMPILER, require

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
HEADERS = sorted(path.relative_to(CSRC).as_posix() for path in CSRC.rglob("*.h"))
# What kernels may include beside headers of their own: C, and intrinsics. A function of a C++ header that an AVX512 unit emits
# could be the copy that the linker keeps for a machine without AVX512.
PLAIN = {"stddef.h", "stdint.h", "string.h", "immintrin.h", "arm_neon.h"}
INCLUDE = re.compile(r'^ *# *include *([<"])([^>"]+)[>"]', re.MULTILINE)
KERNELS = [header for header in HEADERS if header.startswith("kernels/")]
INTRINSIC = re.compile(r"\b(_mm|__m\d|__mmask|_tile_)")


def tables() -> dict[str, list[str]]:
    """Compiler flags of every kernel table, read from CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text()
    variables = dict(re.findall(r"^ *set\((\w+) ([^)]*)\)", text, re.MULTILINE))

    def expanded(flags: str) -> list[str]:
        return shlex.split(re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], flags))

    common = ["-std=c++" + variables["CMAKE_CXX_STANDARD"], *expanded(variables["kernel_flags"])]
    flags = {
        name: [*common, f"-DDW_ISA={name}", *expanded(own)]
        for name, own in re.findall(r"^ *add_kernel_table\((\w+) ?([^)]*)\)", text, re.MULTILINE)
    }
    for name, definitions in re.findall(
        r"^target_compile_definitions\(kernels_(\w+) PRIVATE ([^)]*)\)", text, re.MULTILINE
    ):
        flags[name] += [f"-D{definition}" for definition in definitions.split()]
    return flags


TABLES = tables()
_MACHINES = {"avx2": "x86_64", "avx512": "x86_64", "avx512_bf16": "x86_64"} | dict.fromkeys(
    ("neon_dotprod", "neon_i8mm"), "aarch64"
)
COMPILED_HERE = [table for table in TABLES if _MACHINES.get(table, os.uname().machine) == os.uname().machine]


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    require(COMPILER)
    return shlex.split(os.environ.get("CXX", "c++"))


def included(header: str) -> dict[str, set[str]]:
    """Returns what a header and the project's headers that it includes name in angle brackets, by header."""
    found: dict[str, set[str]] = {}
    queue = [header]
    while queue:
        name = queue.pop()
        if name not in found:
            names = INCLUDE.findall((CSRC / name).read_text())
            found[name] = {one for bracket, one in names if bracket == "<"}
            queue += [one for bracket, one in names if bracket == '"']
    return found


def code_of(header: str) -> str:
    return re.sub(r"//.*", "", (CSRC / header).read_text())


def includes_unused_intrinsics(header: str) -> bool:
    """Returns whether a header includes the intrinsics and names none: others that it includes need them."""
    return any("immintrin.h" in names for names in included(header).values()) and not INTRINSIC.search(
        code_of(header)
    )


def precompiled(compiler: Sequence[str], flags: Sequence[str], folder: Path) -> list[str]:
    """Returns flags that put the intrinsics, compiled once, in front of a header. They take most of its time."""
    intrinsics = folder / "intrinsics.h"
    intrinsics.write_text("#include <immintrin.h>\n")
    command = [*compiler, *flags, "-O0", "-w", "-xc++-header", str(intrinsics), "-o", f"{intrinsics}.gch"]
    subprocess.run(command, check=True)
    return ["-include", str(intrinsics)]


def refused(compiler: Sequence[str], flags: Sequence[str], headers: Sequence[str]) -> dict[str, str]:
    """What the compiler says of those headers that do not compile alone, twice included."""

    def errors(header: str) -> str:
        run = subprocess.run(
            [*compiler, *flags, "-O0", "-w", "-fsyntax-only", f"-I{CSRC}", "-xc++", "-"],
            input=f'#include "{header}"\n' * 2,
            capture_output=True,
            text=True,
            check=False,
        )
        return run.stderr if run.returncode else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {header: said for header, said in zip(headers, pool.map(errors, headers), strict=True) if said}


def test_the_tables_are_those_that_are_dispatched() -> None:
    dispatched = re.findall(
        r"namespace (\w+) \{ extern const KernelTable", (CSRC / "dispatch.cpp").read_text()
    )
    assert sorted(TABLES) == sorted(dispatched) != []


@pytest.mark.parametrize("table", COMPILED_HERE)
def test_kernel_headers_stand_alone(table: str, compiler: list[str], tmp_path: Path) -> None:
    flags = TABLES[table]
    helped = [one for one in KERNELS if includes_unused_intrinsics(one)] if "-mfma" in flags else []
    alone = [one for one in KERNELS if one not in helped]
    assert refused(compiler, flags, alone) == {}
    assert not helped or refused(compiler, [*flags, *precompiled(compiler, flags, tmp_path)], helped) == {}


def test_shared_headers_stand_alone(compiler: list[str]) -> None:
    import nanobind

    python = sysconfig.get_path("include")
    flags = ["-std=c++20", "-fvisibility=hidden", f"-isystem{python}", f"-isystem{nanobind.include_dir()}"]
    assert refused(compiler, flags, [h for h in HEADERS if not h.startswith("kernels/")]) == {}


@pytest.mark.parametrize("header", KERNELS)
def test_kernels_use_nothing_of_the_standard_library(header: str) -> None:
    """Of what they include either: follow the project's own headers."""
    for name, names in included(header).items():
        assert "std::" not in code_of(name), name
        assert names <= PLAIN, f"{name} includes {names - PLAIN}"
