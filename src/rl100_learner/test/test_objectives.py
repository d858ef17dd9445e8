# SPDX-License-Identifier: Apache-2.0
"""Objectives against closed forms and properties."""

import pytest
import torch

from rl100_learner.objectives.chamfer import chamfer_distance
from rl100_learner.objectives.consistency import consistency_distillation_loss
from rl100_learner.objectives.diffusion import add_noise, diffusion_loss, regression_target

ABAR = torch.tensor([0.9, 0.5, 0.1])


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((3, 4, 2), generator=generator) * 2 - 1, torch.randn(
        (3, 4, 2), generator=generator
    )


def test_noise_keeps_unit_variance_of_unit_variance_data():
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn((2, 100_000), generator=generator).unsqueeze(-1)
    mixed = add_noise(clean, noise, torch.full((100_000,), 0.3))
    assert float(mixed.var()) == pytest.approx(1.0, abs=0.02)  # 4 standard errors of sqrt(2 / n)


@pytest.mark.parametrize("target", ["epsilon", "sample", "velocity"])
def test_loss_is_zero_at_the_target_and_mean_square_elsewhere(target):
    clean, noise = pair()
    exact = regression_target(clean, noise, ABAR, target)
    assert float(diffusion_loss(exact, clean, noise, ABAR, target)) == 0.0
    assert float(diffusion_loss(exact + 0.5, clean, noise, ABAR, target)) == pytest.approx(
        0.25, rel=1e-5
    )


def test_velocity_target_is_the_epsilon_and_minus_the_sample_at_the_ends():
    clean, noise = pair()
    torch.testing.assert_close(regression_target(clean, noise, torch.ones(3), "velocity"), noise)
    torch.testing.assert_close(regression_target(clean, noise, torch.zeros(3), "velocity"), -clean)


def test_velocity_error_is_the_epsilon_error_over_abar_and_the_sample_error_over_one_minus_abar():
    clean, noise = pair()
    abar = torch.full((3,), 0.3)
    x = add_noise(clean, noise, abar)
    output = regression_target(clean, noise, abar, "velocity") + 0.2
    loss = diffusion_loss(output, clean, noise, abar, "velocity")
    eps_hat = (0.7**0.5) * x + (0.3**0.5) * output
    sample_hat = (0.3**0.5) * x - (0.7**0.5) * output
    torch.testing.assert_close(loss, diffusion_loss(eps_hat, clean, noise, abar, "epsilon") / 0.3)
    torch.testing.assert_close(
        loss, diffusion_loss(sample_hat, clean, noise, abar, "sample") / 0.7
    )


def test_diffusion_gradient_reaches_only_the_output():
    clean, noise = (v.requires_grad_() for v in pair())
    output = torch.zeros_like(clean).requires_grad_()
    diffusion_loss(output, clean, noise, ABAR, "velocity").backward()
    # d/d output of mean (output - target)^2 = 2 (output - target) / n at output = 0.
    torch.testing.assert_close(
        output.grad, -2 * regression_target(clean, noise, ABAR, "velocity").detach() / 24
    )
    assert clean.grad is None
    assert noise.grad is None


def test_distillation_loss_is_zero_where_the_student_does_what_the_teacher_would_execute():
    teacher = torch.tensor([[-3.0, 0.5, 2.0]])
    assert float(consistency_distillation_loss(torch.tensor([[-1.0, 0.5, 1.0]]), teacher)) == 0.0
    assert float(
        consistency_distillation_loss(torch.tensor([[-1.0, 0.5, 2.0]]), teacher)
    ) == pytest.approx(1 / 3)


def test_distillation_gradient_does_not_reach_the_teacher_and_survives_beyond_the_limits():
    student = torch.tensor([[1.5, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.0]], requires_grad=True)
    consistency_distillation_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, torch.tensor([[1.0, 0.0]]))
    assert teacher.grad is None


def test_chamfer_of_shifted_points_is_twice_the_shift():
    """Points 1 apart moved by 0.1: every nearest neighbour is 0.1 away, in both directions."""
    first = torch.stack((torch.arange(5.0), torch.zeros(5), torch.zeros(5)), dim=-1).unsqueeze(0)
    assert float(chamfer_distance(first, first + torch.tensor([0.0, 0.1, 0.0]))) == pytest.approx(
        0.2, rel=1e-5
    )


def test_chamfer_is_zero_for_the_same_set_in_any_order_and_with_repeats():
    points = torch.randn((2, 6, 3), generator=torch.Generator().manual_seed(2))
    again = torch.cat((points.flip(1), points[:, :2]), dim=1)
    assert float(chamfer_distance(points, again)) == 0.0


def test_chamfer_is_symmetric_and_scales_with_the_unit():
    generator = torch.Generator().manual_seed(3)
    first, second = (
        torch.randn((2, 6, 3), generator=generator),
        torch.randn((2, 9, 3), generator=generator),
    )
    torch.testing.assert_close(chamfer_distance(first, second), chamfer_distance(second, first))
    torch.testing.assert_close(
        chamfer_distance(2 * first, 2 * second), 2 * chamfer_distance(first, second)
    )


def test_chamfer_gradient_moves_points_towards_their_neighbours():
    moving = torch.tensor([[[0.3, 0.0, 0.0]]], requires_grad=True)
    chamfer_distance(moving, torch.zeros((1, 1, 3))).backward()
    torch.testing.assert_close(moving.grad, torch.tensor([[[2.0, 0.0, 0.0]]]))
