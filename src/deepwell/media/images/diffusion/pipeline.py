"""`PipelineDrawer`: draws with a pipeline of diffusers, one step at a time.

A pipeline draws an image in one call. Here the call runs on a thread of its own, which waits behind every step until it is
asked for the next; so several images are drawn by turns, and one that nobody wants any more ends. Each image has a scheduler of
its own, and all share the weights.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import torch
from PIL import Image

from deepwell.errors import DeepwellError, InvalidModelFile, InvalidRequest
from deepwell.media.images.child import Estimate
from deepwell.media.images.diffusion.folder import read_pipeline
from deepwell.media.images.options import HALF, steps_drawn
from deepwell.media.images.protocol import Begin, Canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PipelineDrawer"]

_MOST_SIDE: Final = 2048
_LEAST_MULTIPLE: Final = 8  # pipelines refuse other sides
_LATENT_DIMENSIONS: Final = 4


class PipelineDrawer:
    """A pipeline in a folder; see `Drawer`.

    Args:
        folder: of the pipeline.
        threads: processor threads that it computes with.

    Raises:
        InvalidModelFile: `read_pipeline` refuses the folder, or diffusers cannot load it.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._threads = threads
        torch.set_num_threads(threads)
        self._found = read_pipeline(folder)
        self._name = folder.name
        base = getattr(diffusers, self._found.name)
        try:
            self._pipeline: Any = base.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
            )
            self._side = _side_of(self._pipeline)
        except (MemoryError, DeepwellError):
            raise
        except Exception as error:  # the libraries raise whatever a broken file makes them
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise InvalidModelFile.of(
                "image_pipeline_unusable", folder=folder, reason=reason, param="model"
            ) from error
        self._pipeline.set_progress_bar_config(disable=True)

    def canvas(self) -> Canvas:
        """Returns what the pipeline says of itself."""
        modes = self._found.classes
        negative = all("negative_prompt" in _parameters(name) for name in modes.values())
        multiple = max(_LEAST_MULTIPLE, 2 * int(self._pipeline.vae_scale_factor))
        return Canvas(self._side, 0, "", "", multiple, tuple(modes), negative)

    def count(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt, with those that begin and end it.

        Raises:
            InvalidRequest: there are more than the text encoder reads.
        """
        longest = _parameters(next(iter(self._found.classes.values()))).get("max_sequence_length")
        names = ("tokenizer_3", "tokenizer_2", "tokenizer") if longest else ("tokenizer", "tokenizer_2")
        tokenizer = next(one for name in names if (one := getattr(self._pipeline, name, None)) is not None)
        most = min(int(longest or tokenizer.model_max_length), int(tokenizer.model_max_length))
        count = len(tokenizer(prompt, truncation=False).input_ids)
        if count > most:
            raise InvalidRequest.of(
                "image_prompt_tokens", count=count, most=most, name=self._name, param="prompt"
            )
        return count

    def begin(self, asked: Begin) -> Iterator[Estimate]:
        """Yields the image after each step. Closing the iterator ends the drawing."""
        drawing = getattr(diffusers, self._found.classes[asked.mode])
        scheduler = self._pipeline.scheduler
        pipeline = drawing.from_pipe(self._pipeline, scheduler=type(scheduler).from_config(scheduler.config))
        pipeline.set_progress_bar_config(disable=True)
        run = _Run(pipeline, self._given(asked), self._threads)
        try:
            yield from run
        finally:
            run.end()

    def _given(self, asked: Begin) -> dict[str, Any]:
        """Returns the arguments of the pipeline's call."""
        known = _parameters(self._found.classes[asked.mode])
        given: dict[str, Any] = {
            "prompt": asked.prompt,
            "num_inference_steps": asked.steps,
            "generator": torch.Generator("cpu").manual_seed(asked.seed),
            "output_type": "np",
        }
        width, height = asked.drawn if asked.mode == "text" else (self._side, self._side)
        if "width" in known:
            given |= {"width": width, "height": height}
        if not asked.prompt:
            given["guidance_scale"] = 1.0  # there is nothing to be guided by
        elif asked.guidance >= 0:
            given["guidance_scale"] = asked.guidance
        if asked.negative:
            given["negative_prompt"] = asked.negative
        if asked.mode != "text":
            start = np.frombuffer(asked.start, np.uint8).reshape(self._side, self._side, 3)
            given["image"] = Image.fromarray(start)
            # The pipeline rounds down, and draws nothing below one step.
            given["strength"] = min(1.0, steps_drawn(asked.steps, asked.strength) / asked.steps + 1e-6)
        if asked.mode == "mask":
            keep = np.frombuffer(asked.keep, np.uint8).reshape(self._side, self._side)
            given["mask_image"] = Image.fromarray(np.where(keep >= HALF, 0, 255).astype(np.uint8))
        return given


class _Ended(BaseException):
    """Ends the thread of a drawing that nobody wants any more."""


class _Run:
    """A call of a pipeline, on a thread of its own, which goes on only while the next step is waited for."""

    def __init__(self, pipeline: Any, given: dict[str, Any], threads: int) -> None:
        self._pipeline, self._given, self._threads = pipeline, given, threads
        self._go, self._unwanted = threading.Semaphore(0), False
        self._told: SimpleQueue[Estimate | BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._step = 0

    def __iter__(self) -> Iterator[Estimate]:
        self._thread.start()
        while True:
            self._go.release()
            told = self._told.get()
            if isinstance(told, BaseException):
                raise told
            yield told
            if told.step == told.total:
                return

    def end(self) -> None:
        """Ends the thread."""
        self._unwanted = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._wait()
            torch.set_num_threads(self._threads)  # each thread has its own number
            found = self._pipeline(**self._given, **self._callback())
            pixels = found.images[0] * np.float32(2) - np.float32(1)
            unsafe = bool((getattr(found, "nsfw_content_detected", None) or [False])[0])
            self._told.put(Estimate(self._step, self._step, lambda: pixels, unsafe))
        except _Ended:
            return
        except BaseException as error:
            self._told.put(error)

    def _callback(self) -> dict[str, Any]:
        """Returns the argument by which the pipeline tells of its steps; older ones have another."""
        if "callback_on_step_end" in _parameters(type(self._pipeline).__name__):
            return {"callback_on_step_end": self._after}

        def told(step: int, time: Any, latents: Any) -> None:
            self._after(self._pipeline, step, time, {"latents": latents})

        return {"callback": told, "callback_steps": 1}

    def _after(self, pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Is called by the pipeline after each step."""
        self._step += 1
        total = int(getattr(pipeline, "num_timesteps", 0) or len(pipeline.scheduler.timesteps))
        if self._step < total:  # the last step ends with the image itself
            latents = tensors["latents"]
            self._told.put(Estimate(self._step, total, lambda: _decoded(pipeline, latents)))
            self._wait()
        return tensors

    def _wait(self) -> None:
        self._go.acquire()
        if self._unwanted:
            raise _Ended


def _parameters(name: str) -> dict[str, Any]:
    """Returns the parameters of a pipeline's call, with their defaults."""
    return {
        one.name: one.default
        for one in inspect.signature(getattr(diffusers, name).__call__).parameters.values()
    }


def _side_of(pipeline: Any) -> int:
    """Returns the side of the square that a pipeline was trained to draw, in pixels.

    Raises:
        ValueError: it does not say, or is too large.
    """
    network: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latents = getattr(pipeline, "default_sample_size", None) or network.config.sample_size
    side = int(latents) * int(pipeline.vae_scale_factor)
    if not 0 < side <= _MOST_SIDE:
        raise ValueError(f"it draws {side}x{side} pixels, and {_MOST_SIDE}x{_MOST_SIDE} are the most")
    return side


def _decoded(pipeline: Any, latents: Any) -> NDArray[np.float32]:
    """Returns the picture of unfinished latents, with the noise that is left in them.

    Raises:
        InvalidRequest: the pipeline keeps its latents in a form of its own.
    """
    if latents.ndim != _LATENT_DIMENSIONS:
        raise InvalidRequest.of("image_no_partials", param="partial_images")
    config = pipeline.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    with torch.inference_mode():
        pixels = pipeline.vae.decode(latents / config.scaling_factor + shift, return_dict=False)[0][0]
    return pixels.clamp(-1, 1).permute(1, 2, 0).float().numpy()
