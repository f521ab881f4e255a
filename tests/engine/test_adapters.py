"""LoRA adapters: equal to merged weights, independent of company and cache, swapped under load, and never trusted."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.conformance import collect

from deepwell.engine.architectures import build_model, tensor_plan
from deepwell.engine.backends import native
from deepwell.engine.batch import Batch
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.engine.weights.adapters import AdapterLoader, Linear, linears_of, read_adapter
from deepwell.engine.weights.load import load_weights
from deepwell.engine.weights.low_rank import LowRank, pack
from deepwell.errors import DeepwellError, InvalidModelFile, ModelNotFound, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell_bench.workloads.random_adapter import write_random_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_ERROR = {"reference": 1e-4, "native": 1e-3}
ALPHA = 40.0  # large enough for adapters to change the answer


def linears(checkpoint: Checkpoint) -> dict[str, Linear]:
    return linears_of(tensor_plan(checkpoint.config), checkpoint)


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    (tmp_path / "base").mkdir()
    return sequences.golden_checkpoint("llama-yarn", tmp_path / "base")


def rewrite(folder: Path, tensors: Mapping[str, Any] | None = None, **config: Any) -> None:
    """Change an adapter's tensors, or settings of its configuration."""
    if tensors is not None:
        save_file(dict(tensors), folder / WEIGHTS)
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | config))


def merged(name: str, adapter: Path, scale: float, directory: Path) -> Checkpoint:
    """The golden model with W + scale * B A in place of W."""
    arrays = sequences.golden(name)
    weights = {
        k.removeprefix("weight:"): v.astype(np.float32) for k, v in arrays.items() if k.startswith("weight:")
    }
    tensors = load_file(adapter / WEIGHTS)
    for key, a in tensors.items():
        if ".lora_A." in key:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[key.replace("lora_A", "lora_B")]
            weights[f"{module}.weight"] = (weights[f"{module}.weight"] + scale * b @ a).astype(np.float32)
    directory.mkdir()
    (directory / "config.json").write_text(str(arrays["config"]))
    save_file(weights, directory / "model.safetensors")
    return open_checkpoint(directory)


def adapted_logits(model: Any, cache: Any, tokens: list[int], adapter: Any, chunk: int) -> np.ndarray:
    table = sequences.table_for(len(tokens))
    out = np.empty((len(tokens), model.vocab_size), np.float32)
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        step = sequences.step(part, first, table, range(len(part)))
        batch = Batch(
            step.tokens, step.positions, step.seq_starts, step.block_tables, step.output_rows, (adapter,)
        )
        model.forward(batch, cache, logits=out[first : first + len(part)])
    return out


