"""Cameras without a graphics library: a pinhole camera of rays (mj_multiRay) with Lambert shading.

Needs nothing but MuJoCo and takes about 2 ms for 64 x 64 pixels. Colours are those of the geoms.
"""

from __future__ import annotations

import mujoco
import numpy as np

_LIGHT = np.array([0.35, -0.42, 0.84], dtype=np.float32)
"""Direction towards the light, world frame, unit length (to rounding)."""
_BACKGROUND = (0.60, 0.70, 0.80)
_AMBIENT = 0.42
_FAR = 3.0
"""Rays end here, m."""


class RayCamera:
    """One camera of the model, square, `size` pixels wide.

    Raises:
        ValueError: the model has no camera of that name.
    """

    def __init__(self, model: mujoco.MjModel, name: str, size: int) -> None:
        self._model = model
        self._id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if self._id < 0:
            raise ValueError(f"the model has no camera named '{name}'")
        self.size = size
        half = np.tan(np.deg2rad(model.cam_fovy[self._id]) / 2.0)
        pixel = ((np.arange(size) + 0.5) / size * 2.0 - 1.0) * half
        x, y = np.meshgrid(pixel, -pixel)
        rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        self._rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        count = size * size
        self._geom = np.zeros((count, 1), dtype=np.int32)
        self._distance = np.zeros((count, 1))
        self._normal = np.zeros((3 * count, 1))
        # The last colour serves rays that hit nothing: mj_multiRay gives them geom -1.
        colours = np.concatenate([model.geom_rgba[:, :3], [_BACKGROUND]])
        self._colours = (colours * 255.0).astype(np.float32)

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """Image (size, size, 3) uint8 RGB of the current state (needs mj_forward or mj_step before)."""
        rotation = data.cam_xmat[self._id].reshape(3, 3)
        rays = np.ascontiguousarray((self._rays @ rotation.T).reshape(-1, 1))
        origin = data.cam_xpos[self._id].reshape(3, 1)
        count = self.size * self.size
        mujoco.mj_multiRay(
            self._model, data, origin, rays, None, 1, -1, self._geom, self._distance, self._normal, count, _FAR
        )
        hit = self._geom[:, 0]
        shade = _AMBIENT + (1.0 - _AMBIENT) * np.abs(self._normal.reshape(-1, 3).astype(np.float32) @ _LIGHT)
        shade[hit < 0] = 1.0
        image = self._colours[hit] * shade[:, None]
        return np.minimum(image, 255.0).astype(np.uint8).reshape(self.size, self.size, 3)
