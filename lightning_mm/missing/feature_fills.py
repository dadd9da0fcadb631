"""Fills that replace the output of an absent modality's encoder, from features of the training data.

Nothing is trained and no labels are needed. Absent inputs themselves become zeros, so their values are never read.

Shapes: B samples, M modalities, N training samples, D_m features of modality m, P features of the present modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError, NotApplicableError, check_whole
from lightning_mm.missing.encoder_forward import EncoderForward, FilledCall, running
from lightning_mm.missing.feature_file import read_features
from lightning_mm.missing.fills import Fill
from lightning_mm.tree import map_tensors

T = TypeVar("T")


class FeatureFill(Fill):
    """Base class of these fills: every absent sample gets the mean output of its encoder; subclasses may refine it.

    An encoder runs on the samples that have its modality, and not at all if none has it. A network that masks absent
    features itself (``mask_absent``) would never read them, and is refused.

    Args:
        path: The file that ``lightning-mm features`` or :func:`save_features` wrote for this trained network.

    Raises:
        DataNotFoundError: If the file does not exist.
        LightningMMError: If the file is damaged or of another kind.
    """

    reads_others = False
    """Whether the features of an absent modality depend on those of the present ones."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        features = read_features(path)
        self.encoders, self._shapes = dict(features.encoders), dict(features.shapes)
        self.modalities: list[str] = []  # columns of `available`, see install
        self._means: dict[str, Any] = {}
        for place, (name, mean) in enumerate(features.means.items()):
            leaves: list[str] = []

            def kept(leaf: Tensor, place: int = place, leaves: list[str] = leaves) -> str:
                leaves.append(f"mean_{place}_{len(leaves)}")
                # not in the state_dict, which does not depend on the fill of a task
                self.register_buffer(leaves[-1], leaf.unsqueeze(0), persistent=False)
                return leaves[-1]

            self._means[name] = map_tensors(mean, kept)

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        return leaf.new_zeros(())

    def mean(self, name: str) -> Any:
        """Return the mean output of the encoder of a modality, with one row."""
        return _named(self._means[name], self)

    def install(self, network: nn.Module, modalities: Sequence[str]) -> None:
        """Let the encoders of a network return features of this fill in calls made by :meth:`run`.

        Raises:
            NotApplicableError: If the network masks absent features itself.
            LightningMMError: If the file has no features of a modality, or the network has no such encoder.
        """
        refuse_masking(network)
        modules = dict(network.named_modules())
        self.modalities = list(modalities)
        for column, name in enumerate(modalities):
            if self.encoders.get(name) not in modules:
                raise LightningMMError(
                    f"fill {type(self).__name__}: {self.path} holds features of the encoders {self.encoders}, and "
                    f"{type(network).__name__} has none of these for {name!r}; write them for this network and these "
                    "modalities with `lightning-mm features`"
                )
            encoder, shapes = modules[self.encoders[name]], self._shapes.get(name)
            encoder.forward = EncoderForward(encoder, self, name, column, self.mean, shapes)

    def run(self, network: nn.Module, available: Bool[Tensor, "batch modality"], forward: Callable[[], T]) -> T:
        """Return the outputs of ``forward``, a call of the network, with the features of absent modalities filled.

        Raises:
            LightningMMError: If the network is in training mode, or an encoder did not run.
        """
        if network.training:
            raise LightningMMError(
                f"fill {type(self).__name__}: the features in {self.path} are those of a trained network, which change "
                "while it trains; train with another fill, such as Zeros or MeanInput"
            )
        with running(FilledCall(self, available, keeps=self.reads_others)) as call:
            outputs = forward()
        absent = [name for name in self.modalities if name not in call.seen]
        if absent or not self.modalities:
            raise LightningMMError(
                f"fill {type(self).__name__}: the network did not call the encoder of {absent[0]!r}"
                if absent
                else f"fill {type(self).__name__} has no network yet: call its `install` first, as tasks do"
            )
        if not self.reads_others or bool(available.all()):
            return outputs
        with running(FilledCall(self, available, given=self.complete(call.seen, available))):
            return forward()  # no encoder runs again

    def complete(self, features: Mapping[str, Any], available: Bool[Tensor, "batch modality"]) -> Mapping[str, Any]:
        """Return the features with those of absent samples replaced.

        Args:
            features: Modality to ``[B, D_m]``, the means in absent places.
            available: ``Bool[B, M]``.
        """
        raise NotImplementedError