@pytest.mark.parametrize("chunk", [40, 7, 1])
@pytest.mark.parametrize("rank", [1, 5, 16])
@pytest.mark.parametrize("name", ["llama-yarn", "llama-llama3", "qwen2"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_merged_weights(
    engine: str, name: str, rank: int, chunk: int, tmp_path: Path
) -> None:
    run = backend(engine)
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint(name, tmp_path / "base")
    folder = write_random_adapter(tmp_path / "lora", linears(checkpoint), rank=rank, seed=1, alpha=ALPHA)
    target = merged(name, folder, ALPHA / rank, tmp_path / "merged")
    tokens = sequences.golden(name)["tokens"].tolist()

    expected_model = build_model(run, load_weights(target, "fp32"), target.config, 64)
    expected = sequences.logits(expected_model, sequences.new_cache(run, target.config, len(tokens)), tokens)
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, 64)
    adapter = AdapterLoader(model, linears(checkpoint)).load("a", folder)
    cache = sequences.new_cache(run, checkpoint.config, len(tokens))
    computed = adapted_logits(model, cache, tokens, adapter.weights, chunk)

    plain = sequences.logits(model, sequences.new_cache(run, checkpoint.config, len(tokens)), tokens)
    assert np.abs(plain - expected).max() > 0.1  # the adapter matters
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_peft(engine: str, tmp_path: Path) -> None:
    """An adapter as peft wrote it, with two ranks and rank-stabilised scales; `make golden` writes it."""
    run = backend(engine)
    (tmp_path / "linear").mkdir()
    (tmp_path / "lora").mkdir()
    checkpoint = sequences.golden_checkpoint("llama-linear", tmp_path / "linear")
    arrays = sequences.golden("lora")
    save_file(
        {k.removeprefix("weight:"): v for k, v in arrays.items() if k.startswith("weight:")},
        tmp_path / "lora" / WEIGHTS,
    )
    (tmp_path / "lora" / CONFIG).write_text(str(arrays["config"]))
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, 64)
    adapter = AdapterLoader(model, linears(checkpoint)).load("a", tmp_path / "lora")
    tokens = arrays["tokens"].tolist()
    cache = sequences.new_cache(run, checkpoint.config, len(tokens))
    computed = adapted_logits(model, cache, tokens, adapter.weights, 7)
    assert np.abs(computed - sequences.golden("llama-linear")["logits"]).max() > 0.1
    assert np.abs(computed - arrays["logits"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", ["llama-yarn", "qwen3-moe", "deepseek-v2", "deepseek-v2-lite"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_matrices_are_bound_by_name(engine: str, name: str, tmp_path: Path) -> None:
    """Every matrix that the plan says adapts has its own effect, in whatever order the parts are given."""
    run = backend(engine)
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint(name, tmp_path / "base")
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, 64)
    folder = write_random_adapter(tmp_path / "lora", linears(checkpoint), rank=3, seed=1, alpha=ALPHA)
    parts = read_adapter(folder, linears(checkpoint)).parts
    plan = tensor_plan(checkpoint.config).matrices
    assert parts.keys() == {matrix.name for matrix in plan if matrix.role == "body" and matrix.adapts}

    def logits(chosen: Mapping[str, Any]) -> bytes:
        cache = sequences.new_cache(run, checkpoint.config, 8)
        return adapted_logits(model, cache, [5, 6, 7, 8], model.adapter(chosen), 4).tobytes()

    assert logits(dict(reversed(parts.items()))) == logits(parts)
    assert len({logits({one: part}) for one, part in parts.items()} | {logits({})}) == len(parts) + 1
    with pytest.raises(ValueError, match=r"99\.o"):
        model.adapter({"99.o": parts["0.o"]})


@pytest.mark.parametrize("isa", native.available_isas() if native.is_available() else [])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_rows_do_not_depend_on_their_company(
    isa: str, precision: Any, base: Checkpoint, tmp_path: Path
) -> None:
    """Every kernel table; adapters of different ranks and targets, rows without one, prefill beside decode."""
    table, run = native.isa(), backend("native")
    native.set_isa(isa)
    try:
        model = build_model(run, load_weights(base, precision), base.config, 64)
        loader = AdapterLoader(model, linears(base))
        some = {
            name: linear for name, linear in linears(base).items() if "q_proj" in name or "up_proj" in name
        }
        loaded: list[Any] = [None]
        for seed, (rank, targets) in enumerate([(3, linears(base)), (16, some), (8, linears(base))]):
            folder = write_random_adapter(tmp_path / str(seed), targets, rank=rank, seed=seed, alpha=ALPHA)
            loaded.append(loader.load("", folder).weights)
        prompts = [[1 + i, 2, 3 + i, 4, 5][: 1 + i % 5] for i in range(11)]
        chosen = [loaded[i % 4] for i in range(11)]

        def logits(which: list[int]) -> np.ndarray:
            cache = sequences.new_cache(run, base.config, 16 * 11)
            parts = [prompts[i] for i in which]
            starts = np.cumsum([0, *map(len, parts)], dtype=np.int32)
            batch = Batch(
                np.concatenate(parts).astype(np.int32),
                np.concatenate([np.arange(len(part)) for part in parts]).astype(np.int32),
                starts,
                np.arange(len(parts), dtype=np.int32)[:, None],
                starts[1:] - 1,
                tuple(chosen[i] for i in which),
            )
            out = np.empty((len(parts), model.vocab_size), np.float32)
            model.forward(batch, cache, logits=out)
            return out

        together = logits(list(range(11)))
        for i in range(11):
            assert np.array_equal(logits([i])[0], together[i])
        assert len({row.tobytes() for row in logits([0, 4, 8])}) == 3
        shown = logits([9, 1, 5, 2])
        assert np.array_equal(shown, together[[9, 1, 5, 2]])
    finally:
        native.set_isa(table)


@pytest.mark.parametrize("isa", native.available_isas() if native.is_available() else [])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_bases_follow_the_reference(
    isa: str, precision: Any, base: Checkpoint, tmp_path: Path
) -> None:
    from deepwell.engine.backends import reference

    table = native.isa()
    native.set_isa(isa)
    try:
        folder = write_random_adapter(tmp_path / "lora", linears(base), rank=8, seed=3, alpha=8.0)
        weights = load_weights(base, precision)
        rows: list[np.ndarray] = []
        for run in (reference, native):
            model = build_model(run, weights, base.config, 64)
            adapter = AdapterLoader(model, linears(base)).load("a", folder).weights
            rows.append(
                adapted_logits(model, sequences.new_cache(run, base.config, 8), [5, 6, 7, 8], adapter, 4)
            )
        # One rounding of an activation that falls the other way is worth a step of its scale.
        assert np.abs(rows[0] - rows[1]).max() < 0.05 * np.abs(rows[0]).max()
    finally:
        native.set_isa(table)


def random_parts(ranks: list[int], outputs: int, cols: int, seed: int) -> list[LowRank]:
    rng = np.random.default_rng(seed)
    return [
        LowRank(
            np.arange(i * outputs, (i + 1) * outputs),
            rng.integers(-4, 5, (rank, cols)).astype(np.float32),
            rng.integers(-4, 5, (outputs, rank)).astype(np.float32),
        )
        for i, rank in enumerate(ranks)
    ]


def sums(parts: list[LowRank], rows: int, cols: int) -> np.ndarray:
    whole = np.zeros((rows, cols), np.float32)
    for part in parts:
        whole[part.rows] = part.b @ part.a
    return whole


def bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def opened(a: np.ndarray, b: np.ndarray, runs: np.ndarray, cols: int, dtype: str) -> np.ndarray:
    """Reads a packed adapter back as `csrc/common.h` describes it, and multiplies it."""
    groups, lanes = -(-cols // 64), -(-cols // 16)
    if dtype == "fp32":
        rows_of_a = a.view(np.float32).reshape(-1, 16 * lanes)
    else:
        blocks = a.reshape(-1, groups, 64 + 1024)
        scales = np.ascontiguousarray(blocks[:, :, :64]).view(np.float32)
        codes = np.ascontiguousarray(blocks[:, :, 64:]).view(np.int8).reshape(-1, groups, 16, 16, 4)
        wide = codes.swapaxes(2, 3).reshape(-1, groups, 16, 64) * scales[..., None]
        rows_of_a = wide.swapaxes(1, 2).reshape(-1, groups * 64)
    result = np.zeros((16 * len(runs), cols), np.float32)
    for run, (first, count, at) in enumerate(runs):
        if dtype == "fp32":
            own = b[at : at + 64 * count].view(np.float32).reshape(-1, 16).T
        else:
            fours = b[at : at + 16 * count].view(np.int8).reshape(-1, 16, 4)
            own = fours.swapaxes(0, 1).reshape(16, -1) * bf16(b[32 * run : 32 * run + 32])[:, None]
        result[run * 16 : run * 16 + 16] = own @ rows_of_a[first : first + count, :cols]
    return result


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 60), st.randoms(use_true_random=False)
)
def test_packing_loses_nothing(ranks: list[int], outputs: int, random: Any) -> None:
    """Whatever the borders between parts, unpacked A and B give back each part's product."""
    rows = -(-outputs * len(ranks) // 32) * 32
    parts = random_parts(ranks, outputs, 20, random.randrange(2**32))
    assert np.array_equal(opened(*pack(parts, rows, 20, "fp32"), 20, "fp32"), sums(parts, rows, 20))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 150),
    st.randoms(use_true_random=False),
)
def test_bytes_stay_within_their_rounding(ranks: list[int], cols: int, random: Any) -> None:
    """A code is at most half a scale off, and a scale at most 1/127 of the largest value and a bf16's step above."""
    rows = -(-20 * len(ranks) // 32) * 32
    parts = random_parts(ranks, 20, cols, random.randrange(2**32))
    computed = opened(*pack(parts, rows, cols, "int8"), cols, "int8")
    # Values reach 4, so a code is off by half of 4 / 127 or less, in either factor of each of 9 products.
    assert np.abs(computed - sums(parts, rows, cols)).max() <= 9 * 2 * 4 * 4 / 254 * 1.02


@pytest.mark.parametrize("isa", native.available_isas() if native.is_available() else [])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_bytes_are_multiplied_as_they_lie(isa: str, precision: Any, base: Checkpoint, tmp_path: Path) -> None:
    """An adapter whose values bytes hold exactly gives what bf16 and fp32 give, but for rounded activations."""
    table = native.isa()
    native.set_isa(isa)
    try:
        model = build_model(backend("native"), load_weights(base, precision), base.config, 64)
        rng = np.random.default_rng(5)
        parts = read_adapter(
            write_random_adapter(tmp_path / "lora", linears(base), rank=5, seed=3, alpha=1.0), linears(base)
        ).parts

        def exact(values: np.ndarray, scale: float) -> np.ndarray:
            codes = rng.integers(-127, 128, values.shape).astype(np.float32)
            codes[:, ::16] = 127  # in every group and every output
            return codes * np.float32(scale)

        exactly = {
            name: [LowRank(part.rows, exact(part.a, 2**-9), exact(part.b, 2**-10)) for part in own]
            for name, own in parts.items()
        }
        targets = model._targets
        found = {
            dtype: adapted_logits(
                model,
                sequences.new_cache(backend("native"), base.config, 8),
                [5, 6, 7, 8],
                model._adapter(
                    {n: pack(own, targets[n][0], targets[n][1], dtype) for n, own in exactly.items()}, dtype
                ),
                4,
            )
            for dtype in ("fp32", "bf16", "int8")
        }
        assert np.array_equal(found["fp32"], found["bf16"])
        # What the base rounds of an activation is rounded for the adapter, too: a step of its scale.
        assert np.abs(found["int8"] - found["fp32"]).max() < 0.05 * np.abs(found["fp32"]).max()
        plain = adapted_logits(
            model, sequences.new_cache(backend("native"), base.config, 8), [5, 6, 7, 8], None, 4
        )
        assert np.abs(found["fp32"] - plain).max() > 0.2 * np.abs(plain).max()
    finally:
        native.set_isa(table)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("which", ["part", "rank"])
@pytest.mark.parametrize("factor", [2.0**14, 2.0**60, 2.0**-60, 2.0**-110])
def test_bytes_do_not_lose_what_is_small_in_one_factor(
    factor: float, which: str, precision: Any, base: Checkpoint, tmp_path: Path
) -> None:
    """A times a number and B divided by it are the same update, in one part of a matrix or in one rank of every part."""
    model = build_model(backend("native"), load_weights(base, precision), base.config, 64)
    parts = read_adapter(
        write_random_adapter(tmp_path / "lora", linears(base), rank=5, seed=3, alpha=ALPHA), linears(base)
    ).parts

    def uneven(part: LowRank, first: bool) -> LowRank:
        factors = np.ones(part.rank, np.float32)
        if first or which == "rank":
            factors[: 1 if which == "rank" else None] = factor
        return LowRank(part.rows, part.a * factors[:, None], part.b / factors)

    scaled = {name: [uneven(part, not i) for i, part in enumerate(own)] for name, own in parts.items()}
    plain, expected, computed = (
        adapted_logits(
            model, sequences.new_cache(backend("native"), base.config, 8), [5, 6, 7, 8], adapter, 4
        )
        for adapter in (None, model.adapter(parts), model.adapter(scaled))
    )
    difference = np.abs(computed - expected).max()
    assert difference <= 1e-3 * np.abs(plain - expected).max()


def test_a_rank_whose_sums_would_leave_32_bits_is_not_kept_in_bytes(base: Checkpoint) -> None:
    """One update, written with rank 1 and with rank 2000: all its terms have the same sign."""
    model = build_model(backend("native"), load_weights(base, "int8"), base.config, 64)
    name, (rows, cols, _, _) = next(iter(model._targets.items()))
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1, cols)).astype(np.float32)
    b = rng.standard_normal((rows, 1)).astype(np.float32)
    one, many = (
        adapted_logits(
            model,
            sequences.new_cache(backend("native"), base.config, 8),
            [5, 6, 7, 8],
            model.adapter(
                {
                    name: [
                        LowRank(
                            np.arange(rows), a.repeat(rank, axis=0), b.repeat(rank, axis=1) / np.float32(rank)
                        )
                    ]
                }
            ),
            4,
        )
        for rank in (1, 2000)
    )
    assert np.abs(one - many).max() < 0.05 * np.abs(one).max()


