"""BatchNorm statistics of each combination: equal to those of a network in train mode, as rows of an adapter."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import (
    SSF,
    Additive,
    BatchNormSSF,
    NoBatchNormError,
    OneHot,
    adapt,
    load,
    refit_batch_norm,
)
from lightning_mm.callbacks import BatchNormRefit
from lightning_mm.cli import main
from lightning_mm.data import Collate
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import UniformCombinations
from lightning_mm.modalities import Modalities
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.tasks.checkpoints import load_weights
from tests.support.adapter_networks import trained_statistics
from tests.support.batch_norm_networks import FILL, NAMES, THEIRS, Call, Net, calls, network, refitted
from tests.support.cli_network import TinyNetwork
from tests.support.their_module import Fusion, Theirs, loader, module
from tests.support.tiny_run import BASE


def masked(call: Call, combination: str) -> Call:
    (a,), kwargs = call
    values = {"a": a, **kwargs["rest"]}
    present = NAMES.parse(combination)
    values = {
        name: v if name in present else torch.full_like(v, FILL.values.get(name, 0)) for name, v in values.items()
    }
    mask = NAMES.mask(combination).expand(len(a), -1)
    return (values["a"],), {"rest": {"b": values["b"], "c": values["c"]}, "available": mask}


def plainly_refitted(net: Net, batches: list[Call], combination: str) -> Net:
    """The same by hand: a copy in eval mode but for its BatchNorms, which start anew with averages over samples."""
    plain = copy.deepcopy(net).eval()
    for part in plain.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None
            part.train()
    with torch.no_grad():
        for call in batches:
            args, kwargs = masked(call, combination)
            for _ in args[0]:  # once per sample: so a batch weighs as much as it has samples
                plain(*args, **kwargs)
    return plain.eval()


def test_equals_a_network_whose_statistics_were_estimated_anew_also_folded_and_in_a_mixed_batch(tmp_path: Path) -> None:
    net, before = network(), network()
    adapted = refitted(net)
    adapted.save(tmp_path)
    loaded = load(tmp_path, network())
    (call,) = calls(1, 7)
    with torch.no_grad():
        mixed = adapted(*call[0], **call[1], available=NAMES.masks())
        for row, combination in enumerate(NAMES.combinations()):
            args, kwargs = masked(call, combination)
            full = combination == NAMES.full
            expected = (before.eval() if full else plainly_refitted(before, calls(), combination))(*args, **kwargs)
            found = adapted(*call[0], **call[1], available=NAMES.mask(combination).expand(7, -1))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert not full or torch.equal(found, expected)
            torch.testing.assert_close(mixed[row], expected[row], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(adapted.fold(combination)(*call[0], **call[1]), expected, rtol=1e-5, atol=1e-5)
            again = loaded(*call[0], **call[1], available=NAMES.mask(combination).expand(7, -1))
            assert torch.equal(again, found)


def test_the_base_is_not_changed() -> None:
    net, before = network(), network().state_dict()
    adapted = refitted(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [site.name for site in adapted.adapter.sites] == ["shared", "mix.2", "last"]
    assert not any(part.training for part in net.modules())
    assert all(part.momentum == 0.1 for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))


def test_a_second_refit_starts_from_the_base_and_not_from_the_first() -> None:
    net = network()
    adapted = refitted(net)
    first = copy.deepcopy(adapted.adapter.state_dict())
    refit_batch_norm(adapted.adapter, net, calls(1), floor=0.0)
    assert not torch.equal(adapted.adapter.state_dict()["banks.shared.scale"], first["banks.shared.scale"])
    refit_batch_norm(adapted.adapter, net, iter(calls()), floor=0.0)
    assert all(torch.equal(value, first[key]) for key, value in adapted.adapter.state_dict().items())


def test_samples_count_for_the_combinations_that_they_observed() -> None:
    net = network()
    adapted = adapt(net, NAMES, BatchNormSSF(), basis=OneHot(["a", "b+c"]), fill=FILL, example=calls(1)[0])
    batches = calls()
    observed = [torch.ones(6, 3, dtype=torch.bool) for _ in batches]
    observed[0][:4, 0] = observed[1][1:, 1] = False
    batches[0][0][0][:4] = float("nan")
    refit_batch_norm(adapted.adapter, net, batches, observed, floor=0.0)
    (call,) = calls(1, 5)
    (a,), kwargs = batches[0]
    shorter: Call = (a[4:],), {"rest": {name: value[4:] for name, value in kwargs["rest"].items()}}
    # of the second batch only one sample observed b, which is too few
    clean: Call = (a.nan_to_num(),), kwargs
    for combination, used in (("a", [shorter, *batches[1:]]), ("b+c", [clean, batches[2]])):
        args, named = masked(call, combination)
        with torch.no_grad():
            expected = plainly_refitted(network(), used, combination)(*args, **named)
            found = adapted(*call[0], **call[1], available=NAMES.mask(combination).expand(5, -1))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    observed[0][:, 0] = observed[1][:, 0] = observed[2][:, 0] = False
    with pytest.raises(LightningMMError, match="'a': none of 3 batches holds 2 samples that observed all of its"):
        refit_batch_norm(adapted.adapter, net, batches, observed)
    with pytest.raises(LightningMMError, match=r"one Bool\[B, 3\] for each of the 3 batches"):
        refit_batch_norm(adapted.adapter, net, batches, observed[:2])


class Branch(nn.Module):
    """A BatchNorm over a single input, one behind a condition, and a channel that is constant without `a`."""

    def __init__(self) -> None:
        super().__init__()
        self.of_a, self.rare = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.of_a(a) + (self.rare(b) if bool(b.abs().sum() > 0) else b)


def test_constant_channels_stay_finite_and_layers_that_do_not_run_keep_their_statistics() -> None:
    net = Branch()
    trained_statistics(net)
    call: Call = (torch.randn(6, 3), torch.randn(6, 3)), {}
    adapted = adapt(net, ["a", "b"], BatchNormSSF(), example=call)
    refit_batch_norm(adapted.adapter, net, [call])
    assert all(value.isfinite().all() for value in adapted.adapter.parameters())
    with torch.no_grad():
        out = adapted(*call[0], available=torch.tensor([[False, True]]).expand(6, -1))
    assert out.isfinite().all()
    rows = dict(zip(adapted.adapter.basis.names, adapted.adapter.banks["rare"].scale))
    assert rows["a"].eq(0).all()
    assert not rows["b"].eq(0).any()


class Activated(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def test_what_cannot_be_refitted_is_told() -> None:
    example = calls(1)[0]
    for net in (network(statistics=False), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(NoBatchNormError, match="has no BatchNorm with running statistics to refit"):
            refit_batch_norm(refitted(network()).adapter, net, calls())
    for kind, basis in ((SSF(), OneHot()), (BatchNormSSF(), Additive())):
        net = network()
        adapted = adapt(net, NAMES, kind, basis=basis, fill=FILL, example=example)
        with pytest.raises(LightningMMError, match="needs an adapter of kind BatchNormSSF with basis OneHot, got kind"):
            refit_batch_norm(adapted.adapter, net, calls())
    net = network()
    adapted = adapt(net, NAMES, SSF(), basis=OneHot(), targets=["shared", "mix.2"], fill=FILL, example=example)
    refit_batch_norm(adapted.adapter, net, calls())  # another spelling of the same
    net = network()
    net.last = Activated(4)
    adapted = adapt(net, NAMES, BatchNormSSF(), fill=FILL, example=example)
    with pytest.raises(LightningMMError, match="'last' cannot be refitted: the forward of Activated does more than"):
        refit_batch_norm(adapted.adapter, net, calls())
    net = network()
    adapted = adapt(net, NAMES, BatchNormSSF(), fill=FILL, example=example)
    broken = calls()
    broken[1][0][0][0] = float("nan")
    with pytest.raises(LightningMMError, match=r"statistics of layer 'shared' in combination 'a' are not finite"):
        refit_batch_norm(adapted.adapter, net, broken)


# under Lightning ----------------------------------------------------------------------------------------------------

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_somebody_elses_module_is_refitted_and_not_trained(tmp_path: Path) -> None:
    theirs, before = module(), module().state_dict()
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=3, callbacks=[BatchNormRefit(**THEIRS)], **QUIET)
    trainer.fit(theirs, loader())
    assert trainer.global_step == 0
    assert all(torch.equal(theirs.state_dict()[key], value) for key, value in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
    # the radar alone: samples 1 to 3 of four observed it
    plain = copy.deepcopy(module().net).eval()
    for norm in (plain.camera[1], plain.radar[1]):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for _, echo, available, _ in loader():
            kept = echo[available[:, 1]]
            plain(torch.zeros(len(kept), 6), kept)
        echo = torch.randn(4, 3)
        with theirs.adapter.using(torch.tensor([[False, True]]).expand(4, -1)):
            found = theirs.net(torch.full((4, 6), float("nan")), echo)
        torch.testing.assert_close(found, plain.eval()(torch.zeros(4, 6), echo), rtol=1e-5, atol=1e-5)
    again = module()
    BatchNormRefit(**THEIRS).attach(again, next(iter(loader())), "test")
    load_weights(again, tmp_path / "best.ckpt")
    assert all(
        torch.equal(a, b) for a, b in zip(again.adapter.state_dict().values(), theirs.adapter.state_dict().values())
    )


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_settings_and_networks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    for changes, message in (
        ({"batches": 0}, "batches must be a whole number of at least 1, got 0"),
        ({"filename": "a/b"}, "plain name"),
    ):
        with pytest.raises(LightningMMError, match=message):
            BatchNormRefit(**{**THEIRS, **changes})
    theirs = Theirs()
    theirs.net.camera[1], theirs.net.radar[1] = nn.Identity(), nn.LayerNorm(8)
    with pytest.raises(NoBatchNormError, match="Fusion has no BatchNorm with running statistics"):
        Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=[BatchNormRefit(**THEIRS)], **QUIET).fit(
            theirs, loader()
        )
    trainer = Trainer(max_epochs=1, limit_train_batches=0, callbacks=[BatchNormRefit(**THEIRS)], **QUIET)
    with pytest.raises(LightningMMError, match="needs training batches"):
        trainer.fit(module(), loader())
    assert not list(tmp_path.iterdir())
    assert isinstance(theirs.net, Fusion)


def test_the_policy_of_the_training_data_does_not_matter(tmp_path: Path) -> None:
    modalities = Modalities(["rgb", "depth"])
    torch.manual_seed(0)
    samples = [
        {
            "inputs": {"rgb": torch.randn(3, 8, 8), "depth": torch.randn(1, 8, 8)},
            "target": torch.randint(0, 3, (8, 8)),
            "index": i,
        }
        for i in range(8)
    ]
    rows = []
    for policy in (None, UniformCombinations(include_full=False)):
        torch.manual_seed(0)
        task = SemanticSegmentationTask(TinyNetwork({"rgb": 3, "depth": 1}, 3), list(modalities), 3)
        data = DataLoader(samples, batch_size=4, collate_fn=Collate(modalities, policy))  # type: ignore[arg-type]
        trainer = Trainer(default_root_dir=tmp_path, max_epochs=0, callbacks=[BatchNormRefit(batches=2)], **QUIET)
        trainer.fit(task, data, data)
        rows.append(copy.deepcopy(task.adapter.state_dict()))
    assert all(torch.equal(rows[0][key], rows[1][key]) for key in rows[0])
    assert rows[0]["banks.norm.scale"].abs().sum() > 0


OVERLAY = """
trainer:
  callbacks:
  - class_path: lightning_mm.callbacks.BatchNormRefit
    init_args: {batches: 2, base_ckpt: base.pt}  # and the file name of the ModelCheckpoint in whose place it stands
