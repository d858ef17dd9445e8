# SPDX-License-Identifier: Apache-2.0
"""The policy: decisions reproducible from their seed, both samplers from the same noise, units,
refusals."""

import pytest
import torch

from rl100_policy.core.errors import ObservationError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import (
    ActionSize,
    DiffusionConfig,
    ObservationSize,
    PolicyConfig,
    ResidualMlpConfig,
    SkipNetConfig,
)
from rl100_policy.core.presets import preset
from rl100_policy.core.sampler import transition_log_prob

TINY = ResidualMlpConfig(width=16, blocks=1)


def make_policy(**changes) -> DiffusionPolicy:
    torch.manual_seed(0)
    policy = DiffusionPolicy(PolicyConfig(denoiser=TINY, student=TINY, **changes))
    policy.normalizer.action.fit(torch.tensor([[-0.2, 0.0], [0.2, 0.1]]))
    policy.normalizer.cloud.fit(torch.tensor([[0.25, -0.3, 0.0], [0.75, 0.3, 0.06]]))
    return policy


@pytest.fixture
def policy() -> DiffusionPolicy:
    return make_policy()


def observation(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((batch, 2, 128, 3), generator=generator), torch.rand(
        (batch, 2, 3), generator=generator
    )


def test_same_seed_gives_the_same_decision_and_another_seed_another(policy):
    first = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    again = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    other = policy.decide(*observation(), sampler="ddim", noise_seed=8, deterministic=False)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


def test_both_samplers_start_from_the_same_noise(policy):
    several = policy.decide(*observation(), sampler="ddim", noise_seed=7)
    single = policy.decide(*observation(), sampler="one_step", noise_seed=7)
    assert torch.equal(several.latents[:, 0], single.latents[:, 0])
    assert not torch.equal(several.latents[:, -1], single.latents[:, -1])


def test_a_row_with_a_seed_of_its_own_starts_alike_whatever_is_beside_it(policy):
    clouds, proprio = observation()
    three = policy.decide(clouds, proprio, sampler="ddim", noise_seed=(5, 6, 7))
    one = policy.decide(clouds[1:2], proprio[1:2], sampler="one_step", noise_seed=(6,))
    assert torch.equal(three.latents[1, 0], one.latents[0, 0])
    assert not torch.equal(three.latents[0, 0], three.latents[1, 0])
    with pytest.raises(ValueError, match="transitions need a generator"):
        policy.decide(clouds, proprio, sampler="ddim", noise_seed=(5, 6, 7), deterministic=False)


def test_stochastic_chain_starts_from_the_noise_of_the_deterministic_one(policy):
    mean = policy.decide(*observation(), sampler="ddim", noise_seed=7)
    drawn = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    assert torch.equal(mean.latents[:, 0], drawn.latents[:, 0])
    assert mean.log_probs.shape == (3, 0)
    assert drawn.log_probs.shape == (3, 5)


def test_decision_has_the_shapes_of_a_decision_record(policy):
    several = policy.decide(*observation(), sampler="ddim", noise_seed=7)
    single = policy.decide(*observation(), sampler="one_step", noise_seed=7)
    assert several.latents.shape == (3, 6, 8, 2)
    assert (several.timesteps, len(several.sigmas)) == ((81, 61, 41, 21, 1), 5)
    assert single.latents.shape == (3, 2, 8, 2)
    assert (single.timesteps, single.sigmas) == ((99,), ())


def test_executed_actions_are_clamped_but_latents_are_not():
    """With deviations of 10 the last latent leaves [-1, 1] almost surely."""
    policy = make_policy(diffusion=DiffusionConfig(sigma_min=10.0, sigma_max=10.0))
    decision = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    assert float(decision.latents[:, -1].abs().max()) > 1.0
    assert torch.equal(decision.actions_normalised, decision.latents[:, -1].clamp(-1, 1))


def test_actions_are_in_physical_units(policy):
    decision = policy.decide(*observation(), sampler="ddim", noise_seed=7)
    # Limits -0.2..0.2 and 0.0..0.1: physical = normalised * (0.2, 0.05) + (0, 0.05).
    expected = decision.actions_normalised * torch.tensor([0.2, 0.05]) + torch.tensor([0.0, 0.05])
    torch.testing.assert_close(decision.actions, expected)


def test_log_probs_of_a_decision_can_be_recomputed_from_its_record(policy):
    decision = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    condition = policy.encode(*observation())
    k = torch.full((3,), 2)
    found = transition_log_prob(
        lambda x, t: policy.epsilon(x, t, condition),
        policy.schedule,
        k,
        decision.latents[:, 2],
        decision.latents[:, 3],
    )
    torch.testing.assert_close(found.detach(), decision.log_probs[:, 2], rtol=1e-5, atol=1e-3)


def test_training_and_evaluation_mode_decide_alike(policy):
    trained = policy.train().decide(*observation(), sampler="ddim", noise_seed=7)
    evaluated = policy.eval().decide(*observation(), sampler="ddim", noise_seed=7)
    assert torch.equal(trained.actions, evaluated.actions)


def test_velocity_form_equals_the_epsilon_form_at_the_ends_of_the_schedule(policy):
    """abar -> 1 passes the network's output through, abar -> 0 returns the latent itself."""
    x = torch.randn((2, 8, 2), generator=torch.Generator().manual_seed(2))
    condition = torch.zeros((2, policy.condition_dim))
    policy.alpha_bars.copy_(torch.linspace(1, 0, 100))
    first, last = torch.zeros(2, dtype=torch.int64), torch.full((2,), 99)
    torch.testing.assert_close(
        policy.epsilon(x, first, condition), policy.denoiser(x, first, condition)
    )
    torch.testing.assert_close(policy.epsilon(x, last, condition), x)


def test_global_random_state_is_left_alone(policy):
    before = torch.random.get_rng_state()
    policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    assert torch.equal(torch.random.get_rng_state(), before)


SIZES = {
    "points": ObservationSize(n_points=16),
    "state": ObservationSize(n_points=0, proprio_dim=2),
    "image": ObservationSize(n_points=0, height=24, width=32),
}


def seen(size: ObservationSize, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows as the policy's configuration says they look."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, size.n_obs, *size.visual_shape)
    visual = torch.rand(shape, generator=generator)
    if size.sight == "image":
        visual = (255 * visual).to(torch.uint8)
    return visual, torch.rand((batch, size.n_obs, size.proprio_dim), generator=generator)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("net", [TINY, SkipNetConfig(hidden=16, depth=1)], ids=lambda n: n.kind)
def test_a_single_action_is_a_chunk_of_one(size, net):
    config = preset("small", size, ActionSize(n_chunk=1, dim=2))
    torch.manual_seed(0)
    policy = DiffusionPolicy(config.model_copy(update={"denoiser": net, "student": net}))
    several = policy.decide(*seen(size), sampler="ddim", noise_seed=7, deterministic=False)
    again = policy.train().decide(*seen(size), sampler="ddim", noise_seed=7, deterministic=False)
    single = policy.decide(*seen(size), sampler="one_step", noise_seed=7)
    assert several.actions.shape == single.actions.shape == (3, 1, 2)
    assert several.latents.shape == (3, 6, 1, 2)
    assert torch.equal(several.latents, again.latents)
    assert not torch.equal(several.actions[0], several.actions[1])


def test_the_paper_preset_for_single_actions_decides():
    size = ObservationSize(n_obs=3, n_points=64, proprio_dim=7)
    torch.manual_seed(0)
    policy = DiffusionPolicy(preset("paper_single", size, ActionSize(n_chunk=1, dim=7)))
    assert policy.condition_dim == 3 * (64 + 64)
    decision = policy.decide(*seen(size), sampler="ddim", noise_seed=7, deterministic=False)
    assert decision.log_probs.shape == (3, 10)
    assert max(decision.sigmas) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("kind", "visual", "says"),
    [
        ("state", torch.zeros((1, 2, 5, 3)), r"no points should be \[C, 0, 3\], found .*5, 3"),
        ("image", torch.zeros((1, 2, 24, 24, 3), dtype=torch.uint8), r"\[C, 24, 32, 3\]"),
        ("image", torch.zeros((1, 2, 24, 32, 3)), "type uint8, found torch.float32"),
        ("points", torch.zeros((1, 2, 16, 3), dtype=torch.uint8), "type float32, found"),
    ],
)
def test_what_is_seen_must_be_what_the_encoder_reads(kind, visual, says):
    size = SIZES[kind]
    policy = DiffusionPolicy(preset("small", size, ActionSize()))
    with pytest.raises(ObservationError, match=says):
        policy.decide(visual, torch.zeros((1, 2, size.proprio_dim)), sampler="ddim", noise_seed=0)


@pytest.mark.parametrize(
    ("cloud", "proprio"),
    [
        (torch.zeros((1, 3, 128, 3)), torch.zeros((1, 2, 3))),
        (torch.zeros((1, 2, 128, 4)), torch.zeros((1, 2, 3))),
        (torch.zeros((1, 2, 0, 3)), torch.zeros((1, 2, 3))),
        (torch.zeros((1, 2, 128, 3)), torch.zeros((1, 2, 7))),
        (torch.full((1, 2, 128, 3), float("nan")), torch.zeros((1, 2, 3))),
        (torch.zeros((1, 2, 128, 3)), torch.full((1, 2, 3), float("inf"))),
    ],
)
def test_malformed_observations_are_refused(policy, cloud, proprio):
    with pytest.raises(ObservationError, match=r"expected|should be"):
        policy.decide(cloud, proprio, sampler="ddim", noise_seed=0)


def test_paper_networks_work_behind_the_same_calls():
    from rl100_policy.core.policy_config import UNet1dConfig
    from rl100_policy.core.presets import paper

    config = paper(ObservationSize(n_points=64), ActionSize(n_chunk=8, dim=2))
    net = UNet1dConfig(channels=(16, 32, 32), groups=4, time_features=16)
    torch.manual_seed(0)
    policy = DiffusionPolicy(config.model_copy(update={"denoiser": net, "student": net}))
    decision = policy.decide(*observation(), sampler="ddim", noise_seed=7, deterministic=False)
    assert decision.latents.shape == (3, 11, 8, 2)
    assert policy.condition_dim == 2 * (64 + 64)
