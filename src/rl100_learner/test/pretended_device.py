# SPDX-License-Identifier: Apache-2.0
"""A second device for machines that have none: it computes on the CPU and is as strict as a GPU.

Tensors that were moved to it are wrappers of CPU tensors. An operation that mixes them with
tensors that were not, or that draws on the device from a generator of the CPU, raises as it would
on a GPU; so does ``numpy()``. What a GPU allows is allowed: copies between devices, single numbers
from the CPU, and indices from the CPU.
"""

import sys
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""The one device besides the CPU that every build of torch knows; what is meta otherwise, is not
used here."""

_BETWEEN_DEVICES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


class DeviceError(RuntimeError):
    """What a GPU would not do."""


class OnDevice(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=DEVICE,
            requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        _require_one_device(operation, args, kwargs)
        to_cpu = kwargs.get("device") == torch.device("cpu")
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        result = operation(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if to_cpu:  # a copy even where the pretended one is on the CPU in truth
            return tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, result)
        return tree_map(_outer, result)


def _inner(value):
    return value.inner if isinstance(value, OnDevice) else value


def _outer(value):
    plain = isinstance(value, torch.Tensor) and not isinstance(value, OnDevice)
    return OnDevice(value) if plain else value


def _require_one_device(operation, args, kwargs):
    values = tree_flatten((args, kwargs))[0]
    plain = [x for x in values if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)]
    assert all(x.device != DEVICE for x in plain), f"{operation} got a true meta tensor"
    if any(isinstance(value, torch.Generator) for value in values):
        raise DeviceError(f"{operation} draws on the device from a generator of the CPU")
    if operation in _BETWEEN_DEVICES:
        return
    if operation in _INDEXING and isinstance(args[0], OnDevice):
        args = (args[0], *args[2:])  # indices may be on the CPU
    for value in tree_flatten((args, kwargs))[0]:
        if isinstance(value, torch.Tensor) and not isinstance(value, OnDevice) and value.dim():
            raise DeviceError(f"{operation} mixes the device with a {value.dim()}-D CPU tensor")


class _Pretending(TorchFunctionMode):
    """Takes what asks for the device before torch makes a meta tensor of it."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("device")
        if function is torch.Tensor.to:
            devices = [each for each in (*args[1:], wanted) if isinstance(each, torch.device)]
            if devices == [DEVICE]:
                return args[0] if isinstance(args[0], OnDevice) else OnDevice(args[0].detach())
        elif function is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return OnDevice(args[0].inner.new_tensor(*args[1:], **kwargs))
        elif function is torch.Tensor.__setitem__ and not isinstance(args[2], torch.Tensor):
            # torch would make a meta tensor of the number, which has none
            return function(*tree_map(_inner, args))
        elif wanted == DEVICE and not any(isinstance(each, OnDevice) for each in args):
            if kwargs.get("generator") is not None:
                raise DeviceError(f"{function} draws on the device from a generator of the CPU")
            return OnDevice(function(*args, **kwargs | {"device": "cpu"}))
        return function(*args, **kwargs)


class _Making(TorchDispatchMode):
    """The same for tensors that torch makes inside, such as the zeros of a gradient."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == DEVICE and not any(issubclass(t, OnDevice) for t in types):
            return OnDevice(operation(*args, **kwargs | {"device": torch.device("cpu")}))
        return operation(*args, **kwargs)


@contextmanager
def pretended_device(monkeypatch):
    """``device=cuda`` means the pretended device for as long as the context lasts."""

    def choose_device(choice, _rank=0):
        return torch.device("cpu") if choice == "cpu" else DEVICE

    for module in ("accelerator", "training.algorithm_run"):
        monkeypatch.setattr(f"rl100_learner.{module}.choose_device", choose_device)
    known = ["cpu", DEVICE.type]
    # as the module that the class is from: torch.optim hides the name
    module = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: known)
    with _Making(), _Pretending():
        yield DEVICE
