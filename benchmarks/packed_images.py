"""Images in a few bytes each, by NumPy alone: as a JPEG keeps them, at a small loss.

Colours become brightness and two colour differences at half the size, each in blocks
of 8x8 whose cosine transform is rounded, coarser at higher frequencies.
"""

import numpy as np

SIZE = 8
LARGE = 10**7  # bytes; images of less are kept as they are
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
)
_N = np.arange(SIZE)
COSINES = np.sqrt(2 / SIZE) * np.cos(np.pi * (2 * _N + 1) * _N[:, None] / (2 * SIZE))
COSINES[0] /= np.sqrt(2)
ROUNDING = 3.0 + (_N[:, None] + _N)


def pack(images):
    """Name → array of uint8 images `(n, h, w, c)`, for `np.savez_compressed`."""
    if images.nbytes < LARGE:
        return {"raw": images}
    if images.shape[-1] != 3 or images.shape[1] % 16 or images.shape[2] % 16:
        raise SystemExit(f"Cannot pack images of shape {images.shape[1:]}.")
    ycc = images.astype("float32") @ TO_YCC.T.astype("float32")
    light, colours = ycc[..., 0] - 128, ycc[..., 1:]
    n, height, width = light.shape
    halves = colours.reshape(n, height // 2, 2, width // 2, 2, 2).mean((2, 4))
    planes = {"light": light, "blue": halves[..., 0], "red": halves[..., 1]}
    return {name: _rounded(plane) for name, plane in planes.items()}


def unpack(packed):
    """The images that `pack` packed, uint8, to within what it lost."""
    if "raw" in packed:
        return packed["raw"]
    light, blue, red = (_plane(packed[name]) for name in ("light", "blue", "red"))
    colours = [np.repeat(np.repeat(half, 2, 1), 2, 2) for half in (blue, red)]
    ycc = np.stack([light + 128, *colours], axis=-1)
    images = ycc @ np.linalg.inv(TO_YCC).T.astype("float32")
    return np.clip(np.rint(images), 0, 255).astype("uint8")


def _rounded(plane):
    """Rounded cosine coefficients, frequencies first, so that zeros lie together."""
    n, height, width = plane.shape
    blocks = plane.reshape(n, height // SIZE, SIZE, width // SIZE, SIZE)
    found = np.einsum("fy,nhywx,gx->fgnhw", COSINES, blocks, COSINES, optimize=True)
    found = np.rint(found / ROUNDING[:, :, None, None, None])
    return found.astype("int16")


def _plane(rounded):
    values = rounded * ROUNDING[:, :, None, None, None].astype("float32")
    cosines = COSINES.astype("float32")
    found = np.einsum("fy,fgnhw,gx->nhywx", cosines, values, cosines, optimize=True)
    n, rows, _, columns, _ = found.shape
    return found.reshape(n, rows * SIZE, columns * SIZE)
