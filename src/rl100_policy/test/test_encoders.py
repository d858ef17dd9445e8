# SPDX-License-Identifier: Apache-2.0
"""Every encoder: nothing random but what is asked for, frames on their own, and who learns."""

import copy
import math
import pickle
import sys
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rl100_policy.core.encoder import Posterior, sample_latent
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.image_encoder import ImageEncoder
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.policy import build_encoder
from rl100_policy.core.policy_config import (
    ActionSize,
    ImageEncoderConfig,
    ObservationSize,
    PointEncoderConfig,
    ResNet18Config,
    StateEncoderConfig,
    VitConfig,
)
from rl100_policy.core.presets import paper

D_Q, FRAMES = 4, 5
TINY_VIT = VitConfig(side=32, dim=16, depth=2)
KINDS = {
    "points": PointEncoderConfig(),
    "points_bottleneck": PointEncoderConfig(bottleneck=True, proprio_widths=(8,)),
    "state": StateEncoderConfig(),
    "state_bottleneck": StateEncoderConfig(proprio_widths=(8, 6), bottleneck=True),
    "resnet18": ImageEncoderConfig(backbone=ResNet18Config(side=32)),
    "vit": ImageEncoderConfig(backbone=TINY_VIT),
    "vit_bottleneck": ImageEncoderConfig(backbone=TINY_VIT, bottleneck=True, proprio_widths=(8,)),
}
WITH_BOTTLENECK = [name for name, config in KINDS.items() if config.bottleneck]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str):
    torch.manual_seed(0)
    return build_encoder(KINDS[name], D_Q)


def frames(name: str) -> tuple[torch.Tensor, torch.Tensor, PolicyNormalizer]:
    """What is seen, proprioception and a normaliser, for an encoder of a kind."""
    generator = torch.Generator().manual_seed(1)
    shape = {"points": (20, 3), "state": (0, 3), "image": (24, 40, 3)}[KINDS[name].kind]
    visual = torch.rand((FRAMES, *shape), generator=generator)
    if KINDS[name].kind == "image":
        visual = (255 * visual).to(torch.uint8)
    proprio = torch.randn((FRAMES, D_Q), generator=generator)
    normalizer = PolicyNormalizer(action_dim=2, proprio_dim=D_Q)
    normalizer.fit(actions=torch.zeros((1, 2)), proprio=proprio, clouds=visual)
    return visual, proprio, normalizer


@pytest.mark.parametrize("name", KINDS)
def test_training_and_evaluation_mode_agree_exactly(name):
    encoder, given = make(name), frames(name)
    with torch.no_grad():
        trained, evaluated = encoder.train()(*given), encoder.eval()(*given)
    assert torch.equal(trained.frame, evaluated.frame)
    assert trained.frame.shape == (FRAMES, encoder.frame_dim)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_mode_changes_the_value_by_rounding_only(name):
    encoder, given = make(name).eval(), frames(name)
    with torch.no_grad():
        expected = encoder(*given).frame
    torch.testing.assert_close(encoder(*given).frame.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_frames_do_not_influence_each_other(name):
    encoder, (visual, proprio, normalizer) = make(name), frames(name)
    alone = encoder(visual[2:3], proprio[2:3], normalizer).frame
    together = encoder(visual, proprio, normalizer).frame
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[1:2], alone)


@pytest.mark.parametrize("name", KINDS)
def test_feature_parameters_are_those_that_decide_the_frame_vector(name):
    encoder, given = make(name), frames(name)
    frame = encoder(*given).frame
    if frame.requires_grad:
        (frame * torch.linspace(-1, 2, frame.numel()).view_as(frame)).sum().backward()
    moved = {id(p) for p in encoder.parameters() if p.grad is not None and bool(p.grad.any())}
    assert moved == {id(p) for p in encoder.feature_parameters()}


