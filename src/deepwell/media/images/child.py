"""`DrawingChild`: the child's end of a model that draws: draws images step by step, checked and labelled.

The program that draws is a `Drawer`: the network of the package, or a pipeline of diffusers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, MissingDependency
from deepwell.media.images.decode import LOOK, look_of, prepare
from deepwell.media.images.encode import encoded, finished
from deepwell.media.images.nsfw import SafetyModel
from deepwell.media.images.protocol import (
    Begin,
    Canvas,
    Count,
    Counted,
    Done,
    Drawn,
    Look,
    Next,
    Score,
    Setup,
    decode_request,
    encode,
)
from deepwell.media.images.provenance import ContentSigner
from deepwell.process.calls import limit_memory, limited, trim_memory
from deepwell.process.frames import failure_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Drawer", "DrawingChild", "Estimate"]

_NICE: Final = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """The state of an image after a step.

    Attributes:
        step, total: number of the step, from 1, and of all steps.
        pixels: returns the image, float32 [H, W, 3] from -1 to 1; called before the next step, if at all.
        unsafe: the model's own checker takes the image for unsafe.
    """

    step: int
    total: int
    pixels: Callable[[], NDArray[np.float32]]
    unsafe: bool = False


class Drawer(Protocol):
    """A loaded model that draws."""

    def canvas(self) -> Canvas:
        """Returns what the model says of itself."""
        ...

    def count(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt. Raises `InvalidRequest` for one that the model would cut."""
        ...

    def begin(self, asked: Begin) -> Iterator[Estimate]:
        """Yields the image after each step. Closing the iterator ends the drawing."""
        ...


class _Drawing:
    """An image that is being drawn."""

    def __init__(self, drawer: Drawer, asked: Begin) -> None:
        import numpy as np

        self.asked = asked
        self.original: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        out = min(asked.size)
        if asked.keep:
            self.original = (
                np.frombuffer(asked.original, np.uint8).reshape(out, out, 3),
                np.frombuffer(asked.stays, np.uint8).reshape(out, out),
            )
        self.estimates = drawer.begin(asked)

    def shows(self, estimate: Estimate) -> bool:
        """Returns whether the image after a step is sent."""
        if estimate.step == estimate.total:
            return True
        shares = self.asked.partials + 1
        return estimate.step in {estimate.total * (one + 1) // shares for one in range(self.asked.partials)}

    def close(self) -> None:
        """Ends it."""
        close = getattr(self.estimates, "close", None)
        if close is not None:
            close()


class DrawingChild:
    """Answers the calls of a `Painter`.

    Args:
        libraries: loads the libraries of the program that draws.
        load: loads the model in a folder, with a number of processor threads.
        missing: key of the message that says which extra is not installed.
    """

    def __init__(
        self, libraries: Callable[[], None], load: Callable[[Path, int], Drawer], missing: str
    ) -> None:
        self._libraries, self._load, self._missing = libraries, load, missing
        self._step_s = 0.0
        self._drawer: Drawer | None = None
        self._safety: SafetyModel | None = None
        self._signer: ContentSigner | None = None
        self._drawings: dict[int, _Drawing] = {}

    def answer(self, body: bytes) -> bytes:
        """Returns the answer to a call."""
        try:
            if self._drawer is None:
                return encode(self._start(msgspec.msgpack.decode(body, type=Setup)))
            return encode(self._answer(self._drawer, decode_request(body)))
        except DeepwellError as error:
            return encode(failure_of(0, error))
        except ImportError as error:
            return encode(failure_of(0, MissingDependency.of(self._missing, package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return encode(
                failure_of(0, InvalidRequest.of("image_drawing_costly", reason=reason, param="prompt"))
            )

    def _answer(self, drawer: Drawer, request: msgspec.Struct) -> msgspec.Struct:
        if isinstance(request, Begin):
            self._drawings[request.id] = _Drawing(drawer, request)
            return Done()
        if isinstance(request, Next):
            return self._next(request.id)
        if isinstance(request, Look):
            return Score(self._score(_looked(request.look)))
        if isinstance(request, Count):
            return Counted(drawer.count(request.prompt))
        if (drawing := self._drawings.pop(request.id, None)) is not None:  # pyright: ignore[reportAttributeAccessIssue]
            drawing.close()
        trim_memory()
        return Done()

    def _start(self, setup: Setup) -> Canvas:
        sys.dont_write_bytecode = True
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        prepare()
        self._libraries()
        if setup.safety:
            import onnxruntime  # noqa: F401
        if setup.credential is not None:
            self._signer = ContentSigner(*setup.credential)
        if setup.safety:
            self._safety = SafetyModel(Path(os.fsdecode(setup.safety)), setup.threads)
        self._step_s = setup.step_s
        self._drawer = self._load(Path(os.fsdecode(setup.folder)), setup.threads)
        return self._drawer.canvas()

    def _next(self, id: int) -> Drawn:
        drawing = self._drawings.get(id)
        if drawing is None:
            raise EngineUnavailable.of("image_ended", reason="another process took its place")
        asked = drawing.asked
        with limited(self._step_s):
            estimate = next(drawing.estimates)
            if not drawing.shows(estimate):
                return Drawn(estimate.step, estimate.total, b"", -1.0)
            image = finished(estimate.pixels(), asked.size, drawing.original)
            score = 1.0 if estimate.unsafe else self._score(look_of(image))
            data = encoded(image, asked.format, asked.compression, asked.label, mark=asked.mark)
            if self._signer is not None:
                data = self._signer.signed(data, asked.format, changed=bool(asked.start))
            return Drawn(estimate.step, estimate.total, data, score)

    def _score(self, look: NDArray[np.uint8]) -> float:
        return -1.0 if self._safety is None else self._safety.score(look)


def _looked(look: bytes) -> NDArray[np.uint8]:
    import numpy as np

    return np.frombuffer(look, np.uint8).reshape(LOOK, LOOK, 3)
