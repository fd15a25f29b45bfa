"""diffusers' schedulers, step by step, with every tensor that passes between them and a network."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from oracle import Recorder, own_arguments

Scheduler = (
    DDPMScheduler
    | DDIMScheduler
    | DPMSolverMultistepScheduler
    | EulerDiscreteScheduler
    | EulerAncestralDiscreteScheduler
    | HeunDiscreteScheduler
)
# Their steps take a generator, but no noise: the modules whose source of noise is replaced.
NOISY = {DDPMScheduler: "scheduling_ddpm", EulerAncestralDiscreteScheduler: "scheduling_euler_ancestral_discrete"}


@dataclass(frozen=True)
class Sampler:
    """One way from noise to pictures: a configured scheduler, and what its `step` is given besides."""

    name: str
    scheduler: Scheduler
    steps: int
    step_arguments: dict[str, Any] = field(default_factory=dict)
    # What a denoiser that stands for a network assumes of the data. See make_schedule_oracle.py.
    gaussian_std: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether a step adds noise."""
        return type(self.scheduler) in NOISY or self.step_arguments.get("eta", 0.0) > 0.0

    @property
    def learned_range(self) -> bool:
        """Whether the second half of the network's channels is the variance."""
        return isinstance(self.scheduler, DDPMScheduler) and self.scheduler.config.variance_type == "learned_range"

    def describe(self) -> dict[str, Any]:
        """Its entry of `meta.json`."""
        entry = {
            "class": type(self.scheduler).__name__,
            "config": own_arguments(self.scheduler),
            "steps": self.steps,
            "step_arguments": self.step_arguments,
            "consumes_step_noise": self.noisy,
        }
        return entry if self.gaussian_std is None else {**entry, "gaussian_std": self.gaussian_std}


