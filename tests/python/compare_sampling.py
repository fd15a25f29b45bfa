"""Draw the same pictures with diffusers and with inkwash, from the same noise, and compare their pixels.

    python tests/python/compare_sampling.py target/release/inkwash MODEL_DIR

MODEL_DIR is a folder of diffusers or of `inkwash export`, of a trained model without classes: a random network
amplifies rounding from step to step until the pictures have nothing in common. Both sample by DDIM with 50 steps
and eta 0. Rounding differs, so a value near a boundary of 1/255 may fall on its other side; 99.9 % must lie within
1/255. The pixels are those of the PNG files and of the real DDIMPipeline, of which only the initial noise is replaced.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import DDIMPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from make_oracle import load_model
from oracle import set_up
from program import Failure, Inkwash

REQUIRED = 0.999
BATCH = 16


def draw_with_diffusers(model: Path, noise: Tensor, steps: int) -> np.ndarray:
    """The pipeline's pictures."""
    loaded = load_model(model)
    if loaded.unet.config.num_class_embeds is not None:
        sys.exit(f"{model}: it is class-conditional, and DDIMPipeline gives no classes; choose another model")
    pipeline = DDIMPipeline(loaded.unet, loaded.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for part in noise.split(BATCH):
        with mock.patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", return_value=part):
            pictures += pipeline(batch_size=len(part), eta=0.0, num_inference_steps=steps).images
    return pixels(pictures)


def draw_with_inkwash(inkwash: Inkwash, flags: list[str | Path], out: Path) -> np.ndarray:
    """The pictures of its files."""
    try:
        inkwash("sample", *flags, "--out", out)
    except Failure as failure:
        sys.exit(str(failure))
    return pixels([Image.open(path) for path in sorted(out.glob("[0-9]*.png"))])


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    """(N, height, width, 3). diffusers writes a grey picture with one channel, inkwash with three."""
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, metavar="INKWASH", help="the program")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("-n", type=int, default=64, help="pictures (64)")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (50)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    inkwash = Inkwash(arguments.binary)
    set_up()
    shape = (arguments.n, *load_model(arguments.model).shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(arguments.seed))
    theirs = draw_with_diffusers(arguments.model, noise, arguments.steps)
    with tempfile.TemporaryDirectory(prefix="inkwash-sampling-") as temporary:
        path = Path(temporary) / "noise.safetensors"
        save_file({"x_T": noise}, path)
        flags = ["--model", arguments.model, "--n", str(arguments.n), "--initial-noise", path]
        flags += ["--sampler", "ddim", "--eta", "0", "--steps", str(arguments.steps)]
        ours = draw_with_inkwash(inkwash, flags, Path(temporary) / "samples")
    if ours.shape != theirs.shape:
        sys.exit(f"inkwash wrote pictures of shape {ours.shape}, diffusers {theirs.shape}")
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    equal, close = (difference == 0).mean(), (difference <= 1).mean()
    print(f"{theirs.shape[0]} pictures of {theirs[0].size} values: equal {equal:.4%}, within 1/255 {close:.4%}")
    worst = difference.reshape(len(difference), -1).max(axis=1)
    print(f"largest difference {worst.max()}/255, in picture {worst.argmax()}; required within 1/255: {REQUIRED:.1%}")
    if not close >= REQUIRED:
        sys.exit("too few values agree")


if __name__ == "__main__":
    main()
