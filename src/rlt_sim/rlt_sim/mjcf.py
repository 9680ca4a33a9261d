"""Pieces of MJCF text that all scenes share: the document around a world, cameras, boxes and tapered ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TIMESTEP = 0.004


def document(world: str, actuators: str, assets: str = "") -> str:
    """A whole model. Geoms touch nothing unless their class is `contact`."""
    return f"""<mujoco model="rlt_cell">
<compiler angle="radian" autolimits="true"/>
<option timestep="{_TIMESTEP}" integrator="implicitfast" cone="elliptic" gravity="0 0 -9.81"/>
<visual><global offwidth="640" offheight="480"/><map znear="0.01"/></visual>
<default>
 <geom contype="0" conaffinity="0"/>
 <joint damping="1.0" armature="0.05"/>
 <default class="contact">
  <geom contype="1" conaffinity="1" friction="0.15 0.005 0.0001" solref="0.008 1" solimp="0.95 0.99 0.001"/>
 </default>
</default>
{assets}
<worldbody><light pos="0 0 1.5" dir="0 0 -1" castshadow="false"/>{world}</worldbody>
<actuator>{actuators}</actuator>
</mujoco>"""


def camera(name: str, position: Sequence[float], target: Sequence[float], fovy: float) -> str:
    """A camera at `position` that looks at `target` (m, both in the frame of its body), z of that frame up."""
    back = np.array(position) - np.array(target)
    right = np.cross([0.0, 0.0, 1.0], back)
    axes = np.concatenate([right, np.cross(back, right)])
    numbers = " ".join(f"{value:.6f}" for value in axes / np.abs(axes).max())
    return f'<camera name="{name}" pos="{position[0]} {position[1]} {position[2]}" xyaxes="{numbers}" fovy="{fovy}"/>'


def box(low: Sequence[float], high: Sequence[float], rgb: str, attributes: str = "") -> str:
    """A box between two corners (m, in the frame of its body), with its colour as 'r g b' and further attributes."""
    size = " ".join(f"{(b - a) / 2:.6f}" for a, b in zip(low, high, strict=True))
    centre = " ".join(f"{(b + a) / 2:.6f}" for a, b in zip(low, high, strict=True))
    return f'<geom type="box" size="{size}" pos="{centre}" rgba="{rgb} 1" {attributes}/>'


def frustum(name: str, start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """A mesh asset: a rectangular frustum along x from `start` to `end`, each (x, half width y, half width z), m."""
    corners = [(x, y * wide, z * high) for x, wide, high in (start, end) for y in (-1, 1) for z in (-1, 1)]
    vertices = " ".join(f"{value:.6f}" for corner in corners for value in corner)
    return f'<asset><mesh name="{name}" inertia="convex" vertex="{vertices}"/></asset>'


def frame(
    x: tuple[float, float], inner: tuple[float, float], outer: tuple[float, float], rgb: str, attributes: str = ""
) -> str:
    """Four boxes around a rectangular opening along x; `inner` and `outer` are half widths along y and z, m."""
    (low, high), (y, z), (wide, tall) = x, inner, outer
    corners = (
        ((low, y, -tall), (high, wide, tall)),
        ((low, -wide, -tall), (high, -y, tall)),
        ((low, -y, z), (high, y, tall)),
        ((low, -y, -tall), (high, y, -z)),
    )
    return "".join(box(a, b, rgb, attributes) for a, b in corners)
