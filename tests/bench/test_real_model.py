"""The benchmarks themselves, at their smallest, on the real model."""

import io

import pytest
from rich.console import Console
from tests.needs import NATIVE

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.phases import bench_profile
from deepwell.cli.bench.report import Report
from deepwell.engine.backends import native
from deepwell.engine.protocol import Window
from deepwell_bench.suites.context.endless import measure_endless
from deepwell_bench.suites.quality.determinism import COMPANIES, bench_determinism
from deepwell_bench.suites.quality.size import bench_model_size
from deepwell_bench.workloads.text import prompts, text_tokens

pytestmark = [
    pytest.mark.native,
    pytest.mark.needs(NATIVE),
]


@pytest.fixture
def report():
    quiet = Report()
    quiet.console = Console(file=io.StringIO())
    return quiet


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, smollm2_path):
    """Packed weights go to a folder of this test session."""
    monkeypatch.setenv("DEEPWELL_SMOLLM2", str(smollm2_path))
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path_factory.getbasetemp() / "bench-home"))


def test_prompts_are_distinct_even_past_the_end_of_the_text(smollm2_path):
    cut = [tuple(prompt) for number in range(30) for prompt in prompts(smollm2_path, 128, number, 16)]

    assert len(set(cut)) == len(cut)
    assert {len(prompt) for prompt in cut} == {128}


def test_one_and_many_sequences_generate_the_same_and_only_decoding_is_timed(smollm2_path):
    ours = Ours(smollm2_path, "int4", threads=1, kv_tokens=512)
    try:
        first, second = prompts(smollm2_path, 24, 0, 2)
        alone = ours.generate([first], 6)
        together = ours.generate([first, second], 6)
    finally:
        ours.close()

    assert alone.work_tokens == 5
    assert len(alone.outputs[0]) == 6
    assert together.outputs[0] == alone.outputs[0]


def test_answers_do_not_depend_on_company(report, smollm2_path):
    value = bench_determinism(
        report, smollm2_path, requests=4, precisions=("int4",), companies=COMPANIES[-1:]
    )

    assert value["different"] == 0
    assert value["requests"] == 4
    assert value["drafted_tokens"] > 0


@pytest.mark.parametrize("prefill", [None, 40])
def test_a_profile_accounts_for_every_phase(report, smollm2_path, prefill):
    value = bench_profile(
        report,
        smollm2_path,
        precision="int4-full",
        threads=1,
        rows=1 if prefill else 2,
        prefill=prefill,
        rounds=1,
        prompt_tokens=20,
        tokens=4,
    )

    phases = value["phases"]
    assert tuple(phases) == native.PHASES
    assert all(phase["ms"] > 0 for phase in phases.values())
    assert sum(phase["ms"] for phase in phases.values()) == pytest.approx(value["total_ms"], rel=0.01)
    assert {name for name, phase in phases.items() if "roof" in phase} == {
        "qkv", "attention", "o", "gate_up", "down", "head"
    }  # fmt: skip


def test_packed_files_shrink_with_their_bits(report, smollm2_path):
    value = bench_model_size(report, smollm2_path)

    assert value["int4_full"] < value["int4"] < value["int8"] < 0.27


def test_an_endless_sequence_holds_one_window(report, smollm2_path):
    text = text_tokens(smollm2_path)[:3000]
    value = measure_endless(report, smollm2_path, text, 200, Window(16, 112))

    assert value["pool_flat"] and value["blocks"] == 8
    assert value["forgotten_tokens"] == Window(16, 112).forgotten(3198)
    assert 0.8 < value["perplexity_ratio"] < 1.2
    assert value["read_tokens_per_s"] > 0 and value["write_tokens_per_s"] > 0
