"""Rotation vectors and matrices: the few conversions that actions, proprioception and kinematics share.

A rotation vector is axis * angle in rad (so(3) coordinates); a matrix maps tool coordinates to world coordinates.
Plain scalar arithmetic: a call costs a few microseconds, which matters at 50 Hz with two arms.
"""

from __future__ import annotations

import math

import numpy as np


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Exponential map (Rodrigues' formula).

    Args:
        vector: (3,) rotation vector, rad.

    Returns:
        (3, 3) rotation matrix, float64.
    """
    x, y, z = float(vector[0]), float(vector[1]), float(vector[2])
    angle_sq = x * x + y * y + z * z
    angle = math.sqrt(angle_sq)
    if angle < 1e-6:  # series: the closed form divides zero by zero
        a, b = 1.0 - angle_sq / 6.0, 0.5 - angle_sq / 24.0
    else:
        a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle_sq
    return np.array(
        [
            [1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
            [b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x],
            [b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)],
        ]
    )


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Logarithmic map, stable from the identity to half a turn (goes through the quaternion).

    Args:
        matrix: (3, 3) rotation matrix.

    Returns:
        (3,) rotation vector, rad, norm at most pi.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = np.asarray(matrix, dtype=np.float64).tolist()
    trace = m00 + m11 + m22
    # The largest of the four squared components is taken as the divisor (Shepperd's method).
    if trace >= max(m00, m11, m22):
        w, x, y, z = 1.0 + trace, m21 - m12, m02 - m20, m10 - m01
    elif m00 >= m11 and m00 >= m22:
        w, x, y, z = m21 - m12, 1.0 + m00 - m11 - m22, m01 + m10, m02 + m20
    elif m11 >= m22:
        w, x, y, z = m02 - m20, m01 + m10, 1.0 + m11 - m00 - m22, m12 + m21
    else:
        w, x, y, z = m10 - m01, m02 + m20, m12 + m21, 1.0 + m22 - m00 - m11
    if w < 0.0:
        w, x, y, z = -w, -x, -y, -z
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < 1e-12:
        return np.zeros(3)
    scale = 2.0 * math.atan2(sine, w) / sine
    return np.array([x * scale, y * scale, z * scale])


def limit_rotation(matrix: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """The rotation nearest to `matrix` that is at most `angle` rad away from `centre` (both (3, 3))."""
    offset = rotation_vector(matrix @ centre.T)
    size = float(np.linalg.norm(offset))
    if size <= angle:
        return matrix
    return rotation_matrix(offset * (angle / size)) @ centre
