"""The filter of system calls, run by a small interpreter of its own language."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.process.confinement.filter import PROGRAM_PID, seccomp_filter

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
X86, ARM = 0xC000003E, 0xC00000B7


def decide(program: bytes, audit: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Returns what the kernel would do with a call: the meaning of the filter's instructions (linux/filter.h)."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(one & (2**64 - 1) for one in padded))
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    place = value = 0
    while True:
        code, yes, no, k = lines[place]
        place += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == 0x06:
            return k
        elif code == 0x54:
            value &= k
        else:
            holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            place += yes if holds else no


def filter_of(machine: str) -> bytes:
    """Returns the filter of a machine whose numbers are known."""
    program = seccomp_filter(machine)
    assert program is not None
    return program


@pytest.mark.parametrize(
    ("number", "arguments", "decision"),
    [
        (0, (), ALLOW),  # read
        (59, (), ALLOW),  # execve
        (56, (0x003D0F00,), ALLOW),  # clone of a thread
        (56, (0x11,), EPERM),  # clone of a process
        (56, (0x10000000 | 0x00010000,), EPERM),  # of a thread in a user namespace
        (57, (), EPERM),
        (58, (), EPERM),
        (435, (), ENOSYS),  # clone3
        (437, (), ENOSYS),  # openat2
        (62, (PROGRAM_PID, 9), ALLOW),
        (62, (1, 9), EPERM),
        (62, (-1, 9), EPERM),
        (62, (0, 9), EPERM),
        (41, (2, 1, 0), EPERM),  # socket
        (53, (1, 1 | 0o2000000 | 0o4000), ALLOW),  # socketpair of a stream
        (53, (1, 2), EPERM),
        (53, (2, 1), EPERM),
        (16, (0, 0x5401), ALLOW),
        (16, (0, 0x5412), EPERM),  # TIOCSTI
        (157, (15,), ALLOW),
        (157, (4, 1), EPERM),
        (302, (0, 7), ALLOW),
        (302, (1, 7), EPERM),
        (101, (), EPERM),
        (165, (), EPERM),
        (272, (), EPERM),
        (308, (), EPERM),
        (321, (), EPERM),
        (323, (), EPERM),
        (248, (), EPERM),
        (250, (), EPERM),
        (298, (), EPERM),
        (246, (), EPERM),
        (319, (), EPERM),
        (425, (), EPERM),
        (500, (), ENOSYS),
        (0x40000000, (), EPERM),
    ],
)
def test_calls_of_x86_64(number: int, arguments: tuple[int, ...], decision: int) -> None:
    assert decide(filter_of("x86_64"), X86, number, arguments) == decision


@pytest.mark.parametrize(
    ("number", "arguments", "decision"),
    [
        (63, (), ALLOW),
        (221, (), ALLOW),
        (220, (0x003D0F00,), ALLOW),
        (220, (0x11,), EPERM),
        (129, (PROGRAM_PID,), ALLOW),
        (129, (1,), EPERM),
        (198, (), EPERM),
        (117, (), EPERM),
        (40, (), EPERM),
        (97, (), EPERM),
        (425, (), EPERM),
        (435, (), ENOSYS),
    ],
)
def test_calls_of_aarch64(number: int, arguments: tuple[int, ...], decision: int) -> None:
    assert decide(filter_of("aarch64"), ARM, number, arguments) == decision


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from(["x86_64", "aarch64"]))
def test_another_architecture_is_refused_whatever_it_calls(audit: int, number: int, machine: str) -> None:
    own = X86 if machine == "x86_64" else ARM
    if audit != own:
        assert decide(filter_of(machine), audit, number) == EPERM


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(0, 2**64 - 1)] * 3),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_every_call_has_a_decision(number: int, arguments: tuple[int, ...], machine: str) -> None:
    decision = decide(filter_of(machine), X86 if machine == "x86_64" else ARM, number, arguments)
    assert decision in (ALLOW, EPERM, ENOSYS)


def test_an_unknown_architecture_has_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
