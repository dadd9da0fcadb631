"""`FrozenBackboneAdapter(placement=...)`: what it chooses, and that a choice is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import SSF, Additive, LoRA
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed, Placement
from lightning_mm.cli import main
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.checkpoints import load_weights
from tests.support.placement_modules import MODALITIES, Eager, Fusion, Other, Samples, callback, loader, sites, trainer
from tests.support.tiny_run import BASE

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # a run is resumed from another folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def test_table_and_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = Eager()
    total = sum(parameter.numel() for parameter in module.model.parameters())
    trainer(tmp_path, [callback("15 %")]).fit(module, loader())
    found = json.loads((tmp_path / "placement.json").read_text())
    assert [one["name"] for one in found["layers"] if one["chosen"]] == sites(module)
    assert found["network_parameters"] == total
    assert found["chosen_parameters"] == module.adapter.parameters_per_combination() <= 0.15 * total
    assert found["settings"]["budget"] == "15 %"
    assert {one["name"] for one in found["layers"]} == {"camera.0", "camera.1", "radar.0", "radar.1", "head"}
    assert all(one["disturbance"] > 0 for one in found["layers"])
    table = (tmp_path / "placement.md").read_text()
    assert table.count(" x |") == len(sites(module))
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_the_seed_is_that_of_the_run_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seed, own in ((5, None), (6, 5), (6, None)):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        spread = {"strategy": "random", **({} if own is None else {"seed": own})}
        trainer(tmp_path, [callback(36, placement=spread)]).fit(Eager(), loader())
        found = json.loads((tmp_path / "placement.json").read_text())
        assert found["settings"]["seed"] == (seed if own is None else own)
        drawn.append([one["name"] for one in found["layers"] if one["chosen"]])
    assert drawn[0] == drawn[1] != drawn[2]


def test_strategies_go_to_the_layers_they_name(tmp_path: Path) -> None:
    module = Eager()
    trainer(tmp_path, [callback(4, placement={"strategy": "last"})]).fit(module, loader())
    assert sites(module) == ["head"]
    module = Eager()
    trainer(tmp_path, [callback(None, placement={"strategy": "all"})], fast_dev_run=True).fit(module, loader())
    assert len(sites(module)) == 5
    drawn = set()
    for seed in range(4):
        module = Eager()
        spread = {"strategy": "random", "seed": seed}
        trainer(tmp_path, [callback(16, placement=spread)], fast_dev_run=True).fit(module, loader())
        drawn.add(tuple(sites(module)))
    assert len(drawn) > 1


def test_candidates_are_those_of_the_patterns(tmp_path: Path) -> None:
    module = Eager()
    run = trainer(tmp_path, [callback(40, targets=["camera*", "head"], exclude=["head"])], fast_dev_run=True)
    run.fit(module, loader())
    assert sites(module) == ["camera.0", "camera.1"]
    assert not list(tmp_path.iterdir()), "fast_dev_run writes nothing"


def test_resume_and_evaluation_take_the_choice_of_the_checkpoint(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"placement": {"strategy": "random", "seed": 1}}
    whole, first, again = Eager(), Eager(), Eager()
    trainer(tmp_path / "whole", [callback(16, **settings), KeyedSeed(3)], epochs=3).fit(whole, loader())
    saver = ModelCheckpoint(tmp_path / "first", save_last=True)
    trainer(tmp_path / "first", [callback(16, **settings), KeyedSeed(3), saver], epochs=2).fit(first, loader())
    torch.manual_seed(99)
    run = trainer(tmp_path / "again", [callback(16, **settings), KeyedSeed(3)], epochs=3)
    run.fit(again, loader(), ckpt_path=saver.last_model_path)
    expected, found = whole.adapter.state_dict(), again.adapter.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert any(value.any() for value in expected.values())

    validated = Eager()
    trainer(tmp_path, [callback(16, **settings)]).validate(
        validated, loader(), ckpt_path=saver.last_model_path, verbose=False
    )
    assert sites(validated) == sites(first)
    swept, hook = Eager(), callback(16, **settings)
    hook.attach(swept, next(iter(loader())), "validate")
    assert len(sites(swept)) == 5
    load_weights(swept, saver.last_model_path)
    assert sites(swept) == sites(first)
    assert all(torch.equal(v, swept.adapter.state_dict()[k]) for k, v in first.adapter.state_dict().items())


BY_DISTURBANCE: dict[str, Any] = {"exclude": ["head"], "placement": {"strategy": "disturbance"}}


def test_a_checkpoint_wins_over_what_would_be_chosen_now(tmp_path: Path) -> None:
    saver, first = ModelCheckpoint(tmp_path / "first", save_last=True), Eager()
    trainer(tmp_path / "first", [callback(16, **BY_DISTURBANCE), saver]).fit(first, loader())
    fresh = Eager()
    trainer(tmp_path / "fresh", [callback(16, **BY_DISTURBANCE)]).fit(fresh, DataLoader(Other(), batch_size=8))
    assert sites(fresh) != sites(first), "or this test shows nothing"
    resumed = Eager()
    run = trainer(tmp_path / "resumed", [callback(16, **BY_DISTURBANCE)], epochs=2)
    run.fit(resumed, DataLoader(Other(), batch_size=8), ckpt_path=saver.last_model_path)
    assert sites(resumed) == sites(first)
    assert not list((tmp_path / "resumed").glob("placement*")), "the table is that of the run that chose"
    held = {id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in resumed.adapter.parameters()}


def test_a_choice_is_made_once(tmp_path: Path) -> None:
    module, hook = Eager(), callback(16)
    trainer(tmp_path, [hook]).validate(module, loader(), verbose=False)
    assert len(sites(module)) == 5, "a fresh adapter changes nothing, wherever it is"
    trainer(tmp_path, [hook]).fit(module, loader())
    chosen = sites(module)
    trained = {key: value.clone() for key, value in module.adapter.state_dict().items()}
    for one in (hook, callback(16)):
        trainer(tmp_path, [one], limit_train_batches=0).fit(module, DataLoader(Other(), batch_size=8))
        assert sites(module) == chosen
        assert all(torch.equal(value, trained[key]) for key, value in module.adapter.state_dict().items())


def test_checkpoints_of_another_placement_are_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, [callback(16), saver]).fit(Eager(), loader())
    without = FrozenBackboneAdapter(SSF(), modalities=MODALITIES)
    for hook in (callback(20), callback(16, placement={"strategy": "last"}), without):
        with pytest.raises(LightningMMError, match=r"other settings than the config, in placement: placement"):
            trainer(tmp_path, [hook]).validate(Eager(), loader(), ckpt_path=saver.last_model_path)
    with pytest.raises(LightningMMError, match=r"names of some of the 2 layers .* got \['"):
        trainer(tmp_path, [callback(16, targets=["radar*"])]).validate(
            Eager(), loader(), ckpt_path=saver.last_model_path
        )


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({}, "strategy 'gain' needs a budget"),
        ({"bugdet": "1 %"}, "placement: unknown setting 'bugdet'.*perhaps 'budget' was meant"),
        ({"budget": "1 %", "strategy": "best"}, r"placement: strategy must be one of \['gain', .*, got 'best'"),
        ({"budget": "1 %", "batches": 0}, "placement: batches must be a whole number of at least 1, got 0"),
        ({"budget": "1 %", "seed": 0.5}, "placement: seed must be a whole number of at least 0, got 0.5"),
        ({"budget": "1"}, "budget: expected percent .*got '1'"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_settings_are_named(placement: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        FrozenBackboneAdapter(placement=placement)


def test_a_dict_is_the_dataclass() -> None:
    given: list[Any] = [{"budget": 0.5, "batches": 2}, Placement(0.5, batches=2)]
    assert [FrozenBackboneAdapter(placement=one).placement for one in given] == [given[1]] * 2


class Manual(Eager):
    automatic_optimization = False


class Broken(Eager):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        return self.trainer.optimizers[0].defaults


class Nothing(Eager):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)


def test_what_stands_in_the_way_is_told(tmp_path: Path) -> None:
    broken = "Broken.training_step before the training, where it failed .IndexError"
    nothing = "training_step must return a loss, .* got a NoneType"
    for module, message in ((Manual(), "optimizes by itself"), (Broken(), broken), (Nothing(), nothing)):
        with pytest.raises(LightningMMError, match=message):
            trainer(tmp_path, [callback()]).fit(module, loader())
    with pytest.raises(
        LightningMMError, match=r"is too small for any layer; the smallest sufficient budget is 4 parameters"
    ):
        trainer(tmp_path, [callback(3)]).fit(Eager(), loader())
    complete = Samples()
    complete.mask = torch.ones_like(complete.mask)
    with pytest.raises(LightningMMError, match="no sample of 4 batches lacks a modality"):
        trainer(tmp_path, [callback()]).fit(Eager(), DataLoader(complete, batch_size=8))


class Late(Eager):
    """What its step needs is made in its own setup; its network is given the mask by itself."""

    def __init__(self) -> None:
        super().__init__()

        class Told(Fusion):
            def forward(self, camera: Tensor, radar: Tensor, available: Tensor | None = None) -> Tensor:
                return super().forward(camera, radar)

        self.model = Told()

    def setup(self, stage: str) -> None:
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
        mask = batch["available"]
        outputs = self.model(batch["camera"], batch["radar"], available=mask)
        return self.criterion(outputs, batch["label"])

    validation_step = None  # type: ignore[assignment]


def test_modules_that_make_things_late_and_hand_on_the_mask(tmp_path: Path) -> None:
    module = Late()
    trainer(tmp_path, [callback(20, basis=Additive())]).fit(module, loader())
    assert module.adapter.parameters_per_combination() == 20
    layers = json.loads((tmp_path / "placement.json").read_text())["layers"]
    assert all(one["disturbance"] > 0 and one["gain"] > 0 for one in layers)


def _rank_data(trainer_: Trainer) -> DataLoader[Any]:
    return DataLoader(Samples() if trainer_.global_rank == 0 else Other(), batch_size=8)


class Ranks(Eager):
    """Every rank sees data by which it would choose other layers."""

    def train_dataloader(self) -> DataLoader[Any]:
        return _rank_data(self.trainer)

    def on_train_end(self) -> None:
        Path(self.folder, f"{self.global_rank}.json").write_text(json.dumps(sites(self)))


@pytest.mark.slow
def test_all_ranks_choose_alike(tmp_path: Path) -> None:
    module = Ranks()
    module.folder = str(tmp_path)
    trainer(
        tmp_path, [callback(16, **BY_DISTURBANCE)], devices=2, strategy="ddp_spawn", use_distributed_sampler=False
    ).fit(module)
    alone = Eager()
    trainer(tmp_path / "alone", [callback(16, **BY_DISTURBANCE)]).fit(alone, loader())
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == sites(alone)


PLACED = """
data:
  train_policy: {class_path: lightning_mm.missing.UniformCombinations, init_args: {include_full: false}}
