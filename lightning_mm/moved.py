"""Modules that have moved: their old names can be imported for one release, with a warning that names the new place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RESULTS = ("bootstrap", "files", "merge", "result", "robustness", "seeds", "tables", "terminal", "texts")
KINDS = ("bitfit", "bn_refit", "bottleneck", "ia3", "lora", "norm_tuning", "prompts", "ssf", "together")
MOVED: dict[str, tuple[str, ...]] = {
    "cli_compare": ("cli.compare",),
    "cli_data": ("cli.data",),
    "cli_errors": ("cli.errors",),
    "cli_export": ("cli.lightning.export",),
    "cli_lightning": ("cli.lightning.preflight", "cli.lightning.run", "cli.lightning.parser"),
    "cli_table": ("cli.results.table",),
    "demo": ("cli.demo",),
    **{f"sweep.{name}": (f"results.{name}",) for name in RESULTS},
    "sweep.plots": ("results.heat_map",),
    "sweep.summary": ("results.figures",),
    **{f"adapters.{name}": (f"adapters.kinds.{name}",) for name in KINDS},
    "adapters.adapted": ("adapters.adapter", "adapters"),
    "adapters.banks": ("adapters.kinds.base",),
    "adapters.bases": ("adapters.basis",),
    "adapters.constants": ("adapters.folded.constants",),
    "adapters.folding": ("adapters.layers.fold", "adapters.folded.network"),
    "adapters.inputs": ("adapters.network.inputs",),
    "adapters.layout": ("adapters.layers.layout",),
    "adapters.modulation": ("adapters.layers.modulate",),
    "adapters.probe": ("adapters.network.probe",),
    "adapters.sensitivity": ("adapters.placement.sensitivity",),
    "compare.cells": ("compare.step_runner",),
    "data.datasets.food101": ("data.datasets.image_text.food101",),
    "tasks.parameter_groups": ("tasks.training.parameter_groups",),
    "tasks.resume": ("tasks.training.resume",),
    "data.augment_clips": ("data.augment.clips",),
    "data.augment_images": ("data.augment.images",),
    "data.augment_sequences": ("data.augment.sequences",),
    "data.keyed": ("data.keyed_dataset",),
    "data.datasets.images": ("data.readers.images",),
    "data.datasets.labelled_images": ("data.datasets.base.labelled_images",),
    "models.cmnext_blocks": ("models.cmnext.blocks",),
    "models.cmnext_fusion": ("models.cmnext.fusion",),
    "models.cmnext_weights": ("models.cmnext.weights",),
    "models.mix_transformer": ("models.cmnext.mix_transformer",),
    "models.segformer_head": ("models.cmnext.segformer_head",),
    "models.vilt_inputs": ("models.vilt.inputs",),
    "models.vilt_weights": ("models.vilt.weights",),
    "tasks.classification_figures": ("tasks.metrics.classification",),
    "tasks.segmentation_figures": ("tasks.metrics.segmentation",),
    "tasks.sentiment_figures": ("tasks.metrics.sentiment",),
    "tasks.features": ("tasks.teacher.features",),
    "tasks.lessons": ("tasks.teacher.cache",),
}
"""Old module to the new ones that hold its names, all below ``lightning_mm``."""
ROOT = "lightning_mm."


class MovedModules(MetaPathFinder, Loader):
    """Finds modules under their old names; asked last, so only if nothing else has the name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = fullname.startswith(ROOT) and fullname.removeprefix(ROOT) in MOVED
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name, "Moved, see lightning_mm.moved.")

    def exec_module(self, module: ModuleType) -> None:
        homes = [ROOT + home for home in MOVED[module.__name__.removeprefix(ROOT)]]
        warnings.warn(f"{module.__name__} is now {' and '.join(homes)}", FutureWarning, stacklevel=2)


class _Moved(ModuleType):
    def __getattr__(self, name: str) -> object:
        homes = [ROOT + home for home in MOVED[self.__name__.removeprefix(ROOT)]]
        for home in homes:
            if not name.startswith("__") and hasattr(module := import_module(home), name):
                return getattr(module, name)
        raise AttributeError(f"{self.__name__} is now {' and '.join(homes)}, which have no {name!r}")
