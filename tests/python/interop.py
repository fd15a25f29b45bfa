"""Prove that models go both ways between diffusers and inkwash. `make interop` runs this.

    python tests/python/interop.py target/release/inkwash [--keep DIR] [--only NAME]

First, models of diffusers: random ones over every option go to inkwash, which must compute what PyTorch computes:
the output, every gradient, training steps, samplers. Then a model of inkwash: trained for a few steps, exported
with both kinds of weights, loaded by diffusers, saved by it again to the same bytes, and evaluated by both.
"""

import argparse
import difflib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from make_oracle import Options, write_oracle
from models import CASES, WEIGHTS, save
from oracle import own_arguments, set_up
from program import Failure, Inkwash

RELATIVE_L2 = 1e-5
FILES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}")
TRAIN = ["--data", "builtin:glyphs", "--glyph-count", "64", "--steps", "20", "--batch", "4", "--warmup-steps", "0"]
# One small picture at the end, which nobody looks at.
TRAIN += ["--sample-every", "0", "--sample-count", "1", "--sample-steps", "1", "--quiet"]


@dataclass(frozen=True)
class Run:
    """A training run, where it differs from TRAIN, and what diffusers must find in the exported configurations."""

    flags: list[str]
    scheduler: dict[str, str]
    classes: int | None = None


# What inkwash notes of a network beside its options: diffusers keeps it, and does not heed it.
NOTES = ("_class_names", "_null_label")

RUNS = {
    "train": Run([], {"prediction_type": "epsilon", "beta_schedule": "linear"}),
    "train-classes-v": Run(
        ["--class-conditional", "--prediction", "v_prediction"], {"prediction_type": "v_prediction"}, classes=10
    ),
    "train-sample-cosine": Run(
        ["--prediction", "sample", "--noise-schedule", "squaredcos_cap_v2"],
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
    ),
}


