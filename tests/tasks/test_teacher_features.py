"""Features of the adapter near those of the frozen base: equal to a hand computation, after the modulation, by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.tasks import BaseTask, ClassificationTask, Distillation, SemanticSegmentationTask
from lightning_mm.tasks.teacher.features import choose_layers, feature_distance, features_of, normalised_error, tapped
from tests.support.adapter_networks import randomise, trained_statistics

WIDTHS = {"audio": 4, "video": 3}
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")


class Shared(nn.Module):
    """Norms with ReLUs in place behind them, a layer that both modalities share, a GRU, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.parts = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, 8), nn.LayerNorm(8), nn.ReLU(inplace=True))
                for name, width in WIDTHS.items()
            }
        )
        self.shared = nn.Linear(8, 8)
        self.reader = nn.GRU(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.several = Several()
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        tokens = torch.stack([self.shared(self.parts[name](inputs[name])) for name in WIDTHS], 1)
        tokens, _ = self.reader(tokens)
        tokens, _ = self.attention(tokens, tokens, tokens)
        return self.head(self.several(tokens)["first"].mean(1))


class Several(nn.Module):
    """Returns a dict."""

    def forward(self, value: Tensor) -> dict[str, Tensor]:
        return {"first": value}


def mixed(poison: float = float("nan")) -> dict[str, Any]:
    """Seven samples in all combinations; the third and fourth never observed something."""
    generator = torch.Generator().manual_seed(1)
    available = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]).bool()
    observed = torch.ones_like(available)
    observed[2, 1] = observed[3, 0] = False
    inputs = {name: torch.randn(7, width, generator=generator) for name, width in WIDTHS.items()}
    inputs["video"][2] = inputs["audio"][3] = poison
    target = torch.arange(7) % 3
    return {"inputs": inputs, "available": available, "observed": observed, "target": target, "index": torch.arange(7)}


def task(layers: list[str], moved: bool = True, targets: list[str] | None = None, **settings: Any) -> BaseTask:
    torch.manual_seed(0)
    distillation = Distillation(**{"layers": layers, "feature_weight": 0.5, **settings})
    made = ClassificationTask(Shared(), list(WIDTHS), 3, distillation=distillation)
    adapter = FrozenBackboneAdapter(SSF(), targets=targets).attach(made, mixed(), "fit")
    if moved:
        randomise(adapter)
    return made


