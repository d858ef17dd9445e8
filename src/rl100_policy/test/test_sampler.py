# SPDX-License-Identifier: Apache-2.0
"""Sampler against closed forms: Gaussian data have a linear exact denoiser, so the whole chain is
Gaussian."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from rl100_policy.core.policy_config import DiffusionConfig
from rl100_policy.core.sampler import (
    cosine_alpha_bars,
    gaussian_log_prob,
    make_schedule,
    sample_chain,
    transition_log_prob,
)

UNCLIPPED = {"sigma_min": 1e-6, "sigma_max": 10.0, "clamp": 1e6}
DATA_STD = 0.3


def gaussian_denoiser(config: DiffusionConfig, std: float = DATA_STD):
    """E[eps | x_t] for clean data ~ Normal(0, std^2): sqrt(1 - abar) x / (abar std^2 + 1 -
    abar)."""
    abar = cosine_alpha_bars(config.n_train)

    def denoise(x, timestep):
        a = abar[timestep].view(-1, *(1,) * (x.dim() - 1))
        return (torch.sqrt(1 - a) / (a * std**2 + 1 - a) * x.double()).to(x.dtype)

    return denoise


@pytest.mark.parametrize(
    ("n_steps", "timesteps", "sigmas"),
    [
        (
            10,
            (91, 81, 71, 61, 51, 41, 31, 21, 11, 1),
            (0.865, 0.713, 0.598, 0.505, 0.422, 0.343, 0.261, 0.166, 0.041, 0.020),
        ),
        (5, (81, 61, 41, 21, 1), (0.750, 0.525, 0.307, 0.0415, 0.0201)),
    ],
)
def test_sigmas_match_the_published_table(n_steps, timesteps, sigmas):
    """Computed once by hand from the cosine schedule, T = 100, eta = 1, to three digits."""
    schedule = make_schedule(DiffusionConfig(n_steps=n_steps, **UNCLIPPED))
    assert schedule.timesteps == timesteps
    assert schedule.previous == (*timesteps[1:], 0)
    assert schedule.sigmas == pytest.approx(sigmas, abs=6e-4)


def test_sigmas_are_clipped_on_both_sides():
    schedule = make_schedule(DiffusionConfig(n_steps=5, sigma_min=0.1, sigma_max=0.4))
    assert schedule.sigmas == pytest.approx((0.4, 0.4, 0.307, 0.1, 0.1), abs=6e-4)


def test_alpha_bars_start_near_one_and_decrease_to_almost_nothing():
    abar = cosine_alpha_bars(100)
    assert bool((abar[1:] < abar[:-1]).all())
    assert float(abar[0]) > 0.999
    assert float(abar[-1]) < 1e-3


@pytest.mark.parametrize(
    "sigmas", [{"sigma_min": 1e-6, "sigma_max": 10.0}, {"sigma_min": 0.1, "sigma_max": 0.4}]
)
def test_a_perfect_denoiser_keeps_the_marginal_at_every_noise_level(sigmas):
    """Given the true x0 and eps, mean and noise together must reproduce Var = abar' a^2 + (1 -
    abar') exactly.

    For a point mass at a, eps_hat = (x - sqrt(abar) a) / sqrt(1 - abar) is exact; then the next
    latent has mean sqrt(abar') a and, over the chain's own noise, variance max(1 - abar',
    sigma^2).
    """
    config, clean = DiffusionConfig(n_steps=5, clamp=1e6, **sigmas), 0.4
    abar = cosine_alpha_bars(100)
    schedule = make_schedule(config)

    def denoise(x, timestep):
        a = abar[timestep].view(-1, 1)
        return ((x - torch.sqrt(a) * clean) / torch.sqrt(1 - a)).to(x.dtype)

    generator = torch.Generator().manual_seed(0)
    start_level = float(abar[schedule.timesteps[0]])
    x_start = math.sqrt(start_level) * clean + math.sqrt(1 - start_level) * torch.randn(
        (200_000, 1), generator=generator, dtype=torch.float64
    )
    latents = sample_chain(
        denoise, schedule, x_start, generator=generator, deterministic=False
    ).latents
    for k, t in enumerate(schedule.previous):
        spread = math.sqrt(max(1 - float(abar[t]), schedule.sigmas[k] ** 2))
        # 200 000 draws: the mean is known to spread / 447, the deviation to spread / 632; four
        # times that is allowed.
        assert float(latents[:, k + 1].mean()) == pytest.approx(
            math.sqrt(abar[t]) * clean, abs=4 * spread / 447
        )
        assert float(latents[:, k + 1].std()) == pytest.approx(spread, rel=4 / 632)


def test_summed_step_log_probs_are_the_joint_density():
    """A linear denoiser makes x_k+1 = m_k x_k + sigma_k z, so (x_1..x_K) given x_0 is one
    multivariate normal."""
    config = DiffusionConfig(n_steps=5, clamp=1e6)
    schedule, denoise = make_schedule(config), gaussian_denoiser(config)
    x_start = torch.tensor([[0.7], [-1.3]], dtype=torch.float64)
    chain = sample_chain(
        denoise, schedule, x_start, generator=torch.Generator().manual_seed(1), deterministic=False
    )

    abar = cosine_alpha_bars(100)
    gains = []
    for step, t in zip(schedule.steps, schedule.timesteps, strict=True):
        eps_gain = math.sqrt(1 - abar[t]) / (abar[t] * DATA_STD**2 + 1 - abar[t])
        gains.append(
            float(step.x0_weight * (step.x_scale - step.eps_scale * eps_gain) + step.x_weight)
        )
    # x = G x_0 + L z with L[i, j] = sigma_j * product of the gains after j.
    k = schedule.previous
    spread = torch.tensor(
        [
            [
                schedule.sigmas[j] * math.prod(gains[j + 1 : i + 1]) if j <= i else 0.0
                for j in range(len(k))
            ]
            for i in range(len(k))
        ],
        dtype=torch.float64,
    )
    mean_gain = torch.tensor(
        [math.prod(gains[: i + 1]) for i in range(len(k))], dtype=torch.float64
    )
    joint = MultivariateNormal(x_start * mean_gain, scale_tril=spread.expand(2, -1, -1))
    torch.testing.assert_close(
        chain.log_probs.sum(1), joint.log_prob(chain.latents[:, 1:, 0]), rtol=1e-6, atol=1e-6
    )


def test_recomputed_log_probs_equal_those_of_sampling():
    config = DiffusionConfig(n_steps=5)
    schedule, denoise = make_schedule(config), gaussian_denoiser(config)
    generator = torch.Generator().manual_seed(2)
    x_start = torch.randn((6, 8, 2), generator=generator)
    chain = sample_chain(denoise, schedule, x_start, generator=generator, deterministic=False)
    k = torch.tensor([0, 1, 2, 3, 4, 2])
    rows = torch.arange(6)
    found = transition_log_prob(
        denoise, schedule, k, chain.latents[rows, k], chain.latents[rows, k + 1]
    )
    # Sums of 16 terms of order 1 / (2 sigma^2) computed twice in float32.
    torch.testing.assert_close(found, chain.log_probs[rows, k], rtol=1e-5, atol=1e-4)


def test_deterministic_chain_follows_the_means_and_ends_at_their_product():
    config = DiffusionConfig(n_steps=5, **UNCLIPPED, eta=0.0)
    schedule, denoise = make_schedule(config), gaussian_denoiser(config)
    x_start = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    chain = sample_chain(denoise, schedule, x_start, generator=None, deterministic=True)
    assert chain.latents.shape == (2, 6, 1)
    assert chain.log_probs.shape == (2, 0)
    # eta = 0: DDIM of a linear denoiser multiplies by (sqrt(a' ) s^2 sqrt(a) + sqrt((1-a')(1-a)))
    # / (a s^2 + 1 - a).
    abar, factor = cosine_alpha_bars(100).tolist(), 1.0
    for t, p in zip(schedule.timesteps, schedule.previous, strict=True):
        a, b = abar[t], abar[p]
        signal, noise = math.sqrt(a * b) * DATA_STD**2, math.sqrt((1 - a) * (1 - b))
        factor *= (signal + noise) / (a * DATA_STD**2 + 1 - a)
    torch.testing.assert_close(chain.latents[:, -1], x_start * factor, rtol=1e-6, atol=0)


def test_more_steps_approach_the_exact_scale_of_gaussian_data():
    """The exact deterministic map from level t to 0 scales by s sqrt-ratio of the marginals'
    deviations."""
    errors = []
    for n_steps in (5, 10, 20):
        config = DiffusionConfig(n_steps=n_steps, **UNCLIPPED, eta=0.0)
        schedule, abar = make_schedule(config), cosine_alpha_bars(100).tolist()
        start, end = (abar[i] * DATA_STD**2 + 1 - abar[i] for i in (schedule.timesteps[0], 0))
        x_start = torch.ones((1, 1), dtype=torch.float64)
        chain = sample_chain(
            gaussian_denoiser(config), schedule, x_start, generator=None, deterministic=True
        )
        errors.append(
            abs(float(chain.latents[0, -1, 0]) - math.sqrt(end / start)) / math.sqrt(end / start)
        )
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_noise_estimate_is_recomputed_after_the_clamp():
    """With eps_hat = 0 and |x0| beyond the limit, eps must become (x - sqrt(abar)) / sqrt(1 -
    abar), not 0."""
    config = DiffusionConfig(n_steps=5, sigma_min=1e-6, eta=0.0)
    schedule, abar = make_schedule(config), cosine_alpha_bars(100).tolist()
    x = torch.full((1, 1), 3.0, dtype=torch.float64)
    chain = sample_chain(
        lambda x, _: torch.zeros_like(x), schedule, x, generator=None, deterministic=True
    )
    now, then = abar[schedule.timesteps[0]], abar[schedule.previous[0]]
    eps = (3.0 - math.sqrt(now)) / math.sqrt(1 - now)
    expected = math.sqrt(then) + math.sqrt(1 - then) * eps
    assert float(chain.latents[0, 1, 0]) == pytest.approx(expected, rel=1e-6)


def test_gaussian_log_prob_of_the_mean_is_minus_log_of_the_volume():
    mean = torch.zeros((2, 3, 4))
    expected = -12 * (math.log(0.2) + 0.5 * math.log(2 * math.pi))
    assert gaussian_log_prob(mean, mean, 0.2).tolist() == pytest.approx([expected] * 2, rel=1e-6)
