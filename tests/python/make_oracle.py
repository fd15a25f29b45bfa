"""Write what PyTorch computes for a model of your own, for `inkwash verify` to compare with.

    python -m venv venv && . venv/bin/activate
    pip install torch==2.11.0 --index-url https://download.pytorch.org/whl/cpu
    pip install -r tests/python/requirements.txt
    python tests/python/make_oracle.py MODEL_DIR OUT_DIR
    inkwash verify --model MODEL_DIR --oracle OUT_DIR/*.safetensors

MODEL_DIR is a folder of diffusers, a pipeline or a UNet2DModel alone. The scheduler in it says how noise is added
and what the network predicts; without one it is DDPMScheduler's default. OUT_DIR receives

    oracle.safetensors     x0, noise, timestep, class_labels, x_t, target; sample, output; loss, grad_norm;
                           act.MODULE, grad.PARAMETER
    train.safetensors      batch.* of every step, losses, param_step1.*, param_stepN.*, ema_stepN.*
    samplers.safetensors   x_T, step_noise, sampler.NAME.{timesteps,sigmas,latents,model_output}
    meta.json              every tensor's shape, meaning and distance from a float64 run; optimizer; samplers

A network with twice as many channels out as in predicts its variance with the second half (learned_range): the
loss here is on the first half alone, so the gradient of the rest is zero. With any other difference between the
two, the loss is taken with Gaussian noise of the output's shape, and there are no samplers.
"""

import argparse
import copy
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.embeddings import Timesteps
from PIL import Image
from torch import Tensor

from oracle import Recorder, own_arguments, set_up, write_meta
from samplers import Sampler, Scheduler, Trajectory, record_start, record_walk, samplers_of, walk

ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
EMA_DECAY = 0.99
BLOCKS = r"conv_in|time_proj|time_embedding|class_embedding|mid_block|conv_norm_out|(down|up)_blocks\.\d+"
LAYERS = r"(.+\.)?(resnets|attentions|downsamplers|upsamplers)\.\d+"
# A gradient further from float64 than this is rounding noise: to_k.bias shifts all logits of a query alike.
ILL_CONDITIONED = 1e-2


@dataclass(frozen=True)
class Options:
    """The flags, but for the two folders."""

    images: Path | None = None
    batch: int = 2
    seed: int = 0
    samplers: str = "basic"
    all_activations: bool = False
    train_steps: int = 5
    sampler_steps: int = 10
    float64: bool = False


@dataclass(frozen=True)
class Batch:
    """What one training step is made of. All of (batch, channels, height, width) but the last two."""

    x0: Tensor
    noise: Tensor
    x_t: Tensor
    target: Tensor
    timestep: Tensor  # (batch)
    labels: Tensor | None  # (batch)


