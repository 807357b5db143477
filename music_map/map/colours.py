"""Colours that can be told apart: Okabe and Ito's seven, then each the farthest from all before it.

Distances are those of OKLab, the lesser of two: as most people see the colours, and as people without green cones do.
References: Ottosson, "A perceptual color space for image processing", 2020; Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", 2009 (deuteranopia); Okabe and Ito, "Color
Universal Design", 2008.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Colour(NamedTuple):
    """One colour, "#rrggbb", on a dark and on a light ground."""

    dark: str
    light: str


# Blue and yellow are a little lighter or darker where the ground asks for it.
_FIRST = tuple(
    map(
        Colour,
        ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#2381cf", "#d55e00", "#cc79a7"),
        ("#bd7d00", "#2b8fc9", "#00855f", "#978700", "#0072b2", "#d55e00", "#c0608f"),
    )
)
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
# Lightness, chroma and hue of what may follow, on the dark ground. On the light one 0.58 becomes 0.42 and 0.9 0.62.
_LIGHTNESS, _CHROMA, _HUES = (0.58, 0.66, 0.74, 0.82, 0.9), (0.08, 0.13, 0.18), 60


def _linear(colours: Sequence[str]) -> np.ndarray:
    values = np.array([[int(text[at : at + 2], 16) for at in (1, 3, 5)] for text in colours]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def _linear_of(lab: np.ndarray) -> np.ndarray:
    return (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T


def _hex(lab: np.ndarray) -> str:
    linear = np.clip(_linear_of(lab), 0.0, 1.0)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * value):02x}" for value in values.tolist())


def _seen(linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _lab(linear), _lab(np.clip(linear @ _DEUTERANOPIA.T, 0.0, 1.0))


def _apart(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.minimum(*(np.linalg.norm(x[:, None] - y[None], axis=-1) for x, y in zip(a, b, strict=True)))


def distances(colours: Sequence[Colour]) -> np.ndarray:
    """Between the colours, on the dark ground, float64 [n, n]: 0 for the same, 1 for black and white."""
    seen = _seen(_linear([colour.dark for colour in colours]))
    return _apart(seen, seen)


@functools.cache
def palette(count: int) -> tuple[Colour, ...]:
    """`count` colours; a longer palette begins with the shorter one."""
    lightness, chroma, hue = (x.ravel() for x in np.meshgrid(_LIGHTNESS, _CHROMA, 2 * np.pi * np.arange(_HUES) / _HUES))
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = _linear_of(lab)
    shown = ((linear >= 0) & (linear <= 1)).all(axis=1)
    lab, seen = lab[shown], _seen(linear[shown])
    found = list(_FIRST[:count])
    nearest = _apart(seen, _seen(_linear([colour.dark for colour in _FIRST]))).min(axis=1)
    while len(found) < count:
        best = int(np.argmax(nearest))
        on_light = np.array([0.42 + 0.62 * (lab[best, 0] - 0.58), *lab[best, 1:]])
        found.append(Colour(_hex(lab[best]), _hex(on_light)))
        nearest = np.minimum(nearest, _apart(seen, tuple(x[best : best + 1] for x in seen))[:, 0])
    return tuple(found)
