"""Write what PyTorch and diffusers compute with no network in it: noise schedules, samplers, AdamW, averages.

    pip install -r tests/python/requirements.txt
    python tests/python/make_schedule_oracle.py OUT_DIR

OUT_DIR receives

    schedules.safetensors           SCHEDULE.{betas,alphas_cumprod,variance_*}, timesteps.CLASS.SPACING.STEPS,
                                    add_noise.*
    gaussian_samplers.safetensors   x_T, step_noise, sampler.NAME.{timesteps,sigmas,latents,model_output}
    optimizer.safetensors           p0, grads, NAME.{params,ema}, ema.*, lr.*
    meta.json                       every tensor's shape and meaning, every sampler's and optimizer's configuration

The samplers are driven by the exact denoiser of Gaussian pixels, which unlike a random network does not amplify
rounding from step to step.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from oracle import Recorder, set_up, write_meta
from samplers import Sampler, record_start, record_walk, walk

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
SPACINGS = ("leading", "linspace", "trailing")
CLASSES: dict[str, Any] = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
}
SHAPE = (2, 2, 3, 4)
STEPS = 10
# Pixels of the data. WIDE ones leave [-1, 1] often, so that clipping and thresholding have something to do: the 0.9
# quantile of |x_0| is about 2, and sample_max_value = 2.0 acts in some pictures and not in others.
STD, WIDE = 0.5, 1.2


def schedule_tables(recorder: Recorder) -> None:
    """Betas, their products, and the variances of a step from t to t - 1."""
    tables: dict[str, dict[str, Any]] = {name: {"beta_schedule": name} for name in SCHEDULES}
    tables |= {
        "linear-T100": {"num_train_timesteps": 100},
        "linear-zero_snr": {"rescale_betas_zero_snr": True},
        "squaredcos_cap_v2-zero_snr": {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True},
    }
    for name, config in tables.items():
        scheduler = DDPMScheduler(**config)
        exact = (1 - scheduler.betas.double()).cumprod(0)
        recorder.add(f"{name}.betas", scheduler.betas, "beta_t")
        recorder.add(f"{name}.alphas_cumprod", scheduler.alphas_cumprod, "product of 1 - beta up to t", exact)
        if scheduler.config.rescale_betas_zero_snr:
            continue  # near T, abar is a difference of equal numbers, and float32's variance is off by 4e-6
        for kind in ("fixed_small", "fixed_large"):
            values = [scheduler._get_variance(t, variance_type=kind) for t in range(len(scheduler.betas))]
            recorder.add(f"{name}.variance_{kind}", torch.stack(values), "variance of the step from t to t - 1")


def timestep_grids(recorder: Recorder) -> None:
    """Which timesteps each class visits."""
    for name, scheduler_class in CLASSES.items():
        label = name.removesuffix("-2m")
        for spacing in SPACINGS:
            for steps in (10, 50, 7, 27, 3, 1):
                scheduler = scheduler_class(timestep_spacing=spacing)
                scheduler.set_timesteps(steps)
                recorder.add(f"timesteps.{label}.{spacing}.{steps}", scheduler.timesteps, f"set_timesteps({steps})")


def noising(recorder: Recorder) -> None:
    """Noisy pictures and velocities at timesteps from end to end."""
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(8, 1, 4, 4, generator=generator) for _ in range(2))
    timestep = torch.tensor([0, 1, 10, 100, 250, 500, 750, 999])
    recorder.add("add_noise.x0", x0, "clean pictures")
    recorder.add("add_noise.noise", noise, "unit Gaussian noise")
    recorder.add("add_noise.timestep", timestep, "timestep of each picture")
    configs: dict[str, dict[str, Any]] = {name: {"beta_schedule": name} for name in SCHEDULES}
    configs["linear-zero_snr"] = {"rescale_betas_zero_snr": True}
    for name, config in configs.items():
        scheduler = DDPMScheduler(**config)
        for key, rule, text in (
            ("x_t", scheduler.add_noise, "sqrt(abar) x0 + sqrt(1 - abar) noise"),
            ("velocity", scheduler.get_velocity, "sqrt(abar) noise - sqrt(1 - abar) x0"),
        ):
            exact = rule(x0.double(), noise.double(), timestep)
            recorder.add(f"add_noise.{name}.{key}", rule(x0, noise, timestep), text, exact)


class Catalogue:
    """Samplers by name."""

    def __init__(self) -> None:
        self.samplers: dict[str, Sampler] = {}

    def add(
        self, name: str, kind: str, steps: int = STEPS, std: float = STD, eta: float | None = None, **config: Any
    ) -> None:
        """A class, its configuration where it differs from the default, and the `eta` of its step."""
        if kind == "heun":  # its own default is a latent model's schedule
            config = {"beta_start": 1e-4, "beta_end": 0.02} | config
        arguments = {} if eta is None else {"eta": eta}
        assert name not in self.samplers, name
        self.samplers[name] = Sampler(name, CLASSES[kind](**config), steps, arguments, std)


def gaussian_samplers() -> list[Sampler]:
    """Every configuration, named by what differs from the class's defaults."""
    catalogue = Catalogue()
    for part in (predictions, timesteps, ranges, solvers):
        part(catalogue.add)
    return list(catalogue.samplers.values())