@dataclass(frozen=True)
class Model:
    """A network and the noise that it is trained on."""

    unet: UNet2DModel
    scheduler: Scheduler  # as it stands in the folder
    schedule: DDPMScheduler  # with the same betas and prediction type

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def learned_range(self) -> bool:
        """Whether the second half of the output is the variance."""
        return self.unet.config.out_channels == 2 * self.unet.config.in_channels

    @property
    def makes_pictures(self) -> bool:
        """Whether the output has the picture's channels, and perhaps a variance."""
        return self.learned_range or self.unet.config.out_channels == self.unet.config.in_channels

    def target(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the output should be."""
        match self.schedule.config.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return x0
            case _:
                return self.schedule.get_velocity(x0, noise, timestep)


def load_model(folder: Path) -> Model:
    """Loads in float32, whatever type the weights are stored in."""

    def part(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else folder

    config = part("unet") / "config.json"
    if not config.is_file():
        sys.exit(f"{folder}: found neither unet/config.json nor config.json; give a folder that diffusers saved")
    kind = json.loads(config.read_text()).get("_class_name")
    if kind != "UNet2DModel":
        sys.exit(f"{config}: found a {kind}; only UNet2DModel is supported")
    unet, info = UNet2DModel.from_pretrained(
        part("unet"), torch_dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    # diffusers itself fills what is missing with random numbers.
    if wrong := {kind: names for kind, names in info.items() if names}:
        sys.exit(f"{part('unet')}: the weights do not fit config.json: {wrong}")
    if unet.config.sample_size is None:
        sys.exit(f"{config}: sample_size is null; give it the pictures' height and width")
    scheduler, path = DDPMScheduler(), part("scheduler") / "scheduler_config.json"
    if path.is_file():
        scheduler = getattr(diffusers, json.loads(path.read_text())["_class_name"]).from_pretrained(path.parent)
    return Model(unet.eval(), scheduler, DDPMScheduler.from_config(scheduler.config))


def read_images(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """The pictures of a folder, or one, scaled to the model's size and to [-1, 1]: (count, C, H, W)."""
    channels, height, width = shape
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    files = sorted(path.glob("*.png")) if path.is_dir() else [path] * path.is_file()
    if not files or channels not in modes:
        sys.exit(
            f"--images {path}: found {len(files)} PNG files for a model of {channels} channels; 1 to 4 can be used"
        )
    pictures = [Image.open(file).convert(modes[channels]).resize((width, height)) for file in files]
    pixels = np.stack([np.asarray(picture).reshape(height, width, channels) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_batches(model: Model, options: Options) -> Iterator[Batch]:
    """One for the gradients, which is the first training step's too, and one for every further step."""
    generator = torch.Generator().manual_seed(options.seed)
    shape = (options.batch, *model.shape)
    images = None if options.images is None else read_images(options.images, model.shape)
    total, classes = model.schedule.config.num_train_timesteps, model.unet.config.num_class_embeds
    for step in range(max(options.train_steps, 1)):
        x0 = torch.rand(shape, generator=generator) * 2 - 1
        if images is not None:
            x0 = images[(torch.arange(options.batch) + step * options.batch) % len(images)]
        noise = torch.randn(shape, generator=generator)
        timestep = torch.randint(0, total, (options.batch,), generator=generator)
        labels = None if classes is None else torch.randint(0, classes, (options.batch,), generator=generator)
        if step == 0:  # both ends of the chain, and a class twice, whose gradients add up
            timestep[0], timestep[-1] = 0, total - 1
            if labels is not None:
                labels[-1] = labels[0]
        if model.makes_pictures:
            target = model.target(x0, noise, timestep)
        else:
            target = torch.randn((options.batch, model.unet.config.out_channels, *model.shape[1:]), generator=generator)
        yield Batch(x0, noise, model.schedule.add_noise(x0, noise, timestep), target, timestep, labels)


def in_float64(unet: UNet2DModel) -> UNet2DModel:
    """A copy that computes in float64 throughout: diffusers' time embedding works in float32 in any model."""
    exact = copy.deepcopy(unet).double()

    def embed(embedding: torch.nn.Module, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        half = embedding.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - embedding.downscale_freq_shift)
        angles = inputs[0].double()[:, None] * 10000.0**-exponents
        halves = [angles.cos(), angles.sin()] if embedding.flip_sin_to_cos else [angles.sin(), angles.cos()]
        return F.pad(torch.cat(halves, dim=1), (0, embedding.num_channels % 2))

    if isinstance(exact.time_proj, Timesteps):
        exact.time_proj.register_forward_hook(embed)
    return exact


def evaluate(unet: UNet2DModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Output and loss, in the network's precision."""
    output = unet(batch.x_t.to(unet.dtype), batch.timestep, class_labels=batch.labels).sample
    return output, F.mse_loss(output[:, : batch.target.shape[1]], batch.target.to(unet.dtype))


def differentiate(unet: UNet2DModel, batch: Batch, modules: str) -> dict[str, Tensor]:
    """Forward and backward, with the outputs of the modules whose names match."""
    values: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        # Down blocks return their skips besides.
        return lambda _module, _inputs, result: values.update(
            {f"act.{name}": (result[0] if isinstance(result, tuple) else result).detach()}
        )

    watched = [(name, module) for name, module in unet.named_modules() if re.fullmatch(modules, name)]
    handles = [module.register_forward_hook(keep(name)) for name, module in watched]
    unet.zero_grad()
    output, loss = evaluate(unet, batch)
    for handle in handles:
        handle.remove()
    loss.backward()
    gradients = {f"grad.{name}": parameter.grad.clone() for name, parameter in unet.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    return {"output": output.detach(), "loss": loss.detach(), "grad_norm": norm, **values, **gradients}


def train(unet: UNet2DModel, batches: list[Batch]) -> dict[str, Tensor]:
    """AdamW without clipping, and a plain moving average from the initial weights. Changes `unet`."""
    optimizer = torch.optim.AdamW(unet.parameters(), foreach=False, **ADAMW)
    average = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    values: dict[str, Tensor] = {}
    losses = []
    for step, batch in enumerate(batches, 1):
        _, loss = evaluate(unet, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        for name, parameter in unet.named_parameters():
            average[name] = EMA_DECAY * average[name] + (1 - EMA_DECAY) * parameter.detach()
            if step in (1, len(batches)):
                values[f"param_step{step}.{name}"] = parameter.detach().clone()
    averages = {f"ema_step{len(batches)}.{name}": value for name, value in average.items()}
    return {"losses": torch.stack(losses), **values, **averages}


def describe(name: str) -> str:
    """What a computed tensor is."""
    kind, _, rest = name.partition(".")
    if step := re.fullmatch(r"(param|ema)_step(\d+)", kind):
        after = f"after {step[2]} AdamW step(s)"
        return f"{rest} {after}" if step[1] == "param" else f"moving average of {rest} {after}"
    return {
        "output": "model(sample, timestep, class_labels)",
        "loss": "mean squared error between output and target over all elements",
        "grad_norm": "L2 norm of all gradients together",
        "losses": "loss of each step, before its update",
        "act": f"output of {rest}",
        "grad": f"d loss / d {rest}",
    }[kind]


def record(recorder: Recorder, values: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for name, value in values.items():
        thin = name.startswith(("grad.", "param_", "ema_"))
        recorder.add(name, value, describe(name), exact[name], thin)


def record_inputs(recorder: Recorder, batch: Batch, model: Model) -> None:
    exact = model.schedule.add_noise(batch.x0.double(), batch.noise.double(), batch.timestep)
    recorder.add("x0", batch.x0, "clean pictures in [-1, 1]")
    recorder.add("noise", batch.noise, "unit Gaussian noise")
    recorder.add("timestep", batch.timestep, "timestep of each picture")
    if batch.labels is not None:
        recorder.add("class_labels", batch.labels, "class of each picture")
    kind = model.schedule.config.prediction_type if model.makes_pictures else "Gaussian noise, for want of a meaning"
    recorder.add("target", batch.target, f"what the loss compares the output with: {kind}")
    recorder.add("x_t", batch.x_t, "add_noise(x0, noise, timestep)", exact)
    # Not replaced by float64's value with --float64: it is what both networks are given.
    recorder.add("sample", batch.x_t, "the network's input: x_t in float32")


def record_batches(recorder: Recorder, batches: list[Batch]) -> None:
    for key in ("x0", "noise", "timestep", "target"):
        stacked = torch.stack([getattr(batch, key) for batch in batches])
        recorder.add(f"batch.{key}", stacked, f"{key} of each training step")
    if labels := [batch.labels for batch in batches if batch.labels is not None]:
        recorder.add("batch.class_labels", torch.stack(labels), "class_labels of each training step")


def record_samplers(recorder: Recorder, model: Model, samplers: list[Sampler], options: Options) -> list[Sampler]:
    """Every sampler from the same noise. Returns those that were recorded."""
    shape = (options.batch, *model.shape)
    record_start(recorder, samplers, shape, options.seed + 1)
    start, noise, labels = recorder.tensors["x_T"], recorder.tensors["step_noise"], None
    if (classes := model.unet.config.num_class_embeds) is not None:
        labels = torch.arange(options.batch) % classes
        recorder.add("class_labels", labels, "class of each picture")
    networks = (model.unet, in_float64(model.unet))

    def sample(sampler: Sampler, unet: UNet2DModel) -> Trajectory:
        return walk(
            sampler,
            lambda x, t: unet(x, t, class_labels=labels).sample,
            start.to(unet.dtype),
            noise.to(unet.dtype),
        )

    recorded = []
    for sampler in samplers:
        run, exact = (sample(sampler, unet) for unet in networks)
        if run.latents.isfinite().all() and exact.latents.isfinite().all():
            record_walk(recorder, sampler, run, exact)
            recorded.append(sampler)
        else:  # as DDIM with eta 1 and no signal at T, where the root of a variance less itself is taken
            print(f"sampler {sampler.name} is left out: in diffusers it is not finite", file=sys.stderr)
    return recorded


def write_oracle(model_folder: Path, folder: Path, options: Options) -> None:
    """Writes the files of the docstring."""
    model = load_model(model_folder)
    batches = list(draw_batches(model, options))
    recorders = {"oracle": Recorder(options.float64)}
    modules = f"{BLOCKS}|{LAYERS}" if options.all_activations else BLOCKS
    networks = (model.unet, in_float64(model.unet))
    record_inputs(recorders["oracle"], batches[0], model)
    record(recorders["oracle"], *(differentiate(unet, batches[0], modules) for unet in networks))
    if options.train_steps > 0:
        recorders["train"] = Recorder(options.float64)
        record_batches(recorders["train"], batches)
        copies = (copy.deepcopy(model.unet), in_float64(model.unet))
        record(recorders["train"], *(train(unet, batches) for unet in copies))
    samplers: list[Sampler] = []
    if options.sampler_steps > 0 and model.makes_pictures:
        samplers = samplers_of(model.scheduler, options.sampler_steps, model.learned_range, options.samplers == "all")
        recorders["samplers"] = Recorder(options.float64)
        samplers = record_samplers(recorders["samplers"], model, samplers, options)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, recorder in recorders.items():
        files[f"{name}.safetensors"] = recorder.save(folder / f"{name}.safetensors")
    write_meta(folder, meta(model, options, samplers, files))


def meta(model: Model, options: Options, samplers: list[Sampler], files: dict[str, Any]) -> dict[str, Any]:
    """The body of `meta.json`."""
    tensors = files["oracle.safetensors"]["tensors"]
    part = ", over the first half of the model's channels" if model.learned_range else ""
    flags = dataclasses.asdict(options) | {"images": None if options.images is None else str(options.images)}
    return {
        "case": {"unet": own_arguments(model.unet), "scheduler": own_arguments(model.scheduler), **flags},
        "seeds": {"batches": options.seed, "samplers": options.seed + 1},
        "parameters": sum(parameter.numel() for parameter in model.unet.parameters()),
        "training": {
            "loss": f"mean((model(x_t, t) - target)^2){part}",
            "prediction_type": model.schedule.config.prediction_type,
            "optimizer": {"name": "AdamW", **ADAMW},
            "ema": {"decay": EMA_DECAY, "rule": "ema = decay ema + (1 - decay) p after each step, from the initial p"},
            "steps": options.train_steps,
            "gradient_clipping": None,
        },
        "sampling": {"steps": options.sampler_steps, "samplers": {s.name: s.describe() for s in samplers}},
        "ill_conditioned": {
            "why": "These gradients are zero but for rounding; compare them by their absolute size. AdamW makes "
            "steps of either sign of them: compare stepped parameters with a tolerance of 2 lr steps.",
            "names": [
                name.removeprefix("grad.")
                for name, entry in tensors.items()
                if name.startswith("grad.") and not entry["fp32_vs_fp64"]["rel_l2"] <= ILL_CONDITIONED
            ],
        },
        "files": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--images", type=Path, help="a PNG or a folder of them; else x0 is uniform noise")
    parser.add_argument("--batch", type=int, default=2, help="pictures in a batch (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samplers", choices=("basic", "all"), default="basic")
    parser.add_argument("--all-activations", action="store_true", help="of every resnet, attention and resampling too")
    parser.add_argument("--train-steps", type=int, default=5, help="0 for no train.safetensors (5)")
    parser.add_argument("--sampler-steps", type=int, default=10, help="0 for no samplers.safetensors (10)")
    parser.add_argument("--float64", action="store_true", help="store what float64 computes, rounded to float32")
    flags = vars(parser.parse_args())
    set_up()
    write_oracle(flags.pop("model"), flags.pop("out"), Options(**flags))


if __name__ == "__main__":
    main()
