"""`FrozenBackboneAdapter` on a LightningModule that is not ours, with its own batch format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import Additive, Basis, OneHot, fingerprint
from lightning_mm.callbacks import KeyedSeed
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Constant
from lightning_mm.tasks.checkpoints import load_weights
from tests.support import new_tasks
from tests.support.their_module import MODALITIES, Clean, Samples, Theirs, callback, loader, module, trainer

pytestmark = [
    # `Theirs` has a validation step, and most tests need no validation
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # a run is resumed from another folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_trains_only_the_adapter_and_leaves_the_base_bit_for_bit(tmp_path: Path, basis: type[Basis]) -> None:
    theirs = module()
    before = {key: value.clone() for key, value in theirs.net.state_dict().items()}
    run = trainer(tmp_path, [callback(basis=basis())])
    run.fit(theirs, loader(), loader())
    assert list(before) == list(theirs.net.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in theirs.net.state_dict().items())
    assert {name.split(".")[0] for name, p in theirs.named_parameters() if p.requires_grad} == {"adapter"}
    assert all(bank.scale.abs().sum() > 0 for bank in theirs.adapter.banks.values())
    assert [group["weight_decay"] for group in run.optimizers[0].param_groups] == [0.0]
    assert theirs.adapter.current.situation.available is None


def test_adapting_pays(tmp_path: Path) -> None:
    theirs = module()
    hook = callback()
    run = trainer(tmp_path, [hook], epochs=8)
    run.fit(theirs, loader())
    adapted = run.validate(theirs, loader(), verbose=False)[0]["val_loss"]
    with theirs.adapter.disabled():
        zero_fill = run.validate(theirs, loader(), verbose=False)[0]["val_loss"]
    assert adapted < 0.8 * zero_fill


def test_checkpoint_holds_the_adapter_and_not_the_base(tmp_path: Path) -> None:
    theirs = module()
    for weights_only in (False, True):
        saver = ModelCheckpoint(tmp_path / str(weights_only), save_weights_only=weights_only)
        trainer(tmp_path, [callback(), saver]).fit(module(), loader())
        checkpoint = torch.load(saver.best_model_path, weights_only=True)
        assert not [key for key in checkpoint["state_dict"] if key.startswith("net.")]
        assert [key for key in checkpoint["state_dict"] if key.startswith("adapter.banks")]
        assert checkpoint["lightning_mm_adapter"]["base_fingerprint"] == fingerprint(theirs.net)


def test_resume_at_an_epoch_boundary_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    whole = module()
    trainer(tmp_path / "whole", [callback(), KeyedSeed(3)], epochs=4).fit(whole, loader(), loader())
    first = ModelCheckpoint(tmp_path / "first", save_last=True)
    trainer(tmp_path / "first", [callback(), KeyedSeed(3), first], epochs=2).fit(module(), loader(), loader())
    resumed = module()
    torch.manual_seed(99)  # the state of the process must not matter
    second = trainer(tmp_path / "second", [callback(), KeyedSeed(3)], epochs=4)
    second.fit(resumed, loader(), loader(), ckpt_path=first.last_model_path)
    assert second.current_epoch == 4
    expected, found = whole.state_dict(), resumed.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert all(not m.training for m in resumed.net.modules())


def test_base_checkpoint_is_loaded_and_others_are_refused(tmp_path: Path) -> None:
    base = module(seed=5)
    torch.save(base.net.state_dict(), tmp_path / "bare.pt")
    torch.save({"state_dict": base.state_dict()}, tmp_path / "lightning.ckpt")
    for name in ("bare.pt", "lightning.ckpt"):
        theirs = module(seed=0)
        trainer(tmp_path, [callback(base_ckpt=str(tmp_path / name))], epochs=1).fit(theirs, loader())
        assert fingerprint(theirs.net) == fingerprint(base.net)
    torch.save({"camera.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(LightningMMError, match=r"holds another network than this Fusion: it lacks .*camera\.0\.bias"):
        trainer(tmp_path, [callback(base_ckpt=str(tmp_path / "other.pt"))]).fit(module(), loader())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist"):
        trainer(tmp_path, [callback(base_ckpt="nowhere.pt")]).fit(module(), loader())
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(LightningMMError, match="cannot be read"):
        trainer(tmp_path, [callback(base_ckpt=str(tmp_path / "broken.pt"))]).fit(module(), loader())


def test_adapter_checkpoint_of_another_base_or_none_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path)
    trained = module()
    run = trainer(tmp_path, [callback(), saver], epochs=1)
    run.fit(trained, loader())
    again = module()
    hook = callback()
    hook.attach(again, next(iter(loader())))
    load_weights(again, saver.best_model_path)
    assert all(
        torch.equal(a, b) for a, b in zip(again.adapter.state_dict().values(), trained.adapter.state_dict().values())
    )
    with pytest.raises(LightningMMError, match="another network or has other weights"):
        trainer(tmp_path, [callback()], epochs=2).fit(module(seed=7), loader(), ckpt_path=saver.best_model_path)
    plain = ModelCheckpoint(tmp_path / "plain")
    trainer(tmp_path, [plain], epochs=1).fit(module(), DataLoader(Clean(), batch_size=8))
    with pytest.raises(LightningMMError, match="holds no adapter"):
        trainer(tmp_path, [callback()], epochs=2).fit(module(), loader(), ckpt_path=plain.best_model_path)
    with pytest.raises(LightningMMError, match=r"left over|missing|expected shape"):
        trainer(tmp_path, [callback(basis=Additive(), exclude=["head"])], epochs=2).fit(
            module(), loader(), ckpt_path=saver.best_model_path
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "model"}, "has no attribute 'model'.*one of \\['net'\\]"),
        ({"available": "mask"}, "no `available` at 'mask' in the batch"),
        ({"available": "3"}, "expected Bool\\[B, 2\\]"),
        ({"modalities": None}, "does not know the modalities"),
        ({"modalities": ["camera", "sonar"]}, "`inputs` names \\['radar'\\]"),
        ({"inputs": {"camera": "image", "radar": "sound"}}, "modality 'radar': no argument 'sound'"),
    ],
)
def test_mistakes_are_told_before_training(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        trainer(tmp_path, [callback(**changes)]).fit(module(), loader())
    assert not list(tmp_path.rglob("*.ckpt"))


class Around(Theirs):
    """A part beside the network, data and network made late, batches changed on transfer, a step of its own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.net = None  # type: ignore[assignment]
        self.beside = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))

    def configure_model(self) -> None:
        if self.net is None:
            self.net = module().net

    def setup(self, stage: str) -> None:
        self.samples = Samples()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, batch_size=8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"image": batch[0], "echo": batch[1], "here": batch[2], "label": batch[3]}

    def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
        self.log("seen", 1.0)
        out = self.net(batch["image"], self.beside(batch["echo"]))
        return nn.functional.cross_entropy(out, batch["label"])

    validation_step = None  # type: ignore[assignment]