def verify(inkwash: Inkwash, model: Path, oracles: list[Path], dump: Path) -> Tensor:
    """Has inkwash compare everything in the files, and returns what it computed as `output`."""
    flags = [flag for oracle in oracles for flag in ("--oracle", oracle)]
    inkwash("verify", "--model", model, *flags, "--dump", dump)
    return load_file(dump)["output"]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs||, which must be small. NaN is not."""
    if ours.shape != theirs.shape:
        raise Failure(f"the output has shape {tuple(ours.shape)}, PyTorch's {tuple(theirs.shape)}")
    relative = ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
    if not relative <= RELATIVE_L2:
        raise Failure(f"the output is {relative:.1e} of its length off; at most {RELATIVE_L2:.0e} is allowed")
    return relative


def imports(inkwash: Inkwash, name: str, folder: Path) -> float:
    """A model of diffusers in inkwash."""
    model, oracle = folder / "model", folder / "oracle"
    save(CASES[name], model)
    write_oracle(model, oracle, Options(all_activations=True))
    output = verify(inkwash, model, sorted(oracle.glob("*.safetensors")), folder / "dump.safetensors")
    return difference(output, load_file(oracle / "oracle.safetensors")["output"])


def exports(inkwash: Inkwash, name: str, run: Path, weights: str, folder: Path) -> float:
    """A model of inkwash in diffusers, and back."""
    model = folder / "model"
    inkwash("export", run, model, "--weights", weights)
    pipeline = DDPMPipeline.from_pretrained(model, local_files_only=True)
    check_weights(pipeline.unet, load_file(model / "unet" / WEIGHTS))
    check_configuration(pipeline, RUNS[name])
    check_bytes(pipeline, model, folder / "again")
    example = draw_example(pipeline.unet.eval())
    path = folder / "example.safetensors"
    save_file(example, path)
    if weights == "ema":  # which is what a run's folder stands for
        difference(verify(inkwash, run, [path], folder / "run.safetensors"), example["output"])
    return difference(verify(inkwash, model, [path], folder / "dump.safetensors"), example["output"])


def check_configuration(pipeline: DDPMPipeline, run: Run) -> None:
    """What was trained is what diffusers will sample."""
    found = {key: pipeline.scheduler.config[key] for key in run.scheduler}
    classes = pipeline.unet.config.num_class_embeds
    if (found, classes) != (run.scheduler, run.classes):
        raise Failure(f"exported as {found} with {classes} classes; trained as {run.scheduler} with {run.classes}")
    names = pipeline.unet.config.get("_class_names", [])
    if len(names) != (classes or 0):
        raise Failure(f"exported with the names {names} for {classes} classes")


def check_distinct(folders: list[Path]) -> None:
    """The average is not the weights themselves."""
    average, raw = (load_file(folder / "model" / "unet" / WEIGHTS) for folder in folders)
    if all(torch.equal(average[name], raw[name]) for name in average):
        raise Failure("--weights ema and --weights raw exported the same weights")


def check_weights(unet: UNet2DModel, stored: dict[str, Tensor]) -> None:
    """Names, shapes and types, of which diffusers itself would only warn."""
    expected = {name: (tuple(value.shape), torch.float32) for name, value in unet.state_dict().items()}
    found = {name: (tuple(value.shape), value.dtype) for name, value in stored.items()}
    if found != expected:
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        lines = [f"  {name}: found {found.get(name)}, expected {expected.get(name)}" for name in wrong[:8]]
        raise Failure("\n".join([f"{len(wrong)} tensors of {WEIGHTS} are not what diffusers expects:", *lines]))


def check_bytes(pipeline: DDPMPipeline, model: Path, again: Path) -> None:
    """What diffusers saves of the same model is the same files. It saves new objects: loaded ones remember where
    they came from, and write it down."""
    unet = UNet2DModel(**own_arguments(pipeline.unet))
    unet.load_state_dict(pipeline.unet.state_dict())
    unet.register_to_config(**{key: pipeline.unet.config[key] for key in NOTES if key in pipeline.unet.config})
    DDPMPipeline(unet, DDPMScheduler(**own_arguments(pipeline.scheduler))).save_pretrained(again)
    for name in FILES:
        ours, theirs = (folder / name for folder in (model, again))
        if not ours.is_file():
            raise Failure(f"{ours} is missing")
        if ours.read_bytes() != theirs.read_bytes():
            detail = ""
            if name.endswith(".json"):
                a, b = (path.read_text().splitlines() for path in (ours, theirs))
                detail = "\n" + "\n".join(difflib.unified_diff(a, b, "inkwash", "diffusers", lineterm="", n=0))
            raise Failure(f"{name} is not what diffusers {diffusers.__version__} writes{detail}")


@torch.no_grad()
def draw_example(unet: UNet2DModel) -> dict[str, Tensor]:
    """An oracle of nothing but a forward pass."""
    generator = torch.Generator().manual_seed(0)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.randn((3, unet.config.in_channels, height, width), generator=generator)
    inputs = {"timestep": torch.tensor([0, 500, 999])}
    if (classes := unet.config.num_class_embeds) is not None:
        inputs["class_labels"] = torch.randint(0, classes, (3,), generator=generator)
    return {"sample": sample, **inputs, "output": unet(sample, **inputs).sample.contiguous()}


class Table:
    """A line per check, as it is done."""

    def __init__(self) -> None:
        self.failures = 0
        print(f"{'check':<44} {'relative L2':>11}  verdict")

    def row(self, name: str, relative: float | None = None, failure: Failure | None = None) -> None:
        """Prints one check's outcome."""
        number = "" if relative is None else f"{relative:.1e}"
        print(f"{name:<44} {number:>11}  {'ok' if failure is None else 'FAILED'}", flush=True)
        if failure is not None:
            self.failures += 1
            print("    " + str(failure).replace("\n", "\n    "), flush=True)


def check_imports(inkwash: Inkwash, names: list[str], folder: Path, table: Table) -> None:
    for name in names:
        try:
            table.row(f"diffusers -> inkwash: {name}", imports(inkwash, name, folder / name))
        except Failure as failure:
            table.row(f"diffusers -> inkwash: {name}", failure=failure)


def check_exports(inkwash: Inkwash, names: list[str], folder: Path, table: Table) -> None:
    for name in names:
        run, kinds = folder / name / "run", ("ema", "raw")
        label = f"inkwash -> diffusers: {name}"
        try:
            inkwash("train", *TRAIN, *RUNS[name].flags, "--out", run)
            for weights in kinds:
                table.row(f"{label}, {weights}", exports(inkwash, name, run, weights, folder / name / weights))
            check_distinct([folder / name / weights for weights in kinds])
        except Failure as failure:
            table.row(label, failure=failure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, metavar="INKWASH", help="the program")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave every file there; it must not exist")
    parser.add_argument("--only", metavar="NAME", choices=[*CASES, *RUNS], help="one check")
    arguments = parser.parse_args()
    set_up()
    with tempfile.TemporaryDirectory(prefix="inkwash-interop-") as temporary:
        folder = Path(temporary)
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True)
            folder = arguments.keep
        inkwash, table = Inkwash(arguments.binary), Table()
        chosen = [arguments.only] if arguments.only else [*CASES, *RUNS]
        check_imports(inkwash, [name for name in chosen if name in CASES], folder, table)
        check_exports(inkwash, [name for name in chosen if name in RUNS], folder, table)
    if table.failures:
        sys.exit(f"{table.failures} of the checks failed")


if __name__ == "__main__":
    main()
