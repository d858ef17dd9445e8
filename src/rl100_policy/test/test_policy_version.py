# SPDX-License-Identifier: Apache-2.0
"""Policy versions: a faithful round trip, and a named refusal for every way a folder can be
wrong."""

import hashlib
import json
import os
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl100_policy.core.config import (
    ActionConfig,
    CameraConfig,
    ImageObservation,
    PointObservation,
    RobotConfig,
    TaskConfig,
    ToolConfig,
    WorkspaceBox,
)
from rl100_policy.core.errors import PolicyVersionError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import (
    ActionSize,
    ImageEncoderConfig,
    ObservationSize,
    PointEncoderConfig,
    PolicyConfig,
    ResidualMlpConfig,
    ResNet18Config,
    SkipNetConfig,
    StateEncoderConfig,
    UNet1dConfig,
    VitConfig,
)
from rl100_policy.core.policy_version import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    BagReference,
    Manifest,
    check_fits,
    check_scale,
    check_sizes,
    load_version,
    read_manifest,
    write_version,
)
from rl100_policy.core.presets import preset
from rl100_policy.core.runner import PolicyRunner
from rl100_policy.core.sight import observation_size

BOX = WorkspaceBox(low=(0, 0, 0), high=(1, 1, 1))
TASK = TaskConfig(
    name="push",
    description="push",
    crop=BOX,
    tool_workspace=BOX,
    action=ActionConfig(names=("linear.x", "linear.y"), low=(-1, -1), high=(1, 1)),
    time_limit=10.0,
)
ROBOT = RobotConfig(
    name="arm",
    urdf="arm.urdf",
    base_frame="base",
    joints=("j1",),
    home=(0.0,),
    tool=ToolConfig(parent="hand", xyz=(0, 0, 0), radius=0.01, length=0.1),
    acceleration_limits=(1.0,),
    jerk_limits=(1e3,),
    cameras=(),
)


def make_policy(width: int = 16) -> DiffusionPolicy:
    torch.manual_seed(width)
    net = ResidualMlpConfig(width=width, blocks=1)
    policy = DiffusionPolicy(PolicyConfig(denoiser=net, student=net))
    policy.normalizer.action.fit(torch.tensor([[-0.2, 0.1], [0.3, 0.1]]))
    return policy


def write(folder: Path, policy: DiffusionPolicy) -> Manifest:
    return write_version(
        folder,
        policy,
        task=TASK,
        robot=ROBOT,
        parents=("before",),
        bags=(BagReference(id="episode_1", sha256="ab" * 32),),
        metrics={"loss": 0.25},
        training={"seed": 3, "nested": {"steps": [1, 2]}},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "version_1", make_policy())
    return tmp_path / "version_1"


