"""Networks of torchvision, timm, smp, transformers, MONAI and PyG: what holds for one of ours holds for them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, Kind, LoRA, OneHot, adapt
from lightning_mm.adapters.layers.types import Normalisation
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise
from tests.support.foreign_networks import BATCH, NETWORKS, network_and_call

NAMES = Modalities(["a", "b"])
MASKS = NAMES.masks(["a", "b", "a+b", "b"])
KINDS: dict[str, Callable[[], Kind]] = {"SSF": SSF, "LoRA": lambda: LoRA(2)}
QUICK = ("torchvision ConvNeXt",)


@pytest.fixture(autouse=True)
def one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def filled(call: tuple[Tensor, Tensor]) -> list[Tensor]:
    zero = [torch.zeros((), dtype=value.dtype) for value in call]
    masks = [MASKS[:, k].view(-1, *[1] * (value.ndim - 1)) for k, value in enumerate(call)]
    return [torch.where(mask, value, none) for mask, value, none in zip(masks, call, zero)]


def silently_left_out(adapted: Adapted, said: str) -> list[str]:
    """Modules with parameters that are neither adapted nor named, embeddings and norms under LoRA aside."""
    sites = {site.name for site in adapted.adapter.sites}
    kept = (nn.Embedding, *Normalisation) if isinstance(adapted.adapter.kind, LoRA) else (nn.Embedding,)
    own = {name: module for name, module in adapted.base.named_modules() if any(True for _ in module.parameters(False))}
    lost = [name for name, module in own.items() if name not in sites and not isinstance(module, kept)]
    return [name for name in lost if not re.search(rf"(^|[ ,;]){re.escape(name)}[ ,;]", said)]


@pytest.mark.parametrize(
    "name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in NETWORKS]
)
def test_everything_that_holds_for_an_adapter(name: str) -> None:
    for kind, basis in (("SSF", Additive()), ("LoRA", OneHot())):
        network, call = network_and_call(name)
        # frozen like the base: torch's matmul takes another kernel for weights that need gradients, also in no_grad()
        network.requires_grad_(False)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with torch.no_grad():
            base, baseline = network(*call), network(*filled(call))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = adapt(network, NAMES, KINDS[kind](), basis=basis, example=(call, {}))
        assert not silently_left_out(adapted, " ".join(str(one.message) for one in said))
        with torch.no_grad():
            torch.testing.assert_close(adapted(*call, available=MASKS), baseline, rtol=1e-5, atol=1e-5)
            randomise(adapted, scale=0.02)
            assert torch.equal(adapted(*call, available=torch.ones(BATCH, 2, dtype=torch.bool)), base)
            mixed = adapted(*call, available=MASKS)
            torch.testing.assert_close(mixed[2], base[2], rtol=1e-4, atol=1e-4)
            assert not torch.allclose(mixed[0], baseline[0], rtol=1e-4, atol=1e-5), "nothing was adapted"
            for row in range(BATCH):
                alone = adapted(*(value[row : row + 1] for value in call), available=MASKS[row : row + 1])
                torch.testing.assert_close(mixed[row : row + 1], alone, rtol=2e-3, atol=2e-4)
            try:
                folded = adapted.fold("b")(*call)
            except LightningMMError as error:
                assert re.search(r"layer '.+' cannot be folded", str(error)), error  # noqa: PT017
            else:
                torch.testing.assert_close(folded[[1, 3]], mixed[[1, 3]], rtol=2e-3, atol=2e-4)
            removed = adapted.remove()
            assert torch.equal(removed(*call), base)
            assert all(torch.equal(value, before[key]) for key, value in removed.state_dict().items())