def predictions(add: Callable[..., None]) -> None:
    """The base of each class; schedules and predictions, as far as the class knows them."""
    add("ddpm-small", "ddpm", variance_type="fixed_small")
    add("ddpm-large", "ddpm", variance_type="fixed_large")
    add("ddpm-learned_range", "ddpm", variance_type="learned_range")
    add("ddim-eta0", "ddim", eta=0.0)
    add("ddim-eta1", "ddim", eta=1.0)
    add("ddim-eta0.5", "ddim", eta=0.5)
    for kind in ("dpmpp-2m", "euler", "euler-ancestral", "heun"):
        add(kind, kind)
    for schedule in SCHEDULES:
        for prediction in ("epsilon", "sample", "v_prediction"):
            for kind in CLASSES:
                if not (
                    (kind != "ddpm" and schedule == "sigmoid")
                    or (kind in ("euler", "euler-ancestral") and prediction == "sample")
                    # Its first step falls from sigma 20291 to 6, of which float32 keeps four digits.
                    or (kind == "heun" and schedule == "squaredcos_cap_v2")
                ):
                    config = {"beta_schedule": schedule, "prediction_type": prediction}
                    add(f"{kind}-{schedule}-{prediction}", kind, **config)


def timesteps(add: Callable[..., None]) -> None:
    """Which timesteps are visited. With one step, DDIM's leading stands at t = 0, DPM-Solver++ at t = 999."""
    for kind in CLASSES:
        for spacing in SPACINGS:
            add(f"{kind}-{spacing}", kind, timestep_spacing=spacing)
        for steps in (1, 3, 25):
            add(f"{kind}-{steps}-steps", kind, steps=steps)
        add(f"{kind}-leading-offset1", kind, timestep_spacing="leading", steps_offset=1)
        add(f"{kind}-T100", kind, num_train_timesteps=100)
        add(f"{kind}-beta_ends", kind, beta_start=0.00085, beta_end=0.012)
        add(f"{kind}-trained_betas", kind, num_train_timesteps=40, trained_betas=[0.002 * (i + 1) for i in range(40)])
    # DDIM beyond the first timestep: with steps_offset 1, t - T/S is negative, where abar is that of timestep 0.
    add("ddim-alpha_of_0", "ddim", set_alpha_to_one=False)
    add("ddim-alpha_of_0-offset1", "ddim", set_alpha_to_one=False, steps_offset=1)


