"""The methods that a study compares: what each trains, on which data, and where it starts.

A recipe holds no hyper-parameters; they belong in the study's configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Each = Literal["", "finetune", "dedicated"]
"""Whether one network is trained for every incomplete combination, and how."""

FillFile = Literal["mean_input", "features"]
"""The verbs that write the file of a fill."""

BASE = "base"


@dataclass(frozen=True)
class Recipe:
    """A method: what it does with the base.

    Args:
        what: One clause for the notes under a table.
        start: The method that trained the network it starts from; ``None`` starts at random.
        trains: Whether there is a training run; else the weights of ``start`` are swept as they are.
        gradient: Whether that run changes parameters by their gradient.
        each: One network per incomplete combination: ``finetune`` shows the network of ``start`` that combination only,
            ``dedicated`` trains one with these modalities and no others.
        train_policy: What is dropped in training, instead of the config's policy; a method may set another one as
            ``data.train_policy``.
        val_policy: What is dropped on validation data, which chooses the epoch.
        fill: Class in ``lightning_mm.missing`` of the placeholder for absent modalities, instead of the config's.
        fill_file: The verb that writes the file of this fill from the training split and ``start``, if it has one.
        callbacks: Inserted before the ModelCheckpoint of the config.
        settings: Settings of the method; settings of a study win over them.
        overlay: Whether the study must give a config file that defines the method.
        classes: Other classes of task and network than those of the config, see
            :func:`lightning_mm.compare.cell_config.recast`.
        arguments: Arguments of callbacks in the config, by the callback's class; those of a study win over them.
        swept: Whether its network is a row of the table; else others start from it, and it is no use by itself.
        validated: Whether the metrics of the validation split are computed for the checkpoint that training keeps, as
            for trials of a search.
    """

    what: str
    start: str | None = BASE
    trains: bool = True
    gradient: bool = True
    each: Each = ""
    train_policy: Mapping[str, Any] | None = None
    val_policy: Mapping[str, Any] | None = None
    fill: str | None = None
    fill_file: FillFile | None = None
    callbacks: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlay: bool = False
    classes: Mapping[str, Any] | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    swept: bool = True
    validated: bool = False


def _missing(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"lightning_mm.missing.{name}", "init_args": init_args}


def _train_only(patterns: list[str], **init_args: Any) -> dict[str, Any]:
    return {"class_path": "lightning_mm.callbacks.TrainOnly", "init_args": {"patterns": patterns, **init_args}}


_ALL: dict[str, Any] = {"train_policy": _missing("UniformCombinations"), "val_policy": _missing("RotatingCombinations")}

_AUXILIARY = {"model.init_args.auxiliary_weight": 0.5}

_PREDICTION = {
    "of": "ClassificationTask",
    "task": "lightning_mm.tasks.EmbeddingPredictionTask",
    "network": "lightning_mm.models.EmbeddingPrediction",
    "keep": ("encoders", "num_classes"),
}

_UNIVERSAL = {
    "of": "SemanticSegmentationTask",
    "task": "lightning_mm.tasks.UniversalTask",
    "network": "lightning_mm.models.UniversalSegmenter",
    "keep": ("channels", "num_classes"),
    "also": ("widths", "head_width"),
}

RECIPES: dict[str, Recipe] = {
    BASE: Recipe("trained on complete data", start=None),
    "zero_fill": Recipe("the base, absent inputs are zeros", trains=False),
    "mean_fill": Recipe(
        "the base, absent inputs are the mean training sample", trains=False, fill="MeanInput", fill_file="mean_input"
    ),
    "noise_fill": Recipe("the base, absent inputs are Gaussian noise", trains=False, fill="Noise"),
    "feature_mean": Recipe(
        "the base, the output of an absent encoder is its training mean",
        trains=False,
        fill="FeatureMean",
        fill_file="features",
    ),
    "retrieval_fill": Recipe(
        "the base, the output of an absent encoder is that of the nearest training sample",
        trains=False,
        fill="FeatureRetrieval",
        fill_file="features",
    ),
    "regression_fill": Recipe(
        "the base, the output of an absent encoder is predicted from the others by ridge regression",
        trains=False,
        fill="FeatureRegression",
        fill_file="features",
    ),
    "drop": Recipe(
        "the base of a retrieval, clips are compared by the modalities that they have",
        trains=False,
        settings={"model.init_args.keep_absent": False},
    ),
    "bn_refit": Recipe(
        "BatchNorm statistics of the base re-estimated for each combination",
        gradient=False,
        callbacks=({"class_path": "lightning_mm.callbacks.BatchNormRefit"},),
        settings={"trainer.max_epochs": 0},
    ),
    "base_auxiliary": Recipe(
        "trained on complete data with an auxiliary loss on each encoder", start=None, settings=_AUXILIARY
    ),
    "late_drop": Recipe(
        "base_auxiliary, the mean of the logits of the auxiliary heads of present modalities",
        start="base_auxiliary",
        trains=False,
        settings={**_AUXILIARY, "model.init_args.late_drop": True},
    ),
    "late_heads": Recipe(
        "the base frozen, a linear head trained on each encoder; they decide on incomplete samples alone",
        val_policy=_missing("RotatingCombinations", include_full=False),
        callbacks=(
            {
                "class_path": "lightning_mm.callbacks.TrainOnly",
                "init_args": {"patterns": ["*"], "network": "auxiliary"},
            },
        ),
        settings={"model.init_args.auxiliary_weight": 1.0, "model.init_args.late_share": 1.0},
    ),
    "late_heads_on_auxiliary": Recipe(
        "base_auxiliary, its auxiliary heads decide on incomplete samples alone",
        start="base_auxiliary",
        trains=False,
        settings={**_AUXILIARY, "model.init_args.late_share": 1.0},
    ),
    "unimodal": Recipe(
        "an encoder and a head for each modality, trained apart; the mean of the logits of present heads",
        start=None,
        settings={"model.init_args.stage": "unimodal"},
        classes=_PREDICTION,
    ),
    "embedding_prediction": Recipe(
        "the encoders of unimodal frozen, the embedding of an absent modality predicted from the present ones",
        start="unimodal",
        val_policy=_missing("RotatingCombinations", include_full=False),
        classes=_PREDICTION,
    ),
    "autoencoder": Recipe(
        "reconstructs what is hidden of the modalities that a sample has",
        start=None,
        val_policy=_missing("RotatingCombinations", include_full=False),
        settings={"model.init_args.stage": "reconstruct"},
        classes=_UNIVERSAL,
        arguments={"ModelCheckpoint": {"monitor": "val/loss", "mode": "min"}},
        swept=False,
    ),
    "universal": Recipe(
        "the network of autoencoder trained to segment, on samples that it completed too",
        start="autoencoder",
        settings={"model.init_args.stage": "segment"},
        classes=_UNIVERSAL,
        **_ALL,
    ),
    "modality_dropout": Recipe("the whole network trained with modalities dropped at random", start=None, **_ALL),
    "single_branch": Recipe(
        "one branch for all modalities, trained on one modality of a sample at a time",
        start=None,
        val_policy=_ALL["val_policy"],
        overlay=True,
    ),
    "single_branch_on_auxiliary": Recipe(
        "single_branch on the encoders of base_auxiliary, which are frozen",
        start="base_auxiliary",
        val_policy=_ALL["val_policy"],
        settings={"model.init_args.model.init_args.freeze_encoders": True},
        overlay=True,
    ),
    "adapted": Recipe("the base frozen, adapters trained for all combinations together", overlay=True),
    "adapted_from_statistics": Recipe(
        "adapted, the start re-estimated BatchNorm statistics of each combination",
        callbacks=({"class_path": "lightning_mm.callbacks.StatisticsStart"},),
        overlay=True,
    ),
    "adapted_on_dropout": Recipe(
        "the network of modality_dropout frozen, adapters trained", start="modality_dropout", overlay=True
    ),
    "head_only": Recipe(
        "the base frozen but for its head, trained on all combinations",
        callbacks=(_train_only(["head*"]),),
        **_ALL,
    ),
    "full_finetune": Recipe("a copy of the base fine-tuned as a whole for each combination", each="finetune"),
    "dedicated": Recipe("a network trained for each combination alone", start=None, each="dedicated"),
}
"""The methods that a study can name without ``like``."""
