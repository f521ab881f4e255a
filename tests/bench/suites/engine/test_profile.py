"""What the phases of a step need, against the whole that the other benchmarks count."""

import pytest
from tests.bench.harness.test_roofs import CONFIG

from deepwell.cli.bench.phases import Need, needs
from deepwell.cli.bench.roofs import Roofs, work_of

NORMS = 5 * 128 * 4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4", "int4-full"])
def test_the_phases_of_a_decode_step_read_all_weights_and_keys(precision):
    phases = needs(CONFIG, precision, kv_dtype="bf16", rows=1, context=10, prefill=False)
    work = work_of(CONFIG, precision, kv_dtype="bf16")

    assert sum(need.read_bytes for need in phases.values()) + NORMS == work.decode_bytes(10)


def test_the_phases_of_a_prompt_multiply_what_its_roof_counts():
    phases = needs(CONFIG, "int8", kv_dtype="bf16", rows=7, context=0, prefill=True)
    work = work_of(CONFIG, "int8", kv_dtype="bf16")

    products = sum(need.macs for name, need in phases.items() if name != "attention")
    assert products == work.prefill_gemm_macs(7)
    assert phases["attention"].macs == work.prefill_attention_macs(7)


def test_the_slower_of_reading_and_computing_is_the_limit():
    roofs = Roofs(threads=1, memory=10.0, int8=2.0, int4=4.0, bf16=1.0, fp32=1.0)

    assert Need(20e9, 2e9, "int8").limit(roofs) == (2.0, "GB/s")
    assert Need(20e9, 8e9, "int8").limit(roofs) == (4.0, "GMAC/s")
    assert Need(20e9, 8e9, "fp16").limit(roofs) == (8.0, "GMAC/s")
    assert Need(20e9, 8e9, "int8").rate("GB/s", 4.0) == 5.0
