"""Small random models over the options of `UNet2DModel` that inkwash reads, as folders that diffusers saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

SEED = 11
# Before diffusers 0.15, attention's layers were called so.
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Case:
    """A network, where it differs from the one in `save`, its scheduler, and the form of its weights."""

    unet: dict[str, Any]
    scheduler: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    old_names: bool = False


def levels(*kinds: str) -> dict[str, tuple[str, ...]]:
    """Block types from "Down" or "AttnDown", finest first, and the same on the way up."""
    up = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    return {"down_block_types": tuple(f"{k}Block2D" for k in kinds), "up_block_types": tuple(f"{k}Block2D" for k in up)}


CASES = {
    "heads": Case({"attention_head_dim": 8}),
    "one-head": Case({"attention_head_dim": None, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False}),
    # 24 and 48 channels in heads of 20: one head and two, of 20 channels each.
    "heads-remainder": Case(
        {
            "attention_head_dim": 20,
            "block_out_channels": (24, 48),
            "norm_num_groups": 3,
            **levels("AttnDown", "AttnDown"),
        }
    ),
    # Skips of 48 + 32 and 32 + 16 channels: groups that lie across the two halves.
    "three-levels": Case(
        {
            "block_out_channels": (16, 32, 48),
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "norm_eps": 1e-6,
            **levels("Down", "AttnDown", "Down"),
        }
    ),
    "one-level": Case({"block_out_channels": (16,), **levels("AttnDown")}),
    "mixed-blocks": Case(
        {"down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    ),
    "no-attention": Case({"add_attention": False, **levels("Down", "Down")}),
    "mid-scale": Case({"mid_block_scale_factor": 1.5, "norm_eps": 1e-3}),
    "scale-shift": Case({"resnet_time_scale_shift": "scale_shift"}),
    "scale-shift-mid-norm": Case(
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8, "mid_block_scale_factor": 2**0.5}
    ),
    "classes": Case({"num_class_embeds": 5}),
    "wide": Case({"sample_size": (8, 24), "in_channels": 1, "out_channels": 1, "downsample_padding": 0}),
    "tall-classes": Case({"sample_size": (16, 8), "num_class_embeds": 3, "resnet_time_scale_shift": "scale_shift"}),
    "channels": Case({"in_channels": 2, "out_channels": 3, "freq_shift": 0.5}),
    "time-width": Case({"time_embedding_dim": 40}),
    "learned-range": Case({"out_channels": 6}, {"variance_type": "learned_range"}),
    "v-prediction": Case(
        {},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "sample-cosine": Case({}, {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": Case({}, {"beta_schedule": "sigmoid", "num_train_timesteps": 500, "clip_sample_range": 0.8}),
    "float16": Case({}, dtype=torch.float16),
    "bfloat16": Case({"num_class_embeds": 4}, dtype=torch.bfloat16),
    "old-names": Case({"attention_head_dim": None}, old_names=True),
}


def save(case: Case, folder: Path) -> None:
    """Writes a pipeline's folder. Norms are away from 1 and 0 and attention from uniform, which would hide errors."""
    torch.manual_seed(SEED)
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        **levels("Down", "AttnDown"),
    }
    unet = UNet2DModel(**(config | case.unet))
    with torch.no_grad():
        for name, module in unet.named_modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.uniform_(0.6, 1.4)
                module.bias.uniform_(-0.3, 0.3)
            elif name.endswith((".to_q", ".to_k")):
                module.weight *= 3
    DDPMPipeline(unet.to(case.dtype), DDPMScheduler(**case.scheduler)).save_pretrained(folder)
    if case.old_names:
        rename(folder / "unet" / WEIGHTS)


def rename(path: Path) -> None:
    """Gives attention's weights their old names."""
    tensors = {}
    for name, value in load_file(path).items():
        part = next((part for part in OLD_NAMES if part in name), "")
        tensors[name.replace(part, OLD_NAMES.get(part, ""))] = value
    save_file(tensors, path, {"format": "pt"})