def test_modules_that_make_things_late_are_adapted_and_wholly_frozen(tmp_path: Path) -> None:
    theirs = Around()
    before = {key: value.clone() for key, value in theirs.beside.state_dict().items()}
    trainer(tmp_path, [callback(available="here")]).fit(theirs)
    assert all(torch.equal(value, before[key]) for key, value in theirs.beside.state_dict().items())
    assert all(bank.scale.abs().sum() > 0 for bank in theirs.adapter.banks.values())
    assert "log" not in vars(theirs)


def test_one_callback_adapts_each_module_and_another_takes_over(tmp_path: Path) -> None:
    hook, first, second = callback(), module(0), module(1)
    for one in (first, second):
        base = fingerprint(one.net)
        trainer(tmp_path, [hook], epochs=1).fit(one, loader(), loader())
        assert fingerprint(one.net) == base
        assert all(bank.scale.abs().sum() > 0 for bank in one.adapter.banks.values())
    with_first = trainer(tmp_path, [callback()]).test(first, loader(), verbose=False)
    assert with_first == trainer(tmp_path, [callback()]).test(first, loader(), verbose=False)
    with pytest.raises(LightningMMError, match="is already adapted by SSF with basis OneHot"):
        trainer(tmp_path, [callback(basis=Additive())]).test(first, loader())