@pytest.mark.parametrize("a", [3e38, 1e-38, 1e-45, 0.0])
@pytest.mark.parametrize("b", [3e38, 1e-38, 1e-45, 0.0])
def test_bytes_hold_the_smallest_and_largest_values(a: float, b: float) -> None:
    part = LowRank(np.arange(16), np.full((2, 20), a, np.float32), np.full((16, 2), b, np.float32))
    packed = pack([part], 32, 20, "int8")
    with np.errstate(over="ignore"):
        computed = opened(*packed, 20, "int8").astype(np.float64)
    expected = 2 * float(np.float32(a)) * float(np.float32(b))
    if expected < 1e38:
        assert np.allclose(computed[:16], expected, rtol=0.02, atol=1e-37)
    else:
        assert (computed[:16] > 1e38).all()


# ---- the engine


@pytest.fixture
def engine(base: Checkpoint) -> Iterator[InProcessEngine]:
    with open_engine(base, EngineOptions(precision="int8", context=64, kv_tokens=512), quiet=True) as running:
        yield running


def ask(name: str, adapter: str, count: int = 6) -> GenerateRequest:
    prompt = [(7 * i) % 140 + 2 for i in range(40)]
    return GenerateRequest(
        name, prompt, SamplingParams(count, temperature=0.0, ignore_eos=True), adapter=adapter
    )


