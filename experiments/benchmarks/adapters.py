"""The cost of adapters: time of adapted and folded networks relative to the base, in alternating pairs.

    python experiments/benchmarks/adapters.py [--pairs 20] [--only transformer segmenter ...] [--out FOLDER]

Absolute times only apply to one machine; ratios are medians with a 95 % bootstrap interval of the median.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from memory import peak_of_training
from networks import (
    CHANNELS,
    PROJECTIONS,
    TOKENS,
    TokenTransformer,
    images,
    segmenter,
    tokens,
    two_encoders,
)
from timing import Ratio, ratio, write

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Kind, LoRA, OneHot, adapt
from lightning_mm.modalities import Modalities

HERE = Path(__file__).resolve().parent
LORA_LAYERS = [f"blocks.*.{name}" for name in PROJECTIONS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "benchmarks")
    options = parser.parse_args()
    rows: list[Ratio] = []
    for part in options.only:
        for row in PARTS[part](options.pairs):
            print(row.row(), flush=True)
            rows.append(row)
    write(rows, options.out, "adapters", options.pairs)


def transformer(pairs: int) -> Iterator[Ratio]:
    """Time a transformer: 6 layers, width 256, 32 samples of 50 tokens, all 15 combinations of four modalities."""
    names, batch = Modalities(TOKENS), tokens()
    mixed = names.masks().repeat(3, 1)[:32]
    for kind, basis, limit in (
        (SSF(), OneHot(), "1.15"),
        (SSF(), Additive(), "1.15"),
        (LoRA(8, layers=LORA_LAYERS), OneHot(), "1.35"),
        (LoRA(8, layers=LORA_LAYERS), Additive(), "1.35"),
    ):
        adapted, plain = pair_of(TokenTransformer, names, kind, basis, tokens(2))
        label = f"transformer, {type(kind).__name__}, {type(basis).__name__}"
        base = partial(plain, **batch)
        yield ratio(f"{label}: mixed batch / base", partial(adapted, **batch, available=mixed), base, pairs, limit)
        folded = adapted.fold("text+audio+video")
        yield ratio(f"{label}: folded / base", partial(folded, **batch), base, pairs, "1.02 (lower bound)")


def peft(pairs: int) -> Iterator[Ratio]:
    """Time the same low-rank changes in the peft library, with one adapter per combination, in its mixed batch."""
    from peft import LoraConfig, get_peft_model

    names, batch = Modalities(TOKENS), tokens()
    mixed = names.masks().repeat(3, 1)[:32]
    adapted, _ = pair_of(TokenTransformer, names, LoRA(8, layers=LORA_LAYERS), OneHot(), tokens(2))
    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=PROJECTIONS, init_lora_weights=False)
    keys = {name: name.replace("+", "_") for name in names.incomplete()}
    theirs: Any = get_peft_model(TokenTransformer(), config, adapter_name=keys[names.incomplete()[0]])
    for name in names.incomplete()[1:]:
        theirs.add_adapter(keys[name], config)
    theirs.eval()
    per_sample = [keys.get(names.name(row), "__base__") for row in mixed]
    yield ratio(
        "transformer, LoRA: mixed batch of peft / ours (OneHot)",
        partial(theirs, **batch, adapter_names=per_sample),
        partial(adapted, **batch, available=mixed),
        pairs,
        "at least 1.6",
    )


def training(pairs: int) -> Iterator[Ratio]:
    """Compare one optimizer step of SSF with one of full fine-tuning of the transformer, in time and memory."""
    names, batch = Modalities(TOKENS), tokens()
    mixed = names.masks().repeat(3, 1)[:32]
    for basis in (OneHot(), Additive()):
        adapted, whole = pair_of(TokenTransformer, names, SSF(), basis, tokens(2))
        ours = step(adapted, partial(adapted, **batch, available=mixed))
        theirs = step(whole.requires_grad_(True), partial(whole, **batch))
        what = f"transformer, SSF, {type(basis).__name__}: training step / full fine-tuning step"
        yield ratio(what, ours, theirs, pairs, "0.75", grad=True)
    frozen, full = peak_of_training("ssf"), peak_of_training("full")
    what = f"transformer: peak memory of SSF training / full fine-tuning ({frozen:.0f} and {full:.0f} MB)"
    yield Ratio(what, frozen / full, frozen / full, frozen / full, 0.0, 1)


def segmentation(pairs: int) -> Iterator[Ratio]:
    """Time four ResNet-18 encoders and a U-Net: the cost of hooks on small layers, and ways to reduce it."""
    names, batch = Modalities(CHANNELS), images()
    mixed, full = names.masks(), torch.ones(15, 4, dtype=torch.bool)
    for basis in (OneHot(), Additive()):
        adapted, plain = pair_of(segmenter, names, SSF(), basis, images(2), positional=True)
        label = f"segmenter, SSF, {type(basis).__name__}"
        base = partial(plain, batch, mixed)
        every, _ = pair_of(segmenter, names, SSF(), basis, images(2), positional=True, encoders={})
        yield ratio(
            f"{label}: mixed batch, all rows encoded / base", partial(every, batch, available=mixed), base, pairs
        )
        yield ratio(f"{label}: mixed batch / base", partial(adapted, batch, available=mixed), base, pairs)
        yield ratio(f"{label}: full combination / base", partial(adapted, batch, available=full), base, pairs)
        grouped, _ = pair_of(segmenter, names, SSF(), basis, images(2), positional=True, grouped=True)
        yield ratio(f"{label}: grouped, mixed batch / base", partial(grouped, batch, available=mixed), base, pairs)
        compiled, compiled_base = torch.compile(every), torch.compile(plain)
        yield ratio(
            f"{label}: compiled, all rows encoded / compiled base",
            partial(compiled, batch, available=mixed),
            partial(compiled_base, batch, mixed),
            pairs,
        )
        one, folded = names.mask("rgb").expand(15, -1), adapted.fold("rgb")
        yield ratio(f"{label}: folded for rgb / base", partial(folded, batch), partial(plain, batch, one), pairs)


def absent(pairs: int) -> Iterator[Ratio]:
    """Time two encoders with one modality absent, relative to the base with both."""
    names = Modalities(["rgb", "depth"])
    generator = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(16, 3, 96, 96, generator=generator) for name in names}
    adapted, plain = pair_of(
        two_encoders, names, SSF(), Additive(), {n: v[:2] for n, v in batch.items()}, positional=True
    )
    network: Any = plain
    with torch.no_grad():
        nothing = network.encoders["depth"](torch.zeros_like(batch["depth"]))

    def without_depth() -> Tensor:
        features = [network.encoders["rgb"](batch["rgb"]), nothing]
        return network.head(network.trunk(network.fusion(features, None)))

    base = partial(plain, batch)
    share = ratio("two encoders: the share of what is present / base", without_depth, base, pairs)
    yield share
    one = names.mask("rgb").expand(16, -1)
    limit = f"{share.median + 0.05:.3f}"
    yield ratio("two encoders: one absent, folded / base", partial(adapted.fold("rgb"), batch), base, pairs, limit)
    folded = adapted.fold("rgb", ((batch,), {}))
    yield ratio("two encoders: one absent, folded on an example / base", partial(folded, batch), base, pairs, limit)
    with_hooks = partial(adapted, batch, available=one)
    with adapted.adapter.disabled():
        yield ratio("two encoders: one absent, adapter off / base", with_hooks, base, pairs, limit)

    def all_rows() -> Tensor:
        with adapted.adapter.every_row():
            return adapted(batch, available=one)

    yield ratio("two encoders: one absent, SSF / SSF with all rows encoded", with_hooks, all_rows, pairs, limit)
    yield ratio("two encoders: one absent, SSF / base", with_hooks, base, pairs)


def overwriting(pairs: int) -> Iterator[Ratio]:
    """Compare modulating outputs in place with modulating copies, in time and memory."""
    names, batch = Modalities(TOKENS), tokens()
    mixed = names.masks().repeat(3, 1)[:32]
    adapted, _ = pair_of(TokenTransformer, names, SSF(), OneHot(), tokens(2))
    cases = [("transformer", adapted, partial(adapted, **batch, available=mixed))]
    names = Modalities(CHANNELS)
    adapted, _ = pair_of(segmenter, names, SSF(), OneHot(), images(2), positional=True)
    cases.append(("segmenter", adapted, partial(adapted, images(), available=names.masks())))
    for label, network, forward in cases:
        for what, run, grad in (("mixed batch", forward, False), ("training step", step(network, forward), True)):
            title = f"{label}, SSF, OneHot: {what}, outputs overwritten / copied"
            yield ratio(title, run, partial(copying, run), pairs, grad=grad)
    ours, theirs = peak_of_training("ssf"), peak_of_training("ssf copying")
    what = f"transformer: peak memory of SSF training, outputs overwritten / copied ({ours:.0f} and {theirs:.0f} MB)"
    yield Ratio(what, ours / theirs, ours / theirs, ours / theirs, 0.0, 1)


def copying(run: Callable[[], object]) -> None:
    """Run with the switch in ``layers.in_place`` turned off."""
    from lightning_mm.adapters.layers import in_place  # older checkouts, see two_checkouts.py, lack it

    in_place.ENABLED = False
    try:
        run()
    finally:
        in_place.ENABLED = True


PARTS: dict[str, Callable[[int], Iterator[Ratio]]] = {
    "transformer": transformer,
    "peft": peft,
    "training": training,
    "segmenter": segmentation,
    "absent": absent,
    "overwriting": overwriting,
}


def pair_of(
    make: Callable[[], nn.Module],
    names: Modalities,
    kind: Kind,
    basis: Basis,
    example: dict[str, Tensor],
    positional: bool = False,
    **settings: Any,
) -> tuple[Adapted, nn.Module]:
    """Build an adapted network with random rows, and a copy of its base without hooks."""
    torch.manual_seed(0)
    network = make().eval()
    torch.manual_seed(0)
    plain = make().eval().requires_grad_(False)
    call = ((example,), {}) if positional else ((), example)
    adapted = adapt(network, names, kind, basis=basis, example=call, **settings)
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter.normal_(0, 0.05)
    return adapted, plain


def step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that runs one step of AdamW on the trainable parameters."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        forward().square().mean().backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