def reseal(folder: Path, **changes) -> None:
    """Make the manifest agree with the files again, as a careful forger or an old exporter
    would."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    files = {}
    for name in (WEIGHTS, CONFIG):
        data = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest = Manifest.model_validate(manifest.model_dump() | {"files": files} | changes)
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def test_weights_normaliser_and_decisions_survive_bit_for_bit(tmp_path):
    policy = make_policy()
    write(tmp_path / "v", policy)
    loaded, _ = load_version(tmp_path / "v")
    for key, value in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    cloud, proprio = torch.rand((1, 2, 128, 3)), torch.rand((1, 2, 3))
    assert torch.equal(
        loaded.decide(cloud, proprio, sampler="ddim", noise_seed=5).actions,
        policy.decide(cloud, proprio, sampler="ddim", noise_seed=5).actions,
    )


KINDS = {
    "skip_net": PolicyConfig(
        action=ActionSize(n_chunk=1),
        denoiser=SkipNetConfig(hidden=16, depth=1),
        student=SkipNetConfig(hidden=16, depth=1),
    ),
    "unet1d": PolicyConfig(
        denoiser=UNet1dConfig(channels=(8, 16), groups=4, time_features=8),
        student=ResidualMlpConfig(width=16, blocks=1),
    ),
    "bottleneck": PolicyConfig(encoder=PointEncoderConfig(bottleneck=True)),
    "state": PolicyConfig(
        observation=ObservationSize(n_points=0, proprio_dim=5),
        encoder=StateEncoderConfig(proprio_widths=(8,), bottleneck=True),
    ),
    "resnet18": PolicyConfig(
        observation=ObservationSize(n_points=0, height=32, width=32),
        encoder=ImageEncoderConfig(backbone=ResNet18Config(side=32)),
    ),
    "vit": PolicyConfig(
        observation=ObservationSize(n_points=0, height=32, width=48),
        encoder=ImageEncoderConfig(backbone=VitConfig(side=32, dim=16, depth=1), bottleneck=True),
    ),
}


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_every_kind_of_network_survives_bit_for_bit(tmp_path, config):
    torch.manual_seed(3)
    policy = DiffusionPolicy(config)
    write(tmp_path / "v", policy)
    loaded, _ = load_version(tmp_path / "v")
    assert loaded.config == config
    size = config.observation
    visual = 255 * torch.rand((2, size.n_obs, *size.visual_shape))
    visual = visual.to(torch.uint8) if size.sight == "image" else visual
    proprio = torch.rand((2, size.n_obs, size.proprio_dim))
    for sampler in ("ddim", "one_step"):
        assert torch.equal(
            loaded.decide(visual, proprio, sampler=sampler, noise_seed=5).latents,
            policy.decide(visual, proprio, sampler=sampler, noise_seed=5).latents,
        )


def test_a_version_from_before_there_were_kinds_of_encoders_loads(folder):
    """Its configuration has neither ``kind`` nor anything about images or a bottleneck."""
    before, _ = load_version(folder)
    config = json.loads((folder / CONFIG).read_text())
    for key in ("kind", "bottleneck", "proprio_reconstruction_widths"):
        del config["encoder"][key]
    for key in ("height", "width"):
        del config["observation"][key]
    (folder / CONFIG).write_text(json.dumps(config))
    reseal(folder)
    after, _ = load_version(folder)
    assert after.config == before.config


def test_a_version_does_not_need_the_file_its_backbone_began_with(tmp_path):
    config = KINDS["resnet18"]
    begun = DiffusionPolicy(config)
    weights = begun.encoder.backbone.network.state_dict()
    save_file(weights, tmp_path / "begin.safetensors")
    encoder = config.encoder.model_copy(
        update={"pretrained": str(tmp_path / "begin.safetensors"), "freeze_backbone": True}
    )
    policy = DiffusionPolicy(config.model_copy(update={"encoder": encoder}))
    write(tmp_path / "v", policy)
    (tmp_path / "begin.safetensors").unlink()
    loaded, _ = load_version(tmp_path / "v")
    for key, value in weights.items():
        assert torch.equal(loaded.encoder.backbone.network.state_dict()[key], value), key


def test_a_version_whose_networks_need_a_library_that_is_not_there_says_so(tmp_path, monkeypatch):
    write(tmp_path / "v", DiffusionPolicy(KINDS["vit"]))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(PolicyVersionError, match=r"cannot build the networks .*torchvision"):
        load_version(tmp_path / "v")


@pytest.mark.parametrize("kind", ["state", "vit"])
def test_a_runner_warms_up_whatever_is_seen(kind):
    policy = DiffusionPolicy(KINDS[kind])
    PolicyRunner(policy, "v", sampler="ddim", deterministic=True, noise_seed=0).warm_up()


def test_manifest_tells_where_the_version_came_from(folder):
    _, manifest = load_version(folder)
    assert (manifest.name, manifest.family, manifest.parents) == ("version_1", "ddim", ("before",))
    assert (manifest.task, manifest.robot) == (TASK, ROBOT)
    assert manifest.bags == (BagReference(id="episode_1", sha256="ab" * 32),)
    assert manifest.metrics == {"loss": 0.25}
    assert manifest.training == {"seed": 3, "nested": {"steps": [1, 2]}}
    assert manifest == read_manifest(folder)
    weights = (folder / WEIGHTS).read_bytes()
    assert manifest.files[WEIGHTS].sha256 == hashlib.sha256(weights).hexdigest()


def test_nothing_but_the_finished_folder_is_left(folder):
    assert [p.name for p in folder.parent.iterdir()] == ["version_1"]
    assert sorted(p.name for p in folder.iterdir()) == sorted((WEIGHTS, CONFIG, MANIFEST))


def test_a_version_is_never_overwritten(folder):
    with pytest.raises(PolicyVersionError, match="never change"):
        write(folder, make_policy())


def test_non_finite_weights_are_not_written(tmp_path):
    policy = make_policy()
    with torch.no_grad():
        policy.denoiser.output.bias[0] = float("nan")
    with pytest.raises(PolicyVersionError, match=r"denoiser\.output\.bias"):
        write(tmp_path / "v", policy)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(PolicyVersionError, match=name):
        load_version(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_file_is_refused(folder, name, damage):
    data = bytearray((folder / name).read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif name == MANIFEST:
        data = bytearray(
            data.replace(b'"loss":0.25', b'"loss":0.05').replace(b'"loss": 0.25', b'"loss": 0.05')
        )
        assert bytes(data) != (folder / name).read_bytes()
    else:
        data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(PolicyVersionError, match=name):
        load_version(folder)


def test_a_missing_or_unknown_weight_is_refused_by_name(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["denoiser.extra"] = tensors.pop("denoiser.output.bias")
    save_file(tensors, folder / WEIGHTS)
    reseal(folder)
    with pytest.raises(
        PolicyVersionError,
        match=r"missing \['denoiser.output.bias'\], unknown \['denoiser.extra'\]",
    ):
        load_version(folder)


def test_weights_of_another_size_are_refused(folder):
    save_file(
        {k: v.contiguous() for k, v in make_policy(width=24).state_dict().items()},
        folder / WEIGHTS,
    )
    reseal(folder)
    with pytest.raises(
        PolicyVersionError, match=r"weights and config\.json are from two versions"
    ):
        load_version(folder)


def test_non_finite_weights_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["denoiser.output.bias"][0] = float("inf")
    save_file(tensors, folder / WEIGHTS)
    reseal(folder)
    with pytest.raises(PolicyVersionError, match=r"denoiser\.output\.bias"):
        load_version(folder)


def test_another_family_is_refused(folder):
    reseal(folder, family="flow")
    with pytest.raises(PolicyVersionError, match=r"'flow'.*'ddim'"):
        load_version(folder)


def test_an_unknown_setting_in_the_configuration_is_refused(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"dropout": 0.1}))
    reseal(folder)
    with pytest.raises(PolicyVersionError, match="dropout"):
        load_version(folder)


def test_weights_that_are_not_safetensors_are_refused(folder):
    (folder / WEIGHTS).write_bytes(b"\x80\x04pickled")
    reseal(folder)
    with pytest.raises(PolicyVersionError, match="not a safetensors file"):
        load_version(folder)


OTHER_TASK = {
    "name": "pull",
    "observation": PointObservation(n_points=64),
    "action": ActionConfig(names=("linear.x",), low=(-1,), high=(1,)),
    "crop": WorkspaceBox(low=(0, 0, 0), high=(1, 1, 2)),
}
OTHER_ROBOT = {
    "name": "other_arm",
    "base_frame": "table",
    "joints": ("j2",),
    "locked_joints": {"finger": 0.02},
    "tool": ToolConfig(parent="hand", xyz=(0, 0, 0.01), radius=0.01, length=0.1),
    "control_period": 0.05,
}


@pytest.mark.parametrize("key", OTHER_TASK)
def test_a_version_for_another_task_does_not_fit_and_is_not_loaded(folder, key):
    other = TASK.model_copy(update={key: OTHER_TASK[key]})
    with pytest.raises(PolicyVersionError, match=rf"task\.{key} =|task = ") as refused:
        check_fits(read_manifest(folder), other, ROBOT)
    with pytest.raises(PolicyVersionError) as not_loaded:
        loaded(folder, other, ROBOT)
    assert str(not_loaded.value) == str(refused.value)


@pytest.mark.parametrize("key", OTHER_ROBOT)
def test_a_version_for_another_arm_does_not_fit_and_is_not_loaded(folder, key):
    """Regression: the check that the runner used did not compare the base frame."""
    other = ROBOT.model_copy(update={key: OTHER_ROBOT[key]})
    with pytest.raises(PolicyVersionError, match=rf"robot\.{key} =|robot = ") as refused:
        check_fits(read_manifest(folder), TASK, other)
    with pytest.raises(PolicyVersionError) as not_loaded:
        loaded(folder, TASK, other)
    assert str(not_loaded.value) == str(refused.value)


def test_what_does_not_reach_the_policy_may_differ(folder):
    robot = ROBOT.model_copy(update={"home": (0.5,), "velocity_scale": 0.5, "urdf": "other.urdf"})
    task = TASK.model_copy(update={"description": "other words", "time_limit": 3.0})
    assert loaded(folder, task, robot).version == load_version(folder)[1].reference


def loaded(folder: Path, task: TaskConfig, robot: RobotConfig) -> PolicyRunner:
    return PolicyRunner.load(
        folder, task=task, robot=robot, sampler="one_step", deterministic=True, noise_seed=0
    )


CAMERA = CameraConfig(
    name="front", kind="color", topic="front/image_raw", optical_frame="front", width=16,
    height=12, fx=20.0, fy=20.0, cx=7.5, cy=5.5, xyz=(1.0, 0.0, 0.5), rpy=(0.0, 0.0, 0.0),
)  # fmt: skip
SEEN_TASK = TASK.model_copy(update={"observation": ImageObservation(height=12, width=12)})
SEEING = ROBOT.model_copy(update={"cameras": (CAMERA,)})


@pytest.fixture
def seeing(tmp_path):
    policy = DiffusionPolicy(
        preset("small", observation_size(SEEN_TASK, SEEING), ActionSize(n_chunk=4, dim=2))
    )
    write_version(
        tmp_path / "seeing_1", policy, task=SEEN_TASK, robot=SEEING, parents=(), bags=(),
        metrics={}, training={},
    )  # fmt: skip
    return tmp_path / "seeing_1"


def test_a_version_that_sees_images_fits_the_camera_it_learned_with(seeing):
    renamed = CAMERA.model_copy(update={"topic": "elsewhere", "optical_frame": "lens"})
    robot = ROBOT.model_copy(update={"cameras": (renamed,)})
    assert loaded(seeing, SEEN_TASK, robot).version.startswith("seeing_1@")


@pytest.mark.parametrize(("key", "value"), [("xyz", (1.0, 0.1, 0.5)), ("fx", 21.0), ("width", 32)])
def test_a_version_that_sees_images_is_refused_where_they_look_otherwise(seeing, key, value):
    moved = CAMERA.model_copy(update={key: value})
    robot = ROBOT.model_copy(update={"cameras": (moved,)})
    with pytest.raises(PolicyVersionError, match=rf"camera\.{key} = "):
        loaded(seeing, SEEN_TASK, robot)


def test_a_version_that_sees_images_is_refused_without_a_colour_camera(seeing):
    with pytest.raises(PolicyVersionError, match=r"no camera of kind color; it has none"):
        loaded(seeing, SEEN_TASK, ROBOT)


def test_a_version_that_sees_images_is_refused_for_a_task_that_sees_points(seeing):
    with pytest.raises(PolicyVersionError, match=r"task\.observation ="):
        loaded(seeing, TASK, SEEING)


def test_a_folder_of_versions_names_them(tmp_path):
    for name in ("imitation/a", "online/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").touch()
    with pytest.raises(PolicyVersionError, match=r"a policy version\? There are .*/a, .*/b$"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("denoiser", "width"), 60_000, "should be torch.float32"),
        (("denoiser", "width"), 10**9, "not a usable policy configuration"),
        (("denoiser", "blocks"), 10**9, "not a usable policy configuration"),
        (("encoder", "widths"), [8] * 10**5, "not a usable policy configuration"),
    ],
)
def test_a_version_that_asks_for_all_memory_is_refused_before_it_gets_any(
    folder, path, value, says
):
    """A careful forger makes every hash right; the sizes are not those of the weights."""
    config = json.loads((folder / CONFIG).read_text())
    config[path[0]][path[1]] = value
    (folder / CONFIG).write_text(json.dumps(config))
    reseal(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PolicyVersionError, match=says):
        load_version(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(folder, name, kind):
    """Regression: a pipe held every later load up, a device filled the memory."""
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    with pytest.raises(PolicyVersionError, match=r"plain file|Is a directory"):
        load_version(folder)


def test_a_file_of_absurd_size_is_refused_unread(folder):
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(PolicyVersionError, match="plain file of at most"):
        load_version(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"action": ActionSize(n_chunk=4, dim=1)}, "decides 1 numbers per action"),
        ({"action": ActionSize(n_chunk=4, dim=3)}, "decides 3 numbers per action"),
        ({"observation": {"n_obs": 3}}, "observes n_obs=3"),
        ({"observation": {"n_points": 64}}, "observes n_obs=2 n_points=64"),
    ],
)
def test_networks_of_other_sizes_than_the_task_says_are_refused(folder, changes, told):
    """Regression: one of one number per action drove, and ended the thread that decides."""
    policy, manifest = load_version(folder)
    config = policy.config
    if isinstance(changes.get("observation"), dict):
        changes = {"observation": config.observation.model_copy(update=changes["observation"])}
    other = config.model_copy(update=changes)
    fits = observation_size(manifest.task, manifest.robot)
    right = config.model_copy(update={"observation": fits})
    check_sizes(right, manifest.task, manifest.robot, "v")
    wrong = other if "action" not in changes else other.model_copy(update={"observation": fits})
    with pytest.raises(PolicyVersionError, match=told):
        check_sizes(wrong, manifest.task, manifest.robot, "v")


def test_actions_of_another_scale_are_refused(folder):
    policy, manifest = load_version(folder)
    scale = policy.normalizer.action
    scale.fit(torch.tensor([[-1.0, 0.2], [1.0, 0.2]]))
    check_scale(policy, manifest.task, "v")
    scale.fit(torch.tensor([[-1e6, 0.2], [1e6, 0.2]]))
    with pytest.raises(PolicyVersionError, match="with these units"):
        check_scale(policy, manifest.task, "v")