def saved(base: Checkpoint, folder: Path, seed: int) -> str:
    return str(write_random_adapter(folder, linears(base), rank=4, seed=seed, alpha=ALPHA))


async def test_adapters_share_no_prefix_with_each_other_or_the_base(
    engine: InProcessEngine, base: Checkpoint, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        engine.load_adapter(name, saved(base, tmp_path / name, seed))
    cold = {name: await collect(engine, ask(f"cold {name}", name)) for name in ("", "a", "b")}
    warm = {name: await collect(engine, ask(f"warm {name}", name)) for name in ("", "a", "b")}
    assert all(answer.last.cached_tokens == 0 for answer in cold.values())
    assert all(answer.last.cached_tokens == 32 for answer in warm.values())
    assert all(warm[name].tokens == cold[name].tokens for name in cold)
    assert len({tuple(answer.tokens) for answer in cold.values()}) == 3


async def test_a_swap_leaves_running_requests_alone(
    engine: InProcessEngine, base: Checkpoint, tmp_path: Path
) -> None:
    old, new = saved(base, tmp_path / "old", 0), saved(base, tmp_path / "new", 1)
    engine.load_adapter("a", old)
    expected_old = (await collect(engine, ask("o", "a", 20))).tokens
    running = engine.generate(ask("running", "a", 20))
    tokens = list((await anext(running)).tokens)
    engine.load_adapter("a", new)
    (late,) = await asyncio.gather(collect(engine, ask("late", "a", 20)))
    engine.unload_adapter("a")
    async for delta in running:
        tokens += delta.tokens
    assert tokens == expected_old
    assert late.tokens != expected_old
    with pytest.raises(ModelNotFound):
        engine.generate_sync(ask("gone", "a"))
    engine.load_adapter("a", old)
    assert (await collect(engine, ask("back", "a", 20))).tokens == expected_old


async def test_scores_and_embeddings_take_an_adapter(
    engine: InProcessEngine, base: Checkpoint, tmp_path: Path
) -> None:
    info = engine.load_adapter("a", saved(base, tmp_path / "a", 0))
    assert engine.adapters() == (info,) and info.rank == 4
    tokens = [3, 4, 5, 6]
    assert not np.array_equal(await engine.score(tokens), await engine.score(tokens, adapter="a"))
    assert not np.array_equal(await engine.embed(tokens), await engine.embed(tokens, adapter="a"))
    with pytest.raises(ModelNotFound):
        await engine.score(tokens, adapter="b")
    with pytest.raises(ModelNotFound):
        engine.unload_adapter("b")


# ---- files


@pytest.fixture
def folder(base: Checkpoint, tmp_path: Path) -> Path:
    return write_random_adapter(tmp_path / "lora", linears(base), rank=4, seed=0)


def test_scales_follow_peft(base: Checkpoint, folder: Path) -> None:
    def b_of(part: int = 0) -> np.ndarray:
        return read_adapter(folder, linears(base)).parts["0.qkv"][part].b

    plain = b_of()
    digest = read_adapter(folder, linears(base)).digest
    rewrite(folder, lora_alpha=12)
    assert np.allclose(b_of(), 3 * plain)
    assert read_adapter(folder, linears(base)).digest != digest
    rewrite(folder, lora_alpha=12, use_rslora=True)
    assert np.allclose(b_of(), 6 * plain)
    rewrite(folder, lora_alpha=4, use_rslora=False, alpha_pattern={"layers.0.self_attn.q_proj": 8})
    assert np.allclose(b_of(), 2 * plain)
    rewrite(folder, alpha_pattern={"^model.layers.0.self_attn.k_proj": 8})
    assert np.allclose(b_of(), plain)


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa_niter_4"},
        {"layer_replication": [[0, 1]]},
        {"something_new": True},
        {"rank_pattern": {"(a+)+": 4}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_other_kinds_are_refused(config: dict[str, Any], base: Checkpoint, folder: Path) -> None:
    rewrite(folder, **config)
    with pytest.raises(UnsupportedModel, match="lora"):
        read_adapter(folder, linears(base))


@pytest.mark.parametrize(
    "config",
    [
        {"r": 10**9},
        {"r": 0},
        {"r": 8},
        {"r": True},
        {"lora_alpha": "x"},
        {"lora_alpha": 1e308},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"q_proj": 10**400}},
        {"target_modules": ["q_proj"]},
        {
            "target_modules": [
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
                "router",
            ]
        },
        {"rank_pattern": {"q_proj": 2}},
        {"rank_pattern": [1]},
    ],
    ids=lambda config: str(config)[:40],
)
def test_contradictions_are_refused(config: dict[str, Any], base: Checkpoint, folder: Path) -> None:
    rewrite(folder, **config)
    with pytest.raises(InvalidModelFile, match="lora"):
        read_adapter(folder, linears(base))