"""


def test_fit_and_sweep_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("bn_refit.yaml").write_text(OVERLAY)
    torch.manual_seed(0)
    torch.save(TinyNetwork({"rgb": 3, "depth": 1}, 6).state_dict(), "base.pt")
    common = ["-c", "base.yaml", "-c", "bn_refit.yaml", "--trainer.default_root_dir", "out"]
    assert main(["fit", *common, "--trainer.fast_dev_run", "1"]) == 0
    assert not list(Path().rglob("best.ckpt"))
    assert main(["fit", *common]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"best.ckpt", "fit.yaml", "fit.state.json"}
    assert main(["sweep", *common, "--ckpt_path", "out/best.ckpt", "--bootstrap", "0"]) == 0
    with open("out/sweep/sweep.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "miou"]
    figures = {(row["method"], row["combination"]): row["value"] for row in rows}
    assert figures["adapted", "rgb+depth"] == figures["zero_fill", "rgb+depth"]
    assert figures["adapted", "depth"] != figures["zero_fill", "depth"]


def test_half_precision_keeps_what_large_scales_need() -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = norm

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a + b)

    network = Two().eval()
    trained_statistics(network)
    with torch.no_grad():
        norm[1].running_var.fill_(1.0)
    batch = (1 + 0.01 * torch.randn(8, 3, 6, 6), torch.randn(8, 3, 6, 6))
    names = Modalities(["a", "b"])
    adapted = adapt(network, names, BatchNormSSF(), basis=OneHot(), example=(batch, {}))
    refit_batch_norm(adapted.adapter, adapted.base, [(batch, {})])
    only_a = names.mask("a").expand(8, -1)
    bank = next(iter(adapted.adapter.banks.values()))
    assert bank.scale[0].max().item() > 5  # features of `a` alone hardly vary
    with torch.no_grad():
        exact = adapted(*batch, available=only_a)
        with torch.autocast("cpu", torch.bfloat16):
            half, folded = adapted(*batch, available=only_a), adapted.fold("a")(*batch)
            base = network(*batch)
            full = adapted(*batch, available=torch.ones_like(only_a))
    assert half.dtype == base.dtype == torch.bfloat16
    assert torch.equal(full, base)
    spread = float(exact.std())
    assert (
        float((half.float() - exact).abs().mean()) < 1.5 * float((folded.float() - exact).abs().mean()) + 0.02 * spread
    )
