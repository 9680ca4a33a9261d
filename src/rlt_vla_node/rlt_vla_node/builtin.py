"""The built-in VLA: a small transformer over image and proprioception tokens with a flow-matching action head.

It stands where a pretrained VLA stands and is small enough to be adapted on a CPU. Each camera has its own
convolutional stem whose flattened output keeps positions in the image and becomes a few tokens; one more token
carries proprioception. Encoder blocks turn them into the final-layer embeddings z. The action head is a flow from
noise (time 0) to the action chunk (time 1): rows are grouped, each group is one token that attends to the others and
to z.

The statistics (proprioception mean and standard deviation, action spread) are buffers of the model, so they are saved,
hashed and loaded with the weights, and nothing outside can normalise differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlt_common.parameters import ParameterError, param, validate
from rlt_vla_node.backend import (
    KIND_IMAGE,
    KIND_PROPRIOCEPTION,
    BackendSpec,
    ObservationBatch,
    Prefix,
    check_observation,
)
from rlt_vla_node.layers import Block, KeyValues, TimeEmbedding
from rlt_vla_node.layout import BlockLayout
from rlt_vla_node.tensors import tensors_hash

NAME = "builtin"


@dataclass(frozen=True)
class BuiltinConfig:
    """Shape of the built-in VLA."""

    cameras: tuple[str, ...] = param(description="camera names, in the order of the images")
    image_height: int = param(description="pixels", minimum=8, maximum=512)
    image_width: int = param(description="pixels", minimum=8, maximum=512)
    state_dim: int = param(description="S, proprioception values", minimum=1, maximum=10_000)
    action_dim: int = param(description="d", minimum=1, maximum=1000)
    control_hz: float = param(description="Hz", minimum=1.0, maximum=1000.0)
    horizon: int = param(50, "H, rows of a chunk", minimum=1, maximum=1000)
    group: int = param(5, "rows that form one token of the action head", minimum=1, maximum=1000)
    width: int = param(96, "D, width of the embeddings", minimum=8, maximum=4096)
    heads: int = param(4, "attention heads", minimum=1, maximum=64)
    encoder_blocks: int = param(2, "transformer blocks over the prefix", minimum=1, maximum=64)
    decoder_blocks: int = param(2, "transformer blocks of the action head", minimum=1, maximum=64)
    camera_tokens: int = param(4, "tokens per camera", minimum=1, maximum=1024)
    actions: str = param("tool_pose", "what its actions change, as in the robot file", choices=("tool_pose", "joints"))
    relative_to: str = param(
        "commanded", "what its actions are added to, as in the robot file", choices=("commanded", "measured")
    )
    stem_channels: tuple[int, ...] = param((16, 32, 32), "channels of the stem's stride-2 layers", minimum=1)

    def __post_init__(self) -> None:
        validate(self)
        if self.horizon % self.group:
            raise ParameterError(f"horizon {self.horizon} is not a multiple of group {self.group}")
        if self.width % self.heads:
            raise ParameterError(f"width {self.width} is not a multiple of {self.heads} heads")
        if not self.cameras or not self.stem_channels:
            raise ParameterError("the built-in VLA needs at least one camera and one stem layer")

    @property
    def tokens(self) -> int:
        """M, tokens of a prefix: proprioception first, then each camera's."""
        return 1 + len(self.cameras) * self.camera_tokens


@dataclass(frozen=True)
class ChunkBatch:
    """Training data of the built-in VLA.

    Attributes:
        features: (B, T, D) float32, what :meth:`BuiltinBackend.features` made of the images.
        state: (B, S) float32, SI units.
        actions: (B, H, d) float32, robot units per control step.
        noise: (K * B, H, d) float32 standard normal and
        time: (K * B,) float32 in [0, 1]: K flow samples per observation, drawn by the caller's generator.
    """

    features: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    time: Tensor


