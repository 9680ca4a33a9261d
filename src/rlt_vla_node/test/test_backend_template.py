"""The backend of the page docs/backends.md, as it stands there: installed by its entry point, opened, used."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlt_common.parameters import ParameterError
from rlt_common.vla_config import VlaConfig
from rlt_vla_node.backend import BackendError, ObservationBatch
from rlt_vla_node.backends import open_backend
from rlt_vla_node.checkpoint import load_checkpoint, save_vla_checkpoint
from rlt_vla_node.inference import FLOW_STEPS, flow_noise, run_observation
from rlt_vla_node.rl_token import RlTokenConfig, build_rl_token

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backends.md"
MODEL = """
import torch
from safetensors.torch import load_file


def load_model(folder):
    model = Model()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.see = torch.nn.Linear(3, 512)
        self.act = torch.nn.Linear(512 + 14 + 14, 14)

    def prefix(self, images, state):
        tokens = self.see(images.float().mean(dim=(2, 3)) / 255)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), (tokens.mean(dim=1), state)

    def flow(self, cache, noise, steps):
        context = torch.cat(cache, dim=-1)[:, None].expand(-1, noise.shape[1], -1)
        for _ in range(steps):
            noise = noise + self.act(torch.cat([context, noise], dim=-1)) / steps
        return noise
"""


@pytest.fixture(scope="module")
def template():
    """The code block of the page; the images as small as the tiny robot's."""
    (found,) = [part.partition("```")[0] for part in PAGE.read_text().split("```python\n") if "MyVla" in part]
    size = "image_shape=(224, 224)"
    assert size in found
    return found.replace(size, "image_shape=(16, 16)")


@pytest.fixture
def config(tmp_path, template, monkeypatch):
    """A VLA file for it, on the tiny robot, once it is installed."""
    site = tmp_path / "site"
    package, facts = site / "my_package", site / "my_package-1.0.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "my_vla.py").write_text(template)
    (package / "model.py").write_text(MODEL)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (entry,) = [line for line in template.splitlines() if "entry_points=" in line]
    name = entry.split('["')[1].split('"]')[0]
    (facts / "entry_points.txt").write_text(f"[rlt_vla_node.backends]\n{name}\n")
    for module in ("my_package", "my_package.model", "my_package.my_vla"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(site)
    from my_package.model import Model

    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    save_file(Model().state_dict(), tmp_path / "weights" / "model.safetensors")
    parts = ("left.joints", "left.gripper", "right.joints", "right.gripper")
    return VlaConfig(
        backend=name.split(" = ")[0],
        source="weights",
        control_hz=50.0,
        state=parts,
        actions=parts,
        action_kind="absolute",
        cameras={"front": "base", "hand": "wrist"},
        instruction="hold still",
        folder=str(tmp_path),
    )


def test_it_is_opened_by_its_name_and_gives_what_its_spec_says(config):
    backend = open_backend(config)
    spec = backend.spec
    assert spec.camera_keys == ("base", "wrist")
    images = torch.randint(0, 256, (2, 2, *spec.image_shape, 3), dtype=torch.uint8)
    seen = ObservationBatch(images, torch.zeros(2, spec.state_dim))
    noise = torch.stack([flow_noise(seed, spec.horizon, spec.noise_dim) for seed in (1, 2)])
    prefix, chunk = backend.encode_and_sample(seen, steps=FLOW_STEPS, noise=noise)
    assert prefix.tokens.shape[2] == spec.embed_dim
    assert chunk.shape == (2, spec.horizon, spec.action_dim)
    _, alone = backend.encode_and_sample(seen.rows([1]), steps=FLOW_STEPS, noise=noise[1:])
    torch.testing.assert_close(alone[0], chunk[1])


def test_a_checkpoint_on_it_gives_the_robots_actions(config, tmp_path, cell, observation):
    spec = open_backend(config).spec
    token = build_rl_token(RlTokenConfig(spec.embed_dim, spec.max_tokens, token_dim=8, heads=2), seed=1).eval()
    save_vla_checkpoint(tmp_path / "vla", config, spec.fingerprint, token, {}, {}, adapted=False)
    model = load_checkpoint(tmp_path / "vla").fitted(cell.robot, cell.task)
    outputs = run_observation(model, model.batch([observation(0, 0)]), seed=3)
    assert outputs.rl_token.shape == (8,)
    assert outputs.reference.shape == (cell.task.horizon, cell.robot.action_dim)


def test_what_is_wrong_is_said(config):
    with pytest.raises(BackendError, match="source in the VLA file names the folder"):
        open_backend(replace(config, source="nowhere"))
    with pytest.raises(ParameterError, match="colour"):
        open_backend(replace(config, options={"colour": "red"}))
