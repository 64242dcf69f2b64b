"""Procedural scenes of dead leaves: opaque shapes that occlude one another, their sizes following a power law.

With a density of r^-3 between a smallest and a largest radius the picture is scale invariant, which gives it the
edges, flat regions and power-law spectrum of natural images (Ruderman 1997; Lee, Mumford and Huang 2001). Leaves are
shaded and textured with 1/f noise, so that no region is flat.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 2
"""Scenes are drawn this many times finer than they are returned, then averaged, as a pixel gathers light."""

_SMALLEST_RADIUS = (3.0, 12.0)  # in drawn pixels; each scene draws its own, from cluttered to calm
_COVERAGE = 4.0  # mean number of leaves over a point; what none covers shows the background


def dead_leaves(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A scene in linear light.

    Args:
        height, width: in pixels.
        rng: the only source of randomness.

    Returns:
        float32 [height, width, 3], R, G, B, not negative; a white surface in full light is about 1.
    """
    drawn = (height * OVERSAMPLING, width * OVERSAMPLING)
    leaves, radii, centres = _draw_leaves(*drawn, rng)
    count = len(radii)
    colours = _colours(count, rng)
    slopes = rng.normal(0, 0.5, (count, 2)) / radii[:, None]
    roughness = rng.gamma(1.5, 0.12, count)
    textures = np.stack([_power_law_noise(*drawn, exponent, rng) for exponent in (0.7, 1.2)])
    kinds = rng.integers(len(textures), size=count)

    rows, columns = np.indices(drawn, dtype=np.float32)
    offset_y, offset_x = rows - centres[leaves, 0], columns - centres[leaves, 1]
    shade = 1 + np.clip(slopes[leaves, 0] * offset_y + slopes[leaves, 1] * offset_x, -0.6, 0.6)
    texture = np.where(kinds[leaves] == 0, textures[0], textures[1])
    light = shade * np.exp(roughness[leaves] * texture)
    scene = colours[leaves] * light[..., None]
    blocks = scene.reshape(height, OVERSAMPLING, width, OVERSAMPLING, 3)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def _draw_leaves(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index map [height, width] of the leaf seen at each pixel, with all leaves' radii [n] and centres [n, 2] (y, x).

    Leaf 0 is the background. Later leaves lie above earlier ones.
    """
    smallest = np.exp(rng.uniform(*np.log(_SMALLEST_RADIUS)))
    largest = max(0.35 * min(height, width), 2 * smallest)
    mean_square = 2 * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    count = int(_COVERAGE * height * width / (np.pi * mean_square))
    u = rng.random(count)
    radii = (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5  # inverse of the distribution of density r^-3
    centres = rng.random((count, 2)) * (height, width)
    corners = rng.integers(2, 8, count)  # below 3: an ellipse
    aspects = rng.uniform(0.5, 1, count)
    turns = rng.uniform(0, 2 * np.pi, count)

    image = Image.new("I", (width, height), 0)
    canvas = ImageDraw.Draw(image)
    for leaf, (r, (y, x), n, aspect, turn) in enumerate(zip(radii, centres, corners, aspects, turns, strict=True), 1):
        if n < 3:
            half_width, half_height = (r, r * aspect) if turn < np.pi else (r * aspect, r)
            canvas.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=leaf)
        else:
            angles = turn + 2 * np.pi * np.arange(n) / n
            points = np.stack([x + r * np.cos(angles), y + r * aspect * np.sin(angles)], 1)
            canvas.polygon(points.ravel().tolist(), fill=leaf)
    background = float(max(height, width))
    return np.asarray(image), np.append(background, radii), np.vstack([[height / 2, width / 2], centres])


def _colours(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, 3]: reflectances around a few colours of the scene, mostly dull, bright ones rare."""
    palette = rng.dirichlet([12, 12, 12], size=6) * 3
    hues = palette[rng.integers(len(palette), size=count)] * rng.lognormal(0, 0.15, (count, 3))
    brightness = np.clip(rng.lognormal(np.log(0.18), 0.8, (count, 1)), 0.01, 1.0)
    return (hues * brightness).astype(np.float32)


def _power_law_noise(height: int, width: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [height, width]: Gaussian noise of amplitude spectrum f^-exponent, mean 0, variance 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) * frequency**-exponent
    noise = np.fft.irfft2(spectrum, (height, width))
    return (noise / noise.std()).astype(np.float32)
