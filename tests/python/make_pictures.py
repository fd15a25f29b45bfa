"""Makes tests/pictures/: JPEGs and a WebP that the program's own encoders cannot write.

    pip install pillow==13.0.0 numpy==2.4.6 && python tests/python/make_pictures.py

Each is the same 45 x 37 picture: red rises from left to right, green from top to bottom, over a texture of blue, and two
grey boxes.
"""

from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent.parent / "pictures"
WIDTH, HEIGHT = 45, 37


def picture():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    texture = (np.sin(x * 0.9) * np.cos(y * 0.7) + 1) * 60
    pixels = np.stack([x * 5, y * 6, texture], -1).astype(np.uint8)
    pixels[5:15, 8:20] = 200
    pixels[20:30, 25:40] = 40
    return Image.fromarray(pixels)


def main():
    OUT.mkdir(exist_ok=True)
    rgb = picture()
    jpegs = {
        "baseline-420": (rgb, {"subsampling": 2}),
        "baseline-444": (rgb, {"subsampling": 0}),
        "baseline-restarts": (rgb, {"subsampling": 2, "restart_marker_blocks": 2}),
        "progressive-420": (rgb, {"subsampling": 2, "progressive": True}),
        "progressive-444": (rgb, {"subsampling": 0, "progressive": True}),
        "progressive-grey": (rgb.convert("L"), {"progressive": True}),
        "progressive-restarts": (rgb, {"subsampling": 2, "progressive": True, "restart_marker_blocks": 3}),
        "cmyk": (rgb.convert("CMYK"), {}),
    }
    for name, (image, options) in jpegs.items():
        image.save(OUT / f"{name}.jpg", quality=90, **options)
    rgb.save(OUT / "lossy.webp", quality=90)


if __name__ == "__main__":
    main()
