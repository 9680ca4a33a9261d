"""The hand-written gradients against autograd's, the one vector of parameters, and bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rlt_rl_node.networks import Actor, Critics, Layout

BATCH = 33


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def layout(**changes: object) -> Layout:
    sizes = {"token_dim": 6, "state_dim": 5, "action_dim": 3, "chunk_length": 4, "hidden": (16, 24)}
    return Layout(**{**sizes, **changes})


def data(shape: Layout, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, shape.x_dim, generator=g), torch.randn(BATCH, shape.chunk_dim, generator=g)


def actor_by_autograd(actor: Actor, x: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor):
    """The actor written plainly; its output and the gradients of (output * weight).sum()."""
    parameters = [p.detach().clone().requires_grad_() for p in actor.parameters()]
    value = torch.cat([x, reference], 1) if actor.layout.use_reference else x
    for i in range(0, len(parameters), 2):
        value = functional.linear(value, parameters[i], parameters[i + 1])
        if i < len(parameters) - 2:
            value = functional.relu(value)
    if actor.layout.squash:
        value = actor.limit * torch.tanh(value)
    (value * weight).sum().backward()
    return value.detach(), [p.grad for p in parameters]


def critics_by_autograd(critics: Critics, x: torch.Tensor, action: torch.Tensor, weight: torch.Tensor):
    """Separate networks, written plainly: values, gradients of parameters and of the action."""
    parameters = [p.detach().clone().requires_grad_() for p in critics.parameters()]
    action = action.clone().requires_grad_()
    layers = len(parameters) // 2
    values = []
    for n in range(len(weight)):
        value = torch.cat([x, action], 1)
        for i in range(layers):
            value = value @ parameters[i][n] + parameters[layers + i][n]
            if i < layers - 1:
                value = functional.layer_norm(value, value.shape[-1:]) if critics.layer_norm else value
                value = functional.relu(value)
        values.append(value[:, 0])
    q = torch.stack(values)
    (q * weight).sum().backward()
    return q.detach(), [p.grad for p in parameters], action.grad


@pytest.mark.parametrize("changes", [{}, {"use_reference": False}, {"squash": True}, {"hidden": (7,)}])
def test_the_actors_gradients_are_autograds(changes):
    shape = layout(**changes)
    limit = torch.linspace(0.5, 2.0, shape.chunk_dim)
    actor = Actor(shape, generator(), limit)
    x, reference = data(shape)
    weight = torch.randn(BATCH, shape.chunk_dim, generator=generator())
    tape: list[torch.Tensor] = []
    mean = actor(x, reference, tape)
    actor.backward(tape, weight)
    expected, gradients = actor_by_autograd(actor, x, reference, weight)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(actor.gradients, gradients)
    assert not tape


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [None, 1])
def test_the_critics_gradients_are_autograds(layer_norm, members):
    shape = layout()
    critics = Critics(shape, 3, layer_norm, generator())
    x, action = data(shape)
    weight = torch.randn(members or 3, BATCH, generator=generator())
    tape: list[torch.Tensor] = []
    q = critics(x, action, tape, members)
    expected, gradients, by_action = critics_by_autograd(critics, x, action, weight)
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(critics.action_gradient(tape, weight), by_action)
    assert not tape
    if members is None:
        critics(x, action, tape)
        critics.backward(tape, weight)
        torch.testing.assert_close(critics.gradients, gradients)


def test_the_action_gradient_leaves_the_parameters_gradients_alone():
    critics = Critics(layout(), 2, True, generator())
    tape: list[torch.Tensor] = []
    critics(*data(critics.layout), tape)
    critics.flat_gradient.fill_(7.0)
    critics.action_gradient(tape, torch.ones(2, BATCH))
    assert (critics.flat_gradient == 7.0).all()


def test_adam_on_the_one_vector_equals_adam_on_every_parameter():
    shape = layout()
    critics = Critics(shape, 2, True, generator())
    plain = [p.detach().clone().requires_grad_() for p in critics.parameters()]
    ours, theirs = critics.optimiser(0.01), torch.optim.Adam(plain, 0.01)
    x, action = data(shape)
    for step in range(5):
        tape: list[torch.Tensor] = []
        critics(x, action, tape)
        critics.backward(tape, torch.full((2, BATCH), float(step - 1)))
        for p, gradient in zip(plain, critics.gradients, strict=True):
            p.grad = gradient.clone()
        ours.step()
        theirs.step()
    for p, expected in zip(critics.parameters(), plain, strict=True):
        torch.testing.assert_close(p.detach(), expected.detach())


def test_a_clone_has_weights_of_its_own():
    actor = Actor(layout(), generator())
    twin = actor.clone()
    assert torch.equal(twin.flat, actor.flat)
    twin.follow(Actor(layout()), 1.0)
    assert not torch.equal(twin.layers[0].weight, actor.layers[0].weight)
    actor.load_state_dict(twin.state_dict())
    assert torch.equal(actor.flat, twin.flat)


def test_bfloat16_rounds_and_no_more():
    shape = layout(hidden=(64, 64))
    x, action = data(shape)
    exact, rounded = Critics(shape, 2, True, generator()), Critics(shape, 2, True, generator(), bfloat16=True)
    tapes: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    q, q16 = exact(x, action, tapes[0]), rounded(x, action, tapes[1])
    assert q16.dtype == torch.float32
    assert not torch.equal(q, q16)
    torch.testing.assert_close(q16, q, rtol=0.0, atol=0.05 * float(q.std()))
    weight = torch.randn(2, BATCH, generator=generator())
    exact.backward(tapes[0], weight)
    rounded.backward(tapes[1], weight)
    assert functional.cosine_similarity(exact.flat_gradient, rounded.flat_gradient, dim=0) > 0.999
    actors = [Actor(shape, generator(), bfloat16=half) for half in (False, True)]
    for actor in actors:
        tape: list[torch.Tensor] = []
        actor(x, action, tape)
        actor.backward(tape, action)
    assert functional.cosine_similarity(actors[0].flat_gradient, actors[1].flat_gradient, dim=0) > 0.999
