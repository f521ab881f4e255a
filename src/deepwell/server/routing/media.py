"""`MediaModels`: the models of pictures, speech and recordings that all routes of one HTTP process share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from deepwell.server.families.audio.recognisers import Recognisers
from deepwell.server.families.audio.speakers import Speakers
from deepwell.server.families.images.painters import Painters
from deepwell.server.options import ServerOptions
from deepwell.server.routing.spoken_texts import SpokenTexts

__all__ = ["MediaModels"]


class MediaModels:
    """The models, each opened when a request first names it. It belongs to one event loop.

    Args:
        on_close: registers what ends the models.

    Attributes:
        painters: models that draw.
        speakers: models that speak.
        recognisers: models that write down recordings.
        spoken: texts of spoken answers.
    """

    def __init__(
        self, options: ServerOptions, on_close: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> None:
        self.painters = Painters(options.images)
        self.speakers = Speakers(options.speech)
        self.recognisers = Recognisers(options.recognition)
        self.spoken = SpokenTexts()
        for models in (self.painters, self.speakers, self.recognisers):
            on_close(models.close)
