"""Write the golden files: what transformers computes, in float32, on tiny random models and on SmolLM2.

    make golden

Needs the `[tune]` extra. Each `NAME.npz` holds a `config.json`, float16 weights, token ids and logits; `lora.npz` holds an
adapter that peft wrote for `llama-linear`, and its logits; `greedy.json` holds prompts and their greedy continuations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness import assets

HERE = Path(__file__).parent
TOKENS = 40  # beyond original_max_position_embeddings = 16, so that context extension matters
COMPLETION_TOKENS = 40

# 150 and 88 are no multiples of 32 and 16: the padding of rows and columns is exercised.
_SMALL: dict[str, Any] = {
    "vocab_size": 150,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_LINEAR = {"rope_type": "linear", "factor": 2.0}

TINY: dict[str, Any] = {
    "llama-llama3": lambda: LlamaForCausalLM(
        LlamaConfig(**_SMALL, tie_word_embeddings=False, rope_theta=10_000.0, rope_scaling=_LLAMA3)
    ),
    "llama-yarn": lambda: LlamaForCausalLM(
        LlamaConfig(
            **_SMALL | {"num_key_value_heads": 1},
            head_dim=32,
            tie_word_embeddings=True,
            rope_theta=50_000.0,
            rope_scaling=_YARN,
        )
    ),
    "llama-linear": lambda: LlamaForCausalLM(
        LlamaConfig(**_SMALL, tie_word_embeddings=True, rope_theta=10_000.0, rope_scaling=_LINEAR)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**_SMALL, tie_word_embeddings=True, rope_theta=1_000_000.0, use_sliding_window=False)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(  # heads wider than hidden_size / num_attention_heads
        Qwen3Config(**_SMALL, head_dim=32, tie_word_embeddings=True, rope_theta=1_000_000.0)
    ),
}

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "The three primary colours are",
    "To make a cup of tea, first",
    "In 1969, humans landed on",
    "The largest planet in the solar system is",
    "A good night's sleep helps",
    "Photosynthesis is the process by which",
    "for (int i = 0; i < n; i++) {\n",
    "The opposite of hot is",
    "Dear Sir or Madam,\n",
    "Question: What is the square root of 81?\nAnswer:",
    "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite one sentence about the moon.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nHow many days are in a week?<|im_end|>\n<|im_start|>assistant\n",
    "SELECT name, age FROM users WHERE",
    "Bread, cheese, apples and",
)


def random_model(name: str, seed: int = 0) -> Any:
    """A tiny model whose weights are multiples of 1/128: exact in float16, and they compress."""
    torch.manual_seed(seed)
    model = TINY[name]().eval().to(torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randint(-31, 32, parameter.shape) / 128
            parameter.copy_(1 + values if "norm" in parameter_name else values)
    return model


def golden_tokens(vocab_size: int, seed: int = 1) -> torch.Tensor:
    """Random token ids, [1, TOKENS]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (1, TOKENS), generator=generator)


def stored_weights(model: Any) -> dict[str, np.ndarray]:
    """The float16 weights of a model by name, tied ones once."""
    tied = model.config.tie_word_embeddings
    return {
        name: tensor.to(torch.float16).numpy()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


def logits_of(model: Any, tokens: torch.Tensor) -> np.ndarray:
    """Float32 logits, [tokens, vocab]."""
    with torch.no_grad():
        return model(tokens).logits[0].numpy()


def config_json(model: Any) -> str:
    """`config.json` as transformers saves it."""
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return json.dumps(config, default=str)


def smollm2_in_transformers(path: Path) -> LlamaForCausalLM:
    """The dequantised weights of the GGUF file in transformers' own model."""
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    state = {name: torch.from_numpy(checkpoint.tensor(name).float32()) for name in checkpoint.names}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def greedy(model: Any, prompt: list[int], length: int) -> tuple[list[int], float]:
    """`length` greedy tokens, end-of-text ignored, and the smallest lead of a chosen token over the second best."""
    tokens, cache, margin = torch.tensor([prompt]), None, float("inf")
    completion: list[int] = []
    with torch.no_grad():
        for _ in range(length):
            step = model(tokens, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            best = step.logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            completion.append(int(best.indices[0]))
            tokens = torch.tensor([[completion[-1]]])
    return completion, margin


def write_tiny() -> None:
    for name in TINY:
        model = random_model(name)
        tokens = golden_tokens(model.config.vocab_size)
        weights = {f"weight:{key}": value for key, value in stored_weights(model).items()}
        path = HERE / f"{name}.npz"
        np.savez_compressed(
            path,
            config=np.array(config_json(model)),
            tokens=tokens[0].numpy().astype(np.int32),
            logits=logits_of(model, tokens),
            **weights,
        )
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def peft_model(directory: Path, name: str = "llama-linear", seed: int = 2) -> Any:
    """A random adapter on the tiny model, saved by peft itself: two ranks, rank-stabilised scales."""
    model = get_peft_model(
        random_model(name),
        LoraConfig(
            r=3,
            lora_alpha=6,
            use_rslora=True,
            rank_pattern={"down_proj": 4},
            alpha_pattern={"q_proj": 3},
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_(torch.randint(-31, 32, parameter.shape, generator=generator) / 256)
    model.eval().save_pretrained(directory)
    return model


def write_lora() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = peft_model(Path(folder))
        tokens = golden_tokens(model.config.vocab_size)
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        np.savez_compressed(
            HERE / "lora.npz",
            config=np.array((Path(folder) / "adapter_config.json").read_text()),
            tokens=tokens[0].numpy().astype(np.int32),
            logits=logits_of(model, tokens),
            **{f"weight:{key}": value.astype(np.float16) for key, value in tensors.items()},
        )


def write_greedy(path: Path) -> None:
    model, tokenizer = smollm2_in_transformers(path), Tokenizer.load(path)
    rows = []
    for text in PROMPTS:
        prompt = tokenizer.encode(text)
        completion, margin = greedy(model, prompt, COMPLETION_TOKENS)
        rows.append(json.dumps({"prompt": prompt, "completion": completion}))
        print(f"margin {margin:.4f}  {text!r} -> {tokenizer.decode(completion)!r}")
    (HERE / "greedy.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--smollm2", type=Path, default=None, help="the GGUF file (default: the model store's)"
    )
    smollm2 = parser.parse_args().smollm2 or assets.smollm2()
    write_tiny()
    write_lora()
    write_greedy(smollm2)


if __name__ == "__main__":
    main()
