"""Write tests/goldens/NAME.safetensors: what diffusers' UNet2DModel computes in float64.

    pip install torch==2.11.0 diffusers==0.42.1 safetensors numpy
    python tests/python/make_goldens.py

Weights and inputs are not stored: they follow from Philox4x32-10 by the rule in `uniform` and `weights`,
which tests/goldens.rs repeats. Stored are the output, the loss, and every gradient, of which long ones are
thinned to at most 128 elements, `flat[::stride]`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

CASES = {
    "tiny-gray": dict(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=[32, 64], layers_per_block=1,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        norm_num_groups=8, attention_head_dim=8,
    ),
    # Groups of 7 channels that straddle a skip's boundary; padding at the bottom and right; one head.
    "tiny-rgb-odd": dict(
        sample_size=24, in_channels=3, out_channels=3, block_out_channels=[32, 48, 64], layers_per_block=2,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], norm_num_groups=16, attention_head_dim=None,
        downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, norm_eps=1e-6,
    ),
    # Classes, scale and shift, no norm in the mid attention, 48 channels in 2 heads of 20, not square.
    "class-scale-shift": dict(
        sample_size=[8, 12], in_channels=2, out_channels=3, block_out_channels=[16, 48], layers_per_block=1,
        down_block_types=["AttnDownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        norm_num_groups=4, attention_head_dim=16, resnet_time_scale_shift="scale_shift", num_class_embeds=5,
        mid_block_scale_factor=1.5,
    ),
    "head-remainder": dict(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=[24, 48], layers_per_block=1,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        norm_num_groups=3, attention_head_dim=20, add_attention=True,
    ),
}
TIMESTEPS = [0, 999, 371]
LABELS = [4, 1, 4]
PARAMETERS, CASES_STREAM = 4, 8


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 (Salmon et al., SC 2011) for counters (n, 4)."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = key
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


def uniform(count: int, stream: int, step: int) -> np.ndarray:
    """Uniform in (-1, 1]: 2 (f32(word) + 1/2) / 2^32 - 1, words of counters (index, step, stream, 0), seed 7."""
    blocks = -(-count // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2] = np.arange(blocks), step, stream
    words = philox(counter, (7, 0)).reshape(-1)[:count]
    unit = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    return 2.0 * unit.astype(np.float64) - 1.0


def weights(name: str, shape: tuple[int, ...], rank: int) -> torch.Tensor:
    """Far enough from trivial: norms away from 1 and 0, attention away from uniform. Rounded to f32."""
    u = uniform(int(np.prod(shape)), PARAMETERS, rank)
    if len(shape) > 1:
        gain = 2.5 if ".to_q." in name or ".to_k." in name else 1.0
        value = gain * u / np.sqrt(np.prod(shape[1:]))
    elif "norm" in name and name.endswith("weight"):
        value = 1.0 + 0.2 * u
    else:
        value = 0.1 * u
    return torch.from_numpy(value.astype(np.float32).reshape(shape).astype(np.float64))


def main() -> None:
    out = Path(__file__).resolve().parent.parent / "goldens"
    for case, config in CASES.items():
        model = UNet2DModel(**config).double().eval()
        with torch.no_grad():
            for rank, (name, parameter) in enumerate(sorted(model.named_parameters())):
                parameter.copy_(weights(name, tuple(parameter.shape), rank))
        size = config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        shape = (3, config["in_channels"], height, width)
        target_shape = (3, config["out_channels"], height, width)
        draw = lambda s, step: torch.from_numpy(
            (1.5 * uniform(int(np.prod(s)), CASES_STREAM, step)).astype(np.float32).reshape(s).astype(np.float64))
        x, target = draw(shape, 0), draw(target_shape, 1)
        extra = {"class_labels": torch.tensor(LABELS)} if config.get("num_class_embeds") else {}
        # get_timestep_embedding works in float32 whatever the model's type; do it in float64.
        float32 = torch.float32
        torch.float32 = torch.float64
        output = model(x, torch.tensor(TIMESTEPS), **extra).sample
        torch.float32 = float32
        loss = torch.nn.functional.mse_loss(output, target)
        loss.backward()
        tensors = {"output": output.detach(), "loss": loss.detach().reshape(1)}
        for name, parameter in model.named_parameters():
            flat = parameter.grad.flatten()
            stride = -(-flat.numel() // 128)
            tensors[f"grad.{name}"] = flat[::stride].clone()
        tensors = {k: v.float().contiguous() for k, v in tensors.items()}
        save_file(tensors, str(out / f"{case}.safetensors"), {"config": json.dumps(config)})
        print(case, sum(p.numel() for p in model.parameters()), float(loss), (out / f"{case}.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
