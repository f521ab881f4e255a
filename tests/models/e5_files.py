"""Writes small E5S1 files: a whole encoder with a unigram vocabulary, any part of which a test may replace."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"hidden": 32, "layers": 1, "heads": 2, "inner": 64, "vocab": 16, "positions": 8, "types": 1}
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "a", "▁a", "b", "ab", "京", "é", ":", "<mask>")
SCORES = (0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -2.5, -3.0, -4.0, -5.0, -5.0, -3.0, 0.0)
REPLACEMENTS = {"Ａ": "a", "\t": " ", "ﬀ": "bb", "\x01": ""}

_LAYER = ("q", "k", "v", "ao", "fi", "fo")


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of the sizes above, by their names in the file."""
    rng = np.random.default_rng(seed)
    hidden, inner = SIZES["hidden"], SIZES["inner"]
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (SIZES["vocab"], hidden),
        "emb.pos": (SIZES["positions"], hidden),
        "emb.type": (SIZES["types"], hidden),
        "emb.ln.w": (hidden,),
        "emb.ln.b": (hidden,),
    }
    for name in _LAYER:
        rows, cols = {"fi": (inner, hidden), "fo": (hidden, inner)}.get(name, (hidden, hidden))
        shapes |= {f"l0.{name}.w": (rows, cols), f"l0.{name}.b": (rows,)}
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (hidden,), f"l0.{name}.b": (hidden,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def q4_0(values: np.ndarray) -> bytes:
    """The blocks of GGUF's Q4_0: a float16 scale, then 16 bytes of nibbles with the first half of the block in the low ones."""
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1) / 7).astype("<f2")
    quantised = np.clip(np.rint(blocks / scale.astype(np.float32)[:, None]) + 8, 0, 15).astype(np.uint8)
    packed = quantised[:, :16] | quantised[:, 16:] << 4
    return np.concatenate([scale.view(np.uint8).reshape(-1, 2), packed], axis=1).tobytes()


def e5_bytes(
    *,
    sizes: Mapping[str, int] = SIZES,
    pieces: Sequence[str | bytes] = PIECES,
    scores: Sequence[float] = SCORES,
    special: Sequence[int] = (0, 2, 1, 3),
    rules: bytes | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    **changes: Any,
) -> bytes:
    """Returns a file. `changes`: magic, version, block, eps, entries (a function of the list of table entries)."""
    texts = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    offsets = np.cumsum([0, *map(len, texts)]).astype("<u4")
    if rules is None:
        rules = struct.pack("<i", len(REPLACEMENTS)) + b"".join(
            struct.pack(f"<IB{len(target)}I", ord(source), len(target), *map(ord, target))
            for source, target in REPLACEMENTS.items()
        )
        rules = rules[:4] + struct.pack("<I", len(rules) - 4) + rules[4:]
    head = changes.get("magic", b"E5S1") + struct.pack("<I", changes.get("version", 1))
    head += struct.pack("<7ifi", *sizes.values(), changes.get("eps", 1e-12), changes.get("block", 32))
    head += struct.pack("<5iQ", changes.get("count", len(texts)), *special, sum(map(len, texts)))
    head += offsets.tobytes() + np.array(scores, "<f4").tobytes() + b"".join(texts) + rules
    data: list[tuple[str, int, int, bytes]] = []
    for name, array in (values or tensors()).items():
        packed = array.ndim == 2 and name not in ("emb.pos", "emb.type")
        raw = q4_0(array) if packed else array.astype("<f4").tobytes()
        data.append((name, int(packed), array.size, raw))
    table_bytes = 4 + sum(23 + len(name) for name, *_ in data)
    offset, entries = len(head) + table_bytes, list[tuple[bytes, int, int, int, int]]()
    for name, kind, count, raw in data:
        entries.append((name.encode(), kind, count, offset, len(raw)))
        offset += len(raw)
    entries = changes.get("entries", lambda same: same)(entries)
    table = struct.pack("<i", changes.get("tensors", len(entries))) + b"".join(
        struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", *rest) for name, *rest in entries
    )
    return head + table + b"".join(raw for *_, raw in data)


def write_e5(path: Path, **changes: Any) -> Path:
    """Writes a file; see `e5_bytes`."""
    path.write_bytes(e5_bytes(**changes))
    return path