class Fails(Theirs):
    """Fails after its network ran, in one stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self.seen = stage, 0

    def step(self, batch: tuple[Tensor, ...]) -> Tensor:
        loss = super().step(batch)
        if self.trainer.state.stage == self.stage:
            assert self.adapter.current.situation.available is batch[2]
            self.seen += 1
            raise RuntimeError("in the step")
        return loss

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self.step(batch)


@pytest.mark.parametrize(
    ("verb", "stage"),
    [
        ("fit", "sanity_check"),
        ("fit", "train"),
        ("fit", "validate"),
        ("validate", "validate"),
        ("test", "test"),
        ("predict", "predict"),
    ],
)
def test_the_mask_of_a_batch_ends_with_it_also_when_its_step_fails(tmp_path: Path, verb: str, stage: str) -> None:
    module, hook = Fails(stage), callback()
    run = trainer(tmp_path, [hook], num_sanity_val_steps=1 if stage == "sanity_check" else 0)
    with pytest.raises(RuntimeError, match="in the step"):
        getattr(run, verb)(module, loader(), *([loader()] if verb == "fit" else []))
    assert module.seen == 1
    assert module.adapter.current.situation.available is None
    module.stage = ""
    getattr(run, verb)(module, loader(), *([loader()] if verb == "fit" else []))
    assert module.adapter.current.situation.available is None


def test_a_step_that_ends_the_epoch_leaves_no_mask(tmp_path: Path) -> None:
    class Stops(Theirs):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

    module = Stops()
    trainer(tmp_path, [callback()], epochs=1).fit(module, loader())
    assert module.adapter.current.situation.available is None


def test_a_trainer_without_the_callback_says_so(tmp_path: Path) -> None:
    theirs = module()
    trainer(tmp_path, [callback()], epochs=1).fit(theirs, loader(), loader())
    with pytest.warns(UserWarning, match="was called without `available`"):
        trainer(tmp_path, []).test(theirs, DataLoader(Clean(), batch_size=8), verbose=False)


def test_loaders_may_be_collections(tmp_path: Path) -> None:
    class Pair(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.step(batch["one"])

    pair = Pair()
    hook = callback(available=lambda batch: batch["one"][2] if isinstance(batch, dict) else batch[2])
    trainer(tmp_path, [hook], epochs=1).fit(pair, {"one": loader(), "two": loader()}, loader())
    assert all(bank.scale.abs().sum() > 0 for bank in pair.adapter.banks.values())


def test_checkpoint_with_other_settings_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path)
    trainer(tmp_path, [callback(), saver], epochs=1).fit(module(), loader(), loader())
    for changes, key in (
        ({"fill": Constant({"camera": 1.0})}, "fill"),
        ({"modalities": MODALITIES[::-1]}, "modalities"),
    ):
        with pytest.raises(LightningMMError, match=f"other settings than the config, in .*{key}"):
            trainer(tmp_path, [callback(**changes)]).test(module(), loader(), ckpt_path=saver.best_model_path)


def test_an_interrupted_step_leaves_no_call() -> None:
    """Ctrl-C runs no hook of the network; this task passes the mask itself."""
    task, batch = new_tasks.task("classification"), new_tasks.batch_of("classification")
    hook, run = new_tasks.attach(task, OneHot()), Trainer(logger=False, enable_checkpointing=False)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = task.model.encoders["vector"].register_forward_pre_hook(stop)
    hook.on_train_batch_start(run, task, batch, 0)
    with pytest.raises(KeyboardInterrupt) as stopped:
        task(batch["inputs"], batch["available"])
    hook.on_exception(run, task, stopped.value)
    handle.remove()
    assert task.adapter.current.situation.call is None
