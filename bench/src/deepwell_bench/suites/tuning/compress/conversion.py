"""Conversion to latent attention measured: exactness, what a smaller cache loses, healing, and the speed of the served result.

Calibration is the pool of BBC News; what is measured are documents of its held-out set, which is frozen by hash.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.comparison import compare
from deepwell_bench.suites.tuning.compress.reload import reload
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.text import prompts
from deepwell_bench.workloads.tuning.labelled import bbc_news, drawn

if TYPE_CHECKING:
    from deepwell.tuning.compress.training.conversion import Conversion, Converter
    from deepwell.tuning.compress.training.layers import Predictions

__all__ = ["bench_convert_mla", "bench_convert_served"]

_CALIBRATION: Final = 240
_HELD_OUT: Final = 24  # documents, of which whole windows are measured


def bench_convert_mla(
    report: Report, model: Path, *, windows: int = 12, minutes: float = 20.0, tokens: int = 99_000
) -> dict[str, Any]:
    """Measures the exact conversion, three latents of 5/16 of the cache, and what healing brings back.

    Args:
        windows: held-out windows of 256 tokens.
        minutes: most time of the healing.
        tokens: most tokens of the healing, but for the rest of its last step.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("convert-mla")
    from deepwell.tuning.compress.convert.latent import Compression
    from deepwell.tuning.compress.convert.limits import default_cached, donor_cached
    from deepwell.tuning.compress.training.layers import predictions
    from deepwell.tuning.compress.training.recover import Recovery, distil

    converter = _converter(model, _CALIBRATION)
    donor, config = converter.donor, converter.config
    held_out = _held_out(converter, windows)
    whole = predictions(donor.model, held_out)
    found: dict[str, Predictions] = {"donor": whole}

    def measured(name: str, made: Conversion) -> Predictions:
        found[name] = donor.compared(made.model, held_out)
        report.note(f"{name}: loss {found[name].loss:.3f}")
        return found[name]

    exact = _exact_logits(converter, held_out[:2])
    cached = default_cached(config)
    best = converter.best(cached)
    rank, rope, balance = best.latent.kv_lora_rank, best.latent.qk_rope_head_dim, best.choices["balance"]
    ours = measured("joint, activations", best)
    split = measured(
        "split, activations", converter.compressed(rope, Compression(rank, balance, joint=False))
    )
    plain = measured("joint, weights", converter.compressed(rope, Compression(rank, balance), aware=False))
    seen = distil(best.model, donor.model, donor.learning, Recovery(minutes, tokens=tokens))
    healed = measured("healed", best)
    report.table(
        f"{donor.base.name} with a cache of {cached} numbers a token and layer instead of {donor_cached(config)}, "
        f"on {held_out.numel():,} held-out tokens of BBC News",
        ["latent", "loss", "donor's first choice", "divergence"],
        [
            [name, f"{one.loss:.3f}", f"{one.agreed:.1%}", f"{one.divergence:.3f}"]
            for name, one in found.items()
        ],
    )
    return {
        "exact_logits": rounded(exact, 3),
        "cached": cached,
        "rank": rank,
        "rope": rope,
        "loss": [rounded(one.loss) for one in found.values()],
        "agreement": [rounded(one.agreed, 3) for one in found.values()],
        "joint_gain": rounded(split.loss - ours.loss, 3),
        "aware_gain": rounded(plain.loss - ours.loss, 3),
        "healing_tokens": seen,
        "healing_closes": rounded((ours.loss - healed.loss) / (ours.loss - whole.loss), 3),
        "healing_divergence_closes": rounded(1 - healed.divergence / ours.divergence, 3),
    }