class CameraStem(nn.Module):
    """Stride-2 convolutions over one camera's image, flattened with their positions into a few tokens."""

    def __init__(self, config: BuiltinConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width, channels = config.image_height, config.image_width, 3
        for i, out in enumerate(config.stem_channels):
            kernel = 5 if i == 0 else 3
            layers += [nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
            height, width, channels = (height + 1) // 2, (width + 1) // 2, out
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(channels * height * width, config.camera_tokens * config.width)
        self.shape = (config.camera_tokens, config.width)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, tokens, D)."""
        return self.project(self.convolutions(image).flatten(1)).unflatten(1, self.shape)


class BuiltinVla(nn.Module):
    """The network of :class:`BuiltinBackend`. Inside, actions are divided by their spread and states standardised."""

    def __init__(self, config: BuiltinConfig) -> None:
        super().__init__()
        self.config = config
        width, groups = config.width, config.horizon // config.group
        self.register_buffer("state_mean", torch.zeros(config.state_dim))
        self.register_buffer("state_std", torch.ones(config.state_dim))
        self.register_buffer("action_spread", torch.ones(config.action_dim))
        self.stems = nn.ModuleList([CameraStem(config) for _ in config.cameras])
        self.state_in = nn.Linear(config.state_dim, width)
        self.position = nn.Parameter(0.1 * torch.randn(config.tokens, width))
        self.encoder = nn.ModuleList([Block(width, config.heads) for _ in range(config.encoder_blocks)])
        self.encoder_norm = nn.LayerNorm(width)
        self.action_in = nn.Linear(config.group * config.action_dim, width)
        self.action_position = nn.Parameter(0.1 * torch.randn(groups, width))
        self.time_embedding = TimeEmbedding(width)
        self.decoder = nn.ModuleList([Block(width, config.heads, cross=True) for _ in range(config.decoder_blocks)])
        self.decoder_norm = nn.LayerNorm(width)
        self.action_out = nn.Linear(width, config.group * config.action_dim)

    def see(self, images: Tensor) -> Tensor:
        """Camera tokens (B, C * tokens, D) of images (B, C, H, W, 3) uint8."""
        return self.see_pixels(pixels_from_bytes(images))

    def see_pixels(self, pixels: Tensor) -> Tensor:
        """Camera tokens of pixels (B, C, 3, H, W) float32 in -1..1."""
        return torch.cat([stem(pixels[:, c]) for c, stem in enumerate(self.stems)], dim=1)

    def standardise(self, state: Tensor) -> Tensor:
        """(B, S) in SI units to zero mean and unit spread."""
        return (state - self.state_mean) / self.state_std

    def mix(self, features: Tensor, standard_state: Tensor) -> Tensor:
        """Final-layer embeddings z (B, M, D) of camera tokens and standardised proprioception."""
        x = torch.cat([self.state_in(standard_state).unsqueeze(1), features], dim=1) + self.position
        for block in self.encoder:
            x = block(x)
        return self.encoder_norm(x)

    def context(self, tokens: Tensor) -> list[KeyValues]:
        """Keys and values of z for each block of the action head: computed once per observation."""
        return [block.cross_attention.key_values(tokens) for block in self.decoder]

    def velocity(self, context: list[KeyValues], actions: Tensor, time: Tensor) -> Tensor:
        """d(actions)/d(time) of the flow: actions (B, H, d) in spread units, time (B,) -> (B, H, d)."""
        batch = actions.shape[0]
        x = self.action_in(actions.reshape(batch, -1, self.config.group * self.config.action_dim))
        x = x + self.action_position + self.time_embedding(time)[:, None]
        for block, key_values in zip(self.decoder, context, strict=True):
            x = block(x, context=key_values)
        return self.action_out(self.decoder_norm(x)).reshape(actions.shape)

    def flow_loss(self, tokens: Tensor, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """L_vla: mean squared error of the velocity on the straight path from noise to the chunk.

        Args:
            tokens: (B, M, D).
            actions: (B, H, d) in robot units.
            noise: (K * B, H, d), the K samples of one observation B rows apart.
            time: (K * B,) in [0, 1].
        """
        copies = noise.shape[0] // tokens.shape[0]
        context = [(k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1)) for k, v in self.context(tokens)]
        target = (actions / self.action_spread).repeat(copies, 1, 1)
        along = time[:, None, None]
        path = (1.0 - along) * noise + along * target
        return functional.mse_loss(self.velocity(context, path, time), target - noise)

    def flow(self, tokens: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Chunks (B, H, d) in robot units: `steps` Euler steps from noise at time 0 to time 1."""
        context = self.context(tokens)
        x = noise
        for i in range(steps):
            time = torch.full((x.shape[0],), i / steps, dtype=x.dtype, device=x.device)
            x = x + self.velocity(context, x, time) / steps
        return x * self.action_spread


class BuiltinBackend:
    """:class:`rlt_vla_node.backend.VlaBackend` on :class:`BuiltinVla`."""

    def __init__(self, model: BuiltinVla) -> None:
        self.model = model
        self._kind = torch.tensor(
            [KIND_PROPRIOCEPTION] + [KIND_IMAGE] * (model.config.tokens - 1), device=model.position.device
        )
        self._spec: BackendSpec | None = None

    @property
    def spec(self) -> BackendSpec:
        """Facts of the model; its fingerprint is taken at the first call, so ask only once training is over."""
        if self._spec is None:
            self._spec = spec_of(self.model.config, tensors_hash(self.model.state_dict()))
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.position.device

    def features(self, images: Tensor) -> Tensor:
        """Camera tokens (B, T, D): the stems stay frozen in adaptation, so that the trainer keeps what they make."""
        return self.model.see(images)

    def encode(self, observation: ObservationBatch) -> Prefix:
        """Final-layer embeddings. Raises ValueError for wrong shapes and values that are not finite."""
        check_observation(self.spec, observation)
        model = self.model
        return self._prefix(model.mix(model.see(observation.images), model.standardise(observation.state)))

    def sample_chunk(self, prefix: Prefix, *, steps: int, noise: Tensor) -> Tensor:
        """(B, H, d) in robot units."""
        return self.model.flow(prefix.tokens, noise, steps)

    def encode_and_sample(self, observation: ObservationBatch, *, steps: int, noise: Tensor) -> tuple[Prefix, Tensor]:
        """Embeddings and chunk of a batch."""
        prefix = self.encode(observation)
        return prefix, self.sample_chunk(prefix, steps=steps, noise=noise)

    def training_losses(self, batch: ChunkBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Flow loss, z and its mask. Gradients reach everything but the stems."""
        tokens = self.model.mix(batch.features, self.model.standardise(batch.state))
        loss = self.model.flow_loss(tokens, batch.actions, batch.noise, batch.time)
        return loss, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    def _prefix(self, tokens: Tensor) -> Prefix:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Prefix(tokens=tokens, mask=mask, kind=self._kind)


def pixels_from_bytes(images: Tensor) -> Tensor:
    """(B, C, H, W, 3) uint8 -> (B, C, 3, H, W) float32 in -1..1."""
    return images.permute(0, 1, 4, 2, 3).to(torch.float32).div(127.5).sub(1.0)


def spec_of(config: BuiltinConfig, fingerprint: str) -> BackendSpec:
    """The spec of a built-in VLA of this shape."""
    return BackendSpec(
        name=NAME,
        embed_dim=config.width,
        max_tokens=config.tokens,
        horizon=config.horizon,
        action_dim=config.action_dim,
        state_dim=config.state_dim,
        control_hz=config.control_hz,
        camera_keys=config.cameras,
        image_shape=(config.image_height, config.image_width),
        noise_dim=config.action_dim,
        fingerprint=fingerprint,
    )


def layout_of(config: BuiltinConfig, blocks: Sequence[tuple[str, int]]) -> BlockLayout:
    """What such a VLA takes and gives on its robot; `blocks`: proprioception blocks with their sizes."""
    return BlockLayout(tuple((str(name), int(size)) for name, size in blocks), config.actions, config.relative_to)


def build_vla(config: BuiltinConfig, seed: int) -> BuiltinVla:
    """A randomly initialised model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BuiltinVla(config)
