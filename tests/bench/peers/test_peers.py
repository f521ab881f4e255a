"""A peer that could not use this CPU is no peer."""

import pytest

from deepwell_bench.peers import llama_cpp as peers
from deepwell_bench.peers.llama_cpp import missing_instruction_sets


@pytest.mark.parametrize(
    ("built", "missing"),
    [
        ("AVX2 = 1 | F16C = 1 | FMA = 1 | AVX512 = 1 | AVX512_VNNI = 1", []),
        ("AVX2 = 1 | F16C = 1 | FMA = 1 | AVX512_VNNI = 0", ["AVX512", "AVX512_VNNI"]),
    ],
)
def test_instruction_sets_of_this_cpu_must_be_compiled_in(monkeypatch, built, missing):
    flags = frozenset({"avx2", "fma", "f16c", "avx512f", "avx512_vnni"})
    monkeypatch.setattr(peers, "cpu_flags", lambda: flags)

    assert missing_instruction_sets(f"CPU : {built} | OPENMP = 1 |") == missing
