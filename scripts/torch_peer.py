#!/usr/bin/env python3
"""The training step of `inkwash bench step`, in PyTorch: noising, U-Net, MSE, backward, AdamW, moving average.

    python3 scripts/torch_peer.py --preset cifar --batch 128 [--runs 10] [--device cuda]

Prints one JSON object a line for each precision that the device has: fp32, and on CUDA tf32 and bf16 autocast.
The network is diffusers' UNet2DModel where that is installed, else the same layers written here; the number
of parameters is printed, so that it can be compared with inkwash's own.
"""

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {
    "tiny-gray": dict(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=[32, 64], layers_per_block=1,
        down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        norm_num_groups=8, attention_head_dim=8,
    ),
    "small-32": dict(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=[64, 128, 128], layers_per_block=1,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], norm_num_groups=32, attention_head_dim=None,
        downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, norm_eps=1e-6,
    ),
    "cifar": dict(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=[128, 256, 256, 256], layers_per_block=2,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], norm_num_groups=32,
        attention_head_dim=None, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, norm_eps=1e-6,
    ),
}


class Resnet(nn.Module):
    """Norm, SiLU, convolution, twice, with the time embedding added between, around a shortcut."""

    def __init__(self, c, k, time_width, groups, eps):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c, eps), nn.Conv2d(c, k, 3, padding=1)
        self.time, self.norm2 = nn.Linear(time_width, k), nn.GroupNorm(groups, k, eps)
        self.conv2 = nn.Conv2d(k, k, 3, padding=1)
        self.shortcut = nn.Identity() if c == k else nn.Conv2d(c, k, 1)

    def forward(self, x, t):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SelfAttention(nn.Module):
    """Over the pixels, with a residual; `head` channels per head, or one head."""

    def __init__(self, c, head, groups, eps):
        super().__init__()
        self.heads = 1 if head is None else c // head
        self.norm = nn.GroupNorm(groups, c, eps)
        self.q, self.k, self.v, self.out = (nn.Linear(c, c) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (p(y).view(b, h * w, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(y).transpose(1, 2).reshape(b, c, h, w)


class Level(nn.Module):
    """Residual blocks, each followed by attention where there is any, then a change of size."""

    def __init__(self, pairs, attends, time_width, groups, eps, head, resize):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(c, k, time_width, groups, eps) for c, k in pairs)
        self.attentions = nn.ModuleList(SelfAttention(k, head, groups, eps) for _, k in pairs if attends)
        self.resize = resize

    def block(self, i, x, t):
        x = self.resnets[i](x, t)
        return self.attentions[i](x) if len(self.attentions) else x


class UNet(nn.Module):
    """UNet2DModel, as far as the presets go."""

    def __init__(self, in_channels, out_channels, block_out_channels, layers_per_block, down_block_types, up_block_types,
                 norm_num_groups, attention_head_dim, downsample_padding=1, freq_shift=0, flip_sin_to_cos=True,
                 norm_eps=1e-5, **_):
        super().__init__()
        widths, n = list(block_out_channels), layers_per_block
        time_width, self.width = 4 * widths[0], widths[0]
        self.freq_shift, self.cos_first, self.padding = freq_shift, flip_sin_to_cos, downsample_padding
        common = time_width, norm_num_groups, norm_eps
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time1, self.time2 = nn.Linear(widths[0], time_width), nn.Linear(time_width, time_width)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = widths[0], [widths[0]]
        for i, k in enumerate(widths):
            last = i == len(widths) - 1
            resize = None if last else nn.Conv2d(k, k, 3, stride=2, padding=downsample_padding)
            pairs = [(c if j == 0 else k, k) for j in range(n)]
            self.down.append(Level(pairs, "Attn" in down_block_types[i], *common, attention_head_dim, resize))
            skips += [k] * (n if last else n + 1)
            c = k
        self.mid = Level([(c, c), (c, c)], False, *common, attention_head_dim, None)
        self.mid_attention = SelfAttention(c, attention_head_dim, norm_num_groups, norm_eps)
        for i, k in enumerate(reversed(widths)):
            last = i == len(widths) - 1
            pairs = []
            for _ in range(n + 1):
                pairs.append((c + skips.pop(), k))
                c = k
            resize = None if last else nn.Conv2d(k, k, 3, padding=1)
            self.up.append(Level(pairs, "Attn" in up_block_types[i], *common, attention_head_dim, resize))
        self.norm_out = nn.GroupNorm(norm_num_groups, widths[0], norm_eps)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def embed(self, t):
        half = self.width // 2
        exponent = -math.log(10000.0) * torch.arange(half, device=t.device) / (half - self.freq_shift)
        angle = t.float()[:, None] * exponent.exp()[None]
        pair = [angle.cos(), angle.sin()] if self.cos_first else [angle.sin(), angle.cos()]
        return self.time2(F.silu(self.time1(torch.cat(pair, dim=1))))

    def forward(self, x, t):
        t, x = self.embed(t), self.conv_in(x)
        skips = [x]
        for level in self.down:
            for i in range(len(level.resnets)):
                x = level.block(i, x, t)
                skips.append(x)
            if level.resize is not None:
                x = level.resize(x if self.padding else F.pad(x, (0, 1, 0, 1)))
                skips.append(x)
        x = self.mid.block(1, self.mid_attention(self.mid.block(0, x, t)), t)
        for level in self.up:
            for i in range(len(level.resnets)):
                x = level.block(i, torch.cat([x, skips.pop()], dim=1), t)
            if level.resize is not None:
                x = level.resize(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


def build(preset):
    """The network, and what made it."""
    config = PRESETS[preset]
    try:
        import diffusers
    except ImportError:
        return UNet(**config), "plain"
    model = diffusers.UNet2DModel(**config)

    class Sample(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, t):
            return self.model(x, t, return_dict=False)[0]

    return Sample(), f"diffusers {diffusers.__version__}"


def measure(preset, batch, device, precision, warmup, runs):
    """Median seconds of a step that is waited for."""
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model, network = build(preset)
    model = model.to(device, memory_format=torch.channels_last)
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=device.type == "cuda")
    config = PRESETS[preset]
    side = config["sample_size"]
    pictures = torch.rand(batch, config["in_channels"], side, side, device=device) * 2 - 1
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), dim=0)

    def step():
        t = torch.randint(0, 1000, (batch,), device=device)
        noise = torch.randn_like(pictures)
        a = alpha_bar[t][:, None, None, None]
        noisy = a.sqrt() * pictures + (1 - a).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.mse_loss(model(noisy, t).float(), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1 - 0.999)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()
        elif device.type == "mps":
            torch.mps.synchronize()

    times = []
    for i in range(warmup + runs):
        wait()
        start = time.perf_counter()
        step()
        wait()
        if i >= warmup:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "preset": preset, "batch": batch, "precision": precision, "median_s": seconds,
        "images_per_s": batch / seconds, "parameters": sum(p.numel() for p in model.parameters()),
        "device": name, "torch": torch.__version__, "network": network, "threads": torch.get_num_threads(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny-gray")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is if left out")
    arguments = parser.parse_args()
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(arguments.device or best)
    for precision in ["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32"]:
        row = measure(arguments.preset, arguments.batch, device, precision, arguments.warmup, arguments.runs)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
