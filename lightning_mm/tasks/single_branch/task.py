"""Classification with a network in which each modality of a sample is a row of the batch.

Shapes: B samples, M modalities, N rows (pairs of a sample and one of its present modalities), C classes.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models.single_branch.network import Rows, SingleBranchClassifier
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import STEP_KEYS, Stage
from lightning_mm.tasks.checkpoints import load_network, network_state
from lightning_mm.tasks.checks import check_batch, check_call
from lightning_mm.tasks.classification import ClassificationTask
from lightning_mm.tasks.metrics.verification import verification_error
from lightning_mm.tasks.single_branch.loss import orthogonal_projection_loss
from lightning_mm.tasks.training.strategies import weighted_by_share

MOST_ROWS = 4096
"""The most rows of a modality that verification compares with those of another."""


class SingleBranchTask(ClassificationTask):
    """Trains every row by cross entropy and orthogonal projection, whatever rows a batch has; evaluates their mean.

    ``data.switching`` sets the order in which training visits the rows. Validation, test and sweeps are those of
    :class:`~lightning_mm.tasks.ClassificationTask`, with ``val/loss`` the cross entropy of the fused logits. Statistics
    of a batch are those of one process: BatchNorm, and the pairs of the orthogonal projection.

    Args:
        model: The network; extractors of another network start with those of ``base_ckpt``, see :meth:`load_base`.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of classes C.
        orthogonal_weight: Weight of the orthogonal projection loss next to the cross entropy; 0 switches it off.
        norm_gap: Whether validation logs ``val/norm_gap/<modality>``: the accuracy of its rows with batch statistics
            minus that with running ones. A large one says that the running statistics do not fit this modality.
        verification: Whether a test logs ``test/equal_error_rate/<modality>+<modality>``: how well the embeddings of
            two modalities tell whether two samples are of the same class; of the first 4096 rows of each.
        **base: See :class:`~lightning_mm.tasks.ClassificationTask`.

    Raises:
        LightningMMError: If a setting is out of range or the network is another one.

    Reference:
        Own reconstruction of arXiv 2408.07445 and 2303.06129, whose bodies could not be read. Read: cross entropy plus
        orthogonal projection of weight 1 (code of SBNet), and the protocol of one modality complete and another one in
        a share of the samples (table I of 2408.07445). Chosen by us: selection on validation data (SBNet selects on
        test data), extractors from another network, and what is logged.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        orthogonal_weight: float = 1.0,
        norm_gap: bool = False,
        verification: bool = False,
        **base: Any,
    ) -> None:
        if not orthogonal_weight >= 0:
            raise LightningMMError(f"orthogonal_weight: expected 0 or more, got {orthogonal_weight}")
        if not isinstance(model, SingleBranchClassifier):
            raise LightningMMError(
                f"SingleBranchTask: expected a SingleBranchClassifier, whose rows it trains, got {type(model).__name__}"
            )
        super().__init__(model, modalities, num_classes, **base)
        self.save_settings(orthogonal_weight=orthogonal_weight, norm_gap=norm_gap, verification=verification)
        self.orthogonal_weight, self.norm_gap, self.verification = orthogonal_weight, norm_gap, verification
        self._tested: list[tuple[Rows, Tensor]] = []
        self._gaps = torch.zeros(0, 2)  # per modality: rows that batch statistics set right, and rows

    @property
    def network(self) -> SingleBranchClassifier:
        """The network."""
        assert isinstance(self.model, SingleBranchClassifier)
        return self.model

    def load_base(self, path: str) -> None:
        """Load ``base_ckpt``: all of it if it is of this network, else only ``encoders``, as those of a late fusion.

        Raises:
            LightningMMError: If neither fits.
        """
        found = network_state(path)
        if set(found) == set(self.model.state_dict()):
            load_network(self.model, path)
            return
        load_network(self.network.encoders, path, "model.encoders.")
        rank_zero_info(f"base_ckpt {path} is of another network; the extractors start with its encoders")

    def configure_auxiliary(self) -> AuxiliaryHeads:
        raise LightningMMError(
            "auxiliary_weight: SingleBranchTask trains every modality by itself already; set it to 0, and compare with "
            "late_drop of another network"
        )

    def _shared_step(self, batch: dict[str, Any], stage: Stage) -> tuple[Tensor, Tensor]:
        if stage != "train" or not self.network.training:  # frozen under an adapter
            return super()._shared_step(batch, stage)
        check_batch(batch, STEP_KEYS)
        check_call(batch["inputs"], batch["available"], self.modalities)
        self.check_target(batch["target"])
        rows = self.network.rows({name: batch["inputs"][name] for name in self.modalities}, batch["available"])
        target = batch["target"][rows.sample]
        # processes may have other numbers of rows
        weight = self.loss_weight(target)
        loss = weighted_by_share(
            self.loss(rows.logits, target), target.new_tensor(len(target)) if weight is None else weight
        )
        if self.orthogonal_weight > 0:
            orthogonal = orthogonal_projection_loss(rows.embeddings, target)
            self._log_loss("train/orthogonal_loss", orthogonal, batch)
            loss = loss + self.orthogonal_weight * orthogonal
        self._log_loss("train/loss", loss, batch, prog_bar=True)
        return self.network.fuse(rows, len(batch["target"])), loss

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._gaps = torch.zeros(len(self.modalities), 2, device=self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        loss = super().validation_step(batch, batch_idx, dataloader_idx)
        if self.norm_gap and getattr(self, "adapter", None) is None:
            running, fresh = (self._rows(batch, fresh) for fresh in (False, True))
            target = batch["target"][running.sample]
            gained = (fresh.logits.argmax(1) == target).float() - (running.logits.argmax(1) == target).float()
            for column in range(len(self.modalities)):
                mine = running.modality == column
                self._gaps[column] += torch.stack([gained[mine].sum(), mine.sum()])
        return loss

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.norm_gap and getattr(self, "adapter", None) is None:
            # of all processes, as one of them may have no row of a modality
            each = cast(Tensor, self.all_gather(self._gaps)).reshape(-1, *self._gaps.shape)
            for name, (gained, count) in zip(self.modalities, each.sum(0)):
                if count > 0:
                    self.log(f"val/norm_gap/{name}", gained / count, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._tested = []  # of a test that was ended

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        loss = super().test_step(batch, batch_idx, dataloader_idx)
        if self.verification:
            rows = self._rows(batch)
            self._tested.append((rows, batch["target"][rows.sample]))
        return loss

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        tested, self._tested = self._tested, []
        if not tested:
            return
        embeddings, target, modality = self._gathered(
            torch.cat([rows.embeddings for rows, _ in tested]),
            torch.cat([target for _, target in tested]),
            torch.cat([rows.modality for rows, _ in tested]),
        )
        parts = {name: (modality == column).nonzero()[:MOST_ROWS, 0] for column, name in enumerate(self.modalities)}
        for first, second in combinations(self.modalities, 2):
            mine, theirs = parts[first], parts[second]
            if len(mine) and len(theirs):
                error = verification_error(embeddings[mine], embeddings[theirs], target[mine], target[theirs])
                self.log(f"test/equal_error_rate/{first}+{second}", error, sync_dist=True)

    def _rows(self, batch: dict[str, Any], fresh: bool = False) -> Rows:
        return self.network.rows({name: batch["inputs"][name] for name in self.modalities}, batch["available"], fresh)

    def _gathered(self, *parts: Tensor) -> list[Tensor]:
        """The rows of all processes, in the order of their ranks; their numbers may differ."""
        if self.trainer.world_size == 1:
            return list(parts)
        sizes = cast(Tensor, self.all_gather(torch.tensor(len(parts[0]), device=self.device))).flatten().tolist()
        found = []
        for part in parts:
            padded = part.new_zeros(max(sizes), *part.shape[1:])
            padded[: len(part)] = part
            each = self.all_gather(padded)
            found.append(torch.cat([one[:size] for one, size in zip(each, sizes)]))
        return found
