# SPDX-License-Identifier: Apache-2.0
"""Muon, the split of parameters and the schedule."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from rl100_learner.algorithms.optimizers import (
    Muon,
    OptimizerConfig,
    OptimizerPair,
    learning_rate_share,
    orthogonalise,
    split_parameters,
)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonalised_matrix_keeps_singular_vectors_and_evens_out_singular_values(shape):
    generator = torch.Generator().manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    spectrum = torch.linspace(1.0, 3.0, min(shape))
    result = orthogonalise((u * spectrum) @ vt.unsqueeze(0), steps=4)[0]
    inside = u.T @ result @ vt.T
    values = torch.diagonal(inside)
    torch.testing.assert_close(inside, torch.diag(values), rtol=0, atol=1e-4)
    # The quintic's attractor: each pass maps the range [0.2, 1] it is given into about [0.65,
    # 1.2].
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.25


def test_orthogonalising_nothing_gives_nothing():
    assert float(orthogonalise(torch.zeros((2, 3, 4)), steps=4).abs().max()) == 0.0


def test_each_matrix_of_a_batch_is_treated_alone():
    batch = torch.randn((3, 5, 7), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([orthogonalise(m.unsqueeze(0), steps=4) for m in batch])
    torch.testing.assert_close(orthogonalise(batch, steps=4), alone)


def test_first_muon_step_is_the_orthogonalised_gradient_scaled_by_shape():
    weight = nn.Parameter(torch.zeros((8, 2)))
    weight.grad = torch.randn((8, 2), generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=0.1).step()
    # B = g, so g + m B = 1.95 g, and the orthogonalisation ignores scale; sqrt(8 / 2) = 2.
    expected = -0.1 * 2 * orthogonalise(weight.grad.unsqueeze(0), steps=4)[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_muon_matches_the_reference_implementation_up_to_bfloat16():
    ours, reference = (nn.Parameter(torch.zeros((12, 20))) for _ in range(2))
    first = Muon([ours], lr=0.02)
    second = torch.optim.Muon([reference], lr=0.02, weight_decay=0.0, momentum=0.95, ns_steps=4)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        gradient = torch.randn((12, 20), generator=generator)
        ours.grad, reference.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    relative = float((ours - reference).detach().norm() / reference.detach().norm())
    assert (
        relative < 0.05
    )  # bfloat16 keeps 8 bits: about 0.4 % per product, a dozen products per step


def test_muon_refuses_anything_but_matrices():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 32)
        self.inner = nn.Linear(32, 32)
        self.conv = nn.Conv1d(32, 32, 3)
        self.output = nn.Linear(32, 2)


def test_only_inner_matrices_go_to_muon():
    net = _Net()
    matrices, others = split_parameters([net])
    assert [id(p) for p in matrices] == [id(net.inner.weight)]
    assert len(matrices) + len(others) == len(list(net.parameters()))


def test_pair_state_resumes_to_the_same_weights():
    def train(net: _Net, pair: OptimizerPair, steps: range) -> None:
        for step in steps:
            pair.zero_grad()
            x = torch.ones((1, 3)) * step
            net.output(torch.relu(net.inner(torch.relu(net.first(x))))).pow(2).sum().backward()
            pair.step(step)

    torch.manual_seed(4)
    net = _Net()
    pair = OptimizerPair(OptimizerConfig(), [net], steps=10)
    train(net, pair, range(5))
    twin = _Net()
    twin.load_state_dict(net.state_dict())
    restored = OptimizerPair(OptimizerConfig(), [twin], steps=10)
    restored.load_state_dict(copy.deepcopy(pair.state_dict()))
    train(net, pair, range(5, 10))
    train(twin, restored, range(5, 10))
    for found, expected in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_learning_rate_warms_up_linearly_and_ends_at_its_final_share():
    shares = [learning_rate_share(s, 1000, 100, 0.02) for s in range(1000)]
    assert shares[0] == pytest.approx(0.01)
    assert shares[49] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(0.02)
    middle = 100 + 899 / 2  # half way down the cosine lies the mean of both ends
    assert shares[math.floor(middle)] == pytest.approx(0.51, abs=0.002)
    assert all(a >= b for a, b in pairwise(shares[100:]))


def test_a_short_run_warms_up_for_a_fifth_of_it_at_most():
    assert learning_rate_share(3, 20, 100, 0.02) == 1.0
