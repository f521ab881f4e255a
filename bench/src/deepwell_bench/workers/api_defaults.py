"""Values of API parameters that a request leaves out, where the OpenAPI document has only null for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.models.store.sampling import OPENAI

__all__ = ["default_of"]

_NONE = "none"
_IGNORED = "none; accepted, changes nothing"
_FITS = "all that the context leaves"

_DEFAULTS: Mapping[str, str] = {
    # Sampling
    **{name: f"the model's, else {value:g}" for name, value in OPENAI.parameters().items()},
    "presence_penalty": "0",
    "frequency_penalty": "0",
    "logit_bias": _NONE,
    "seed": "random",
    # Length and form of an answer
    "max_tokens": _FITS,
    "max_completion_tokens": _FITS,
    "max_output_tokens": _FITS,
    "min_tokens": "0",
    "n": "1",
    "stop": _NONE,
    "stop_sequences": _NONE,
    "stop_token_ids": _NONE,
    "ignore_eos": "false",
    "stream": "false",
    "stream_options": "no usage in the stream",
    "echo": "false",
    "logprobs": "false",
    "max_tool_calls": "32",
    "top_logprobs": "0",
    "response_format": "text",
    "structured_outputs": "text",
    "modalities": "text",
    "audio": "none; for the model `auto`: the voice `alloy`, as MP3, in streams as pcm16",
    "output_config": "text",
    "text": "text",
    "include": _NONE,
    "include[]": _NONE,
    "reasoning_effort": "as the chat template decides",
    "reasoning": "as the chat template decides",
    "thinking": "as the chat template decides",
    "chat_template_kwargs": _NONE,
    # Tools
    "tools": _NONE,
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": "true",
    # What is answered, and what is kept
    "input": "empty",
    "instructions": _NONE,
    "system": _NONE,
    "items": _NONE,
    "previous_response_id": _NONE,
    "conversation": _NONE,
    "store": "false",
    "background": "false",
    "metadata": _NONE,
    "output_expires_after": "until they are deleted",
    "expires_after": "30 days for purpose batch, else until it is deleted",
    "expires_after[anchor]": _NONE,
    "expires_after[seconds]": "30 days for purpose batch, else until it is deleted",
    # Embeddings
    "encoding_format": "float",
    "input_type": "none: the texts stay as they are",
    "dimensions": "all of the model's",
    "tokenizer": _NONE,
    # Reranking, scoring and tokenizing
    "method": "`likelihood` for a model that generates text, else `embedding`",
    "top_n": "all",
    "return_documents": "true",
    "prompt": _NONE,
    "messages": _NONE,
    "add_special_tokens": "true for a prompt",
    "return_token_strs": "false",
    "add_generation_prompt": "true for messages",
    # Ollama's
    "options": _NONE,
    "format": "text",
    "think": "as the chat template decides",
    "keep_alive": "the server's",
    "raw": "false",
    "name": _NONE,
    "truncate": _IGNORED,
    "shift": _IGNORED,
    "verbose": _IGNORED,
    # Vector stores
    "description": _NONE,
    "file_ids": _NONE,
    "files": _NONE,
    "attributes": _NONE,
    "chunking_strategy": "auto",
    "filters": _NONE,
    "filter": "any status",
    "max_num_results": "10",
    "ranking_options": "auto, no threshold",
    "rewrite_query": "false",
    "explain": "false",
    # Fine-tuning and evaluations
    "item": "an empty object",
    "label": "none: `skip` is sent",
    "validation_file": _NONE,
    "suffix": "`tuned`",
    # Compressions and searches for prompts
    "text_file": "none: only `quantise` with the algorithm `none` may leave it out",
    "held_out_file": "nothing is measured",
    **dict.fromkeys(("prune", "convert", "quantise"), "the defaults"),
    "candidates": _NONE,
    "input_field": "the first of input, text and question",
    "answer_field": "the first of label, answer and target",
    "hyperparameters": "all `auto`",
    "deepwell": "the defaults of `deepwell tune`",
    # Lists
    "after": "the first page",
    "before": "the last page",
    "after_id": "the first page",
    "before_id": "the first page",
    "starting_after": "the first event",
    "model": "any",
    "purpose": "any",
    "kind": "any",
    "status": "any",
    # Memory plans
    "precision": "the server's",
    "context": "the server's",
    # Figures, feedback and safety
    "rating": "any",
    "reason": _NONE,
    "correction": _NONE,
    "consent": "any",
    "target_id": "any",
    "decision": "any",
    "alias": "all",
    "state": "any",
    "since": "the first entry",
    "until": "the newest entry",
    "packs": "all",
    "end_time": "now",
    "page": "the first page",
    # Adapters and uploads
    "base_model_name": "the main model",
    "load_inplace": "true",
    "shared": "false",
    "md5": "not checked",
    # For OpenAI and Anthropic alone
    "user": _IGNORED,
    "safety_identifier": _IGNORED,
    "service_tier": _IGNORED,
    "prompt_cache_key": _IGNORED,
    "prompt_cache_retention": _IGNORED,
    "cache_control": _IGNORED,
    "client_metadata": _IGNORED,
}

_STORE = "POST /v1/vector_stores/{vector_store_id}"
_USAGES = tuple(
    f"GET /v1/organization/usage/{name}"
    for name in ("completions", "audio_speeches", "audio_transcriptions", "images")
)
_AUDIO = tuple(f"POST /v1/audio/{name}" for name in ("transcriptions", "translations"))
_HEARD = "POST /v1/audio/transcriptions"
_VLLM = ("/tokenize", "/detokenize", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score")

# Those of one operation that differ.
_IMAGES = tuple(f"POST /v1/images/{name}" for name in ("generations", "edits", "variations"))
_OF_IMAGES: Mapping[str, str] = {
    "model": "that of the setting image_model",
    "size": "`auto`",
    "response_format": "`b64_json`",
    "user": "none; for the audit trail",
    "safety_identifier": "none; for the audit trail",
    "steps": "24, or those of `quality`",
    "strength": "0.7",
    "mask": "the transparent parts of the image",
    "background": "`opaque`",
    "moderation": _IGNORED,
    "output_format": "`png`",
    "output_compression": "100",
    "partial_images": "0",
    "quality": "`auto`",
    "guidance": "3, or that of the pipeline",
    "negative_prompt": "empty",
    **dict.fromkeys(
        ("complexity", "frame_count", "frame_duration_ms", "svg", "style", "input_fidelity", "markup"), _NONE
    ),
}

_OF_OPERATION: Mapping[tuple[str, str], str] = {
    ("POST /v1/completions", "max_tokens"): "16",
    ("POST /v1/completions", "logprobs"): _NONE,
    ("POST /v1/responses", "store"): "true",
    ("POST /v1/vector_stores", "expires_after"): "until it is deleted",
    ("POST /v1/vector_stores", "name"): "empty",
    **{(_STORE, name): "unchanged" for name in ("name", "expires_after", "metadata")},
    ("POST /v1/labelling/projects", "name"): "that of the file",
    ("POST /v1/feedback", "model"): _NONE,
    ("POST /v1/fine_tuning/jobs", "method"): "supervised",
    ("POST /v1/evals", "name"): "its id",
    ("POST /v1/compression/jobs", "name"): "made of model, method and job",
    ("POST /v1/prompt_optimisations", "held_out_file"): "30 % of the rows",
    **{
        (one, name): told
        for one in ("POST /v1/prompts", "POST /v1/prompts/{prompt_id}/versions")
        for name, told in {
            "messages": _NONE,
            "variables": _NONE,
            "language": _NONE,
            "industry": _NONE,
            "example": _NONE,
        }.items()
    },
    ("POST /v1/prompts", "id"): "random",
    ("POST /v1/prompts", "version"): "1",
    ("POST /v1/prompts/{prompt_id}/versions", "version"): "the next number",
    ("POST /v1/responses", "prompt"): _NONE,
    ("POST /v1/agents/runs", "tools"): "all that the server offers",
    ("POST /v1/agents/runs", "instructions"): "those of Deepwell's agents",
    **{
        (f"POST /v1/agents/runs/{{agent_run_id}}/{verb}", "call_ids"): "all that wait"
        for verb in ("approve", "deny")
    },
    ("POST /v1/evals/{eval_id}/runs", "name"): "its id",
    **{("POST /v1/evals/{eval_id}", name): "unchanged" for name in ("name", "metadata")},
    ("POST /v1/feedback", "safety_identifier"): "the user of the kept answer's request, else the API key",
    **{(one, "limit"): "7 days or 24 hours" for one in _USAGES},
    ("POST /api/chat", "stream"): "true",
    ("POST /api/generate", "stream"): "true",
    ("POST /api/show", "model"): _NONE,
    ("POST /api/chat", "messages"): "none: the model is loaded",
    ("POST /api/generate", "prompt"): "none: the model is loaded",
    ("POST /api/generate", "images"): _NONE,
    ("POST /api/embeddings", "prompt"): "none: the model is loaded",
    ("POST /v1/responses/input_tokens", "model"): "the model that is served",
    **{(f"POST {path}", "model"): "the first served model" for path in _VLLM},
    **{(path, name): value for path in _IMAGES for name, value in _OF_IMAGES.items()},
    **{(path, "temperature"): "0" for path in _AUDIO},
    **{(path, "prompt"): _NONE for path in _AUDIO},
    **{("POST /v1/rollouts", name): "the deployment's" for name in ("steps", "hold_seconds", "kind")},
    (_HEARD, "language"): "detected",
    (_HEARD, "timestamp_granularities[]"): "`segment`",
    (_HEARD, "chunking_strategy"): "the model hears all",
    (_HEARD, "chunking_strategy[type]"): _NONE,
    (_HEARD, "chunking_strategy[threshold]"): "0.5",
    (_HEARD, "chunking_strategy[silence_duration_ms]"): "2000",
    (_HEARD, "chunking_strategy[prefix_padding_ms]"): "400",
}


def default_of(operation: str, name: str, schema: Mapping[str, Any]) -> str:
    """Returns the value of a parameter that is left out.

    Args:
        operation: the method and the path.
        name: the parameter.
        schema: its schema in the OpenAPI document.

    Raises:
        KeyError: nothing is known of the parameter.
    """
    if schema.get("default") is not None:
        value = schema["default"]
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"
    if None in schema.get("enum", ()) and "Otherwise refused" in schema.get("description", ""):
        return _NONE
    return _OF_OPERATION.get((operation, name)) or _DEFAULTS[name]
