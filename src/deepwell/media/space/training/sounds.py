"""Training of the head of sounds, in two steps.

The first step teaches frames of the clips to tell units of pronunciation apart, by CTC (Graves et al., 2006). The second
teaches what a row of units means, from the clips and from many more texts whose pronunciation is known without a voice. So
the clips need to teach sounds alone, and the texts teach the words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.contrast import Averaged, rate_at
from deepwell.media.space.training.renderings import Renderings, Row
from deepwell.media.space.training.sound_net import FrameNet, UnitNet

__all__ = ["Heard", "SoundOptions", "Spelled", "train_frames", "train_units", "unheard_rows"]

Array = NDArray[np.float32]
OnEvent = Callable[[dict[str, Any]], None]
_TEMPERATURE: Final = 0.05
_NEGATIVES: Final = 6_000
"""Texts besides those of the batch that each step tells apart."""

_TOWARDS: Final = 4.0
"""Weight of the cosine between a sound and its text: a vector that ranks texts well may still point away from pictures."""


@dataclass(frozen=True, slots=True)
class SoundOptions:
    """Settings of both steps.

    Attributes:
        passes: passes of the first step over the clips.
        clips, texts: of each batch of the second step.
    """

    passes: int = 24
    frames_rate: float = 3e-3
    steps: int = 3000
    clips: int = 24
    texts: int = 104
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip: features of its frames [n, 512], its units, the number of its text, and its voice."""

    frames: Array
    units: tuple[int, ...]
    text: int
    voice: str = ""


@dataclass(frozen=True, slots=True)
class Spelled:
    """A text that nobody said: its pronunciations, and its number."""

    units: tuple[tuple[int, ...], ...]
    text: int