def _spoiled(tensors: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    a = next(name for name in tensors if "lora_A" in name)
    b = a.replace("lora_A", "lora_B")
    match how:
        case "half":
            del tensors[b]
        case "nan":
            tensors[a][0, 0] = np.nan
        case "wide":
            tensors[a] = np.zeros((4, tensors[a].shape[1] + 1), np.float32)
        case "transposed":
            tensors[b] = np.ascontiguousarray(tensors[b].T)
        case "flat":
            tensors[a] = tensors[a].reshape(-1)
        case "integers":
            tensors[a] = tensors[a].astype(np.int32)
        case "unknown module":
            tensors["base_model.model.lm_head.lora_A.weight"] = tensors[a]
        case "unknown name":
            tensors["extra"] = tensors[a]
        case _:
            tensors.clear()
    return tensors


@pytest.mark.parametrize(
    "how",
    ["half", "nan", "wide", "transposed", "flat", "integers", "unknown module", "unknown name", "empty"],
)
def test_tensors_that_do_not_fit_are_refused(how: str, base: Checkpoint, folder: Path) -> None:
    rewrite(folder, _spoiled(load_file(folder / WEIGHTS), how))
    with pytest.raises(InvalidModelFile, match="lora"):
        read_adapter(folder, linears(base))


def test_a_pickle_is_never_opened(base: Checkpoint, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(UnsupportedModel, match="pickle"):
        read_adapter(folder, linears(base))


def test_an_adapter_of_another_base_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = sequences.golden_checkpoint("qwen2", tmp_path / "other")
    folder = write_random_adapter(tmp_path / "lora", linears(other), rank=4, seed=0)
    with pytest.raises(InvalidModelFile):
        read_adapter(folder, linears(base))


@given(data=st.data())
def test_damaged_files_are_refused_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flipped or missing byte anywhere gives an adapter or a domain error, nothing else."""
    root = tmp_path_factory.mktemp("damage")
    base = sequences.golden_checkpoint("llama-yarn", root)
    some = {name: linear for name, linear in linears(base).items() if "0.self_attn.k_proj" in name}
    folder = write_random_adapter(root / "lora", some, rank=2, seed=0)
    path = folder / data.draw(st.sampled_from([WEIGHTS, CONFIG]))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, min(len(content), 400) - 1))
    if data.draw(st.booleans()):
        content[position] = data.draw(st.integers(0, 255))
    else:
        del content[position:]
    path.write_bytes(content)
    try:
        files = read_adapter(folder, linears(base))
        assert all(np.isfinite(part.b).all() for parts in files.parts for part in parts)
    except DeepwellError:
        pass
    finally:
        shutil.rmtree(root)
