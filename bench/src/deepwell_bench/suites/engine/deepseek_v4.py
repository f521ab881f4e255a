"""A V4-shaped model of random weights behind the real server: chat, reasoning, forced calls, prefixes, an adapter."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from deepwell.cli.bench.report import Report
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell_bench.harness.served import serve_command, served

__all__ = ["bench_v4_serving"]

# Every kind of layer, with entries within a short chat.
_CONFIG: Final[dict[str, Any]] = {
    **shape_config("deepseek-v4-flash", prediction=True),
    "vocab_size": 512,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "head_dim": 64,
    "qk_rope_head_dim": 32,
    "q_lora_rank": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "o_groups": 2,
    "o_lora_rank": 32,
    "index_n_heads": 8,
    "index_head_dim": 32,
    "index_topk": 16,
    "num_hash_layers": 1,
    "sliding_window": 64,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 64},
    "max_position_embeddings": 8192,
    "rope_scaling": None,
}
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "Height of the sea at a port",
        "parameters": {
            "type": "object",
            "properties": {
                "port": {"enum": ["Qingdao", "Brest"]},
                "hours": {"type": "integer", "minimum": 0, "maximum": 48},
            },
            "required": ["port"],
        },
    },
}


def bench_v4_serving(report: Report) -> dict[str, Any]:
    """Serves the model, and checks by the OpenAI SDK what a user of V4 would."""
    from openai import OpenAI

    with TemporaryDirectory(prefix="deepwell-v4-") as folder:
        path = Path(folder) / "tiny-v4"
        synthesize(path, _CONFIG, "int8")
        adapter = _adapter(Path(folder) / "adapter")
        command = serve_command(path)
        with served(lambda port: [*command(port), "--adapter", f"tuned={adapter}"]) as port:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120)
            checks = _checks(client, _model(port))
    rows = [[name, "yes" if held else "no"] for name, held in checks.items()]
    report.table("A V4-shaped model behind the server, by the OpenAI SDK", ["what", "holds"], rows)
    return {"checks": len(checks), "failures": sum(not held for held in checks.values())} | {
        name.replace(" ", "_"): held for name, held in checks.items()
    }


def _model(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]


def _checks(client: Any, model: str) -> dict[str, bool]:
    system = {"role": "system", "content": "You answer about harbours. " * 12}
    question = {"role": "user", "content": "When does the water rise at Brest?"}
    fixed: dict[str, Any] = {"temperature": 0, "seed": 1}

    def ask(messages: list[dict[str, Any]], tokens: int = 24, **options: Any) -> Any:
        return client.chat.completions.create(
            model=options.pop("model", model), messages=messages, max_tokens=tokens, **fixed, **options
        )

    plain = ask([system, question])
    again = ask([system, question])
    reasoning = ask([system, question], extra_body={"chat_template_kwargs": {"thinking": True}})
    called = ask([system, question], 400, tools=[_TOOL], tool_choice="required", parallel_tool_calls=False)
    calls = called.choices[0].message.tool_calls or []
    arguments: dict[str, Any] = json.loads(calls[0].function.arguments) if calls else {}
    history = [
        system,
        question,
        {"role": "assistant", "content": None, "tool_calls": [one.model_dump() for one in calls]},
        *({"role": "tool", "tool_call_id": one.id, "content": "3 m"} for one in calls),
    ]
    after = ask(history, tools=[_TOOL])
    tuned = ask([system, question], model="tuned")
    thought = getattr(reasoning.choices[0].message, "reasoning_content", None)
    cached = again.usage.prompt_tokens_details.cached_tokens
    streamed = "".join(
        part.choices[0].delta.content or ""
        for part in client.chat.completions.create(
            model=model, messages=[system, question], max_tokens=24, stream=True, **fixed
        )
        if part.choices
    )
    return {
        "chat answers": plain.usage.completion_tokens > 0,
        "the same request has the same answer": _text(plain) == _text(again) == streamed,
        "a repeated prompt is read from the cache": cached >= plain.usage.prompt_tokens - 32,
        "reasoning is told apart": bool(thought) and not reasoning.choices[0].message.content,
        "a chat without reasoning has none": not getattr(plain.choices[0].message, "reasoning_content", None),
        "a required call is made": called.choices[0].finish_reason == "tool_calls"
        and calls[0].function.name == "tide",
        "its arguments keep to the schema": arguments.get("port") in ("Qingdao", "Brest")
        and isinstance(arguments.get("hours", 0), int),
        "a result goes back": after.usage.completion_tokens > 0,
        "an adapter answers otherwise": _text(tuned) != _text(plain),
    }


def _text(answer: Any) -> str:
    return answer.choices[0].message.content or ""


def _adapter(folder: Path) -> Path:
    """Writes a LoRA adapter in peft's format, by the names of transformers' modules."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rank, hidden, low = 8, _CONFIG["hidden_size"], _CONFIG["q_lora_rank"]
    heads = _CONFIG["num_attention_heads"] * _CONFIG["head_dim"]
    sizes = {"q_b_proj": (heads, low), "o_b_proj": (hidden, _CONFIG["o_groups"] * _CONFIG["o_lora_rank"])}
    tensors: dict[str, Any] = {}
    for layer in range(_CONFIG["num_hidden_layers"]):
        for name, (rows, cols) in sizes.items():
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for half, shape in (("A", (rank, cols)), ("B", (rows, rank))):
                values = rng.standard_normal(shape, dtype=np.float32)
                tensors[f"{module}.lora_{half}.weight"] = values / np.float32(shape[1] ** 0.5)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": list(sizes),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