def train_frames(
    clips: Sequence[Heard], units: int, options: SoundOptions, on_event: OnEvent
) -> dict[str, Array]:
    """Returns `mean`, `scale` and the parameters `frames.*`.

    Args:
        clips: units are numbered from 1; 0 is the blank.
    """
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)  # noqa: S311
    together = np.concatenate([clip.frames for clip in clips])
    mean, scale = together.mean(0), together.std(0) + 1e-3
    sounds = [torch.from_numpy((clip.frames - mean) / scale) for clip in clips]
    net = FrameNet(units)
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.frames_rate, weight_decay=0.01)
    size, step = min(24, len(clips)), 0
    steps = options.passes * (len(clips) // size)
    order = list(range(len(clips)))
    for number in range(options.passes):
        draw.shuffle(order)
        total = 0.0
        for begin in range(0, len(order) // size * size, size):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, steps, options.frames_rate)
            rows = order[begin : begin + size]
            frames = nn.utils.rnn.pad_sequence([sounds[row] for row in rows], batch_first=True)
            scores = net(frames + torch.randn_like(frames) * 0.2).log_softmax(-1)
            wanted = [torch.tensor(clips[row].units) for row in rows]
            loss = nn.functional.ctc_loss(
                scores.transpose(0, 1),
                torch.cat(wanted),
                torch.tensor([len(sounds[row]) for row in rows]),
                torch.tensor([len(one) for one in wanted]),
                zero_infinity=True,
            )
            _step(net, optimiser, loss)
            total, step = total + loss.item(), step + 1
        mean_loss = round(total / max(1, len(order) // size), 4)
        on_event({"event": "step", "part": "sound.frames", "pass": number + 1, "loss": mean_loss})
    found = {f"frames.{name}": value.numpy().copy() for name, value in net.state_dict().items()}
    return {"mean": mean, "scale": scale, **found}


def unheard_rows(clips: Sequence[Heard], units: int, options: SoundOptions, on_event: OnEvent) -> list[Row]:
    """Returns the rows of clips by heads of frames that were not trained on their voices: half of the voices each."""
    voices = sorted({clip.voice for clip in clips})
    halves = [set(voices[::2]), set(voices[1::2])]
    rows: list[Row] = [(np.zeros((0, units), np.float32), np.zeros(0, np.float32))] * len(clips)
    for half in halves:
        others = [clip for clip in clips if clip.voice not in half] or list(clips)
        found = train_frames(others, units, options, on_event)
        head = SoundHead(found | {"blocks.0.": np.zeros(0, np.float32)})
        for place, clip in enumerate(clips):
            if clip.voice in half:
                rows[place] = head.units(clip.frames)
    return rows


def train_units(
    clips: Sequence[Heard],
    rows: Sequence[Row],
    spelled: Sequence[Sequence[Spelled]],
    count: int,
    texts: torch.Tensor,
    options: SoundOptions,
    on_event: OnEvent,
    checkpoint: Path,
) -> dict[str, Array]:
    """Returns the other parameters of the head. A training that was stopped goes on at its checkpoint.

    Args:
        rows: rows of the clips, by a head that was not trained on their voices.
        spelled: texts by kind, of which each kind comes equally often.
        count: number of units.
        texts: centred unit vectors of the texts [m, 384].
        checkpoint: file that is written every 50 steps, and removed at the end.
    """
    net = UnitNet(count)
    renderings = Renderings(rows, [clip.units for clip in clips], count, options.seed)
    averaged = Averaged(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.02)
    used = torch.tensor(
        sorted({clip.text for clip in clips} | {one.text for some in spelled for one in some})
    )
    first = _resumed(checkpoint, net, averaged, optimiser)
    torch.manual_seed(options.seed + first)
    draw = random.Random(options.seed + first)  # noqa: S311
    for step in range(first, options.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        said = [draw.randrange(len(clips)) for _ in range(options.clips)]
        some = [draw.choice(draw.choice(spelled)) for _ in range(options.texts)]
        batch = [rows[place] for place in said] + [renderings.of(draw.choice(one.units)) for one in some]
        names = torch.tensor([clips[place].text for place in said] + [one.text for one in some])
        units, weights = (
            nn.utils.rnn.pad_sequence([torch.from_numpy(one[part]) for one in batch], batch_first=True)
            for part in (0, 1)
        )
        others = used[torch.randint(0, len(used), (_NEGATIVES,))]
        bank, places = torch.cat([names, others]).unique(return_inverse=True)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(units, weights)
            scores = found @ texts[bank].T / _TEMPERATURE
        cosines = (found.float() * texts[names]).sum(1)
        loss = nn.functional.cross_entropy(scores.float(), places[: len(names)])
        loss = loss + _TOWARDS * (1 - cosines).mean()
        _step(net, optimiser, loss)
        averaged.update(step)
        if step % 25 == 24:
            told = {"loss": round(loss.item(), 4), "cosine": round(cosines.mean().item(), 3)}
            on_event({"event": "step", "part": "sound", "step": step + 1, **told})
        if step % 50 == 49:
            _kept(checkpoint, net, averaged, optimiser, step + 1)
    checkpoint.unlink(missing_ok=True)
    return {name: value.numpy().copy() for name, value in averaged.state.items()}


def _kept(
    file: Path, net: nn.Module, averaged: Averaged, optimiser: torch.optim.Optimizer, step: int
) -> None:
    partial = file.with_suffix(".partial")
    torch.save(
        {
            "net": net.state_dict(),
            "averaged": averaged.state,
            "optimiser": optimiser.state_dict(),
            "step": step,
        },
        partial,
    )
    partial.replace(file)


def _resumed(file: Path, net: nn.Module, averaged: Averaged, optimiser: torch.optim.Optimizer) -> int:
    """Returns the step that a training goes on at, with its state as it was then."""
    if not file.is_file():
        return 0
    found = torch.load(file, weights_only=True)
    net.load_state_dict(found["net"])
    averaged.state = found["averaged"]
    optimiser.load_state_dict(found["optimiser"])
    return int(found["step"])


def _step(net: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
