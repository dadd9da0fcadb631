"""Classification by unimodal encoders and predicted embeddings, in two stages.

Shapes: B samples, M modalities, K classes, N samples that have two modalities.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from lightning_mm.errors import LightningMMError, check_choice, check_whole
from lightning_mm.models.embedding_prediction import EmbeddingPrediction, Embeddings
from lightning_mm.models.embedding_prediction.tuning import KINDS, Peft
from lightning_mm.tasks.base import STEP_KEYS
from lightning_mm.tasks.checkpoints import load_network
from lightning_mm.tasks.checks import check_batch
from lightning_mm.tasks.classification import ClassificationTask
from lightning_mm.tasks.embedding_prediction.metric import PredictedEmbedding
from lightning_mm.tasks.embedding_prediction.vicreg import VICReg
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.settings import group_of
from lightning_mm.tasks.training.parameter_groups import parameter_groups


class EmbeddingPredictionTask(ClassificationTask):
    """Trains :class:`~lightning_mm.models.EmbeddingPrediction`; metrics as in :class:`ClassificationTask`.

    Stage ``unimodal``: every encoder and its head learn the task from the samples that have the modality, and outputs
    are the mean of the logits of present heads. Stage ``predict``, from the checkpoint of such a run or with encoders
    that are pre-trained: encoders are frozen, and prompts, predictors and heads are trained with ::

        mean over present modalities of CE(head(z), y) + CE(combined, y) + alpha * mean over ordered pairs VICReg(z^, z)

    where VICReg sees only samples with both modalities of a pair (fewer than two: exactly zero).

    Validation logs, for samples that observed both, ``val/explained_variance`` of predicted embeddings against their
    mean, and ``val/predicted_std``, their spread as a share of the real one: the means over pairs and
    ``val/explained_variance/<source>_to_<target>``. Several sources of a prediction are measured one by one.

    Own reconstruction of arXiv 2407.12616, see :class:`~lightning_mm.models.EmbeddingPrediction`; chosen by us: both
    stages, the losses' weights, a lower learning rate for ``peft``. The statistics of VICReg are those of the batch of
    one device; the other terms are means over samples, the same on any number of devices.

    Args:
        model: The network.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of classes K.
        stage: ``unimodal`` or ``predict``, see above.
        alpha: Weight of VICReg.
        vicreg: The weights of its terms.
        stop_gradient: Whether real embeddings are constants in VICReg; without ``peft`` they are so anyway.
        peft: What is tuned of the frozen encoders: ``none``, ``bitfit`` (as in the paper), ``ssf`` or ``lora``. All but
            ``none`` change the outputs for complete samples too.
        peft_rank: Rank of ``lora``.
        peft_lr: Learning rate of these parameters, as a share of the optimizer's.
        **base: See :class:`ClassificationTask`; auxiliary heads and a teacher belong to other methods. Of ``base_ckpt``
            encoders and heads are loaded.

    Raises:
        LightningMMError: If settings do not agree.
    """

    model: EmbeddingPrediction

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        stage: Literal["unimodal", "predict"] = "predict",
        alpha: float = 0.04,
        vicreg: VICReg = VICReg(),
        stop_gradient: bool = True,
        peft: Peft = "none",
        peft_rank: int = 4,
        peft_lr: float = 0.1,
        **base: Any,
    ) -> None:
        if not isinstance(model, EmbeddingPrediction):
            raise LightningMMError(
                f"EmbeddingPredictionTask trains a lightning_mm.models.EmbeddingPrediction, got a "
                f"{type(model).__name__}; give it the encoders of that network"
            )
        check_choice("stage", stage, ("unimodal", "predict"))
        check_choice("peft", peft, KINDS)
        check_whole("peft_rank", peft_rank, 1)
        for name, value in (("alpha", alpha), ("peft_lr", peft_lr)):
            if not value >= 0:
                raise LightningMMError(f"{name}: expected 0 or more, got {value}")
        base_ckpt = base.pop("base_ckpt", None)
        super().__init__(model, modalities, num_classes, **base)
        self._refuse_other_methods()
        self.base_ckpt = base_ckpt
        if base_ckpt is not None:
            # what predicts may be of another form than in the first stage, where it is not trained
            load_network(model, base_ckpt, parts=("encoders", "heads"))
        self.stage, self.alpha, self.stop_gradient, self.peft_lr = stage, alpha, stop_gradient, peft_lr
        self.vicreg = group_of(VICReg, vicreg, "vicreg")
        self.save_settings(
            stage=stage,
            alpha=alpha,
            vicreg=asdict(self.vicreg),
            stop_gradient=stop_gradient,
            peft=peft,
            peft_rank=peft_rank,
            peft_lr=peft_lr,
        )
        self.tuned: list[nn.Parameter] = []
        if stage == "unimodal":
            model.requires_grad_(False)
            model.encoders.requires_grad_(True)
            model.heads.requires_grad_(True)
            model.combine = "late_drop"  # nothing is predicted yet
        else:
            self.tuned = model.freeze(peft, peft_rank)
            # frozen encoders are in eval mode on purpose
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        pairs = self._pairs() if stage == "predict" else ()
        self.predicted = nn.ModuleList(PredictedEmbedding(model.widths[target]) for _, target in pairs)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if not self.model.training:  # frozen under an adapter, which learns from the outputs
            return super().training_step(batch, batch_idx)
        check_batch(batch, STEP_KEYS)
        self.check_target(batch["target"])
        target = batch["target"]
        # The fill does not matter here: absent inputs never enter.
        found = self.model.embed(self._inputs(batch), batch["available"], reads=self.stage == "predict")
        unimodal = self.over_processes(self.unimodal_loss(self.model.unimodal(found), found.available, target), target)
        if self.stage == "unimodal":
            self._log_loss("train/loss", unimodal, batch, prog_bar=True)
            return unimodal
        combined = self.training_loss(self.model.logits(found), target)
        agreement = self.agreement(found)
        loss = unimodal + combined + self.alpha * agreement
        for name, value in (("unimodal_loss", unimodal), ("combined_loss", combined), ("vicreg", agreement)):
            self._log_loss(f"train/{name}", value, batch)
        self._log_loss("train/loss", loss, batch, prog_bar=True)
        return loss

    def unimodal_loss(self, logits: dict[str, Tensor], available: Tensor, target: Tensor) -> Tensor:
        """Mean over samples of the mean over their present modalities of the cross entropy of its head.

        Args:
            logits: Modality to ``[B, K]``.
            available: ``Bool[B, M]``.
            target: ``Int64[B]``.
        """
        settings: dict[str, Any] = {"reduction": "none", "label_smoothing": self.label_smoothing}
        each = [at_least_float(one) for one in logits.values()]
        weights = None if self.class_weights is None else self.class_weights.to(each[0].dtype)
        losses = torch.stack([F.cross_entropy(one, target, weights, **settings) for one in each], dim=1)
        of_samples = torch.where(available, losses, 0.0).sum(1) / available.sum(1).clamp(min=1)
        norm = of_samples.new_tensor(len(target)) if self.class_weights is None else self.class_weights[target].sum()
        return of_samples.sum() / torch.where(norm > 0, norm, 1)

    def agreement(self, found: Embeddings) -> Tensor:
        """Mean over ordered pairs of VICReg of predicted and real embeddings, on samples that have both."""
        terms = [
            self.vicreg(predicted, real.detach() if self.stop_gradient else real)
            for predicted, real in self._paired(found, fewest=2)
        ]
        return torch.stack(terms).mean() if terms else torch.zeros((), device=found.available.device)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        for metric in self._predicted():
            metric.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        loss = super().validation_step(batch, batch_idx, dataloader_idx)
        if self.stage == "predict":
            observed = batch.get("observed", batch["available"])
            pairs = self._paired(self.model.embed(self._inputs(batch), observed), fewest=1)
            for metric, (predicted, real) in zip(self._predicted(), pairs):
                metric.update(predicted, real)
        return loss

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        values = [metric.compute() for metric in self._predicted()]
        for name, place in (("explained_variance", 0), ("predicted_std", 1)):
            for (source, target), value in zip(self._pairs(), values):
                self.log(f"val/{name}/{source}_to_{target}", value[place], sync_dist=True)
            if values:
                self.log(f"val/{name}", torch.stack([value[place] for value in values]).mean(), sync_dist=True)

    def make_optimizer(self) -> Optimizer:
        """Prompts do not decay; tuned parameters of encoders neither, and they have a lower learning rate."""
        tuned = {id(parameter) for parameter in self.tuned}
        prompts = {id(parameter) for name, parameter in self.named_parameters() if name.rpartition(".")[2] in _PROMPTS}
        apart = tuned | prompts
        groups = parameter_groups(self)
        every = [parameter for group in groups for parameter in group["params"]]
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in apart]
        for ids in (prompts, tuned):
            chosen = [parameter for parameter in every if id(parameter) in ids]
            groups += [{"params": chosen, "weight_decay": 0.0, "tuned": ids is tuned}] if chosen else []
        optimizer = self.optimizer([group for group in groups if group["params"]])
        for group in optimizer.param_groups:
            if group.pop("tuned", False):
                group["lr"] *= self.peft_lr
        return optimizer

    def _inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: batch["inputs"][name] for name in self.modalities}

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((source, target) for source in self.modalities for target in self.modalities if source != target)

    def _predicted(self) -> list[PredictedEmbedding]:
        return cast("list[PredictedEmbedding]", list(self.predicted))

    def _paired(self, found: Embeddings, fewest: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Predicted and real embeddings ``[N, D]`` of each pair; of none if fewer samples than this have both."""
        for source, target in self._pairs():
            columns = [self.modalities.index(source), self.modalities.index(target)]
            rows = found.available[:, columns].all(1).nonzero()[:, 0]
            rows = rows if len(rows) >= fewest else rows[:0]
            predicted = self.model.predict(found.read[source][rows], source, target)
            yield predicted, found.vectors[target][rows]

    def _refuse_other_methods(self) -> None:
        if self.auxiliary is not None or self.late_drop:
            raise LightningMMError(
                "EmbeddingPredictionTask has a head for every modality; set auxiliary_weight to 0 and late_drop to "
                "false, and combine of the network to late_drop for the mean of the logits of present heads"
            )
        if self.teacher.wanted:
            raise LightningMMError("EmbeddingPredictionTask has no teacher; set the weights of distillation to 0")


_PROMPTS = ("prompts", "queries")
"""Names of parameters of what reads an encoder."""
