# SPDX-License-Identifier: Apache-2.0
"""Lower precision inside networks, and nowhere else.

Weights, and what a network is given and gives back, are float32. So losses, gradients of weights,
optimisers, densities and everything that is stored stay float32, whatever a network computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Of the process, as torch's number of threads is: compilation cannot look into context variables.
_dtype: torch.dtype | None = None


@contextmanager
def networks_in(dtype: torch.dtype | None) -> Iterator[None]:
    """For as long as the context lasts networks compute in ``dtype`` by autocast; None: float32.

    Counts for the whole process, so only one thread may learn at a time. Backward passes may be
    inside or outside: they follow what the forward pass did.
    """
    global _dtype
    before, _dtype = _dtype, dtype
    try:
        yield
    finally:
        _dtype = before


def network_precision(
    forward: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """Make the ``forward`` of a network follow :func:`networks_in`.

    Its first argument is a tensor, which says on which device it computes. It returns a tensor or
    a dataclass of tensors; what is floating in it comes out as float32.
    """

    @wraps(forward)
    def follow(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if _dtype is None:
            return forward(*args, **kwargs)
        with torch.autocast(cast("Tensor", args[1]).device.type, _dtype):
            result = forward(*args, **kwargs)
        return cast("_Result", _float32(result))

    return follow


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _float32(getattr(value, each.name)) for each in fields(value)}
        return replace(value, **parts)
    return value
