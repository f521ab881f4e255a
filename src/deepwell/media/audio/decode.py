"""`decode_audio`: reads the sound of a file as samples of 16 kHz, one channel, whatever common container holds it.

It runs FFmpeg through PyAV, and belongs into a confined child. Containers and codecs stand on lists of their own. FFmpeg may
open nothing beside the file that it is given: playlists, `concat` scripts and references to other files or hosts are refused.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import DeepwellError, InvalidFile, UnsupportedFile

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from numpy.typing import NDArray

__all__ = ["CONTAINERS", "SAMPLE_RATE", "Sound", "decode_audio"]

SAMPLE_RATE: Final = 16_000
"""Samples a second that recognition models read."""

CONTAINERS: Final = tuple("wav w64 mp3 aac flac ogg mov matroska aiff caf au amr asf avi mpeg mpegts".split())
"""Containers that are read, by FFmpeg's names: `mov` is MP4 and M4A as well, `matroska` is WebM as well."""

_READ: Final = "WAV, MP3, M4A, MP4, AAC, FLAC, OGG, Opus, WebM, AIFF and AMR"
_CODECS: Final = frozenset(
    "mp3 mp3float mp2 mp2float aac aac_latm ac3 opus libopus vorbis libvorbis flac alac amrnb amrwb gsm gsm_ms wmav1 wmav2 "
    "adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_g722 g722 pcm_alaw pcm_mulaw pcm_s8 pcm_u8 pcm_s16le pcm_s16be pcm_s24le "
    "pcm_s24be pcm_s32le pcm_s32be pcm_s64le pcm_f32le pcm_f32be pcm_f64le pcm_f64be pcm_s16be_planar pcm_s16le_planar".split()
)
_LEAST_RATE, _MOST_RATE, _MOST_CHANNELS = 4_000, 384_000, 32
_GROUP: Final = 500_000  # samples that are resampled at a time
_MOST_BROKEN: Final = 0.1  # part of the packets
_BUFFER_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of a file.

    Attributes:
        samples: int16 [samples], of 16 kHz and one channel.
        container, codec: FFmpeg's names.
    """

    samples: NDArray[np.int16]
    container: str
    codec: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / SAMPLE_RATE


def decode_audio(source: Path | int | bytes, most_s: float) -> Sound:
    """Returns the first sound track of a file.

    Args:
        source: the file, its descriptor, which is closed, or what is in it.
        most_s: longest duration. Decoding stops with the error when it is passed, whatever the file says of itself.

    Raises:
        UnsupportedFile: the file is in no container or codec on the lists, or has no sound.
        InvalidFile: it is empty, damaged or too long.
        ImportError: PyAV is not installed.
    """
    from av.error import FFmpegError

    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:  # noqa: PTH123
            if not file.read(1):
                raise InvalidFile.of("audio_empty", param="file")
            file.seek(0)
            with _opened(file) as container:
                return _decoded(container, most_s)
    except FFmpegError as error:
        raise UnsupportedFile.of("audio_unknown", reason=_reason(error), read=_READ, param="file") from None
    except OSError as error:
        raise InvalidFile.of("audio_unreadable", reason=error.strerror or error, param="file") from None
    except (DeepwellError, MemoryError, ImportError):
        raise
    except Exception as error:  # the library raises whatever a broken file makes it
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InvalidFile.of("audio_damaged", reason=reason, param="file") from error


def _opened(file: Any) -> InputContainer:
    import av
    from av.container import InputContainer

    def refuse(url: str, flags: int, options: object) -> Any:
        raise UnsupportedFile.of("audio_refers", param="file")

    # PyAV decodes texts of a file as it opens it up to version 18, and has no such argument from 19 on.
    tolerant: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    container = av.open(
        file,
        mode="r",
        **tolerant,
        buffer_size=_BUFFER_BYTES,
        io_open=refuse,
        container_options={
            "format_whitelist": ",".join(CONTAINERS),
            "codec_whitelist": ",".join(sorted(_CODECS)),
            "protocol_whitelist": "none",
            "max_streams": "32",
            "max_probe_packets": "500",
        },
    )
    assert isinstance(container, InputContainer)
    return container


def _decoded(container: InputContainer, most_s: float) -> Sound:
    import av
    import numpy as np

    if not container.streams.audio:
        raise UnsupportedFile.of("audio_silent_file", param="file")
    stream = container.streams.audio[0]
    # A codec that FFmpeg does not know has no context, whatever the stub says.
    codec = getattr(stream.codec_context, "name", "that is not known")
    if codec not in _CODECS:
        raise UnsupportedFile.of("audio_unknown", reason=f"codec {codec}", read=_READ, param="file")
    _check_stream(stream)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    parts: list[NDArray[np.int16]] = []
    count, most = 0, int(most_s * SAMPLE_RATE)
    for frame in _resampled(_grouped(_frames(container, stream)), resampler):
        part = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
        count += len(part)
        if count > most:
            raise InvalidFile.of("audio_long", seconds=f"{most_s:.0f}", param="file")
        parts.append(part)
    if not count:
        raise InvalidFile.of("audio_damaged", reason="there is no sound in it", param="file")
    return Sound(np.concatenate(parts), container.format.name, codec)


def _check_stream(stream: AudioStream) -> None:
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not (_LEAST_RATE <= rate <= _MOST_RATE and 1 <= channels <= _MOST_CHANNELS):
        reason = f"{channels} channels of {rate} Hz"
        raise InvalidFile.of("audio_damaged", reason=reason, param="file")


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """Yields the frames of a stream. Packets that cannot be decoded are left out, as players do, unless they are many."""
    import av
    import numpy as np
    from av.error import InvalidDataError

    packets = broken = 0
    shape: tuple[int, str, str] | None = None
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except InvalidDataError:
            broken += 1
            continue
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            mine = (frame.sample_rate, frame.format.name, frame.layout.name)
            if mine != (shape := shape or mine):
                raise InvalidFile.of(
                    "audio_damaged", reason="its rate or channels change on the way", param="file"
                )
            if (
                frame.format.name in ("flt", "fltp", "dbl", "dblp")
                and not np.isfinite(frame.to_ndarray()).all()
            ):
                raise InvalidFile.of("audio_damaged", reason="samples are not numbers", param="file")
            frame.pts = None  # clocks of broken files jump
            yield frame
    if broken > max(1, _MOST_BROKEN * packets):
        reason = f"{broken} of {packets} packets cannot be decoded"
        raise InvalidFile.of("audio_damaged", reason=reason, param="file")


def _grouped(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Yields the same sound in long frames: resampling one costs about as much as a short one."""
    import av

    fifo = av.AudioFifo()
    for frame in frames:
        fifo.write(frame)
        if fifo.samples >= _GROUP and (whole := fifo.read()) is not None:
            yield whole
    if fifo.samples and (whole := fifo.read()) is not None:
        yield whole


def _resampled(frames: Iterator[av.AudioFrame], resampler: av.AudioResampler) -> Generator[av.AudioFrame]:
    for frame in frames:
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", "") or type(error).__name__