trainer:
  callbacks:
  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter
    init_args:
      placement: {budget: 0.25 %}
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}/weights", filename: best, enable_version_counter: false}
"""


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "placed.yaml").write_text(PLACED)
    configs = ["-c", str(tmp_path / "base.yaml"), "-c", str(tmp_path / "placed.yaml")]
    assert main(["fit", *configs, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert printed[0]["init_args"]["placement"] == asdict(Placement("0.25 %"))
    configs += ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *configs]) == 1
    assert "a budget of 0 parameters per combination" in capsys.readouterr().err
    (tmp_path / "placed.yaml").write_text(PLACED.replace("0.25 %", "8 %"))
    assert main(["fit", *configs]) == 0
    chosen = [one for one in json.loads((tmp_path / "placement.json").read_text())["layers"] if one["chosen"]]
    assert 0 < len(chosen) < 4
    ckpt = str(tmp_path / "weights" / "best.ckpt")
    assert main(["sweep", *configs, "--ckpt_path", ckpt, "--bootstrap", "0"]) == 0
    notes = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert notes["parameters"]["adapted"]["per_combination"] == sum(one["parameters"] for one in chosen)


def test_lora_is_placed_too(tmp_path: Path) -> None:
    hook = FrozenBackboneAdapter(LoRA(rank=1), modalities=MODALITIES, placement={"budget": 14})
    module = Eager()
    trainer(tmp_path, [hook]).fit(module, loader())
    assert sites(module)
    assert module.adapter.parameters_per_combination() <= 14
