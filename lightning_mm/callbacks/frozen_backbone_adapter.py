"""Freeze the network of any LightningModule and train an adapter for missing modalities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapter, Basis, KeepOutputs, KeptEncoders, Kind, OneHot, build_adapter
from lightning_mm.adapters.network.inputs import Call, parameter_path
from lightning_mm.adapters.saving.folder import adapter_from_config
from lightning_mm.callbacks import batch_hooks
from lightning_mm.callbacks.averaging import include_adapter, keep_base_exact
from lightning_mm.callbacks.capture import capture_call, first_batch
from lightning_mm.callbacks.checkpoints import AdapterOnlyCheckpoint, saver_of
from lightning_mm.callbacks.lookup import BatchMask, available_of, modalities_of, network_of
from lightning_mm.callbacks.placement import Choice, Placement, choose, report
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import FeatureFill, Fill, Zeros
from lightning_mm.modalities import Modalities, check_mask, check_rows
from lightning_mm.tasks.checkpoints import ADAPTER_KEY, load_network, load_weights, read_checkpoint
from lightning_mm.tasks.finite.check import FiniteCheck
from lightning_mm.tasks.finite.weights import check_network
from lightning_mm.tasks.settings import group_of
from lightning_mm.tasks.training.repeated import changes_of_data, count_samples
from lightning_mm.tasks.training.strategies import check_whole_network


class FrozenBackboneAdapter(Callback):
    """Freezes ``pl_module.<network>`` and adds ``pl_module.adapter``, the only thing that trains.

    Works on any LightningModule: its own steps call the network, and hooks fill absent inputs and modulate the features
    of each sample by its combination. Frozen means no gradient, norm layers and dropout in eval mode, and unchanged
    running statistics, in all parts of the module and not only in the network. Checkpoints hold only the adapter and
    the fingerprint of the base.

    Args:
        adapter: What is learned at each layer, default ``SSF()``.
        basis: How availability picks rows from the banks, default ``OneHot()``.
        network: The attribute that holds the network, dotted if nested.
        available: Path to ``Bool[B, M]`` in a batch (dotted keys, attributes or positions), or a function of the batch.
            Not used if the module itself passes ``available`` to its network, or calls it inside ``with
            self.adapter.using(mask)``, as steps do that call it on several sets of samples.
        modalities: Names in order; default: ``modalities`` of the module or the data module.
        fill: Placeholder for absent inputs; default: ``fill`` of the module if it has one, else zeros.
        inputs: Modality to the argument of the network that holds it, see ``adapt``.
        targets: Names or patterns of layers to adapt; default: all.
        exclude: Names or patterns of layers to leave out.
        base_ckpt: Checkpoint of the trained base: a Lightning checkpoint or a plain ``state_dict``.
        example: Function from a batch to the ``(args, kwargs)`` of the network; default: captured from one step.
        encoders: Modality to the module that encodes it and nothing else, see ``adapt``; default: found by trial.
        grouped: Whether the network runs once per combination in a batch, see ``adapt``.
        weight_decay: For the parameters of the adapter, instead of the value of the optimizer.
        placement: Chooses layers at the start of a fit, within a budget of parameters per combination, e.g.
            ``Placement(budget="0.25 %")`` or ``{"budget": "0.25 %"}``; default: all layers. The choice is written to
            ``placement.md`` and ``placement.json`` in ``default_root_dir``, and stored in checkpoints.
        keep_encoder_outputs: Keeps what encoders without adapters return for a sample of training or validation, so
            that later epochs cost what comes behind them, e.g. ``KeepOutputs(gib=2)`` or ``{"where": "memory"}``;
            default: they run in every step.
        compile: Whether the network and its adapter are compiled during a fit (``torch.compile``, needs a C++
            compiler): for networks of many small layers, in fits of at least some thousand steps.

    Raises:
        LightningMMError: At the start of a run, if a setting does not fit the module; the message says which.
    """

    def __init__(
        self,
        adapter: Kind | None = None,
        basis: Basis | None = None,
        network: str = "model",
        available: str | Callable[[Any], Tensor] = "available",
        modalities: list[str] | None = None,
        fill: Fill | None = None,
        inputs: dict[str, str] | None = None,
        targets: list[str] | None = None,
        exclude: list[str] | None = None,
        base_ckpt: str | None = None,
        example: Callable[[Any], Call] | None = None,
        weight_decay: float = 0.0,
        encoders: dict[str, str] | None = None,
        grouped: bool = False,
        placement: Placement | dict[str, Any] | None = None,
        keep_encoder_outputs: KeepOutputs | dict[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        self.kind, self.basis = adapter or SSF(), basis or OneHot()
        self.network, self.available = network, available
        self.modalities, self.fill, self.inputs = modalities, fill, inputs
        self.targets, self.exclude = targets, exclude or []
        self.base_ckpt, self.example, self.weight_decay = base_ckpt, example, weight_decay
        self.encoders, self.grouped, self.compile = encoders, grouped, compile
        self.placement = None if placement is None else group_of(Placement, placement, "placement")
        keep = keep_encoder_outputs
        self.keep_encoder_outputs = None if keep is None else group_of(KeepOutputs, keep, "keep_encoder_outputs")
        self._kept: KeptEncoders | None = None  # during a fit
        self._choice: Choice | None = None  # set from the setup to the start of a fit
        self._module: LightningModule | None = None
        self._of_batch = ExitStack()  # closed after each batch
        self._in_call = False  # whether the module itself passes `available` to its network

    # attaching ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_whole_network(trainer, pl_module, type(self).__name__)
        self._prepare(trainer, pl_module, stage)
        if self.placement is not None and stage == "fit":
            mask = None if self._in_call else self._mask
            network = self._network(pl_module)
            self._choice = choose(self.placement, trainer, pl_module, network, self.available, mask)
        batch_hooks.install(self, trainer, pl_module)
        include_adapter(trainer, pl_module, self, stage)
        self._check_finite(trainer)

    def _check_finite(self, trainer: Trainer) -> None:
        """Add a FiniteCheck to the trainer's callbacks unless there is one, and show it what the network sees."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        checks = [one for one in callbacks if isinstance(one, FiniteCheck)]
        if not checks and self in callbacks:
            checks = [FiniteCheck()]
            callbacks.insert(callbacks.index(self) + 1, checks[0])
        for check in checks:
            check.see = self._see

    def _see(self, pl_module: LightningModule, batch: Any) -> dict[str, Any]:
        """The inputs of the network in a batch by modality; absent ones are filled."""
        adapter, network = self._adapter(pl_module), self._network(pl_module)
        if adapter is None:
            return {}
        with adapter.using(None if self._in_call else self._mask(batch)), torch.compiler.set_stance("force_eager"):
            call = self.example(batch) if self.example is not None else capture_call(pl_module, network, batch, "fit")
        return {name: path.get(call) for name, path in adapter.paths.items()}

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._module is pl_module:
            self._follow_precision(pl_module)
            return
        # a frozen base is in eval mode on purpose
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        if isinstance(getattr(pl_module, "adapter", None), Adapter):
            self._adopt(pl_module)
        else:
            pl_module.configure_model()  # it may build the network; idempotent, as Lightning calls it again
            try:
                batch = first_batch(trainer, pl_module, stage)
            except AttributeError:  # the data are made in the setup of the module, which follows
                pl_module.setup(stage)
                batch = first_batch(trainer, pl_module, stage)
            self.attach(pl_module, batch, stage, getattr(trainer, "datamodule", None))

    def attach(self, pl_module: LightningModule, batch: Any, stage: str = "fit", datamodule: Any = None) -> Adapter:
        """Load the base, build the adapter from one batch and attach it; :meth:`setup` does this in a run."""
        network = self._base(pl_module)
        call = self.example(batch) if self.example is not None else capture_call(pl_module, network, batch, stage)
        path = parameter_path(network, "available")
        self._in_call = path is not None and path.get(call) is not None
        fill = self.fill or getattr(pl_module, "fill", None)
        adapter = build_adapter(
            network,
            Modalities(modalities_of(self.modalities, pl_module, datamodule)),
            self.kind,
            basis=self.basis,
            fill=fill if isinstance(fill, Fill) else Zeros(),
            inputs=self.inputs,
            example=call,
            targets=self.targets,
            exclude=self.exclude,
            encoders=self.encoders,
            grouped=self.grouped,
        )
        if not self._in_call:
            # not the sizes: the step may call the network on other samples, inside adapter.using(their mask)
            check_rows("`available`", check_mask("`available`", self._mask(batch), adapter.modalities))
        self._install(pl_module, network, adapter)
        total = sum(parameter.numel() for parameter in network.parameters())
        added = adapter.parameters_per_combination()
        kind = type(self.kind).__name__
        rank_zero_info(
            f"FrozenBackboneAdapter: {type(network).__name__} frozen ({total:,} parameters); {kind} on "
            f"{len(adapter.sites)} layers adds at most {added:,} per combination ({100 * added / max(total, 1):.2f} %)"
        )
        return adapter

    def load(self, pl_module: LightningModule, path: str | Path) -> LightningModule:
        """Attach the adapter of a checkpoint to a module without a trainer, and load it.

        What Lightning's ``load_from_checkpoint`` cannot do, as the checkpoint does not hold the base.

        Args:
            pl_module: With its base, or give this callback its ``base_ckpt``; changed in place.
            path: A checkpoint of a run with this callback.

        Returns:
            The module, in eval mode.

        Raises:
            DataNotFoundError: If there is no such file.
            LightningMMError: If it holds no adapter, or that of another base; the message says what differs.

        Example:
            >>> module = FrozenBackboneAdapter(network="net").load(Mine(), "best.ckpt")  # doctest: +SKIP
            >>> with module.adapter.using(mask):  # doctest: +SKIP
            ...     module.net(rgb, depth)
        """
        pl_module.configure_model()
        network, config = self._base(pl_module), read_checkpoint(path).get(ADAPTER_KEY)
        if not isinstance(config, dict):
            raise LightningMMError(f"checkpoint {path} holds no adapter; give one of a run with FrozenBackboneAdapter")
        self._install(pl_module, network, adapter_from_config(config))
        load_weights(pl_module, path)
        return pl_module.eval()

    def _base(self, pl_module: LightningModule) -> nn.Module:
        """The network, with the weights of ``base_ckpt``."""
        network = self._network(pl_module)
        if hasattr(pl_module, "adapter"):
            raise LightningMMError(
                f"{type(pl_module).__name__} already has an attribute 'adapter', which the callback sets; rename it"
            )
        if isinstance(getattr(pl_module, "fill", None), FeatureFill):
            raise LightningMMError(
                f"the fill {type(pl_module.fill).__name__} replaces outputs of encoders, which an adapter may change; "
                "give the task a fill of inputs, such as Zeros or MeanInput"
            )
        if self.grouped and getattr(pl_module, "late_share", False):
            raise LightningMMError(
                "late_share: the auxiliary heads read what encoders return for a whole batch, and `grouped` runs the "
                "network once for each combination in it; leave out one of the two"
            )
        if self.base_ckpt is not None:
            load_network(network, self.base_ckpt, f"{self.network}.")
        check_network(network, f"the base, {type(network).__name__}")
        return network

    def _install(self, pl_module: LightningModule, network: nn.Module, adapter: Adapter) -> None:
        adapter.expects_mask = True
        pl_module.requires_grad_(False)  # all parts: outputs of the full combination must not change
        adapter.attach(network)
        pl_module.add_module("adapter", adapter)
        placement = None if self.placement is None else asdict(self.placement)
        AdapterOnlyCheckpoint(pl_module, self.network, network, adapter, placement).install(pl_module)
        self._module = pl_module

    def _adopt(self, pl_module: LightningModule) -> None:
        """Use the adapter that another callback with the same settings has attached."""
        adapter = pl_module.adapter
        assert isinstance(adapter, Adapter)
        mine, theirs = (type(self.kind), type(self.basis)), (type(adapter.kind), type(adapter.basis))
        if mine != theirs:
            names = [" with basis ".join(one.__name__ for one in pair) for pair in (mine, theirs)]
            raise LightningMMError(
                f"{type(pl_module).__name__} is already adapted by {names[1]}; this callback has {names[0]}"
            )
        self._module = pl_module
        self._follow_precision(pl_module)

    def _follow_precision(self, pl_module: LightningModule) -> None:
        saved = saver_of(pl_module)
        if saved is not None:
            saved.follow_precision()

    def _network(self, pl_module: LightningModule) -> nn.Module:
        return network_of(pl_module, self.network)

    # optimizer ------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        adapter = self._adapter(pl_module)
        if adapter is None:
            return
        keep_base_exact(trainer)
        own = {id(parameter) for parameter in adapter.parameters()}
        found = False
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                trained = [id(parameter) for parameter in group["params"] if parameter.requires_grad]
                found = found or bool(own.intersection(trained))
                if trained and own.issuperset(trained) and "weight_decay" in group:
                    group["weight_decay"] = self.weight_decay
        if not found:
            raise LightningMMError(
                f"no optimizer of {type(pl_module).__name__} holds the adapter's parameters; "
                "build it in configure_optimizers from self.parameters()"
            )
        if self.placement is not None and self._choice is not None:
            report(self.placement, self._choice, trainer, pl_module, self._network(pl_module))
            self._choice = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        adapter = self._adapter(pl_module)
        if adapter is not None and self.compile:
            self._network(pl_module).compile()
        if adapter is None or self.keep_encoder_outputs is None:
            return
        changes = changes_of_data(getattr(trainer, "datamodule", None))
        if changes is not None:
            raise LightningMMError(
                f"keep_encoder_outputs: {changes}, so encoders get another input in every epoch; remove data.augment, "
                "or leave out keep_encoder_outputs"
            )
        samples = count_samples([trainer.train_dataloader, trainer.val_dataloaders])
        self._kept = KeptEncoders(adapter, self._network(pl_module), self.keep_encoder_outputs, samples)
        rank_zero_info(self._kept.summary())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for note in self._kept.end_epoch() if self._kept is not None else []:
            rank_zero_warn(note)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = [name for name, one in self._network(pl_module).named_parameters() if one.requires_grad]
        if trained and self._adapter(pl_module) is not None:
            raise LightningMMError(
                f"the base is frozen, but {trained[0]!r} and {len(trained) - 1} more of its parameters require a "
                "gradient: another callback or the module itself has unfrozen them; leave that out, or train without "
                f"{type(self).__name__}"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._slow_down(pl_module)
        saved = saver_of(pl_module)
        if self._adapter(pl_module) is not None and saved is not None:
            saved.check_base()

    # availability of the current batch ------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._set(pl_module, batch)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._of_batch.close()

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start
    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._of_batch.close()
        self._slow_down(pl_module)
        batch_hooks.uninstall(pl_module)

    def _slow_down(self, pl_module: LightningModule) -> None:
        """End what makes a fit faster."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
        if self.compile and self._adapter(pl_module) is not None:
            self._network(pl_module)._compiled_call_impl = None

    def _adapter(self, pl_module: LightningModule) -> Adapter | None:
        return pl_module.adapter if pl_module is self._module and isinstance(pl_module.adapter, Adapter) else None

    def _set(self, pl_module: LightningModule, batch: Any) -> None:
        adapter = self._adapter(pl_module)
        if adapter is None:
            return
        for child in pl_module.children():
            if child is not adapter and any(module.training for module in child.modules()):
                child.eval()
        self._of_batch.close()  # a step that ends the epoch skips the hook after the batch
        # also if the module passes the mask itself: on exit, a call that Ctrl-C interrupted is dropped
        mask, watch = (None, None) if self._in_call else (self._mask(batch), BatchMask(batch, self.available))
        self._of_batch.enter_context(adapter.using(mask, watch))

    def _mask(self, batch: Any) -> Tensor:
        return available_of(batch, self.available)
