"""`deepwell bench speech-recognition`: word errors on real recordings, clean and in noise, beside faster-whisper alone."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import available_cores
from deepwell.cli.bench.report import Report, rounded
from deepwell.media.recognition.model import RecognitionModel
from deepwell.media.recognition.options import RecognitionOptions
from deepwell.media.recognition.process import Recogniser, RecogniserLimits
from deepwell.media.recognition.whisper import SEED
from deepwell.media.recognition.written import text_of
from deepwell.process.calls import SINGLE_TENANT
from deepwell_bench.harness.worker import Worker
from deepwell_bench.workloads.media.asterisk import Prompt, asterisk_prompts
from deepwell_bench.workloads.media.noise import in_noise, read_wav, write_wav
from deepwell_bench.workloads.media.words import word_errors, words_of

__all__ = ["bench_speech_recognition"]

_DECIBELS: Final = 10.0
_CONDITIONS: Final = ("clean", "noise")


@dataclass(slots=True)
class _Side:
    """The texts of one side under one condition, and the time that they took."""

    texts: list[str] = field(default_factory=list[str])
    seconds: float = 0.0


def bench_speech_recognition(
    report: Report, folder: Path, *, every: int = 1, threads: int = 0
) -> dict[str, Any]:
    """Returns word error rates of both sides on every n-th recording, clean and with noise at 10 dB, and their speeds.

    Both have the same model, threads, seed, files and one thread for BLAS, and take turns, file by file.

    Args:
        folder: the folder of the model.
    """
    prompts, packages = asterisk_prompts()
    chosen = prompts[::every]
    threads = threads or available_cores()
    with tempfile.TemporaryDirectory() as name:
        files = _written(prompts, chosen, Path(name))
        heard, version = asyncio.run(_heard(report, folder, files, threads, Path(name) / "log"))
    report.note(f"{len(chosen)} of {len(prompts)} recordings, {threads} threads, {version}, {packages}")
    return _figures(report, chosen, heard)


def _written(prompts: Sequence[Prompt], chosen: Sequence[Prompt], folder: Path) -> dict[str, list[Path]]:
    """Writes the recordings of each condition; returns their files."""
    sounds = {one.name: read_wav(one.wav) for one in prompts}
    files: dict[str, list[Path]] = {condition: [] for condition in _CONDITIONS}
    for number, one in enumerate(chosen):
        samples, rate = sounds[one.name]
        others = [other for name, (other, _) in sounds.items() if name != one.name and len(other)]
        noisy = in_noise(samples, others, _DECIBELS, number)
        for condition, sound in zip(_CONDITIONS, (samples, noisy), strict=True):
            path = folder / f"{condition}-{number}.wav"
            path.write_bytes(write_wav(sound, rate))
            files[condition].append(path)
    return files


async def _heard(
    report: Report, folder: Path, files: dict[str, list[Path]], threads: int, log: Path
) -> tuple[dict[tuple[str, str], _Side], str]:
    ours = Recogniser(RecognitionModel.of(folder.name, folder), RecogniserLimits(threads))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    program = [sys.executable, "-m", "deepwell_bench.workers.media.faster_whisper_worker"]
    # The number of BLAS threads changes how features are rounded, and with it a word here and there. Deepwell's child has one.
    environment = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    peer = Worker("faster-whisper", program, environment, log)
    heard = {(side, condition): _Side() for condition in files for side in ("deepwell", "faster-whisper")}
    try:
        version = str(peer.call("load", folder=str(folder), threads=threads, seed=SEED)["version"])
        await ours.start(SINGLE_TENANT)
        with report.console.status("recordings") as status:
            for condition, paths in files.items():
                mine, other = heard["deepwell", condition], heard["faster-whisper", condition]
                for number, one in enumerate(paths, 1):
                    status.update(f"{condition}: recording {number} of {len(paths)}")
                    begin = time.perf_counter()
                    async with ours.hear(SINGLE_TENANT, one, RecognitionOptions()) as hearing:
                        mine.texts.append(text_of([segment async for segment in hearing.segments()]))
                    mine.seconds += time.perf_counter() - begin
                    answer = peer.call("transcribe", path=str(one))
                    other.texts.append(answer["text"])
                    other.seconds += answer["seconds"]
    finally:
        await ours.close()
        peer.close()
    return heard, version


def _figures(report: Report, chosen: Sequence[Prompt], heard: dict[tuple[str, str], _Side]) -> dict[str, Any]:
    said = [words_of(one.text) for one in chosen]
    sounds = [read_wav(one.wav) for one in chosen]
    seconds = sum(len(samples) / rate for samples, rate in sounds)
    total = sum(map(len, said))
    rates: dict[tuple[str, str], float] = {}
    rows: list[tuple[Any, ...]] = []
    for (side, condition), found in heard.items():
        errors = sum(map(word_errors, said, map(words_of, found.texts)))
        rates[side, condition] = errors / total
        rows.append((f"{side}, {condition}", f"{errors / total:.2%}", seconds / max(found.seconds, 1e-9)))
    report.table("Word errors", ("side and sound", "of all words", "times real time"), rows)
    same = [
        mine == other
        for condition in _CONDITIONS
        for mine, other in zip(
            heard["deepwell", condition].texts, heard["faster-whisper", condition].texts, strict=True
        )
    ]
    value: dict[str, Any] = {"recordings": len(chosen), "minutes": rounded(seconds / 60), "words": total}
    for condition in _CONDITIONS:
        ours, theirs = rates["deepwell", condition], rates["faster-whisper", condition]
        value |= {
            f"{condition}_wer": rounded(ours),
            f"{condition}_wer_faster_whisper": rounded(theirs),
            f"{condition}_excess": rounded(max(ours - theirs, 0.0)),
            f"{condition}_real_time": rounded(seconds / heard["deepwell", condition].seconds, 3),
            f"{condition}_real_time_faster_whisper": rounded(
                seconds / max(heard["faster-whisper", condition].seconds, 1e-9), 3
            ),
        }
    return value | {"same_texts": rounded(sum(same) / len(same))}
