# SPDX-License-Identifier: Apache-2.0
"""The engine of a policy that drives: what it gives is what the policy gives, in less time."""

import gc
import weakref

import numpy as np
import pytest
import torch

from rl100_policy.core import engine as engine_module
from rl100_policy.core import traced
from rl100_policy.core.engine import Engine
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.observation import Frame, stack
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

POINTS = ObservationSize(n_obs=2, n_points=64, proprio_dim=3)
KINDS = {
    "small": preset("small", POINTS, ActionSize(n_chunk=8, dim=2)),
    "paper": preset("paper", POINTS, ActionSize(n_chunk=8, dim=2)),
    "paper_single": preset("paper_single", POINTS, ActionSize(n_chunk=1, dim=7)),
    "state": preset(
        "small", ObservationSize(n_obs=3, n_points=0, proprio_dim=10), ActionSize(n_chunk=4)
    ),
    "image": preset(
        "small",
        ObservationSize(n_points=0, height=24, width=32),
        ActionSize(n_chunk=4),
    ),
}


def made(kind="small", seed=0) -> DiffusionPolicy:
    torch.manual_seed(seed)
    return DiffusionPolicy(KINDS[kind]).eval()


def frames(policy, count, seed=0) -> list[Frame]:
    seen, random = policy.config.observation, np.random.default_rng(seed)
    blank = seen.blank()

    def visual():
        if blank.dtype == np.uint8:
            return random.integers(0, 256, blank.shape, dtype=np.uint8)
        return random.normal(size=blank.shape).astype(np.float32)

    return [
        Frame(at, visual(), random.normal(size=seen.proprio_dim).astype(np.float32))
        for at in range(count)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sampler", "deterministic"), [("one_step", True), ("ddim", True), ("ddim", False)]
)
def test_a_decision_is_that_of_the_policy(kind, sampler, deterministic):
    policy = made(kind)
    engine = Engine(policy, sampler)
    assert not engine.plain
    window = frames(policy, policy.config.observation.n_obs)
    visual, proprio = (torch.from_numpy(each)[None] for each in stack(window))
    expected = policy.decide(
        visual, proprio, sampler=sampler, noise_seed=7, deterministic=deterministic
    )
    for _ in range(4):  # a graph may change how it runs in its first runs
        found = engine.decide(engine.condition(window), noise_seed=7, deterministic=deterministic)
        torch.testing.assert_close(found.latents, expected.latents, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.actions, expected.actions, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-3, rtol=1e-3)
    assert (found.timesteps, found.sigmas) == (expected.timesteps, expected.sigmas)


def test_only_the_new_frame_of_a_window_is_encoded(monkeypatch):
    policy = made()
    engine = Engine(policy, "one_step")
    encoded = []
    plainly = engine._encode
    monkeypatch.setattr(engine, "_encode", lambda *each: encoded.append(each[0]) or plainly(*each))
    first, second, third = frames(policy, 3)
    engine.condition([first, second])
    engine.condition([second, third])
    assert len(encoded) == 3
    engine.condition([third, third])
    assert len(encoded) == 3


def test_two_frames_of_one_time_are_two():
    """After the clock was set back, say."""
    policy = made()
    engine = Engine(policy, "one_step")
    one, other = frames(policy, 1, seed=1)[0], frames(policy, 1, seed=2)[0]
    assert not torch.equal(engine.encode(one), engine.encode(other))


def test_what_is_kept_has_an_end():
    policy = made()
    engine = Engine(policy, "one_step")
    for at in range(3 * engine_module._KEPT):
        engine.encode(frames(policy, 1, seed=at)[0])
    assert len(engine._kept) == engine_module._KEPT


