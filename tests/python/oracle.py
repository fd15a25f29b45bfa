"""What the oracle scripts share: tensors with descriptions, and meta.json.

An oracle is a folder of safetensors files with what PyTorch and diffusers compute, and a `meta.json` with a line
per tensor. `make_oracle.py` writes one for a model, `make_schedule_oracle.py` one that needs none.
"""

import inspect
import json
import math
from importlib import metadata
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
from safetensors.torch import save_file
from torch import Tensor

# Elements that are kept of a thinned tensor: small models stay whole, and 36 M parameters fit in 25 MB.
THINNED_ELEMENTS = 16384


def set_up() -> None:
    """Bits that depend on nothing but the machine's kind: one thread, deterministic kernels. No chatter."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


class Recorder:
    """Tensors of one file, each with its line of `meta.json`.

    With `exact`, what float64 computed is stored, rounded to float32, in place of what float32 computed.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self.tensors: dict[str, Tensor] = {}
        self.entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, value: Tensor, text: str, exact: Tensor | None = None, thin: bool = False) -> None:
        """`exact` is the same tensor from a float64 run, `thin` permits to keep only a part of a long one."""
        entry: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        entry["description"] = text
        if exact is not None:
            entry["fp32_vs_fp64"] = distance(value, exact)
            value = exact.to(value.dtype) if self.exact else value
        stride = thinning(value.numel()) if thin else 1
        if stride > 1:
            value = value.flatten()[::stride]
            entry["stored"] = {"as": "flat[::stride]", "stride": stride, "shape": list(value.shape)}
        # A copy each: safetensors refuses tensors that share memory.
        self.tensors[name] = value.detach().clone().contiguous()
        self.entries[name] = entry

    def save(self, path: Path) -> dict[str, Any]:
        """Writes the file, and returns its part of `meta.json`."""
        save_file(self.tensors, path)
        path.chmod(0o644)  # safetensors leaves it to the owner alone
        return {"bytes": path.stat().st_size, "tensors": self.entries}


def thinning(elements: int) -> int:
    """The stride that leaves THINNED_ELEMENTS, or the next one that divides by neither 2 nor 3, so that it visits
    every channel and every tap of a 3x3 kernel."""
    stride = math.ceil(elements / THINNED_ELEMENTS)
    while math.gcd(stride, 6) > 1:
        stride += 1
    return stride


def distance(value: Tensor, exact: Tensor) -> dict[str, float]:
    """How far float32 is from float64, to four digits: the noise floor of a comparison."""
    difference = value.double() - exact.double()
    relative = difference.norm() / exact.double().norm().clamp(min=1e-300)
    return {"max_abs": float(f"{difference.abs().max():.3e}"), "rel_l2": float(f"{relative:.3e}")}


def own_arguments(configured: Any) -> dict[str, Any]:
    """A diffusers object's configuration, without what it only carries along for other classes."""
    names = inspect.signature(type(configured).__init__).parameters
    return {name: configured.config[name] for name in names if name != "self"}


def write_meta(folder: Path, body: dict[str, Any]) -> None:
    """`meta.json`, with the versions that the numbers come from. An infinity is written as diffusers writes it."""
    packages = ("torch", "diffusers", "safetensors", "numpy")
    versions = {package: metadata.version(package) for package in packages}
    (folder / "meta.json").write_text(indented({"versions": versions, **body}, 4) + "\n")


def indented(value: Any, levels: int, margin: str = "") -> str:
    """JSON that breaks lines in the outer levels only: a line per tensor and per configuration."""
    if levels == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value)
    inner = margin + " "
    lines = (f"{inner}{json.dumps(key)}: {indented(item, levels - 1, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + "\n" + margin + "}"