def bench_convert_served(
    report: Report, model: Path, *, threads: int, rounds: int = 5, context: int = 8000, tokens: int = 64
) -> dict[str, Any]:
    """Measures the cache and the decoding of a converted model on our engine beside its donor, with weights in int8.

    Both run with the default cache, which the bar is about, and with one of int8.

    Args:
        context: tokens of the prompt.
        tokens: tokens that are written behind it.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("convert-served")
    from deepwell.tuning.compress.convert.limits import default_cached
    from deepwell.tuning.compress.training.conversion import write_conversion

    converter = _converter(model, 60)
    made = converter.best(default_cached(converter.config))
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place) / "converted"
        write_conversion(converter.donor, made, folder, _card(converter))
        differences = reload(folder).differences()
        sides: dict[str, Ours] = {}
        room = 2 * (context + tokens)
        for name, path in (("donor", model), ("converted", folder)):
            for kv_dtype in (None, "int8"):
                side = Ours(path, "int8", threads=threads, kv_tokens=room, kv_dtype=kv_dtype)
                sides[f"{name}, {kv_dtype or 'default'}"] = side
                stack.callback(side.close)
        result = compare(
            {
                name: lambda number, side=side: side.generate(prompts(model, context, number), tokens)
                for name, side in sides.items()
            },
            rounds,
        )
        about = {name: side.engine.capabilities() for name, side in sides.items()}
    default = sides["donor, default"].kv_dtype
    bytes_of = {name: one.kv_cache_bytes / one.kv_cache_tokens for name, one in about.items()}
    report.table(
        f"Decode behind {context:,} tokens, {threads} threads, int8, default cache in {default}",
        ["model, cache", "cache bytes a token", "weights MB", "tokens/s"],
        [
            [name, f"{bytes_of[name]:,.0f}", f"{side.weights_bytes / 1e6:.0f}", rounded(result.median(name))]
            for name, side in sides.items()
        ],
    )
    return {
        "context": context,
        "tokens_per_s": [rounded(result.median(name)) for name in sides],
        "ratio": rounded(result.ratio("converted, default", "donor, default"), 3),
        "ratio_int8": rounded(result.ratio("converted, int8", "donor, int8"), 3),
        "ratio_int8_to_default": rounded(result.ratio("converted, int8", "donor, default"), 3),
        "cache_bytes": [rounded(one) for one in bytes_of.values()],
        "cache_share": rounded(bytes_of["converted, default"] / bytes_of["donor, default"], 3),
        "different": [f"{one.engine}: {one.prompt}" for one in differences],
    }


def _converter(model: Path, documents: int) -> Converter:
    from deepwell.tuning.compress.training.conversion import Converter
    from deepwell.tuning.compress.training.run import Donor, windows_of
    from deepwell.tuning.train.bases import open_base

    base = open_base(str(model))
    texts = [one.text + "\n\n" for one in drawn(bbc_news().pool, documents, "convert")]
    return Converter(Donor(base, windows_of(base.codec, texts)))


def _held_out(converter: Converter, count: int) -> Any:
    from deepwell.tuning.compress.training.run import windows_of

    texts = [one.text + "\n\n" for one in bbc_news().held_out[:_HELD_OUT]]
    return windows_of(converter.donor.base.codec, texts)[:count]


def _exact_logits(converter: Converter, windows: Any) -> float:
    """Returns the largest difference of a logit of the exact conversion's folder in transformers from the donor's."""
    from deepwell.tuning.compress.convert.limits import donor_cached
    from deepwell.tuning.compress.training.conversion import largest_difference, write_conversion
    from deepwell.tuning.train.bases import load_model, open_base

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "exact"
        made = converter.best(donor_cached(converter.config))
        write_conversion(converter.donor, made, folder, _card(converter))
        other = load_model(open_base(str(folder)))
    return largest_difference(converter.donor.model, other, windows)


def _card(converter: Converter) -> dict[str, Any]:
    base = converter.donor.base
    return {
        "base": base.name,
        "base_fingerprint": base.checkpoint.fingerprint,
        "calibration": {"tokens": converter.donor.windows.numel(), "sha256": ""},
        "recovery": {},
        "loss_before": 0.0,
        "loss": 0.0,
    }
