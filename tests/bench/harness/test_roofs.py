"""The work of a model, counted from its shapes, against arithmetic done by hand."""

import pytest

from deepwell.cli.bench.roofs import Roofs, manual_macs, measure_roof, work_of
from deepwell.models.formats.config import ModelConfig

CONFIG = ModelConfig(
    architecture="llama",
    vocab_size=256,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=64,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
QKV = 256 * 128
LAYER = QKV + 128 * 128 + 512 * 128 + 128 * 256  # qkv, o, gate and up, down
HEAD = 256 * 128
NORMS = 5 * 128 * 4


@pytest.mark.parametrize(
    ("precision", "layer_bits", "head_bits"),
    [
        ("fp32", 32, 32),
        ("bf16", 16, 16),
        ("fp16", 16, 16),
        ("int8", 8.25, 8.25),
        ("int4", 5, 8.25),
        ("int4-full", 5, 5),
    ],
)
def test_a_step_reads_every_weight_once(precision, layer_bits, head_bits):
    work = work_of(CONFIG, precision, kv_dtype="fp32")

    assert work.step_bytes == (2 * LAYER * layer_bits + HEAD * head_bits) / 8 + NORMS
    assert work.decode_bytes(10) - work.step_bytes == 10 * 2 * 2 * 64 * 4


def test_an_untied_embedding_is_not_read_by_a_step():
    from dataclasses import replace

    untied = work_of(replace(CONFIG, tie_word_embeddings=False), "int8", kv_dtype="bf16")

    assert untied.step_bytes == work_of(CONFIG, "int8", kv_dtype="bf16").step_bytes


def test_prefill_roof_puts_gemms_and_attention_each_under_its_own_peak():
    work = work_of(CONFIG, "int8", kv_dtype="bf16")
    roofs = Roofs(threads=1, memory=1.0, int8=2.0, int4=100.0, bf16=0.5, fp32=100.0)
    gemm = (
        LAYER * 3 + (2 * QKV + LAYER) + HEAD
    )  # of the last layer the two first rows need keys and values alone
    attention = 2 * 64 * 2 * ((1 + 2 + 3) + 3)

    assert work.prefill_roof(roofs, 3) == pytest.approx(3 / (gemm / 2e9 + attention / 0.5e9))


@pytest.mark.parametrize(
    ("table", "vendor", "family", "int8", "fp32"),
    [
        ("avx512_amx", "GenuineIntel", 6, 1024, 32),
        ("avx512_bf16", "GenuineIntel", 6, 128, 32),
        ("avx512_bf16", "AuthenticAMD", 25, 64, 16),
        ("avx512_bf16", "AuthenticAMD", 26, 128, 32),
        ("avx2", "AuthenticAMD", 25, None, 16),
        ("generic", "", 0, None, None),
    ],
)
def test_the_manual_is_that_of_table_and_processor(table, vendor, family, int8, fp32):
    macs = manual_macs(table, vendor, family)

    assert (macs.get("int8"), macs.get("fp32")) == (int8, fp32)


@pytest.mark.parametrize("nbytes", [0, 3e6, 64 << 20])
def test_the_memory_roof_takes_as_many_bytes_as_a_step_reads(nbytes):
    assert measure_roof("memory", 2, seconds=0.001, nbytes=nbytes) > 0