def test_a_cloud_of_another_size_than_the_traced_one_is_encoded_too():
    policy = made()
    engine = Engine(policy, "one_step")
    (frame,) = frames(policy, 1)
    fewer = Frame(0, frame.visual[:40], frame.proprio)
    again = Frame(0, np.concatenate([fewer.visual, fewer.visual[:24]]), frame.proprio)
    torch.testing.assert_close(engine.encode(fewer), engine.encode(again))


@pytest.mark.parametrize(
    "wrong",
    [
        Frame(0, np.full((64, 3), np.nan, np.float32), np.zeros(3, np.float32)),
        Frame(0, np.zeros((64, 3), np.float32), np.zeros(4, np.float32)),
        Frame(0, np.zeros((24, 32, 3), np.uint8), np.zeros(3, np.float32)),
    ],
    ids=["not finite", "proprioception", "an image"],
)
def test_a_frame_that_is_none_of_the_policys_is_refused_and_not_kept(wrong):
    engine = Engine(made(), "one_step")
    for _ in range(2):
        with pytest.raises(ObservationError):
            engine.encode(wrong)


@pytest.fixture
def anew(monkeypatch):
    """Nothing was traced before."""
    monkeypatch.setattr(traced, "_graphs", {})


@pytest.mark.usefixtures("anew")
def test_what_cannot_be_traced_runs_as_it_is(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no tracer here\nand more")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    policy = made()
    engine = Engine(policy, "one_step")
    assert engine.plain == "FrameEncoder cannot be traced: no tracer here"
    window = frames(policy, 2)
    visual, proprio = (torch.from_numpy(each)[None] for each in stack(window))
    expected = policy.decide(visual, proprio, sampler="one_step", noise_seed=7)
    found = engine.decide(engine.condition(window), noise_seed=7, deterministic=True)
    torch.testing.assert_close(found.actions, expected.actions)


@pytest.mark.usefixtures("anew")
def test_a_graph_that_gives_something_else_is_not_used(monkeypatch):
    rightly = torch.jit.trace

    def wrongly(*inputs, **options):
        graph = rightly(*inputs, **options)
        return lambda *inputs: graph(*inputs) + 1e-3

    monkeypatch.setattr(torch.jit, "trace", wrongly)
    assert "its graph differs from it by 0.001" in Engine(made(), "one_step").plain


def test_without_tracing_every_network_is_the_policys():
    engine = Engine(made(), "one_step", traced=False)
    assert engine.plain == "not asked for"


@pytest.mark.usefixtures("anew")
def test_versions_of_one_configuration_are_traced_once_and_decide_as_themselves(monkeypatch):
    rightly, traces = torch.jit.trace, []

    def counted(*inputs, **options):
        traces.append(inputs)
        return rightly(*inputs, **options)

    monkeypatch.setattr(torch.jit, "trace", counted)
    window = frames(made(), 2)
    visual, proprio = (torch.from_numpy(each)[None] for each in stack(window))
    policies = [made(seed=seed) for seed in range(3)]
    engines = [Engine(policy, "one_step") for policy in policies]
    assert len(traces) == 2  # encoder and student
    assert not any(engine.plain for engine in engines)
    of_all = []
    for policy, engine in zip(policies, engines, strict=True):
        expected = policy.decide(visual, proprio, sampler="one_step", noise_seed=7)
        found = engine.decide(engine.condition(window), noise_seed=7, deterministic=True)
        torch.testing.assert_close(found.actions, expected.actions)
        of_all.append(found.actions)
    assert not torch.allclose(of_all[0], of_all[1])
    assert not torch.allclose(of_all[1], of_all[2])


@pytest.mark.usefixtures("anew")
def test_nothing_of_a_version_stays_when_it_is_gone():
    """A robot that learns changes its version all day, the first one included."""

    def tensors():
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    made()
    before, gone = tensors(), []
    for seed in range(5):
        policy = made(seed=seed)
        gone += [weakref.ref(each) for each in policy.parameters()]
        Engine(policy, "one_step")
    del policy
    assert tensors() == before
    assert not any(each() is not None for each in gone)
