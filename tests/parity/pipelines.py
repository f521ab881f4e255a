"""Pipelines of diffusers with random weights, made from their configurations: small enough to draw in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

__all__ = [
    "SIDE",
    "flux",
    "latent_consistency",
    "pixart",
    "pixart_sigma",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_xl",
]

SIDE = 64
"""Side of the square that the pipeline draws, in pixels."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def stable_diffusion(folder: Path, *, scheduler: type[Any] = DDIMScheduler) -> Path:
    """Writes a pipeline of the shape of Stable Diffusion, which decodes latents of 32 x 32 as 64 x 64 pixels."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder / "words")
    pipeline = StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip(tokenizer, 16)),
        tokenizer=tokenizer,
        unet=_unet(16),
        scheduler=scheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def stable_diffusion_3(folder: Path) -> Path:
    """Writes a pipeline of the shape of Stable Diffusion 3: a transformer, two CLIPs and T5."""
    tokenizer = _tokenizer(folder / "words")
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            pos_embed_max_size=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(16, shift_factor=0.1, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(_clip(tokenizer, 8)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 8)),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def pixart(folder: Path, *, kind: type[Any] = PixArtAlphaPipeline) -> Path:
    """Writes a pipeline of the shape of PixArt: a transformer and T5."""
    pipeline = kind(
        tokenizer=_t5_tokenizer(),
        text_encoder=_t5(),
        vae=_vae(4),
        transformer=PixArtTransformer2DModel(
            sample_size=SIDE // 2,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=16,
            use_additional_conditions=False,
        ),
        scheduler=DDIMScheduler(**BETAS),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def pixart_sigma(folder: Path) -> Path:
    """Writes a pipeline of the shape of PixArt Sigma."""
    return pixart(folder, kind=PixArtSigmaPipeline)


def _t5() -> T5EncoderModel:
    config = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def _t5_tokenizer() -> T5TokenizerFast:
    """Returns a tokenizer of single letters, with the special tokens of T5."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, *((letter, -3.0) for letter in "▁" + _LETTERS)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _unet(condition: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=condition,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )


def _vae(channels: int, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[4, 8],
        norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        sample_size=SIDE,
        **more,
    )


def _clip(tokenizer: CLIPTokenizer, size: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=size,
        projection_dim=size,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=77,
        vocab_size=len(tokenizer),
    )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Returns a tokenizer of single letters, with the special tokens of CLIP."""
    folder.mkdir(parents=True)
    tokens = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return made


def latent_consistency(folder: Path) -> Path:
    """Writes a latent consistency model."""
    tokenizer, vae = _tokenizer(folder / "words"), _vae(4)
    pipeline = LatentConsistencyModelPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_clip(tokenizer, 16)),
        tokenizer=tokenizer,
        unet=_unet(16, time_cond_proj_dim=32),
        scheduler=LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def stable_diffusion_xl(folder: Path) -> Path:
    """Writes a pipeline of the shape of Stable Diffusion XL, with two text encoders."""
    tokenizer = _tokenizer(folder / "words")
    unet = _unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip(tokenizer, 16)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 16)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def flux(folder: Path) -> Path:
    """Writes a pipeline of the shape of Flux: packed latents, CLIP and T5."""
    tokenizer = _tokenizer(folder / "words")
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.3),
        text_encoder=CLIPTextModel(_clip(tokenizer, 8)),
        tokenizer=tokenizer,
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=8,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
