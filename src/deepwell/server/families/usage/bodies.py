"""The bodies of `/v1/organization/usage`, in OpenAI's shape."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "ImagesResult",
    "SpeechesResult",
    "TranscriptionsResult",
    "UsageBucket",
    "UsagePage",
    "UsageResult",
]


class UsageResult(Struct, tag_field="object", tag="organization.usage.completions.result"):
    """Requests and tokens of one bucket. Null: the answer is not grouped by that."""

    input_tokens: int
    output_tokens: int
    input_cached_tokens: int  # part of the input
    num_model_requests: int
    model: str | None = None
    api_key_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    batch: bool | None = None
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0


class SpeechesResult(Struct, tag_field="object", tag="organization.usage.audio_speeches.result"):
    """Requests for speech of one bucket, and the characters that were read aloud. Null as in `UsageResult`."""

    characters: int
    num_model_requests: int
    model: str | None = None
    api_key_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None


class TranscriptionsResult(Struct, tag_field="object", tag="organization.usage.audio_transcriptions.result"):
    """Transcriptions and translations of one bucket, and the seconds of their recordings. Null as in `UsageResult`."""

    seconds: int
    num_model_requests: int
    model: str | None = None
    api_key_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None


class ImagesResult(Struct, tag_field="object", tag="organization.usage.images.result"):
    """Requests for images of one bucket, and the images that were drawn. Null as in `UsageResult`."""

    images: int
    num_model_requests: int
    model: str | None = None
    api_key_id: str | None = None
    size: str | None = None
    source: str | None = None
    project_id: str | None = None
    user_id: str | None = None


class UsageBucket(Struct, tag_field="object", tag="bucket"):
    """A time from `start_time` (included) to `end_time` (excluded). Without usage there are no results."""

    start_time: int
    end_time: int
    results: list[UsageResult | SpeechesResult | TranscriptionsResult | ImagesResult]


class UsagePage(Struct, tag_field="object", tag="page"):
    """Buckets in order of time."""

    data: list[UsageBucket]
    has_more: bool
    next_page: str | None