def step(made: BaseTask, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    logged: dict[str, Tensor] = {}
    made.log = lambda name, value, **settings: logged.update({name: value})  # type: ignore[method-assign]
    return made.training_step(batch, 0), logged


def test_distance_against_a_slow_loop() -> None:
    student = {"a": [torch.randn(3, 2, requires_grad=True)], "b": [torch.randn(3, 4, requires_grad=True)] * 2}
    teacher = {"a": [torch.randn(3, 2, requires_grad=True)], "b": [torch.randn(3, 4), 100 * torch.randn(3, 4)]}
    layers = []
    for name in ("a", "b"):
        calls = []
        for one, other in zip(student[name], teacher[name]):
            pairs = list(zip(one.flatten().tolist(), other.flatten().tolist()))
            calls.append(sum((x - y) ** 2 for x, y in pairs) / sum(y**2 for _, y in pairs))
        layers.append(sum(calls) / len(calls))
    distance = feature_distance(student, teacher)
    assert distance.item() == pytest.approx(sum(layers) / 2, rel=1e-5)
    distance.backward()
    assert student["a"][0].grad is not None
    assert teacher["a"][0].grad is None


def test_layers_of_any_scale_count_alike_and_a_silent_one_divides_by_one() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    error = normalised_error(student, teacher)
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(normalised_error(scale * student, scale * teacher), error)
    assert normalised_error(teacher, teacher).item() == 0
    assert normalised_error(torch.full((2, 2), 3.0), torch.zeros(2, 2)).item() == 9


def test_names_and_patterns() -> None:
    network = Shared()
    assert choose_layers(network, ["head", "parts.audio.1"]) == ["parts.audio.1", "head"]
    assert choose_layers(network, ["parts.*.1", "parts.video*"]) == [
        "parts.audio.1", "parts.video", "parts.video.0", "parts.video.1", "parts.video.2",
    ]  # fmt: skip
    assert "parts" not in choose_layers(network, ["*"])
    assert "" not in choose_layers(network, ["*"])
    assert choose_layers(network, []) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["haed"]}, r"no layer of Shared that runs is called 'haed'; close names: \[.*'head'\]"),
        ({"layers": ["head", "xyz.*"]}, r"called 'xyz\.\*'; its layers are named like \['parts.audio'"),
        ({"layers": ["parts"]}, "no layer of Shared that runs is called 'parts'"),
        ({"layers": None}, r"distillation.layers: expected a list .* which feature_weight needs, got None"),
        ({"layers": []}, r"distillation.layers: expected a list .* which feature_weight needs, got \[\]"),
        ({"layers": "head"}, "distillation.layers: expected a list of names or patterns .* got 'head'"),
        ({"feature_weight": -1.0}, "distillation.feature_weight: expected 0 or more, got -1.0"),
        ({"weight": -1.0}, "distillation.weight: expected 0 or more, got -1.0"),
        ({"weight": float("nan")}, "distillation.weight: expected 0 or more, got nan"),
        ({"cache_mb": -1.0}, "distillation.cache_mb: expected 0 or more, got -1.0"),
        ({"temperature": 0.0}, "distillation.temperature: expected more than 0, got 0.0"),
        ({"schedule": "steps"}, r"distillation.schedule must be one of \['constant', .* got 'steps'"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_settings_are_named_when_the_task_is_made(settings: dict[str, Any], message: str) -> None:
    settings = {"feature_weight": 1.0, "layers": ["head"], **settings}
    with pytest.raises(LightningMMError, match=message):
        ClassificationTask(Shared(), list(WIDTHS), 3, distillation=settings)


def test_layers_without_a_weight_are_idle() -> None:
    made = task(["nothing"], feature_weight=0.0)
    before = made.model.calls
    _, logged = step(made, mixed())
    assert set(logged) == {"train/loss"}
    assert made.model.calls == before + 1  # type: ignore[operator]


def test_the_loss_of_a_step_is_that_of_a_hand_computation() -> None:
    layers = ["parts.audio.1", "shared", "reader", "head"]
    made, batch = task(layers, weight=0.25), mixed()
    seen: dict[str, list[Tensor]] = {}
    handles = [
        # After those of the adapter, as they are registered later.
        made.model.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: seen.setdefault(name, []).append(
                (output[0] if isinstance(output, tuple) else output).clone()
            )
        )
        for name in layers
    ]
    with torch.no_grad(), made.adapter.disabled():  # type: ignore[union-attr,operator]
        teacher = made(batch["inputs"], batch["observed"])
    known, seen = seen, {}
    student = made(batch["inputs"], batch["available"])
    for handle in handles:
        handle.remove()
    terms = [
        sum(((a - b) ** 2).mean() / (b**2).mean() for a, b in zip(seen[name], known[name])) / len(known[name])
        for name in layers
    ]
    assert [len(known[name]) for name in layers] == [1, 2, 1, 1]
    assert torch.equal(seen["head"][0], student), "the adapter's modulation of the head is in its features"
    expected = torch.stack([torch.as_tensor(term) for term in terms]).mean()
    before = made.model.calls
    loss, logged = step(made, batch)
    assert made.model.calls == before + 2  # type: ignore[operator]
    torch.testing.assert_close(logged["train/teacher_feature_loss"], expected)
    own, outputs = made.loss(student, batch["target"]), made.distillation(student, teacher)
    torch.testing.assert_close(loss, own + 0.25 * outputs + 0.5 * expected)
    torch.testing.assert_close(logged["train/teacher_loss"], outputs)