class FeatureMean(FeatureFill):
    """The mean output of the encoder over the training samples that observed the modality.

    It folds to a constant: an exported program of one combination holds no encoder of an absent modality.

    Args:
        path: See :class:`FeatureFill`.

    Reference:
        Imputation by the mean, as in Little and Rubin, "Statistical Analysis with Missing Data", section 4.2, on
        features instead of inputs.
    """


class _FromPresent(FeatureFill):
    """Base class of fills that compute the features of absent modalities from those of the present ones."""

    reads_others = True

    def __init__(self, path: str) -> None:
        super().__init__(path)
        vectors = read_features(path).vectors
        if not vectors:
            raise NotApplicableError(
                f"fill {type(self).__name__}: {path} holds no tables of features: the encoders return maps or "
                "sequences and not one vector per sample, or fewer than two training samples observed all "
                "modalities; use FeatureMean"
            )
        self._tables = {name: f"table_{place}" for place, name in enumerate(vectors)}
        for name, key in self._tables.items():
            self.register_buffer(key, vectors[name], persistent=False)

    def table(self, name: str) -> Float[Tensor, "sample feature"]:
        """Return the training features of a modality, ``[N, D_m]``."""
        found: Tensor = getattr(self, self._tables[name])
        return found

    def complete(self, features: Mapping[str, Any], available: Bool[Tensor, "batch modality"]) -> Mapping[str, Any]:
        completed = dict(features)
        for flags in torch.unique(available, dim=0).tolist():
            present = [name for name, flag in zip(self.modalities, flags) if flag]
            absent = [name for name, flag in zip(self.modalities, flags) if not flag]
            if not absent or not present:
                continue
            rows = (available == available.new_tensor(flags)).all(1).nonzero()[:, 0]
            given = {name: features[name].index_select(0, rows.to(features[name].device)) for name in present}
            predicted = self.predict(given, absent)
            for name in absent:
                whole = completed[name]
                completed[name] = whole.index_copy(0, rows.to(whole.device), predicted[name].to(whole))
        return completed

    def predict(self, given: Mapping[str, Tensor], absent: Sequence[str]) -> dict[str, Tensor]:
        """Return features of absent modalities from those of present ones.

        Args:
            given: Modality to ``[b, D_m]``.
            absent: Modalities.

        Returns:
            Modality to ``[b, D_m]``.
        """
        raise NotImplementedError


