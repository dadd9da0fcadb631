"""Collect what the encoders of a trained network return on training data, for the fills of features.

Shapes: B samples in a batch, M modalities, N samples that observed every modality, D_m features of modality m.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.encoders import find_encoders
from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.example import example_of
from lightning_mm.adapters.network.inputs import Call, InputPath, locate_inputs
from lightning_mm.errors import LightningMMError, NotApplicableError
from lightning_mm.missing import Fill, Zeros
from lightning_mm.missing.feature_file import EncoderFeatures, check_output
from lightning_mm.missing.feature_fills import refuse_masking
from lightning_mm.modalities import Modalities, check_mask
from lightning_mm.tree import batch_size, leaves_of, map_leaves, tensors_of


class NoEncodersError(NotApplicableError):
    """A modality has no encoder, so there are no features to fill."""


def encoder_features(
    network: nn.Module,
    modalities: Modalities | Sequence[str],
    batches: Iterable[Call],
    observed: Iterable[Tensor] | None = None,
    *,
    fill: Fill = Zeros(),
    inputs: Mapping[str, str] | None = None,
    encoders: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> EncoderFeatures:
    """Run a trained network over training data and collect the outputs of the encoder of each modality.

    The network runs in eval mode and is not changed; no labels are needed. Means are computed in float64, over the
    samples that observed the modality.

    Args:
        network: The trained network.
        modalities: Names in order.
        batches: Calls ``(args, kwargs)`` of the network, batch first, on its device; one pass over them.
        observed: For each batch ``Bool[B, M]``, the modalities that were really observed; default: all.
        fill: Placeholder for inputs that were not observed.
        inputs: Modality to the argument that holds it, see :func:`~lightning_mm.adapters.adapt`.
        encoders: Modality to the name of the module that encodes it and nothing else; default: the modules of
            ``network.encoders``.
        limit: Stop after this number of samples; default: all.

    Raises:
        NoEncodersError: If a modality has no such module, or it does not pass the trial: it runs once in a call, sees
            its modality alone, and encodes each sample by itself.
        NotApplicableError: If the network masks absent features itself (``mask_absent``).
        LightningMMError: If an encoder in ``encoders`` does not exist or fails the trial, outputs hold NaN, or a
            modality was never observed.

    Example:
        >>> import torch
        >>> from lightning_mm.models import LateFusionClassifier, VectorEncoder
        >>> network = LateFusionClassifier({"rgb": VectorEncoder(3), "text": VectorEncoder(5)}, 2, mask_absent=False)
        >>> call = (({"rgb": torch.randn(9, 3), "text": torch.randn(9, 5)},), {})
        >>> features = encoder_features(network, ["rgb", "text"], [call])
        >>> features.means["rgb"].shape, features.vectors["text"].shape
        (torch.Size([64]), torch.Size([9, 64]))
    """
    names = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
    masks = None if observed is None else iter(observed)
    sums: dict[str, _Sum] = {}
    paths: dict[str, InputPath] = {}
    found: dict[str, str] = {}
    done = 0
    with quiet(network):
        for call in batches:
            if not found:
                paths = locate_inputs(network, names, inputs, call)
                found = _encoders(network, names, encoders, paths, call)
                sums = {name: _Sum(name) for name in names}
            size = next(size for path in paths.values() if (size := batch_size(path.get(call))) is not None)
            mask = torch.ones(size, len(names), dtype=torch.bool) if masks is None else next(masks).cpu()
            check_mask("observed", mask, names)
            _run(network, found, sums, _filled(call, paths, fill, mask), mask)
            done += size
            if limit is not None and done >= limit:
                break
    unseen = [name for name in names if name not in sums or not sums[name].count]
    if unseen:
        raise LightningMMError(f"features: modality {unseen[0]!r} is in none of the samples; leave it out")
    tables = {name: torch.cat(sums[name].rows) for name in names if sums[name].rows}
    vectors = len(tables) == len(names) and min(map(len, tables.values())) > 1
    shapes = {name: sums[name].shapes for name in names if any(one.ndim > 1 for one in tensors_of(sums[name].mean()))}
    return EncoderFeatures(found, {name: sums[name].mean() for name in names}, tables if vectors else {}, shapes)


class _Sum:
    """Sums of the outputs of one encoder, and its vectors of complete samples."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0
        self.total: Any = None
        self.rows: list[Tensor] = []
        self.shapes: list[tuple[int, ...]] = []

    def add(self, given: Any, output: Any, mask: Tensor, column: int) -> None:
        """Add the output of one batch; samples count that observed the modality."""
        check_output(self.name, output)
        present = mask[:, column]
        if not bool(present.any()):
            return
        shapes = [tuple(leaf.shape[1:]) for leaf in tensors_of(given)]
        leaves = dict(leaves_of(output))
        for path, leaf in leaves.items():
            leaves[path] = leaf[present.to(leaf.device)].to("cpu", torch.float64)
            if not leaves[path].isfinite().all():
                raise LightningMMError(
                    f"features: the encoder of {self.name!r} returns values that are not finite; check the inputs and "
                    "weights for NaN"
                )
        if self.total is not None:
            for path, whole in leaves_of(self.total):
                if path not in leaves or leaves[path].shape[1:] != whole.shape:
                    came = tuple(leaves[path].shape[1:]) if path in leaves else "nothing"
                    raise LightningMMError(
                        f"features: the encoder of {self.name!r} returns {tuple(whole.shape)} for one sample and "
                        f"{came} for another; bring the data to one size"
                    )
        before = {} if self.total is None else dict(leaves_of(self.total))
        self.total = map_leaves(output, lambda path, _: before.get(path, 0) + leaves[path].sum(0))
        self.count, self.shapes = self.count + int(present.sum()), shapes
        if isinstance(output, Tensor) and output.ndim == 2:
            complete = mask.all(1)
            self.rows.append(output[complete.to(output.device)].detach().to("cpu", torch.float32))

    def mean(self) -> Any:
        return map_leaves(self.total, lambda path, leaf: (leaf / self.count).float())


