"""Configs of a base and its adapter on generated scenes, for runs through the command line in a second."""

BASE = """
data:
  dataset: {class_path: lightning_mm.data.Scenes, init_args: {size: 16, train_length: 8, val_length: 4, test_length: 6}}
  modalities: [rgb, depth]
  train_policy: {class_path: lightning_mm.missing.Complete}
  batch_size: 4
model:
  class_path: lightning_mm.tasks.SemanticSegmentationTask
  init_args:
    num_classes: 6
    model:
      class_path: tests.support.cli_network.TinyNetwork
      init_args: {channels: {rgb: 3, depth: 1}, num_classes: "${model.init_args.num_classes}"}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_model_summary: false
  enable_progress_bar: false
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}/weights", filename: best, enable_version_counter: false}
"""
SSF = """
data:
  train_policy: {class_path: lightning_mm.missing.UniformCombinations, init_args: {include_full: false}}
trainer:
  callbacks:
  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}/weights", filename: best, enable_version_counter: false}
"""