def ranges(add: Callable[..., None]) -> None:
    """What keeps x_0 in its range, and a chain that ends in pure noise."""
    # Zero terminal signal (arXiv 2305.08891). Heun has no such option.
    zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    for kind in ("ddpm", "ddim", "dpmpp-2m", "euler", "euler-ancestral"):
        add(f"{kind}-zero_snr", kind, **zero)
        add(f"{kind}-zero_snr-3-steps", kind, steps=3, **zero)
    # What keeps x_0 in range.
    threshold = {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9}
    for kind in ("ddpm", "ddim", "dpmpp-2m"):
        add(f"{kind}-thresholding", kind, std=WIDE, **threshold)
    for kind in ("ddpm", "ddim"):
        add(f"{kind}-noclip", kind, std=WIDE, clip_sample=False)
        add(f"{kind}-clip", kind, std=WIDE)
    for kind in ("ddpm", "ddim", "heun"):
        add(f"{kind}-clip0.7", kind, std=WIDE, clip_sample=True, clip_sample_range=0.7)
    add("ddim-eta1-noclip", "ddim", eta=1.0, std=WIDE, clip_sample=False)
    add("ddim-eta1-clip0.7", "ddim", eta=1.0, std=WIDE, clip_sample_range=0.7)
    add("heun-clip", "heun", std=WIDE, clip_sample=True)


def solvers(add: Callable[..., None]) -> None:
    """Options of the solvers in sigma."""
    # DPM-Solver++. From 15 steps on, the last step is of second order unless something says otherwise.
    low = {"final_sigmas_type": "sigma_min"}
    add("dpmpp-1", "dpmpp-2m", solver_order=1)
    add("dpmpp-2m-heun", "dpmpp-2m", solver_type="heun")
    add("dpmpp-2m-sigma_min", "dpmpp-2m", **low)
    add("dpmpp-2m-sigma_min-second_order_final", "dpmpp-2m", lower_order_final=False, **low)
    add("dpmpp-2m-sigma_min-20-steps", "dpmpp-2m", steps=20, **low)
    add("dpmpp-2m-sigma_min-20-steps-euler_at_final", "dpmpp-2m", steps=20, euler_at_final=True, **low)
    add("dpmpp-2m-sigma_min-20-steps-heun", "dpmpp-2m", steps=20, solver_type="heun", **low)
    cosine = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    for spacing in SPACINGS:
        add(f"dpmpp-2m-lambda_min-{spacing}", "dpmpp-2m", timestep_spacing=spacing, **cosine)
    # Sigmas spaced as in arXiv 2206.00364, eq. 5.
    for kind in ("dpmpp-2m", "euler", "heun"):
        add(f"{kind}-karras", kind, use_karras_sigmas=True)
        add(f"{kind}-karras-25-steps", kind, steps=25, use_karras_sigmas=True)
    # Not DPM-Solver++: its timesteps begin 998, 998, and diffusers starts at the second of equal ones.
    for kind in ("euler", "heun"):
        add(f"{kind}-karras-cosine", kind, use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2")
    add("dpmpp-2m-karras-sigma_min", "dpmpp-2m", use_karras_sigmas=True, **low)
    add("euler-karras-sigma_range", "euler", use_karras_sigmas=True, sigma_min=0.1, sigma_max=50.0)


def gaussian_network(sampler: Sampler, x: Tensor, t: Tensor) -> Tensor:
    """The exact prediction for pixels from N(0, std^2), and where a variance is asked for, waves in [-1, 1]."""
    scheduler, variance = sampler.scheduler, sampler.gaussian_std**2
    signal = scheduler.alphas_cumprod[t.round().long()].to(x.dtype)
    total = signal * variance + 1 - signal
    x0, noise = signal.sqrt() * variance * x / total, (1 - signal).sqrt() * x / total
    prediction = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * x0,
    }[scheduler.config.prediction_type]
    return torch.cat([prediction, torch.sin(5 * x)], dim=1) if sampler.learned_range else prediction


