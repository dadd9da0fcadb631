"""An adapter that starts from BatchNorm statistics: equal to the refit on OneHot, nearest to it on other bases."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_mm.adapters import (
    SSF,
    Additive,
    LoRA,
    NoBatchNormError,
    OneHot,
    ScaleOnly,
    Together,
    adapt,
    start_from_statistics,
)
from lightning_mm.callbacks import BatchNormRefit, StatisticsStart
from lightning_mm.errors import LightningMMError
from tests.support.batch_norm_networks import FILL, NAMES, THEIRS, calls, network, refitted
from tests.support.their_module import callback, loader, module, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*left out of"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]
LAYERS = ["shared", "mix.2", "last"]


def started(kind: Any, basis: Any) -> Any:
    net = network()
    adapted = adapt(net, NAMES, kind, basis=basis, fill=FILL, example=calls(1)[0])
    assert start_from_statistics(adapted.adapter, net, calls(), floor=0.0) == LAYERS
    return adapted


def outputs(adapted: Any) -> torch.Tensor:
    (call,) = calls(1, 7)
    with torch.no_grad():
        return adapted(*call[0], **call[1], available=NAMES.masks())


@pytest.mark.parametrize("kind", [SSF, lambda: Together([LoRA(2), SSF()])])
def test_with_one_row_per_combination_it_is_the_refit(kind: Any) -> None:
    adapted = started(kind(), OneHot())
    torch.testing.assert_close(outputs(adapted), outputs(refitted(network())), rtol=1e-4, atol=1e-4)
    assert adapted.adapter.attached
    for site in adapted.adapter.sites:
        assert site.name in LAYERS or all(
            value.eq(0).all() for name, value in adapted.adapter.bank(site).named_parameters() if "down" not in name
        )


def test_with_rows_that_add_up_it_is_the_nearest() -> None:
    """No other rows have a smaller sum of squared distances: the residual is orthogonal to what each row adds to."""
    adapted, exact = started(SSF(), Additive()), refitted(network()).adapter
    masks = NAMES.masks(exact.basis.names)
    used = (~masks).double()
    for site in exact.sites:
        for part in ("scale", "shift"):
            mine = getattr(adapted.adapter.bank(site), part).double()
            residual = used @ mine - getattr(exact.bank(site), part).double()
            torch.testing.assert_close(used.mT @ residual, torch.zeros_like(mine), rtol=0, atol=1e-5)
            assert mine.abs().sum() > 0.1


@pytest.mark.parametrize("unseen", ["base", "superset", "subset"])
def test_rows_of_some_combinations_are_those_of_these(unseen: Any) -> None:
    """Others may use a row too, which is none of their statistics, and may never be observed."""
    exact, net = refitted(network()).adapter, network()
    adapted = adapt(net, NAMES, SSF(), basis=OneHot(["a+b"], unseen=unseen), fill=FILL, example=calls(1)[0])
    observed = [NAMES.mask("a+b").expand(len(args[0]), 3) for args, _ in calls()]
    start_from_statistics(adapted.adapter, net, calls(), observed, floor=0.0)
    row = exact.basis.names.index("a+b")
    for site in exact.sites:
        torch.testing.assert_close(adapted.adapter.bank(site).scale[0], exact.bank(site).scale[row])


def test_what_does_not_fit_is_named() -> None:
    net = network()
    adapted = adapt(net, NAMES, ScaleOnly(), fill=FILL, example=calls(1)[0])
    with pytest.raises(LightningMMError, match="needs a scale and a shift after a BatchNorm, and this adapter of kind"):
        start_from_statistics(adapted.adapter, net, calls())
    with pytest.raises(NoBatchNormError):
        start_from_statistics(adapted.adapter, nn.Linear(2, 2), calls())
    for changes, message in (({"batches": 0}, "batches must be"), ({"floor": 2.0}, "floor must be between 0 and 1")):
        with pytest.raises(LightningMMError, match=message):
            StatisticsStart(**changes)  # type: ignore[arg-type]


def fitted(folder: Path, callbacks: list[Any], lr: float = 0.0, **settings: Any) -> Any:
    theirs = module()
    theirs.hparams["lr"] = lr
    made = trainer(folder, callbacks, **settings)
    made.fit(theirs, loader())
    made.save_checkpoint(folder / "last.ckpt")
    return theirs


def test_a_fit_starts_there(tmp_path: Path) -> None:
    before = module().state_dict()
    theirs = fitted(tmp_path, [callback(), StatisticsStart(batches=99)])
    refit = module()
    trainer(tmp_path, [BatchNormRefit(**THEIRS)]).fit(refit, loader())
    for site in refit.adapter.sites:
        mine, exact = theirs.adapter.bank(site), refit.adapter.bank(site)
        torch.testing.assert_close(mine.scale, exact.scale)
        torch.testing.assert_close(mine.shift, exact.shift)
    assert theirs.adapter.bank(theirs.adapter.sites[0]).scale.eq(0).all(), "a linear layer starts at the identity"
    assert all(torch.equal(theirs.state_dict()[key], value) for key, value in before.items())
    trained = fitted(tmp_path, [callback(), StatisticsStart()], lr=0.05)
    assert not torch.equal(trained.adapter.banks["camera/1"].scale, theirs.adapter.banks["camera/1"].scale)


def test_a_resumed_run_keeps_what_it_had(tmp_path: Path) -> None:
    first = fitted(tmp_path, [callback(), StatisticsStart()], lr=0.05, epochs=1)
    expected = copy.deepcopy(first.adapter.state_dict())
    again = module()
    again.hparams["lr"] = 0.0
    resumed = trainer(tmp_path, [callback(), StatisticsStart()], epochs=1)
    resumed.fit(again, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(value, expected[key]) for key, value in again.adapter.state_dict().items())


def test_it_needs_an_adapter_before_it(tmp_path: Path) -> None:
    for callbacks in ([StatisticsStart()], [StatisticsStart(), callback()]):
        with pytest.raises(LightningMMError, match="StatisticsStart needs a FrozenBackboneAdapter before it"):
            trainer(tmp_path, callbacks).fit(module(), loader())
