"""Regions of photographs by a classical segmenter (Felzenszwalb and Huttenlocher 2004), kept on disk.

Does not know about instances: a region is what looks alike.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.segmentation import felzenszwalb
from tqdm import tqdm

from model.training.pack import Pack, Picture, Pixels

SCALES = (150, 600)
"""Of felzenszwalb: parts of things, then things and grounds."""

SMALLEST = 0.004
"""Of the picture. 1 / 0.004 = 250 regions at most, so that a label is a byte."""

SOURCES = {"coco-mini", "coco128-seg"}
"""The sources with regions: COCO's with all of its classes annotated. Of the others, some are all instances and
ground already (nuclei, facades); the rest have one class or one person annotated, in coco-cc at times four classes,
and a region across a thing that nobody annotated would be learnt as a thing with a wrong outline."""


def with_segments(pack: Pack, cache: Path) -> Pack:
    """The same pack with regions of the photographs of `SOURCES`, at the scales of `SCALES`.

    They take a quarter of a second a scale and photograph, once: `cache` keeps them, one PNG a photograph, named
    for its pixels, so that a run that was cut goes on.
    """
    cache.mkdir(parents=True, exist_ok=True)
    photographs = [
        replace(picture, segments=_cached(picture, cache)) if picture.source in SOURCES else picture
        for picture in tqdm(pack.photographs, desc="regions", unit="photo", leave=False)
    ]
    return replace(pack, photographs=tuple(photographs))


def _cached(picture: Picture, cache: Path) -> tuple[Pixels, ...]:
    """The label maps of one photograph; the file has them one below the other."""
    key = hashlib.sha256(f"{SCALES} {SMALLEST}".encode() + picture.pixels.tobytes()).hexdigest()[:24]
    path = cache / f"{key}.png"
    if path.exists():
        with Image.open(path) as image:
            maps = np.array(image)
    else:
        maps = np.concatenate([_labels(picture.pixels, scale) for scale in SCALES])
        half_written = path.with_suffix(".part")
        Image.fromarray(maps).save(half_written, format="PNG")
        half_written.replace(path)
    return tuple(np.split(maps, len(SCALES)))


def _labels(pixels: Pixels, scale: int) -> Pixels:
    """(h, w) of labels, 0..255."""
    smallest = int(np.ceil(SMALLEST * pixels.shape[0] * pixels.shape[1]))
    labels: Pixels = felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=smallest).astype(np.uint8)
    return labels
