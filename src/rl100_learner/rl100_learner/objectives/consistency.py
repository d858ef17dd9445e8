# SPDX-License-Identifier: Apache-2.0
"""Distillation of a K-step teacher into a one-step student."""

from __future__ import annotations

import torch
from torch import Tensor


def consistency_distillation_loss(student: Tensor, teacher: Tensor, clamp: float = 1.0) -> Tensor:
    """Mean squared distance of the student's chunk to the teacher's, both from the same noise x_T.

    L = | C(x_T) - sg[clamp(chain mean of K transitions from x_T)] |^2     (published code, "same
    noise")

    Zero exactly where the student equals what the teacher would execute. The student's own output
    is not clamped here, so that it gets a gradient outside the limits too.

    Args:
        student: C(x_T, condition), [B, ...], normalised action units.
        teacher: End of the teacher's deterministic chain from the same x_T, unclamped, like
            student.
        clamp: Executed actions are within +- this, normalised units.

    Returns:
        Scalar. No gradient reaches the teacher.
    """
    return torch.mean((student - teacher.detach().clamp(-clamp, clamp)) ** 2)