def samplers_of(base: Scheduler, steps: int, learned_range: bool, everything: bool) -> list[Sampler]:
    """A model's own scheduler as diffusers converts it to each other that can follow it."""
    config, dpm = base.config, DPMSolverMultistepScheduler
    # DPM-Solver++ would split three channels off a learned variance, whatever the model has: `walk` halves instead.
    whole = {"variance_type": None}
    table: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
        ("ddpm-small", DDPMScheduler, {"variance_type": "fixed_small"}, {}),
        ("ddpm-large", DDPMScheduler, {"variance_type": "fixed_large"}, {}),
        ("ddim-eta0", DDIMScheduler, {}, {"eta": 0.0}),
        ("ddim-eta1", DDIMScheduler, {}, {"eta": 1.0}),
        ("dpmpp-2m", dpm, {"solver_order": 2, "use_karras_sigmas": False, **whole}, {}),
        ("dpmpp-2m-karras", dpm, {"solver_order": 2, "use_karras_sigmas": True, **whole}, {}),
        ("euler", EulerDiscreteScheduler, {}, {}),
        ("euler-ancestral", EulerAncestralDiscreteScheduler, {}, {}),
        ("heun", HeunDiscreteScheduler, {}, {}),
    ]
    if learned_range:
        table.append(("ddpm-learned_range", DDPMScheduler, {"variance_type": "learned_range"}, {}))
    if everything:
        table += [
            (f"{name}-{spacing}", scheduler, {"timestep_spacing": spacing}, {})
            for name, scheduler in [("ddpm", DDPMScheduler), ("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)]
            for spacing in ("leading", "linspace", "trailing")
        ]
        table += [
            ("ddpm-noclip", DDPMScheduler, {"clip_sample": False}, {}),
            ("ddim-noclip", DDIMScheduler, {"clip_sample": False}, {"eta": 0.0}),
            ("dpmpp-1", dpm, {"solver_order": 1, **whole}, {}),
            ("dpmpp-2m-heun", dpm, {"solver_order": 2, "solver_type": "heun", **whole}, {}),
            ("euler-karras", EulerDiscreteScheduler, {"use_karras_sigmas": True}, {}),
            ("heun-karras", HeunDiscreteScheduler, {"use_karras_sigmas": True}, {}),
        ]
    samplers = [
        Sampler(name, scheduler.from_config(config, **changes), steps, arguments)
        for name, scheduler, changes, arguments in table
        if fits(scheduler, config)
    ]
    return [sampler for sampler in samplers if starts(sampler)]


def fits(scheduler: type, config: dict[str, Any]) -> bool:
    """Whether diffusers' class can follow the model's schedule and prediction at all."""
    euler = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)
    if scheduler in euler and config["prediction_type"] == "sample":
        return False
    if scheduler is HeunDiscreteScheduler and config.get("rescale_betas_zero_snr"):
        return False
    schedule = config["beta_schedule"] if config.get("trained_betas") is None else "linear"
    return scheduler is DDPMScheduler or schedule in ("linear", "scaled_linear", "squaredcos_cap_v2")


def starts(sampler: Sampler) -> bool:
    """diffusers begins at the second of equal timesteps, and then lacks one at the end. DPM-Solver++ has such with
    the cosine schedule and Karras' sigmas, where it cuts the fractions off."""
    scheduler = copy.deepcopy(sampler.scheduler)
    scheduler.set_timesteps(sampler.steps)
    return (scheduler.timesteps == scheduler.timesteps[0]).sum().item() == 1


@dataclass(frozen=True)
class Trajectory:
    """Everything that passed between a scheduler and a network."""

    timesteps: Tensor  # (calls)
    sigmas: Tensor | None  # (calls + 1)
    latents: Tensor  # (calls + 1, batch, channels, height, width)
    outputs: Tensor  # (calls, batch, channels or twice as many, height, width)


@torch.no_grad()
def walk(sampler: Sampler, network: Callable[[Tensor, Tensor], Tensor], start: Tensor, noise: Tensor) -> Trajectory:
    """Samples from unit Gaussian noise `start` (batch, channels, height, width), with noise[i] for call i."""
    scheduler = copy.deepcopy(sampler.scheduler)
    scheduler.set_timesteps(sampler.steps)
    latents, outputs = [start * torch.as_tensor(scheduler.init_noise_sigma, dtype=start.dtype)], []
    for i, t in enumerate(scheduler.timesteps):
        outputs.append(network(scheduler.scale_model_input(latents[-1], t), t))
        prediction = outputs[-1] if sampler.learned_range else outputs[-1][:, : start.shape[1]]
        arguments, replaced = dict(sampler.step_arguments), contextlib.nullcontext()
        if module := NOISY.get(type(scheduler)):
            replaced = mock.patch(f"diffusers.schedulers.{module}.randn_tensor", return_value=noise[i])
        elif sampler.noisy:
            arguments["variance_noise"] = noise[i]
        with replaced:
            latents.append(scheduler.step(prediction, t, latents[-1], **arguments).prev_sample)
    sigmas = getattr(scheduler, "sigmas", None)
    return Trajectory(scheduler.timesteps, sigmas, torch.stack(latents), torch.stack(outputs))


def record_start(recorder: Recorder, samplers: list[Sampler], shape: tuple[int, ...], seed: int) -> None:
    """The noise that all samplers share."""
    generator = torch.Generator().manual_seed(seed)
    steps = max(sampler.steps for sampler in samplers)
    start, noise = torch.randn(shape, generator=generator), torch.randn((steps, *shape), generator=generator)
    recorder.add("x_T", start, "unit Gaussian start, to be multiplied by the scheduler's init_noise_sigma")
    recorder.add("step_noise", noise, "noise of step i of every sampler that adds any (not used where t is 0)")


def record_walk(recorder: Recorder, sampler: Sampler, run: Trajectory, exact: Trajectory) -> None:
    """The tensors of one trajectory."""
    key = f"sampler.{sampler.name}"
    recorder.add(f"{key}.timesteps", run.timesteps, "timestep given to the network at each call")
    if run.sigmas is not None:
        recorder.add(f"{key}.sigmas", run.sigmas, "sigma at each call, and the final one")
    recorder.add(f"{key}.latents", run.latents, "scaled start, then the latent after each call", exact.latents)
    text = "what the network returned at each call"
    if run.outputs.shape[2] > run.latents.shape[2] and not sampler.learned_range:
        text += "; the scheduler was given the first half of its channels"
    recorder.add(f"{key}.model_output", run.outputs, text, exact.outputs)