def test_the_base_gets_no_gradient_and_keeps_no_hook() -> None:
    made = task(["parts.*", "shared", "head"])
    hooks = [list(module._forward_hooks) for module in made.model.modules()]  # type: ignore[union-attr]
    loss, _ = step(made, mixed())
    loss.backward()
    assert all(parameter.grad is None for parameter in made.model.parameters())  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in made.adapter.parameters())  # type: ignore[union-attr]
    assert [list(module._forward_hooks) for module in made.model.modules()] == hooks  # type: ignore[union-attr]
    with pytest.raises(LightningMMError, match="out of range"):
        step(made, {**mixed(), "target": torch.full((7,), 9)})
    assert [list(module._forward_hooks) for module in made.model.modules()] == hooks  # type: ignore[union-attr]
    made.validation_step(mixed(), 0)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(made.teacher)))
    assert copied.layers == made.teacher.layers


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_taps_can_be_copied_while_they_listen(clone: Any) -> None:
    network, batch = Shared(), mixed(0.0)
    with tapped(network, ["head"]) as taps:
        copied = clone(network)
        network(batch["inputs"])
        copied(batch["inputs"])
    assert [len(tap.features) for tap in taps.values()] == [1]
    assert not network.head._forward_hooks
    assert len(copied.head._forward_hooks) == 1


def test_what_works_in_place_behind_a_layer_does_not_change_its_features() -> None:
    network, batch = Shared(), mixed(0.0)
    with tapped(network, ["parts.audio.1", "parts.audio.2"]) as taps:
        network(batch["inputs"])
    norm, relu = (features[0] for features in features_of(taps).values())
    assert norm.min() < 0
    assert torch.equal(norm.relu(), relu)


def test_nothing_in_places_that_were_not_observed_matters() -> None:
    found = []
    for poison in (0.0, float("nan"), 1e9):
        made = task(["parts.*", "shared", "reader", "head"], weight=1.0)
        loss, logged = step(made, mixed(poison))
        loss.backward()
        found.append([loss, *logged.values(), *(parameter.grad for parameter in made.adapter.parameters())])  # type: ignore[union-attr]
    assert all(one is not None and one.isfinite().all() for one in found[0])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["attention.out_proj", "head"], "'attention.out_proj' did not run as modules in the forward"),
        (["several"], r"layer 'several' \(Several\) returns dict; expected a tensor of floats"),
    ],
)
def test_layers_without_features_are_named(layers: list[str], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        step(task(layers), mixed())


def test_layers_that_no_training_can_reach_are_named() -> None:
    made = task(["parts.*.1", "shared", "head"], targets=["shared"])
    with pytest.raises(LightningMMError, match=r"'parts.audio.1', 'parts.video.1' come before everything"):
        step(made, mixed())
    step(task(["shared", "head"], targets=["shared"]), mixed())


def test_features_of_another_shape_are_named() -> None:
    student = {"a": [torch.zeros(2, 3, requires_grad=True)]}
    with pytest.raises(LightningMMError, match=r"layer 'a' returns \[\(2, 3\)\] for .* and \[\(3, 3\)\] for all"):
        feature_distance(student, {"a": [torch.zeros(3, 3)]})
    with pytest.raises(LightningMMError, match="runs alike whatever is available"):
        feature_distance(student, {"a": [torch.zeros(2, 3)] * 2})


def test_under_autocast_too() -> None:
    made = task(["parts.*", "head"])
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = step(made, mixed())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.adapter.parameters())  # type: ignore[union-attr]


def test_the_segmenter_of_the_package() -> None:
    torch.manual_seed(0)
    network = MultiEncoderSegmenter(dict(WIDTHS), 3, "resnet18", encoder_depth=3, decoder_channels=[8, 8, 8])
    trained_statistics(network)
    distillation = Distillation(weight=1.0, layers=["encoders.*.bn1", "decoder"], feature_weight=1.0)
    made = SemanticSegmentationTask(network, list(WIDTHS), 3, distillation=distillation)
    inputs = {name: torch.randn(3, width, 32, 32) for name, width in WIDTHS.items()}
    available = torch.tensor([[True, False], [False, True], [True, True]])
    batch = {"inputs": inputs, "available": available, "observed": torch.ones_like(available)}
    batch |= {"target": torch.randint(3, (3, 32, 32)), "index": torch.arange(3)}
    randomise(FrozenBackboneAdapter(SSF()).attach(made, batch, "fit"), scale=0.1)
    loss, logged = step(made, batch)
    loss.backward()
    assert logged["train/teacher_feature_loss"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.adapter.parameters())  # type: ignore[union-attr]
    # An encoder returns a list that begins with the image itself.
    made.teacher.layers = choose_layers(network, ["encoders.audio"])
    with pytest.raises(LightningMMError, match=r"'encoders.audio' .* returns list; expected a tensor of floats"):
        step(made, batch)
