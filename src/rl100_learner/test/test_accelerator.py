# SPDX-License-Identifier: Apache-2.0
"""Every stage on another device, in lower precision, compiled; and what is refused."""

import shutil

import pytest
import torch
from pretended_device import pretended_device
from safetensors.torch import load_file
from toy import ROBOT, TASK, ReachCollector, make_episode, quick_settings

from rl100_learner.accelerator import AcceleratorSettings, accelerated, choose_device
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.offline import GateConfig, OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig, ReplayConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.records import read_metrics
from rl100_learner.training.stages import ALL_STAGES
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import WEIGHTS

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)
# that copying to a meta tensor does nothing, which is not true of the pretended device
pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
DEMONSTRATIONS = [make_episode(index) for index in range(6)]
SETTINGS = AlgorithmSettings(
    **quick_settings(4, 3).model_dump(),
    rollouts=6,
    trials=2,
    critics=CriticConfig(steps=8, width=16, returns=ValueConfig(width=8)),
    transition=TransitionConfig(steps=8, widths=(16,)),
    offline=OfflineConfig(iterations=2, states=8, gate=GateConfig(enabled=False, starts=16)),
    candidate_distillation=DistillationConfig(steps=2, windows=8),
    online=OnlineConfig(
        iterations=2,
        episodes=4,
        value=ValueConfig(width=8),
        replay=ReplayConfig(states=8, first_steps=4, steps=2, width=8),
    ),
    online_distillation=DistillationConfig(steps=4, windows=8),
).model_copy(update={"n_chunk": 4})


class NearEnough(ReachCollector):
    """Some of what a policy of four steps does is a success."""

    TOLERANCE_M = 0.12


def run(output, on_progress=lambda *_: None, stages=ALL_STAGES, **changes):
    """All stages; weights of every version by its path."""
    run_algorithm(
        DEMONSTRATIONS, TASK, ROBOT, output, SETTINGS.model_copy(update=changes), NearEnough(),
        on_progress, stages,
    )  # fmt: skip
    found = sorted(output.rglob(WEIGHTS))
    return {str(path.relative_to(output)): load_file(path) for path in found}


def largest_difference(some, others):
    """Of the weights of the same versions."""
    assert some.keys() == others.keys()
    pairs = [(some[name][key], others[name][key]) for name in some for key in some[name]]
    return max(float((one - other).abs().max()) for one, other in pairs)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return run(tmp_path_factory.mktemp("cpu") / "run")


def test_every_stage_learns_on_another_device_to_the_same_bits(on_cpu, tmp_path, monkeypatch):
    """Nothing is left behind on the CPU, and no random number depends on the device."""
    with pretended_device(monkeypatch):
        there = run(tmp_path / "run", device="cuda")
    assert largest_difference(there, on_cpu) < 1e-4
    assert len(there) == 4  # imitation twice, a candidate, online


def test_a_killed_run_goes_on_on_another_device(on_cpu, tmp_path, monkeypatch):
    """Checkpoints hold tensors of the CPU, and what is read from them is moved."""

    class KilledError(Exception):
        pass

    def kill(name, progress):
        if name in ("imitation", "online") and progress.step >= progress.steps / 2:
            raise KilledError

    with pretended_device(monkeypatch):
        for _ in range(2):
            with pytest.raises(KilledError):
                run(tmp_path / "run", kill, device="cuda", checkpoint_seconds=0.0)
        there = run(tmp_path / "run", device="cuda", checkpoint_seconds=0.0)
    assert largest_difference(there, on_cpu) < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: there + here,
        lambda here, there: here[there.long()],
        lambda here, there: torch.cat((here, there)),
        lambda _, there: torch.multinomial(there, 2, generator=torch.Generator()),
        lambda _, there: torch.randn(2, generator=torch.Generator(), device=there.device),
        lambda _, there: there.numpy(),
    ],
)
def test_the_pretended_device_is_as_strict_as_a_gpu(wrong, monkeypatch):
    with pretended_device(monkeypatch) as device:
        here = torch.ones(3)
        with pytest.raises(RuntimeError):
            wrong(here, here.to(device))


def test_the_pretended_device_allows_what_a_gpu_allows(monkeypatch):
    with pretended_device(monkeypatch) as device:
        there = torch.arange(3.0).to(device)
        found = (there * torch.tensor(2.0))[torch.tensor([2, 0])]
        there.copy_(torch.ones(3))
    assert found.cpu().tolist() == [4.0, 0.0]
    assert there.cpu().tolist() == [1.0, 1.0, 1.0]


def test_in_bfloat16_networks_round_and_everything_else_stays_float32(on_cpu, tmp_path):
    """Ratios of likelihoods are one before the first step, as without it."""
    lower = run(tmp_path / "run", precision="bf16")
    assert all(
        each.dtype == torch.float32 for weights in lower.values() for each in weights.values()
    )
    imitation = {name: lower[name] for name in lower if name.startswith("imitation")}
    assert 1e-5 < largest_difference(imitation, {name: on_cpu[name] for name in imitation}) < 0.1
    rows = [
        *read_metrics(tmp_path / "run" / "round_1" / "offline"),
        *read_metrics(tmp_path / "run" / "online"),
    ]
    errors = [row["ratio_error"] for row in rows if "ratio_error" in row]
    assert len(errors) == 4
    assert max(errors) < 1e-3


@pytest.fixture
def compiling():
    """Compile from nothing, and count."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.slow
@needs_compiler
def test_every_stage_learns_the_same_traced_for_compilation(
    on_cpu, tmp_path, monkeypatch, compiling
):
    """Without the C++ code, which would take minutes; that is the next test's."""
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda network: original(network, backend="aot_eager")
    )
    compiled = run(tmp_path / "run", compile=True)
    assert largest_difference(compiled, on_cpu) < 1e-4
    assert compiling["stats"]["unique_graphs"] > 4
    assert not compiling["graph_break"]


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("compiling")
def test_a_compiled_stage_learns_the_same_in_either_precision(on_cpu, tmp_path):
    first = f"imitation/reach_run_imitation/{WEIGHTS}"
    compiled = run(tmp_path / "a" / "run", compile=True, stages=("imitation",))
    assert largest_difference(compiled, {first: on_cpu[first]}) < 1e-4
    lower = run(tmp_path / "b" / "run", compile=True, precision="bf16", stages=("imitation",))
    assert 1e-5 < largest_difference(lower, compiled) < 0.1


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"found 0 GPUs.*install a torch for CUDA.*device=cpu"):
        run(tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
    assert choose_device("auto") == torch.device("cpu")


def test_one_gpu_per_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="GPU number 2, found 2"):
        choose_device("cuda", 2)


@pytest.mark.slow
def test_without_a_compiler_compilation_is_refused(monkeypatch, tmp_path):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    settings = AcceleratorSettings(compile=True)
    with (
        missing,
        pytest.raises(ConfigError, match=r"C\+\+ compiler.*no-such-compiler.*compile=false"),
    ):
        accelerated(settings).__enter__()
