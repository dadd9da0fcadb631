"""Faults of tasks, sweeps, studies, exports, callbacks and the command line."""

from __future__ import annotations

from tests.power.fault import Fault

RUN_FAULTS = (
    Fault(
        name="resumed-epoch-repeats-a-batch",
        consequence=(
            "A run that was stopped in the middle of an epoch trains on a batch again and never on the last one, so it "
            "ends with other weights than the uninterrupted one."
        ),
        file="lightning_mm/data/module.py",
        old="sampler.continue_after(batches.current.processed)",
        new="sampler.continue_after(batches.current.processed - 1)",
        caught_by="tests/callbacks/test_resume_checkpoint.py::test_it_saves_ends_and_goes_on",
        before="",
    ),
    Fault(
        name="macro-f1-counts-absent-classes",
        consequence=(
            "Macro-F1 counts 0 for classes that are in neither truth nor prediction: figures of small or "
            "unbalanced splits are too low."
        ),
        file="lightning_mm/tasks/metrics/classification.py",
        old="return f1_per_class(confusion).nanmean().item()",
        new="return f1_per_class(confusion).nan_to_num(0.0).mean().item()",
        caught_by="tests/tasks/test_classification.py::test_metrics_against_slow_loops_and_torchmetrics",
        before="tests/test_tasks_classification.py::test_figures_against_slow_loops_and_torchmetrics[7-4]",
    ),
    Fault(
        name="acc7-rounds-halves-up",
        consequence=(
            "Acc-7 and Acc-5 round halves up instead of to even, so figures on MOSI, whose labels hold halves, do "
            "not compare with published ones."
        ),
        file="lightning_mm/tasks/metrics/sentiment.py",
        old="return values.clamp(-limit, limit).round()",
        new="return (values.clamp(-limit, limit) + 0.5).floor()",
        caught_by="tests/tasks/test_sentiment.py::test_halves_round_to_even_and_labels_outside_are_clipped",
        before="tests/test_tasks_sentiment.py::test_the_reference_numbers[pred]",
    ),
    Fault(
        name="ignored-label-counts-in-iou",
        consequence=(
            "Pixels of the ignored label enter the confusion matrix when that label is one of the classes: IoU "
            "and pixel accuracy are wrong."
        ),
        file="lightning_mm/tasks/metrics/segmentation.py",
        old="    valid = target != ignore_index\n",
        new="    valid = target < num_classes\n",
        caught_by="tests/tasks/test_segmentation.py::test_logged_metrics_are_those_of_the_sample_statistics",
        before="tests/test_tasks_segmentation.py::test_logged_figures_are_those_of_the_sample_statistics[0-2]",
    ),
    Fault(
        name="lesson-cache-ignores-observed",
        consequence=(
            "The teacher's kept answer is used although other modalities of the sample were observed this time, "
            "so an adapter is distilled towards a stale answer."
        ),
        file="lightning_mm/tasks/teacher/cache.py",
        old=(
            "        if not torch.equal(torch.stack([entry.observed for entry in entries]), observed.cpu()):\n"
            "            return None, False\n"
        ),
        new="",
        caught_by="tests/tasks/test_teacher_cache.py::test_other_observed_modalities_are_another_question",
        before="tests/test_tasks_lessons.py::test_other_observed_modalities_are_another_question",
    ),
    Fault(
        name="predictions-numbered-by-batch",
        consequence=(
            "predict writes the place in the batch instead of the sample's index: predictions of all batches but "
            "the first cannot be matched with samples."
        ),
        file="lightning_mm/tasks/base.py",
        old='return {"index": batch["index"], "prediction"',
        new='return {"index": torch.arange(len(batch["index"])), "prediction"',
        caught_by="tests/cli/test_runs.py::test_predict_writes_every_sample_once",
        before="tests/test_cli_runs.py::test_predict_writes_every_sample_once",
    ),
    Fault(
        name="weights-only-dropped",
        consequence="A checkpoint from somebody else runs any code that is pickled in it as soon as it is read.",
        file="lightning_mm/tasks/checkpoints.py",
        old='checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=in_place or None)',
        new='checkpoint = torch.load(path, map_location="cpu", weights_only=False, mmap=in_place or None)',
        caught_by="tests/tasks/test_checkpoints.py::test_an_object_among_the_weights_is_named_and_no_code_runs",
        before=(
            ""
            "tests/test_tasks_checkpoints.py::test_a_whole_network_is_refused_and_the_command_of_the_error_saves_its_weights[True]"
        ),
    ),
    Fault(
        name="bootstrap-draws-one-too-few",
        consequence=(
            "The bootstrap draws N - 1 of N samples, so intervals are a little too wide and not those of a "
            "resampling of the split."
        ),
        file="lightning_mm/results/bootstrap.py",
        old="return generator.multinomial(samples, np.full(samples, 1.0 / samples), size=replicates)",
        new="return generator.multinomial(samples - 1, np.full(samples, 1.0 / samples), size=replicates)",
        caught_by="tests/results/test_bootstrap.py::test_counts_are_draws_with_replacement",
        before="tests/test_sweep_bootstrap.py::test_counts_are_draws_with_replacement",
    ),
    Fault(
        name="padded-samples-counted-twice",
        consequence=(
            "In a sweep over several processes the samples that samplers repeat to fill the ranks count twice, in "
            "n and in every figure."
        ),
        file="lightning_mm/sweep/module.py",
        old=(
            "        rows[key], keep = _first_of_each(owner[counts])\n"
            "        found = [part.statistics[key] for part in parts if key in part.statistics]\n"
            "        statistics[key] = {name: torch.cat([one[name] for one in found])[keep] for name in found[0]}\n"
        ),
        new=(
            "        rows[key], keep = torch.sort(owner[counts], stable=True)\n"
            "        found = [part.statistics[key] for part in parts if key in part.statistics]\n"
            "        statistics[key] = {name: torch.cat([one[name] for one in found])[keep] for name in found[0]}\n"
        ),
        caught_by="tests/sweep/test_join.py::test_samples_that_fill_the_ranks_count_once",
        before="tests/test_sweep_run.py::test_two_processes_count_every_sample_once",
    ),
    Fault(
        name="seed-spread-divides-by-n",
        consequence=(
            "Standard deviations over seeds divide by n instead of n - 1: with three seeds every +- in the tables "
            "is 18 % too small."
        ),
        file="lightning_mm/results/seeds.py",
        old="return float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan",
        new="return float(np.std(finite)) if len(finite) > 1 else math.nan",
        caught_by="tests/results/test_seeds.py::test_figures_of_every_seed_by_hand",
        before="tests/test_sweep_seeds.py::test_figures_of_every_seed_by_hand",
    ),
    Fault(
        name="worst-ignores-direction",
        consequence="For errors, where less is better (MAE), the table names the best combination as the worst.",
        file="lightning_mm/results/robustness.py",
        old='combination = (min if direction == "max" else max)(finite, key=lambda name: finite[name])',
        new="combination = min(finite, key=lambda name: finite[name])",
        caught_by="tests/results/test_robustness.py::test_by_hand",
        before="tests/test_sweep_robustness.py::test_by_hand",
    ),
    Fault(
        name="result-files-written-in-place",
        consequence=(
            "Tables and markers are written straight into their place: a run that is killed or fails while "
            "writing leaves half a file where a whole one was."
        ),
        file="lightning_mm/files.py",
        old=(
            '    with replaced_file(path) as part, part.open("wb") as file:\n'
            "        if callable(content):\n"
            "            content(file)\n"
            "        else:\n"
            "            file.write(content.encode() if isinstance(content, str) else content)\n"
        ),
        new=(
            "    with replaced_file(path) as part:\n"
            '        with Path(path).open("wb") as file:\n'
            "            if callable(content):\n"
            "                content(file)\n"
            "            else:\n"
            "                file.write(content.encode() if isinstance(content, str) else content)\n"
            "        part.write_bytes(Path(path).read_bytes())\n"
        ),
        caught_by="tests/test_files.py::test_an_exception_leaves_the_old_file",
        before="tests/test_sweep_seeds.py::test_what_a_killed_process_left_is_removed",
    ),
    Fault(
        name="tuning-ignores-direction",
        consequence=(
            "For tasks whose primary metric is an error, a study chooses the tuned value with the worst "
            "validation figure."
        ),
        file="lightning_mm/compare/choice.py",
        old='sign = 1 if figures[0][1] == "max" else -1',
        new="sign = 1",
        caught_by="tests/compare/test_choice.py::test_the_direction_of_the_metric_decides_which_value_is_best",
        before="",
    ),
    Fault(
        name="changed-settings-not-rerun",
        consequence=(
            "A study whose settings were changed (another learning rate) counts its old trainings as finished and "
            "puts their figures into the new table."
        ),
        file="lightning_mm/compare/plan.py",
        old='            "overrides": overrides,\n',
        new="",
        caught_by="tests/compare/test_plan.py::test_keys_change_with_what_makes_the_outcome",
        before="tests/test_compare_plan.py::test_keys_change_with_what_makes_the_outcome",
    ),
    Fault(
        name="export-check-takes-least-difference",
        consequence=(
            "A program is compared with the network by the number that differs least, so an exported file that is "
            "wrong almost everywhere is put in place with a difference of 0 in its index."
        ),
        file="lightning_mm/export/checks.py",
        old="return float(apart.max() / scale)",
        new="return float(apart.min() / scale)",
        caught_by="tests/export/test_checks.py::test_the_difference_is_that_of_the_worst_number",
        before="",
    ),
    Fault(
        name="checkpoint-settings-unchecked",
        consequence=(
            "An adapter's checkpoint that was trained with another fill or basis is loaded under the settings of "
            "the config without a word."
        ),
        file="lightning_mm/callbacks/checkpoints.py",
        old=("        if differing:\n            raise _differing(differing, config, mine)\n"),
        new=("        if len(differing) == len(mine):\n            raise _differing(differing, config, mine)\n"),
        caught_by="tests/callbacks/test_adapter.py::test_checkpoint_with_other_settings_is_refused",
        before="tests/test_callbacks_adapter.py::test_checkpoint_with_other_settings_is_refused",
    ),
    Fault(
        name="preflight-without-eval",
        consequence=(
            "The look at a few samples before a fit runs the network in train mode: BatchNorm statistics (also "
            "those of a loaded base) have moved before the first step."
        ),
        file="lightning_mm/cli/lightning/preflight.py",
        old="outputs = task.eval()(few",
        new="outputs = task(few",
        caught_by="tests/cli/test_preflight.py::test_the_first_look_leaves_the_network_as_it_was",
        before="tests/test_cli_runs.py::test_sweep_writes_every_combination_before_and_after",
    ),
    Fault(
        name="checkpoint-overrides-settings",
        consequence=(
            "Settings that are stored in a checkpoint win over those of the configs and the command line of the "
            "run that loads it."
        ),
        file="lightning_mm/cli/lightning/command_line.py",
        old="        verb = self.config[self.config.subcommand]\n        if self",
        new="        super()._parse_ckpt_path()\n        verb = self.config[self.config.subcommand]\n        if self",
        caught_by="tests/cli/test_runs.py::test_a_checkpoint_never_changes_settings",
        before="tests/test_cli_runs.py::test_a_checkpoint_never_changes_settings",
    ),
    Fault(
        name="worker-error-text-lost",
        consequence=(
            "When a damaged file is read in a loader's worker the user gets the whole traceback of the worker "
            "instead of the one sentence that says which file and what to do."
        ),
        file="lightning_mm/cli/errors.py",
        old="text = from_worker(str(error))",
        new="text = str(error)",
        caught_by="tests/cli/test_errors.py::test_an_error_of_a_worker_is_just_its_message",
        before="tests/test_cli_errors.py::test_an_error_of_a_worker_is_just_its_message",
    ),
    Fault(
        name="interpolation-relative",
        consequence=(
            "`${trainer.default_root_dir}` at the top of a config is not resolved under a subcommand: configs "
            "that reference a setting fail or write elsewhere."
        ),
        file="lightning_mm/cli/lightning/run.py",
        old="set_parsing_settings(omegaconf_absolute_to_relative_paths=True)",
        new="set_parsing_settings(omegaconf_absolute_to_relative_paths=False)",
        caught_by="tests/cli/test_runs.py::test_fit_saves_the_whole_config_under_the_name_of_the_verb",
        before="tests/test_cli_runs.py::test_fit_saves_the_whole_config_under_the_name_of_the_verb",
    ),
    Fault(
        name="exit-code-of-usage-errors",
        consequence=(
            "A mistake in the command or config exits with 1 like any failure, so scripts cannot tell it from a "
            "failed run."
        ),
        file="lightning_mm/cli/errors.py",
        old=("    if isinstance(error, UsageError):\n        return text, 2\n"),
        new=("    if isinstance(error, UsageError):\n        return text, 1\n"),
        caught_by="tests/cli/test_errors.py::test_mistakes_are_explained_and_defects_are_not",
        before="tests/test_cli_errors.py::test_mistakes_are_explained_and_defects_are_not",
    ),
    Fault(
        name="recovered-gap-denominator",
        consequence=(
            "The recovered gap is divided by the figure of the dedicated networks, not by the gap between them "
            "and zero fill."
        ),
        file="lightning_mm/results/robustness.py",
        old="return gain(method, zero_fill, direction) / gap if",
        new="return gain(method, zero_fill, direction) / abs(dedicated) if",
        caught_by="tests/results/test_robustness.py::test_by_hand",
        before="tests/test_sweep_robustness.py::test_by_hand",
    ),
    Fault(
        name="interval-ends-swapped",
        consequence="Bootstrap intervals come with their high end first.",
        file="lightning_mm/results/bootstrap.py",
        old="return float(low), float(high)",
        new="return float(high), float(low)",
        caught_by="tests/sweep/test_replicates.py::test_interval_covers_the_truth_about_as_often_as_it_says",
        before="tests/test_sweep_bootstrap.py::test_interval_covers_the_truth_about_as_often_as_it_says",
    ),
    Fault(
        name="dropout-same-on-all-ranks",
        consequence="With KeyedSeed all devices draw the same dropout and noise in a step.",
        file="lightning_mm/callbacks/keyed_seed.py",
        old="key = [seed, trainer.current_epoch, batch_idx, trainer.global_rank]",
        new="key = [seed, trainer.current_epoch, batch_idx]",
        caught_by=(
            ""
            "tests/callbacks/test_keyed_seed.py::test_random_numbers_differ_between_ranks_batches_and_seeds_and_come_again"
        ),
        before="",
    ),
    Fault(
        name="train-only-statistics-move",
        consequence=(
            "TrainOnly leaves frozen BatchNorm layers in train mode, so their statistics move while only the head "
            "trains."
        ),
        file="lightning_mm/callbacks/train_only.py",
        old="            part.training = False\n",
        new="            pass\n",
        caught_by="tests/callbacks/test_train_only.py::test_only_the_head_of_somebody_elses_module_moves",
        before="tests/test_callbacks_train_only.py::test_only_the_head_of_somebody_elses_module_moves",
    ),
    Fault(
        name="wandb-online-without-login",
        consequence="Without a login the W&B logger starts online and waits for a key in the middle of a run.",
        file="lightning_mm/tracking/logger.py",
        old='return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_login() else "offline"',
        new='return "online"',
        caught_by="tests/tracking/test_logger.py::test_offline_without_a_login",
        before="tests/test_tracking_logger.py::test_offline_without_a_login",
    ),
)
