"""Write tests/folders/: small models as diffusers saves them, or saved them once, and what they compute in float64.

    pip install torch==2.11.0 diffusers==0.42.1 safetensors
    python tests/python/make_folders.py

Every folder is opened again by diffusers for its expected.safetensors (sample, timestep, class_labels, output, from
the weights as they are stored), so that each is known to be one that diffusers opens.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file

OUT = Path(__file__).resolve().parent.parent / "folders"

SMALL = dict(
    sample_size=4, in_channels=1, out_channels=1, block_out_channels=[4, 8], layers_per_block=1, norm_num_groups=2,
    down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
)
ONE_LEVEL = {**SMALL, "block_out_channels": [4], "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["UpBlock2D"]}

# As diffusers 0.42.1 saves them.
SAVED = {
    "plain": (dict(SMALL, attention_head_dim=4), DDPMScheduler()),
    # Twice as many channels out as in: the second half is the variance.
    "scale-shift": (
        dict(
            SMALL, sample_size=[4, 6], out_channels=2, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4,
            num_class_embeds=3, time_embedding_dim=10, mid_block_scale_factor=1.5, downsample_padding=0, freq_shift=1,
            flip_sin_to_cos=False, norm_eps=1e-6, attention_head_dim=None,
        ),
        DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2", num_train_timesteps=400),
    ),
    # The bare -Infinity of lambda_min_clipped.
    "dpm": (dict(ONE_LEVEL, attention_head_dim=4, add_attention=False), DPMSolverMultistepScheduler()),
}

# Every class with its defaults and with something else.
SCHEDULERS = {
    "ddpm": DDPMScheduler(
        variance_type="fixed_large", clip_sample=False, clip_sample_range=2.5, beta_schedule="sigmoid",
        rescale_betas_zero_snr=True, steps_offset=1, timestep_spacing="trailing", prediction_type="v_prediction",
    ),
    "ddim-defaults": DDIMScheduler(),
    "ddim": DDIMScheduler(
        set_alpha_to_one=False, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5,
        prediction_type="sample", trained_betas=[0.00085, 0.1 + 0.2, 1e-5, 1 / 3], num_train_timesteps=4,
    ),
    "dpm": DPMSolverMultistepScheduler(
        lambda_min_clipped=-5.1, solver_order=1, solver_type="heun", lower_order_final=False, euler_at_final=True,
        use_karras_sigmas=True, final_sigmas_type="sigma_min", timestep_spacing="trailing",
    ),
    "euler-defaults": EulerDiscreteScheduler(),
    "euler": EulerDiscreteScheduler(
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0, beta_schedule="scaled_linear", beta_start=0.00085,
        beta_end=0.012, timestep_spacing="leading",
    ),
    "heun-defaults": HeunDiscreteScheduler(),
    "heun": HeunDiscreteScheduler(use_karras_sigmas=True, clip_sample=True, clip_sample_range=3.0, steps_offset=1),
}


def network(config: dict, seed: int) -> UNet2DModel:
    """Far enough from trivial: norms away from 1 and 0, attention away from uniform."""
    torch.manual_seed(seed)
    model = UNet2DModel(**config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                gain = 4.0 if ".to_q." in name or ".to_k." in name else 1.7
                p.copy_(gain * (2 * torch.rand_like(p) - 1) / p[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.4 * torch.rand_like(p) - 0.2)
            else:
                p.copy_(0.4 * torch.rand_like(p) - 0.2)
    return model


def expect(folder: Path, unet: UNet2DModel) -> None:
    """What the network that diffusers opens computes in float64."""
    unet = unet.double().eval()
    config = unet.config
    torch.manual_seed(99)
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.randn(2, config.in_channels, height, width)
    timestep = torch.tensor([7, 311])
    extra = {"class_labels": torch.tensor([2, 0])} if config.num_class_embeds else {}
    # get_timestep_embedding works in float32 whatever the model's type; do it in float64.
    float32 = torch.float32
    torch.float32 = torch.float64
    with torch.no_grad():
        output = unet(sample.double(), timestep, **extra).sample
    torch.float32 = float32
    tensors = {"sample": sample, "timestep": timestep, "output": output.float(), **extra}
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(folder / "expected.safetensors"))
    parameters = sum(p.numel() for p in unet.parameters())
    print(folder.name, parameters, float(output.norm()), sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def old_names(folder: Path) -> None:
    """A folder of the first releases: old names of blocks, attention and options, few options, weights in f16."""
    config = dict(SMALL, attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6)
    model = network(config, 3)
    for part in ["unet", "scheduler"]:
        (folder / part).mkdir(parents=True)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        tensors[name] = tensor.half()
    save_file(tensors, str(folder / "unet/diffusion_pytorch_model.safetensors"))
    first = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "center_input_sample": False,
             "mid_block_scale_factor": 1, "time_embedding_type": "positional"}
    blocks = {key: ["UNetRes" + name for name in config[key]] for key in ["down_block_types", "up_block_types"]}
    write_json(folder / "unet/config.json", {**first, **config, **blocks})
    write_json(folder / "scheduler/scheduler_config.json", {
        "_class_name": "DDPMScheduler", "_diffusers_version": "0.0.4", "beta_end": 0.02, "beta_schedule": "linear",
        "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "tensor_format": "pt",
        "timestep_values": None, "trained_betas": None, "variance_type": "fixed_large",
    })
    write_json(folder / "model_index.json", {
        "_class_name": "DDPMPipeline", "_diffusers_version": "0.0.4", "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    })


def root_layout(folder: Path) -> None:
    """All files beside model_index.json, weights in bf16."""
    folder.mkdir(parents=True)
    staged = folder / "staged"
    DDPMPipeline(network(dict(ONE_LEVEL, attention_head_dim=2), 4), DDIMScheduler()).save_pretrained(staged)
    weights = "diffusion_pytorch_model.safetensors"
    save_file({k: v.bfloat16() for k, v in load_file(staged / "unet" / weights).items()}, str(folder / weights))
    shutil.copy(staged / "unet/config.json", folder)
    shutil.copy(staged / "scheduler/scheduler_config.json", folder)
    shutil.copy(staged / "model_index.json", folder)
    shutil.rmtree(staged)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, (name, (config, scheduler)) in enumerate(SAVED.items()):
        DDPMPipeline(network(config, seed), scheduler).save_pretrained(OUT / name)
    old_names(OUT / "old-names")
    root_layout(OUT / "root-layout")
    for folder in sorted(OUT.iterdir()):
        expect(folder, DDPMPipeline.from_pretrained(folder).unet)
    for name, scheduler in SCHEDULERS.items():
        scheduler.save_pretrained(OUT / "staged")
        (OUT / "schedulers").mkdir(exist_ok=True)
        shutil.move(OUT / "staged/scheduler_config.json", OUT / "schedulers" / f"{name}.json")
    (OUT / "staged").rmdir()


if __name__ == "__main__":
    main()