class FeatureRetrieval(_FromPresent):
    """The features of the training samples that are nearest by the features of the present modalities.

    The distance is Euclidean; each modality is divided by the square root of the sum of its variances, so that none
    outweighs the others. In the memory of the fill are the training samples that observed every modality.

    Args:
        path: See :class:`FeatureFill`.
        neighbours: How many of the nearest samples are averaged, at least one.

    Reference:
        Troyanskaya et al., "Missing value estimation methods for DNA microarrays" (KNNimpute), Bioinformatics 17(6).
    """

    def __init__(self, path: str, neighbours: int = 1) -> None:
        super().__init__(path)
        check_whole("neighbours", neighbours, 1)
        self.neighbours = neighbours
        self.scales = {name: _scale(self.table(name)) for name in self._tables}
        size = len(self.table(next(iter(self._tables))))
        if neighbours > size:
            raise LightningMMError(
                f"fill FeatureRetrieval: neighbours is {neighbours}, and {path} holds {size} training samples"
            )

    def predict(self, given: Mapping[str, Tensor], absent: Sequence[str]) -> dict[str, Tensor]:
        wanted = torch.cat([value.float() * self.scales[name] for name, value in given.items()], 1)
        known = torch.cat([self.table(name).to(wanted) * self.scales[name] for name in given], 1)
        distances = torch.cdist(wanted, known, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.topk(self.neighbours, dim=1, largest=False).indices
        return {name: self.table(name).to(wanted)[nearest].mean(1) for name in absent}


class FeatureRegression(_FromPresent):
    """A ridge regression from the features of the present modalities to those of each absent one.

    One closed-form fit per combination, made when it is first needed, on the training samples that observed every
    modality; the intercept is not penalised.

    Args:
        path: See :class:`FeatureFill`.
        alpha: Weight of the squared norm of the coefficients against the sum of squared errors over training samples;
            at least zero.

    Reference:
        Hoerl and Kennard, "Ridge Regression", Technometrics 12(1); imputation by regression as in Little and Rubin,
        "Statistical Analysis with Missing Data", section 4.3.
    """

    def __init__(self, path: str, alpha: float = 1.0) -> None:
        super().__init__(path)
        if not alpha >= 0:
            raise LightningMMError(f"alpha: expected 0 or more, got {alpha}")
        self.alpha = alpha
        self._fits: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def predict(self, given: Mapping[str, Tensor], absent: Sequence[str]) -> dict[str, Tensor]:
        weights, intercept = self._fit(tuple(given), tuple(absent))
        device = next(iter(given.values())).device
        wanted = torch.cat([value.cpu().double() for value in given.values()], 1)
        predicted = (wanted @ weights + intercept).float().to(device)
        sizes = [self.table(name).shape[1] for name in absent]
        return dict(zip(absent, predicted.split(sizes, 1)))

    def _fit(self, present: tuple[str, ...], absent: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Return coefficients ``[P, D]`` and intercept ``[D]`` in float64, on the CPU as some devices lack float64."""
        if present not in self._fits:
            with torch.inference_mode(False):  # kept for calls that need gradients as well
                inputs = torch.cat([self.table(name).cpu().double() for name in present], 1)
                targets = torch.cat([self.table(name).cpu().double() for name in absent], 1)
                centre, middle = inputs.mean(0), targets.mean(0)
                inputs, targets = inputs - centre, targets - middle
                gram = inputs.T @ inputs + self.alpha * torch.eye(inputs.shape[1], dtype=torch.float64)
                # singular without a penalty if there are fewer samples than features: the smallest solution then
                weights = torch.linalg.lstsq(gram, inputs.T @ targets, driver="gelsd").solution
                self._fits[present] = weights, middle - centre @ weights
        return self._fits[present]


def refuse_masking(network: nn.Module) -> None:
    """Refuse a network that masks absent features itself: a fill of features would have no effect.

    Raises:
        NotApplicableError: The message names the setting.
    """
    if getattr(network, "mask_absent", False) is True:
        raise NotApplicableError(
            f"{type(network).__name__} masks the features of absent modalities itself (mask_absent: true), so a fill "
            "of features has no effect; leave feature_mean, retrieval_fill and regression_fill out for this network"
        )


def _named(nest: Any, owner: nn.Module) -> Any:
    """Replace the names of buffers in a nest by the buffers."""
    if isinstance(nest, str):
        return getattr(owner, nest)
    if isinstance(nest, dict):
        return {key: _named(item, owner) for key, item in nest.items()}
    return type(nest)(_named(item, owner) for item in nest)


def _scale(table: Tensor) -> float:
    """Return one over the square root of the sum of the variances of features; 0 if they are constant."""
    total = float(table.double().var(0, unbiased=False).sum())
    return 0.0 if total <= 0 else total**-0.5