@pytest.mark.parametrize("name", KINDS)
def test_the_global_random_state_is_left_alone(name):
    encoder, given = make(name).train(), frames(name)
    before = torch.random.get_rng_state()
    encoder(*given, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_state_encoder_passes_normalised_proprioception_on():
    visual, proprio, normalizer = frames("state")
    features = make("state")(visual, proprio, normalizer)
    assert torch.equal(features.frame, normalizer.proprio(proprio))
    assert features.visual.shape == (FRAMES, 0)


# Bottleneck


def test_latents_have_the_mean_and_variance_asked_for():
    generator = torch.Generator().manual_seed(0)
    shape = (100_000, 1)
    posterior = Posterior(torch.full(shape, 2.0), torch.full(shape, math.log(0.25)))
    latent = sample_latent(posterior, generator)
    assert float(latent.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(latent.std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", WITH_BOTTLENECK)
def test_latents_are_means_unless_a_generator_draws_them(name):
    encoder, given = make(name), frames(name)
    mean = encoder(*given)
    drawn, again, other = (
        encoder(*given, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.cat((mean.visual, mean.proprio), 1), mean.posterior.mean)
    assert torch.equal(drawn.frame, again.frame)
    assert not torch.equal(drawn.frame, other.frame)
    expected = sample_latent(mean.posterior, torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat((drawn.visual, drawn.proprio), 1), expected)


@pytest.mark.parametrize("name", [n for n in KINDS if n not in WITH_BOTTLENECK])
def test_without_a_bottleneck_nothing_is_drawn(name):
    encoder, given = make(name), frames(name)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert torch.equal(encoder(*given, generator).frame, encoder(*given).frame)
    assert torch.equal(generator.get_state(), before)
    assert encoder(*given).posterior is None


@pytest.mark.parametrize("name", WITH_BOTTLENECK)
def test_proprioception_is_decoded_from_its_own_latent(name):
    encoder, given = make(name), frames(name)
    features = encoder(*given)
    decoded = encoder.reconstruct_proprio(features)
    assert decoded.shape == (FRAMES, D_Q)
    (gradient,) = torch.autograd.grad(decoded.sum(), features.proprio)
    assert bool(gradient.any())


def test_paper_encoders_have_the_published_number_of_parameters():
    """Points of 1024 with proprioception of 7 numbers, layer by layer (weights and biases)."""

    def linear(*sizes: int) -> int:
        return sum(a * b + b for a, b in pairwise(sizes))

    size = ObservationSize(n_obs=3, n_points=1024, proprio_dim=7)
    encoder = build_encoder(paper(size, ActionSize(n_chunk=16, dim=7)).encoder, 7)
    expected = (
        linear(3, 64, 128, 256) + 2 * (64 + 128 + 256)  # points, each with LayerNorm
        + linear(256, 64) + 2 * 64  # head
        + linear(7, 64, 64)  # proprioception
        + 4 * linear(64, 64)  # mean and log-variance of both
        + linear(64, 512, 1024, 3 * 1024)  # decoder of the points
        + linear(64, 128, 7)  # decoder of proprioception
    )  # fmt: skip
    assert sum(p.numel() for p in encoder.parameters()) == expected == 3_796_999
    assert encoder.frame_dim == 128


# Images


def test_images_are_scaled_resized_and_normalised():
    encoder = make("vit")
    pixels = torch.full((1, 24, 40, 3), 51, dtype=torch.uint8)  # 0.2 everywhere
    expected = torch.tensor([(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225])
    prepared = encoder.prepare(pixels)
    assert prepared.shape == (1, 3, 32, 32)
    torch.testing.assert_close(prepared, expected.view(1, 3, 1, 1).expand(1, 3, 32, 32))


def test_rows_of_an_image_stay_rows_and_colours_stay_colours():
    pixels = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    pixels[0, 3, 7, 1] = 255  # third row from the top, seventh column: green
    prepared = make("vit").prepare(pixels)
    assert (prepared[0, 1] == prepared[0, 1].max()).nonzero().tolist() == [[3, 7]]


def test_the_residual_network_has_no_batch_statistics_and_the_size_of_the_known_one():
    encoder = make("resnet18")
    assert not [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # ResNet-18 has 11,689,512 parameters, its classifier 512 * 1000 + 1000 of them.
    assert sum(p.numel() for p in encoder.backbone.parameters()) == 11_689_512 - 513_000


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """A state dict as torchvision publishes them, with BatchNorm and classifier; other numbers."""
    make(name)  # imports torchvision
    from torchvision import models

    if name == "resnet18":
        network = models.resnet18()
    else:
        network = models.VisionTransformer(32, 16, 2, 4, 16, 64)
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }


def with_pretrained(path, name="resnet18", **changes) -> ImageEncoder:
    config = KINDS[name].model_copy(update={"pretrained": str(path), **changes})
    return build_encoder(config, D_Q)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_backbone_begins_with_pretrained_weights(tmp_path, name, suffix):
    weights = published_weights(name)
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    encoder = with_pretrained(path, name)
    for key, value in encoder.backbone.network.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_frozen_backbone_does_not_learn(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(published_weights("resnet18"), path)
    encoder = with_pretrained(path, freeze_backbone=True)
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    learning = {id(p) for p in encoder.parameters() if p.requires_grad}
    assert {id(p) for p in encoder.feature_parameters()} == learning
    assert len(learning) == 4  # linear and LayerNorm of the head


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    weights = published_weights("resnet18")
    weights["bn1.scale"] = weights.pop("bn1.weight")
    weights["conv1.weight"] = torch.zeros((64, 6, 7, 7))
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(
        ConfigError,
        match=r"missing \['bn1.weight'\], unknown \['bn1.scale'\].*conv1.weight should be "
        r"\(64, 3, 7, 7\), found \(64, 6, 7, 7\)",
    ):
        with_pretrained(tmp_path / "other.safetensors")


class _Payload:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps(_Payload(), protocol=2)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_hold_no_weights_are_refused_and_run_nothing(tmp_path, capsys, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="should hold pretrained weights"):
        with_pretrained(path)
    assert not capsys.readouterr().out


def test_what_is_not_a_state_dict_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match=r"should be a state dict, .* found list"):
        with_pretrained(tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pth"])
def test_a_missing_file_of_weights_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"cannot read pretrained weights from .*{name}"):
        with_pretrained(tmp_path / name)


def test_without_torchvision_only_images_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("points", "state"):
        make(name)
    with pytest.raises(ConfigError, match=r"image encoder needs torchvision .* requirements/"):
        make("vit")


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_encodes_alike(name):
    """Copies are what averaged weights and behaviour policies are."""
    encoder, given = make(name), frames(name)
    assert torch.equal(copy.deepcopy(encoder)(*given).frame, encoder(*given).frame)