def record_samplers(recorder: Recorder, samplers: list[Sampler]) -> None:
    """Every sampler's trajectory from the same noise."""
    record_start(recorder, samplers, SHAPE, seed=2)
    start, noise = recorder.tensors["x_T"], recorder.tensors["step_noise"]
    for sampler in samplers:
        run, exact = (
            walk(sampler, lambda x, t, s=sampler: gaussian_network(s, x, t), start.to(dtype), noise.to(dtype))
            for dtype in (torch.float32, torch.float64)
        )
        record_walk(recorder, sampler, run, exact)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "ema_decay": 0.9},
    "adamw-ddpm": {"lr": 1e-4, "betas": (0.95, 0.999), "eps": 1e-8, "weight_decay": 0.0, "ema_decay": 0.99},
    "adamw-clip": {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1, "ema_decay": 0.5},
}
CLIP = {"adamw-clip": 1.0}
UPDATES, WEIGHTS = 12, 70


def optimise(name: str, start: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and their average after each step."""
    options = dict(OPTIMIZERS[name])
    decay = options.pop("ema_decay")
    weights = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weights], foreach=False, **options)
    average, path, averages = start.clone(), [], []
    for grad in grads:
        weights.grad = grad.clone()
        if name in CLIP:
            torch.nn.utils.clip_grad_norm_([weights], CLIP[name])
        optimizer.step()
        average = decay * average + (1 - decay) * weights.detach()
        path.append(weights.detach().clone())
        averages.append(average)
    return torch.stack(path), torch.stack(averages)


def record_optimizers(recorder: Recorder) -> None:
    """AdamW with given gradients, decays of diffusers' EMAModel, factors of its learning rates."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(WEIGHTS, generator=generator)
    # Of every size, so that epsilon counts in some and clipping in the sum.
    grads = torch.randn((UPDATES, WEIGHTS), generator=generator) * torch.logspace(-7, 1, WEIGHTS)
    recorder.add("p0", start, "weights at the start, and their average")
    recorder.add("grads", grads, "gradient of each step")
    for name in OPTIMIZERS:
        exact = optimise(name, start.double(), grads.double())
        for key, value, truth in zip(("params", "ema"), optimise(name, start, grads), exact, strict=True):
            recorder.add(f"{name}.{key}", value, f"{key} after each step", truth)
    steps = torch.tensor([1, 2, 3, 4, 10, 100, 1000, 10_000, 1_000_000])
    recorder.add("ema.step", steps, "optimizer step; the first is 1")
    for label, warm in (("plain", False), ("warmup", True)):
        ema = EMAModel([start], decay=0.9999, use_ema_warmup=warm, inv_gamma=1.0, power=0.75)
        decays = torch.tensor([ema.get_decay(int(step)) for step in steps], dtype=torch.float64)
        recorder.add(f"ema.decay_{label}", decays, "EMAModel.get_decay(step)")
    for schedule in ("constant", "constant_with_warmup", "linear", "cosine"):
        sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        rate = get_scheduler(schedule, sgd, num_warmup_steps=10, num_training_steps=60)
        rates = []
        for _ in range(60):
            rates.append(rate.get_last_lr()[0])
            sgd.step()
            rate.step()
        recorder.add(f"lr.{schedule}", torch.tensor(rates, dtype=torch.float64), "get_scheduler, 10 steps of warm-up")


def write_oracle(folder: Path) -> None:
    """Writes the files of the docstring."""
    tables, walks, optimizers, samplers = Recorder(), Recorder(), Recorder(), gaussian_samplers()
    schedule_tables(tables)
    timestep_grids(tables)
    noising(tables)
    record_samplers(walks, samplers)
    record_optimizers(optimizers)
    folder.mkdir(parents=True, exist_ok=True)
    body = {
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "gaussian_std": STD,
        "samplers": {sampler.name: sampler.describe() for sampler in samplers},
        "variants": OPTIMIZERS,
        "clip_grad_norm": CLIP,
        "files": {
            "schedules.safetensors": tables.save(folder / "schedules.safetensors"),
            "gaussian_samplers.safetensors": walks.save(folder / "gaussian_samplers.safetensors"),
            "optimizer.safetensors": optimizers.save(folder / "optimizer.safetensors"),
        },
    }
    write_meta(folder, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    arguments = parser.parse_args()
    set_up()
    write_oracle(arguments.out)


if __name__ == "__main__":
    main()
