"""Compressed folders reloaded: the same greedy text in transformers, in llama.cpp and in Deepwell.

Every engine loads the folder as a stranger would: by its own loader and its own tokenizer, from text to text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import LLM
from deepwell.tuning.compress.shapes import WAYS, Shape
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python
from deepwell_bench.suites.tuning.compress.pruning import calibrated, packed_in, plain_card
from deepwell_bench.suites.tuning.runs import need_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepwell.tuning.compress.training.run import Pruned

__all__ = ["PROMPTS", "Difference", "Reloaded", "bench_prune_reload", "reload"]

PROMPTS: Final = (
    "The newspaper reported this morning that",
    "Water boils at a hundred degrees because",
    "def fibonacci(n):\n",
    "Once upon a time, in a village by the sea,",
    "The three most common causes of a slow program are",
    "北京是中国的",
)
"""Texts that are continued: prose, code and another script."""
_TOKENS: Final = 24
_CONTEXT: Final = 512
_RECOVERY_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Difference:
    """A prompt that an engine continues otherwise than transformers does."""

    engine: str
    prompt: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Greedy texts of one model, by engine, in the order of the prompts; those of `transformers` are what others must equal."""

    texts: Mapping[str, Sequence[str]]

    def differences(self) -> list[Difference]:
        """Returns where an engine differs from transformers; bf16 rounds, and is left out."""
        wanted = self.texts["transformers"]
        return [
            Difference(engine, prompt, one, other)
            for engine, found in self.texts.items()
            if engine != "bf16"
            for prompt, one, other in zip(PROMPTS, wanted, found, strict=True)
            if one != other
        ]

    def same_in_bf16(self) -> int:
        """Returns the number of prompts with the same text in bf16."""
        pairs = zip(self.texts["transformers"], self.texts["bf16"], strict=True)
        return sum(one == other for one, other in pairs)


def reload(folder: Path, gguf: Path | None = None, llama: LlamaCpp | None = None) -> Reloaded:
    """Loads a folder of safetensors in transformers and here, and its GGUF in llama.cpp and here, and continues `PROMPTS`.

    All compute in float32, with a cache in float32; Deepwell in bf16 too.

    Args:
        folder: configuration, weights and tokenizer.
        gguf: the same model for llama.cpp; None: it is not asked.
        llama: process of llama.cpp; needed for `gguf`.
    """
    from deepwell_bench.workers.tuning.greedy import greedy_texts

    texts: dict[str, Sequence[str]] = {
        "transformers": greedy_texts(folder, PROMPTS, _TOKENS),
        "fp32": _ours(folder, "fp32"),
        "bf16": _ours(folder, "bf16"),
    }
    if gguf is not None and llama is not None:
        llama.call("load", path=str(gguf))
        llama.call("open", threads=llama.threads, flash=False, context=_CONTEXT, sequences=1, full_cache=True)
        texts["llama.cpp"] = llama.call("complete", prompts=list(PROMPTS), count=_TOKENS)["texts"]
        texts["fp32 of GGUF"] = _ours(gguf, "fp32")
    return Reloaded(texts)


def _ours(path: Path, precision: Any) -> list[str]:
    kv = "bf16" if precision == "bf16" else "fp32"
    with LLM(path, precision=precision, kv_dtype=kv, context=_CONTEXT, speculation="off") as llm:
        return [llm.generate(one, max_tokens=_TOKENS, temperature=0).text for one in PROMPTS]


def bench_prune_reload(report: Report, model: Path) -> dict[str, Any]:
    """Writes cuts by depth, width, heads, by all of them, and a recovered one, and continues the prompts in every engine.

    Raises:
        PeerError: this environment has no torch, or llama.cpp cannot be built.
    """
    need_torch("prune-reload")
    from deepwell.tuning.compress.training.run import write_pruned

    donor = calibrated(model)
    value: dict[str, Any] = {"cuts": 0, "prompts": len(PROMPTS)}
    differences: list[str] = []
    same_in_bf16, rows = 0, list[tuple[str, ...]]()
    python = llama_python(report.console)
    for name, made in _cuts(donor):
        with tempfile.TemporaryDirectory() as scratch, packed_in(Path(scratch)):
            folder = Path(scratch) / "model"
            write_pruned(donor, made(), folder, gguf=True)
            with closing(LlamaCpp(python, threads=1)) as llama:
                found = reload(folder, folder / "model.gguf", llama)
        apart = found.differences()
        differences += [f"{name}: {one.engine}: {one.prompt!r}" for one in apart]
        same_in_bf16 += found.same_in_bf16()
        value["cuts"] += 1
        value["engines"] = list(found.texts)
        rows.append((name, str(len(apart)), f"{found.same_in_bf16()} of {len(PROMPTS)}"))
        report.note(f"{name}: {found.texts['transformers'][0]!r}, {len(apart)} differences")
        for one in apart:
            report.note(f"  {one.engine}: {one.found!r} instead of {one.wanted!r}")
    report.table("Greedy texts beside transformers", ("cut", "different", "the same in bf16"), rows)
    value["bf16_same"] = rounded(same_in_bf16 / (value["cuts"] * len(PROMPTS)), 3)
    return value | {"different": differences}


def _cuts(donor: Any) -> list[tuple[str, Callable[[], Pruned]]]:
    from deepwell.tuning.compress.training.recover import Recovery
    from deepwell.tuning.compress.training.run import Pruned, pruned

    config = donor.base.config
    layers, channels, heads = (
        config.num_hidden_layers,
        config.intermediate_size,
        config.num_key_value_heads,
    )
    mixture = Shape(layers - layers // 10, channels - channels // 6 // 32 * 32, max(1, heads - 1))

    def mixed() -> Pruned:
        cut = donor.chosen(mixture)
        return Pruned(donor.built(cut), cut, plain_card(donor, cut))

    recovery = Recovery(minutes=60, tokens=_RECOVERY_TOKENS)
    return [
        ("20 % by depth", partial(pruned, donor, 0.2, ("depth",), None)),
        ("20 % by width", partial(pruned, donor, 0.2, ("width",), None)),
        ("a head of three", partial(pruned, donor, 0.05, ("heads",), None)),
        ("layers, channels and heads", mixed),
        ("20 %, recovered", partial(pruned, donor, 0.2, WAYS, recovery)),
    ]