def _encoders(
    network: nn.Module,
    names: Modalities,
    encoders: Mapping[str, str] | None,
    paths: Mapping[str, InputPath],
    call: Call,
) -> dict[str, str]:
    """Return the encoder of every modality."""
    refuse_masking(network)
    children = getattr(network, "encoders", None)
    children = children if isinstance(children, nn.ModuleDict) else {}
    default = {name: f"encoders.{name}" for name in names if name in children}
    named = dict(encoders) if encoders is not None else default
    without = [name for name in names if name not in named]
    if without:
        raise NoEncodersError(
            f"{type(network).__name__} has no encoder of {without[0]!r}, so there are no features to fill; a network "
            "has `encoders`, an nn.ModuleDict with one module per modality, or name its modules with `encoders`; leave "
            "feature_mean, retrieval_fill and regression_fill out for this network"
        )
    try:
        return find_encoders(network, names, named, paths, example_of(network, call, paths))
    except LightningMMError as error:
        raise error if encoders is not None else NoEncodersError(str(error)) from error


def _filled(call: Call, paths: Mapping[str, InputPath], fill: Fill, mask: Tensor) -> Call:
    for column, path in enumerate(paths.values()):
        value = path.get(call)
        if value is not None and not bool(mask[:, column].all()):
            call = path.put(call, fill(list(paths)[column], value, mask[:, column]))
    return call


def _run(network: nn.Module, encoders: Mapping[str, str], sums: Mapping[str, _Sum], call: Call, mask: Tensor) -> None:
    """Run the network on one batch and add the outputs of its encoders."""
    handles = []
    for column, (name, place) in enumerate((name, encoders[name]) for name in sums):

        def add(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name, column: int = column) -> None:
            sums[name].add((args, kwargs), output, mask, column)

        handles.append(network.get_submodule(place).register_forward_hook(add, with_kwargs=True))
    try:
        network(*call[0], **call[1])
    finally:
        for handle in handles:
            handle.remove()
