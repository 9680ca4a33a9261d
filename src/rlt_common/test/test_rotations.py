"""Rotation vectors and matrices agree with scipy and with each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rlt_common.rotations import limit_rotation, rotation_matrix, rotation_vector

component = st.floats(-np.pi, np.pi)
vectors = st.tuples(component, component, component).map(np.array)


@given(vectors)
def test_matrix_agrees_with_scipy(vector):
    np.testing.assert_allclose(rotation_matrix(vector), Rotation.from_rotvec(vector).as_matrix(), rtol=0, atol=1e-9)


@given(vectors)
def test_vector_is_the_shortest_one_and_gives_the_matrix_back(vector):
    matrix = Rotation.from_rotvec(vector).as_matrix()
    found = rotation_vector(matrix)
    assert np.linalg.norm(found) <= np.pi + 1e-9
    np.testing.assert_allclose(Rotation.from_rotvec(found).as_matrix(), matrix, rtol=0, atol=1e-7)


@pytest.mark.parametrize("axis", [*np.eye(3).tolist(), [0.6, 0.0, -0.8]])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-7, 1e-4, 1.0, np.pi - 1e-7, np.pi])
def test_round_trip_at_the_awkward_angles(axis, angle):
    vector = np.array(axis) * angle
    found = rotation_vector(rotation_matrix(vector))
    if angle > 3.0:  # half a turn: the opposite vector is the same rotation
        found = found * np.sign(found @ vector)
    np.testing.assert_allclose(found, vector, rtol=0, atol=1e-7)


@given(vectors, vectors, st.floats(0.01, 3.0))
def test_limit_rotation_keeps_the_angle(vector, centre, angle):
    matrix, middle = rotation_matrix(vector), rotation_matrix(centre)
    limited = limit_rotation(matrix, middle, angle)
    before = np.linalg.norm(rotation_vector(matrix @ middle.T))
    after = np.linalg.norm(rotation_vector(limited @ middle.T))
    assert after == pytest.approx(min(before, angle), abs=1e-6)
