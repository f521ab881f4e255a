"""The memory plan: exact bytes, sensible defaults, and refusals whose advice works."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.engine.layouts import Precision
from deepwell.engine.load import step_limits
from deepwell.engine.machine import available_memory_bytes, usable_cpus
from deepwell.engine.plan import kv_token_bytes, lines_of, plan, total_of
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.models.formats.config import ModelConfig

SMOLLM2 = ModelConfig(
    architecture="llama",
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
LLAMA_8B = ModelConfig(
    architecture="llama",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131072,
)
GB = 10**9


def blocks(rows: int, cols: int, group: int, block_bytes: int) -> int:
    return -(-rows // 32) * -(-cols // group) * block_bytes


def test_int8_weights_are_counted_to_the_byte() -> None:
    layer = (
        blocks(960, 576, 64, 2112)
        + blocks(576, 576, 64, 2112)
        + blocks(3072, 576, 64, 2112)
        + blocks(576, 1536, 64, 2112)
        + 2 * 576 * 4
    )
    exact = blocks(49152, 576, 64, 2112) + 30 * layer + 576 * 4
    made = plan(SMOLLM2, "int8", available_bytes=8 * GB)
    assert exact <= made.weights_bytes < exact + 64 * 512, "but for the alignment of each tensor"


def test_kv_cache_bytes_are_layers_heads_and_dimensions() -> None:
    assert kv_token_bytes(SMOLLM2, "bf16") == 2 * 30 * 3 * 64 * 2
    assert kv_token_bytes(SMOLLM2, "fp32") == 2 * kv_token_bytes(SMOLLM2, "bf16")
    assert kv_token_bytes(SMOLLM2, "int8") == 2 * 30 * 3 * (64 + 4), "a float32 scale a key and a value"
    made = plan(SMOLLM2, "int8", kv_tokens=1000, available_bytes=8 * GB)
    assert made.kv_cache_tokens == 1008, "whole blocks"
    assert made.kv_cache_bytes == 1008 * kv_token_bytes(SMOLLM2, "bf16")


def test_a_small_model_gets_its_whole_context() -> None:
    made = plan(SMOLLM2, "int8", available_bytes=8 * GB)
    assert (made.context, made.kv_cache_tokens) == (8192, 8192)
    assert made.kv_cache_bytes <= 256 << 20


def test_a_large_model_gets_4096_tokens_although_they_exceed_the_cap() -> None:
    made = plan(LLAMA_8B, "int8", available_bytes=16 * GB)
    assert (made.context, made.kv_cache_tokens) == (4096, 4096)
    assert made.kv_cache_bytes > 256 << 20


def test_an_asked_context_is_given_in_full() -> None:
    made = plan(LLAMA_8B, "int8", context=20_000, available_bytes=16 * GB)
    assert made.context == 20_000
    assert made.kv_cache_tokens == 20_000


def test_a_batch_is_halved_until_the_plan_fits_unless_it_was_asked_for() -> None:
    full = plan(SMOLLM2, "int8", available_bytes=8 * GB)
    assert full.batch_size == 64 and "batches of" not in "\n".join(full.lines())
    short = plan(SMOLLM2, "int8", available_bytes=full.total_bytes - 1)
    assert short.batch_size == 32 and "batches of 32" in "\n".join(short.lines())
    assert full.total_bytes - short.total_bytes > 32 * 49152 * 4, "logits of 32 sequences, at least"
    assert plan(SMOLLM2, "int8", batch_size=3, available_bytes=8 * GB).batch_size == 3
    with pytest.raises(InsufficientMemory):
        plan(SMOLLM2, "int8", batch_size=64, available_bytes=full.total_bytes - 1)


def test_the_lines_add_up_in_words() -> None:
    text = "\n".join(plan(SMOLLM2, "int4", available_bytes=8 * GB).lines())
    for part in (
        "weights",
        "int4",
        "KV cache",
        "8192 tokens, bf16",
        "workspace",
        "server",
        "total",
        "8.0 GB available",
    ):
        assert part in text


def test_a_second_model_shares_the_servers_process_and_adds_its_tokenizer() -> None:
    alone = plan(SMOLLM2, "int4", available_bytes=8 * GB)
    second = plan(SMOLLM2, "int4", available_bytes=8 * GB - alone.total_bytes, joins=True)
    assert 0 < second.server_bytes < alone.server_bytes / 4
    assert second.total_bytes - second.server_bytes == alone.total_bytes - alone.server_bytes
    assert total_of([alone, second]) == alone.total_bytes + second.total_bytes
    assert second.available_bytes == 8 * GB - alone.total_bytes


def test_a_model_that_fits_alone_is_refused_beside_others() -> None:
    alone = plan(LLAMA_8B, "int4", available_bytes=8 * GB)
    with pytest.raises(InsufficientMemory) as caught:
        plan(LLAMA_8B, "int4", available_bytes=8 * GB - alone.total_bytes, joins=True)
    assert f"have {(8 * GB - alone.total_bytes) / 1e9:.1f} GB" in caught.value.message


def test_the_table_of_several_models_adds_up() -> None:
    first = plan(SMOLLM2, "int4", available_bytes=8 * GB)
    second = plan(SMOLLM2, "int8", available_bytes=8 * GB - first.total_bytes, joins=True)
    head, *rows, last = lines_of({"smollm2": first, "another": second})
    assert head.split() == ["weights", "KV", "cache", "workspace", "server", "total"]
    for row, made in zip(rows, (first, second), strict=True):
        parts = [float(part) for part in row.split()[1::2]]
        assert parts[-1] == pytest.approx(sum(parts[:-1]), abs=0.3)
        assert parts[-1] == pytest.approx(made.total_bytes / 1e6, abs=0.1)
    assert last.startswith("total") and last.endswith("of 8.0 GB available")
    assert f"{total_of([first, second]) / 1e6:.1f} MB" in last


@pytest.mark.parametrize(
    ("precision", "context", "available", "advice"),
    [
        ("int8", None, 7 * GB, "--precision int4"),
        ("int8", 32768, 11 * GB, "--context 16384"),
        ("fp32", None, 9 * GB, "--precision int4"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers_and_flags_that_fit(
    precision: Precision, context: int | None, available: int, advice: str
) -> None:
    with pytest.raises(InsufficientMemory) as caught:
        plan(LLAMA_8B, precision, context, available_bytes=available)
    assert f"have {available / 1e9:.1f} GB" in caught.value.message
    assert advice in caught.value.fix
    _follow(caught.value.fix, precision, context, available)


def _follow(fix: str, precision: Precision, context: int | None, available: int) -> None:
    """Each option of the advice leads to a plan that fits."""
    for option in fix.removeprefix("use ").split(" or "):
        words = option.split()
        flags = dict(zip(words[::2], words[1::2], strict=True))
        changed_context = int(flags["--context"]) if "--context" in flags else context
        plan(LLAMA_8B, flags.get("--precision", precision), changed_context, available_bytes=available)  # pyright: ignore[reportArgumentType]


def test_where_nothing_fits_the_advice_is_another_model() -> None:
    with pytest.raises(InsufficientMemory, match="smaller model"):
        plan(LLAMA_8B, "int8", available_bytes=GB)


def test_impossible_contexts_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="8192"):
        plan(SMOLLM2, "int8", context=9000, available_bytes=8 * GB)
    with pytest.raises(InvalidRequest, match="--kv-tokens 4096"):
        plan(SMOLLM2, "int8", context=4096, kv_tokens=1024, available_bytes=8 * GB)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


def test_available_memory_without_a_cgroup_is_the_hosts(tmp_path: Path) -> None:
    assert available_memory_bytes(write(tmp_path, MEMINFO)) == 8000 * 1024


def test_the_tightest_cgroup_on_the_way_to_the_root_decides(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": "5000000\n",
        "sys/fs/cgroup/a/memory.current": "4000000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 500000\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "1\n",
    }
    assert available_memory_bytes(write(tmp_path, MEMINFO | files)) == 1_500_000


def test_a_container_sees_its_limit_at_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../host/path\n",
        "sys/fs/cgroup/memory.max": "3000000\n",
        "sys/fs/cgroup/memory.current": "1000000\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
    }
    root = write(tmp_path, MEMINFO | files)
    assert available_memory_bytes(root) == 2_000_000
    assert usable_cpus(root) == 1


def test_version_1_limits_count(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3000000\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1000000\n",
        "sys/fs/cgroup/memory/x/memory.stat": "total_inactive_file 250000\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n",
    }
    root = write(tmp_path, MEMINFO | files)
    assert available_memory_bytes(root) == 2_250_000
    assert usable_cpus(root) == 1


@pytest.mark.parametrize(
    ("config", "threads", "rows"), [(SMOLLM2, 1, 512), (LLAMA_8B, 2, 64), (LLAMA_8B, 16, 512)]
)
def test_the_longest_step_of_a_large_model_on_few_cores_is_short(
    config: ModelConfig, threads: int, rows: int
) -> None:
    limits = step_limits(config, threads)
    assert limits.prefill_tokens == rows
    assert limits.mixed_prefill_tokens == min(128, rows)
