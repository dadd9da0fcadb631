"""Fills of features: invariant, equal to a hand computation, encoders of absent modalities never run."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, NoEncodersError, adapt, encoder_features
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError, NotApplicableError
from lightning_mm.missing import FeatureFill, FeatureMean, FeatureRegression, FeatureRetrieval, save_features
from lightning_mm.modalities import Modalities
from lightning_mm.tasks import ClassificationTask
from lightning_mm.testing import assert_missing_invariant

WIDTHS = {"rgb": 3, "audio": 4, "text": 2}
NAMES = Modalities(WIDTHS)
FILLS = [FeatureMean, FeatureRetrieval, FeatureRegression]


class Encoder(nn.Module):
    """Outputs [B, 5], or with ``maps`` a list of maps of two sizes; notes how many samples it ran on."""

    def __init__(self, width: int, maps: bool = False) -> None:
        super().__init__()
        self.linear, self.maps, self.ran = nn.Linear(width, 5), maps, list[int]()

    def forward(self, value: Tensor) -> Any:
        self.ran.append(len(value))
        features = self.linear(value.mean((1, 2)) if self.maps else value).tanh()
        return [features[:, :, None, None] * torch.ones(value.shape[1:3]), features] if self.maps else features


class Late(nn.Module):
    """Encoders, their product with weights, a head; does not know what is available."""

    def __init__(self, maps: bool = False) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Encoder(width, maps) for name, width in WIDTHS.items()})
        self.head, self.maps = nn.Linear(15, 4), maps

    def fuse(self, features: dict[str, Any]) -> Tensor:
        vectors = [value[0].mean((2, 3)) + value[1] if self.maps else value for value in features.values()]
        return self.head(torch.cat(vectors, 1))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.fuse({name: encoder(inputs[name]) for name, encoder in self.encoders.items()})


def network(maps: bool = False) -> Late:
    torch.manual_seed(0)
    return Late(maps).eval()


def inputs(size: int, seed: int, maps: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = {name: (3, 4, width) if maps else (width,) for name, width in WIDTHS.items()}
    values = {name: torch.randn(size, *shape, generator=generator) for name, shape in own.items()}
    values["text"] = values["text"] + values["rgb"][..., :2]  # there is something to predict
    return values


def written(folder: Path, maps: bool = False, seeds: tuple[int, ...] = (1, 2)) -> str:
    calls = [((inputs(20 + seed, seed, maps),), {}) for seed in seeds]
    path = folder / "features.safetensors"
    save_features(encoder_features(network(maps), NAMES, calls), path)
    return str(path)


def task(fill: FeatureFill, maps: bool = False) -> ClassificationTask:
    return ClassificationTask(network(maps), list(NAMES), 4, fill=fill).eval()


def training_features() -> dict[str, Tensor]:
    """Modality to the features of both batches, ``[43, 5]``."""
    with torch.no_grad():
        return {
            name: torch.cat([encoder(inputs(20 + seed, seed)[name]) for seed in (1, 2)])
            for name, encoder in network().encoders.items()
        }


def features_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: encoder(values[name]) for name, encoder in network().encoders.items()}


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("fill", FILLS)
def test_absent_values_are_never_read(fill: type[FeatureFill], maps: bool, tmp_path: Path) -> None:
    if maps and fill is not FeatureMean:
        pytest.skip("needs vectors")
    assert_missing_invariant(task(fill(written(tmp_path, maps)), maps), NAMES, inputs(7, 3, maps))


@pytest.mark.parametrize("fill", FILLS)
def test_a_mixed_batch_equals_its_samples_one_by_one(fill: type[FeatureFill], tmp_path: Path) -> None:
    filled, values, masks = task(fill(written(tmp_path))), inputs(7, 3), NAMES.masks()
    mixed = filled(values, masks)
    for row in range(7):
        alone = filled({name: value[row : row + 1] for name, value in values.items()}, masks[row : row + 1])
        torch.testing.assert_close(mixed[row], alone[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[-1], network()(values)[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_gradients_after_a_call_in_inference_mode(fill: type[FeatureFill], tmp_path: Path) -> None:
    filled, values, masks = task(fill(written(tmp_path))), inputs(7, 3), NAMES.masks()
    with torch.inference_mode():
        filled(values, masks)
    filled(values, masks).sum().backward()
    assert all(parameter.grad is not None for parameter in filled.parameters())


@pytest.mark.parametrize("maps", [False, True])
def test_the_mean_equals_a_hand_computation(maps: bool, tmp_path: Path) -> None:
    filled, values, net = task(FeatureMean(written(tmp_path, maps)), maps), inputs(6, 3, maps), network(maps)
    with torch.no_grad():
        outputs = {name: encoder(values[name]) for name, encoder in net.encoders.items()}
        for combination in NAMES.incomplete():
            replaced = dict(outputs)
            for name in set(NAMES) - set(NAMES.parse(combination)):
                seen = [net.encoders[name](inputs(20 + seed, seed, maps)[name]) for seed in (1, 2)]
                if maps:
                    replaced[name] = [torch.cat(parts).mean(0).expand(6, *parts[0].shape[1:]) for parts in zip(*seen)]
                else:
                    replaced[name] = torch.cat(seen).mean(0).expand(6, -1)
            found = filled(values, NAMES.mask(combination).expand(6, -1))
            torch.testing.assert_close(found, net.fuse(replaced), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", FILLS)
def test_an_encoder_runs_on_the_samples_that_have_its_modality_alone(fill: type[FeatureFill], tmp_path: Path) -> None:
    filled, values = task(fill(written(tmp_path))), inputs(7, 3)
    ran = {name: encoder.ran for name, encoder in filled.model.encoders.items()}  # type: ignore[union-attr,operator]
    filled(values, NAMES.masks())
    assert ran == {"rgb": [4], "audio": [4], "text": [4]}, "each is in four of seven combinations"
    filled(values, NAMES.mask("audio").expand(7, -1))
    assert ran == {"rgb": [4], "audio": [4, 7], "text": [4]}
    filled(values)
    assert ran == {"rgb": [4, 7], "audio": [4, 7, 7], "text": [4, 7]}


def test_the_nearest_training_samples_equal_a_slow_loop(tmp_path: Path) -> None:
    path, known, values = written(tmp_path), training_features(), inputs(6, 3)
    wanted = features_of(values)
    for neighbours in (1, 3):
        fill = FeatureRetrieval(path, neighbours)
        fill.install(network(), NAMES)
        for combination in NAMES.incomplete():
            mask, present = NAMES.mask(combination).expand(6, -1), NAMES.parse(combination)
            found = fill.complete(wanted, mask)
            for row in range(6):
                distances = torch.zeros(43, dtype=torch.float64)
                for name in present:
                    spread = known[name].double().var(0, unbiased=False).sum()
                    distances += (known[name] - wanted[name][row]).double().square().sum(1) / spread
                nearest = distances.argsort()[:neighbours]
                for name in NAMES:
                    expected = wanted[name][row] if name in present else known[name][nearest].mean(0)
                    torch.testing.assert_close(found[name][row], expected, rtol=1e-5, atol=1e-6)


def test_the_regression_solves_the_normal_equations(tmp_path: Path) -> None:
    known, wanted = training_features(), features_of(inputs(6, 3))
    fill = FeatureRegression(written(tmp_path), alpha=0.5)
    fill.install(network(), NAMES)
    for combination in NAMES.incomplete():
        present = NAMES.parse(combination)
        found = fill.complete(wanted, NAMES.mask(combination).expand(6, -1))
        x = torch.cat([known[name] for name in present], 1).double()
        ones = torch.cat([x, torch.ones(43, 1).double()], 1)
        penalty = 0.5 * torch.eye(ones.shape[1]).double()
        penalty[-1, -1] = 0  # not on the intercept
        for name in set(NAMES) - set(present):
            weights = torch.linalg.solve(ones.T @ ones + penalty, ones.T @ known[name].double())
            given = torch.cat([wanted[one] for one in present], 1).double()
            expected = (torch.cat([given, torch.ones(6, 1).double()], 1) @ weights).float()
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)


def test_both_equal_scikit_learn_on_the_same_features(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    neighbors = pytest.importorskip("sklearn.neighbors")
    path, known, wanted = written(tmp_path), training_features(), features_of(inputs(6, 3))
    retrieval, regression = FeatureRetrieval(path, 2), FeatureRegression(path, alpha=2.0)
    for fill in (retrieval, regression):
        fill.install(network(), NAMES)
    scales = {name: table.double().var(0, unbiased=False).sum() ** -0.5 for name, table in known.items()}
    for combination in NAMES.incomplete():
        present, mask = NAMES.parse(combination), NAMES.mask(combination).expand(6, -1)
        nearest, predicted = retrieval.complete(wanted, mask), regression.complete(wanted, mask)
        for name in set(NAMES) - set(present):
            theirs = neighbors.KNeighborsRegressor(2, algorithm="brute").fit(
                torch.cat([known[one] * scales[one] for one in present], 1).numpy(), known[name].numpy()
            )
            expected = theirs.predict(torch.cat([wanted[one] * scales[one] for one in present], 1).numpy())
            torch.testing.assert_close(nearest[name], torch.as_tensor(expected).float(), rtol=1e-5, atol=1e-6)
            ridge = linear_model.Ridge(alpha=2.0).fit(
                torch.cat([known[one] for one in present], 1).double().numpy(), known[name].double().numpy()
            )
            expected = ridge.predict(torch.cat([wanted[one] for one in present], 1).double().numpy())
            torch.testing.assert_close(predicted[name], torch.as_tensor(expected).float(), rtol=1e-5, atol=1e-5)


def test_samples_without_a_modality_do_not_count_for_it() -> None:
    values, observed = inputs(9, 1), torch.ones(9, 3, dtype=torch.bool)
    observed[:4, 1] = False
    values["audio"][:4] = float("nan")
    found = encoder_features(network(), NAMES, [((values,), {})], [observed])
    expected = features_of(values)
    torch.testing.assert_close(found.means["audio"], expected["audio"][4:].mean(0))
    torch.testing.assert_close(found.means["rgb"], expected["rgb"].mean(0))
    torch.testing.assert_close(found.vectors["rgb"], expected["rgb"][4:])
    few = encoder_features(network(), NAMES, [((inputs(9, 1),), {}), ((values,), {})], limit=9)
    assert len(few.vectors["rgb"]) == 9
    with pytest.raises(LightningMMError, match="encoder of 'audio' returns values that are not finite"):
        encoder_features(network(), NAMES, [((values,), {})])
    observed[:, 1] = False
    with pytest.raises(LightningMMError, match="modality 'audio' is in none of the samples"):
        encoder_features(network(), NAMES, [((values,), {})], [observed])


@pytest.mark.parametrize("fill", FILLS)
def test_copies_and_threads_have_calls_of_their_own(fill: type[FeatureFill], tmp_path: Path) -> None:
    filled, values, masks = task(fill(written(tmp_path))), inputs(7, 3), NAMES.masks()
    expected = [filled(values, mask.expand(7, -1)).detach() for mask in masks]
    for copied in (copy.deepcopy(filled), pickle.loads(pickle.dumps(filled))):
        assert torch.equal(copied(values, masks[0].expand(7, -1)), expected[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: filled(values, masks[k % 7].expand(7, -1)).detach(), range(70)))
    assert all(torch.equal(one, expected[k % 7]) for k, one in enumerate(found))
    assert torch.equal(filled.model(values), network()(values)), "a call of the network alone is not filled"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path, values, mask = written(tmp_path), inputs(7, 3), NAMES.mask("rgb").expand(7, -1)
    with pytest.raises(LightningMMError, match="are those of a trained network, which change while it trains"):
        task(FeatureMean(path)).train()(values, mask)
    with pytest.raises(LightningMMError, match="Late has none of these for 'video'"):
        ClassificationTask(network(), ["rgb", "video"], 4, fill=FeatureMean(path))
    with pytest.raises(LightningMMError, match=r"neighbours is 50, and .* holds 43 training samples"):
        FeatureRetrieval(path, 50)
    with pytest.raises(LightningMMError, match="alpha: expected 0 or more, got -1"):
        FeatureRegression(path, -1.0)
    fill = FeatureMean(path)
    with pytest.raises(LightningMMError, match="FeatureMean has no network yet"):
        fill.run(network(), mask, lambda: 0)
    fill.install(network(), NAMES)
    with pytest.raises(LightningMMError, match="did not call the encoder of 'rgb'"):
        fill.run(network(), mask, lambda: 0)
    with pytest.raises(LightningMMError, match="replaces outputs of encoders, which an adapter may change"):
        adapt(network(), NAMES, SSF(), fill=fill, example=((values,), {}))
    batch = {"inputs": values, "available": mask, "observed": mask, "target": torch.zeros(7).long()}
    with pytest.raises(LightningMMError, match="replaces outputs of encoders, which an adapter may change"):
        FrozenBackboneAdapter().attach(task(FeatureMean(path)), batch)


def test_maps_have_a_mean_of_one_size_and_no_neighbours(tmp_path: Path) -> None:
    path = written(tmp_path, maps=True)
    for kind in (FeatureRetrieval, FeatureRegression):
        with pytest.raises(NotApplicableError, match="holds no tables of features: the encoders return maps"):
            kind(path)
    larger = {name: value.repeat(1, 2, 1, 1) for name, value in inputs(3, 3, maps=True).items()}
    with pytest.raises(LightningMMError, match=r"got inputs of shapes \[\(6, 4, 3\)\], and .* \[\(3, 4, 3\)\]"):
        task(FeatureMean(path), maps=True)(larger, NAMES.mask("audio").expand(3, -1))
    calls = [((inputs(9, 1, maps=True),), {}), ((larger,), {})]
    with pytest.raises(LightningMMError, match=r"'rgb' returns \(5, 3, 4\) for one sample and \(5, 6, 4\) for another"):
        encoder_features(network(maps=True), NAMES, calls)


def test_networks_without_encoders_are_not_applicable() -> None:
    plain = nn.Linear(3, 2)
    masking = network()
    masking.mask_absent = True  # type: ignore[assignment]
    with pytest.raises(NotApplicableError, match=r"Late masks the features of absent modalities itself"):
        encoder_features(masking, NAMES, [((inputs(5, 1),), {})])
    with pytest.raises(NoEncodersError, match="Linear has no encoder of 'input', so there are no features to fill"):
        encoder_features(plain, ["input"], [((torch.randn(4, 3),), {})])

    class Mixing(Late):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward({**inputs, "text": inputs["text"] + inputs["rgb"][:, :2]})

    with pytest.raises(NoEncodersError, match="its input depends on more than its modality"):
        encoder_features(Mixing().eval(), NAMES, [((inputs(5, 1),), {})])
    named = {name: f"encoders.{name}" for name in NAMES} | {"text": "encoders.words"}
    with pytest.raises(LightningMMError, match=r"encoders.words"):
        encoder_features(network(), NAMES, [((inputs(5, 1),), {})], encoders=named)
