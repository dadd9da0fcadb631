"""Faults of data, masks, fills, networks and adapters."""

from __future__ import annotations

from tests.power.fault import Fault

NETWORK_FAULTS = (
    Fault(
        name="masks-same-every-epoch",
        consequence=(
            "Modality dropout shows a sample with the same modalities in every epoch, so most (sample, "
            "combination) pairs are never trained."
        ),
        file="lightning_mm/missing/policies.py",
        old="key = split_mix(split_mix(_word(seed)) + _word(epoch))",
        new="key = split_mix(split_mix(_word(seed)) + _word(0))",
        caught_by="tests/missing/test_policies.py::test_epochs_and_seeds_differ",
        before=(
            "tests/test_missing_policies.py::test_epochs_and_seeds_differ[UniformCombinations(combinations=None, "
            "include_full=True)]"
        ),
    ),
    Fault(
        name="fill-multiplies-by-mask",
        consequence=(
            "A fill keeps present rows by a product with the mask: NaN in an absent place stays NaN and reaches "
            "outputs and gradients."
        ),
        file="lightning_mm/missing/fills.py",
        old="        return torch.where(present.view(-1, *[1] * (leaf.ndim - 1)), leaf, row)\n",
        new=("        there = present.view(-1, *[1] * (leaf.ndim - 1))\n        return leaf * there + row * ~there\n"),
        caught_by="tests/missing/test_fills.py::test_absent_values_reach_neither_output_nor_gradient",
        before="tests/test_fills.py::test_absent_values_reach_neither_output_nor_gradient[nan-Zeros]",
    ),
    Fault(
        name="mean-input-counts-padding",
        consequence=(
            "The mean training sample of padded sequences also averages the padding, so fill MeanInput is pulled "
            "towards zero for short sequences."
        ),
        file="lightning_mm/missing/mean_input.py",
        old="        valid = leaf[:steps] if steps is not None else leaf\n",
        new="        valid = leaf\n",
        caught_by=("tests/missing/test_mean_input.py::test_only_valid_steps_count_where_sequences_are_padded_already"),
        before=("tests/test_missing_mean_input.py::test_only_valid_steps_count_where_sequences_are_padded_already"),
    ),
    Fault(
        name="feature-mean-of-absent-samples",
        consequence=(
            "The training mean of an encoder's output also averages samples that lack its modality, so FeatureMean "
            "is pulled towards the output for zeros."
        ),
        file="lightning_mm/adapters/network/features.py",
        old='leaves[path] = leaf[present.to(leaf.device)].to("cpu", torch.float64)',
        new='leaves[path] = leaf.to("cpu", torch.float64)',
        caught_by="tests/missing/test_feature_fills.py::test_samples_without_a_modality_do_not_count_for_it",
        before="",
    ),
    Fault(
        name="floor-of-statistics-alone",
        consequence=(
            "bn_refit puts a floor under the variance of a layer, but later layers keep statistics of features without "
            "it: 34 % instead of 60 % on UtdMhad."
        ),
        file="lightning_mm/adapters/kinds/bn_refit.py",
        old="        if floor:\n",
        new="        if False:\n",
        caught_by=("tests/callbacks/test_batch_norm_floor.py::test_features_that_hardly_vary_get_scales_up_to_a_limit"),
        before="",
    ),
    Fault(
        name="ranks-train-on-same-samples",
        consequence=(
            "With several devices every rank trains on the same first part of the permutation, and the rest of "
            "the data is never seen in that epoch."
        ),
        file="lightning_mm/data/sampler.py",
        old="mine = np.resize(order, each * world)[rank::world]",
        new="mine = np.resize(order, each * world)[:each]",
        caught_by="tests/data/test_sampler.py::test_training_covers_all_samples_and_ranks_are_equally_long",
        before="tests/test_data_sampler.py::test_training_covers_all_samples_and_ranks_are_equally_long[7-2]",
    ),
    Fault(
        name="resumed-workers-start-at-epoch-0",
        consequence=(
            "A resumed fit with loader workers sees the order, masks and augmentation of epoch 0 again instead of "
            "those of its own epoch."
        ),
        file="lightning_mm/data/module.py",
        old="sampler.set_epoch(progress.processed)",
        new="sampler.set_epoch(0)",
        caught_by=(
            "tests/data/test_module.py::test_a_loader_that_is_made_late_in_a_fit_begins_with_the_epoch_of_the_fit"
        ),
        before="tests/test_resume.py::test_resumed_run_equals_the_uninterrupted_one[workers]",
    ),
    Fault(
        name="augmentation-same-every-epoch",
        consequence=(
            "Every epoch augments a sample in exactly the same way (the same flip, the same crop), so "
            "augmentation adds nothing."
        ),
        file="lightning_mm/data/keyed_dataset.py",
        old="return np.random.default_rng([stream, self.seed % 2**64, index, epoch])",
        new="return np.random.default_rng([stream, self.seed % 2**64, index, 0])",
        caught_by="tests/data/test_module.py::test_epochs_differ_in_order_masks_and_augmentation",
        before="tests/test_data_module.py::test_epochs_differ_in_order_masks_and_augmentation",
    ),
    Fault(
        name="padded-batch-loses-lengths",
        consequence=(
            "After padding all sequences of a batch claim the length of the longest, so networks read zeros of "
            "the padding as data."
        ),
        file="lightning_mm/data/collate.py",
        old='        out = {**value, "length": length}\n',
        new='        out = {**value, "length": max(lengths)}\n',
        caught_by="tests/data/test_collate.py::test_sequences_with_a_length_are_padded_at_the_end",
        before="tests/test_data_collate.py::test_sequences_with_a_length_are_padded_at_the_end",
    ),
    Fault(
        name="unobserved-counts-as-available",
        consequence=(
            "A modality that a sample truly lacks is marked available whenever the policy draws it: the network "
            "takes the zeros of the placeholder for a measurement."
        ),
        file="lightning_mm/data/collate.py",
        old="available = observed & self.policy.draw(",
        new="available = self.policy.draw(",
        caught_by="tests/data/test_collate.py::test_policies_take_away_from_what_was_observed_and_never_all",
        before="tests/test_data_collate.py::test_policies_take_away_from_what_was_observed_and_never_all",
    ),
    Fault(
        name="validation-samples-in-training",
        consequence=(
            "Where a data set has no list for validation, the held-out part stays in the training split too: "
            "validation figures are those of training data."
        ),
        file="lightning_mm/data/datasets/base/labelled_images.py",
        old="if (fraction(self.about.name, one) < self.val_fraction) == held_out)",
        new="if not held_out or fraction(self.about.name, one) < self.val_fraction)",
        caught_by=(
            "tests/data/test_mfnet.py::test_validation_is_listed_or_split_from_train_by_name_and_never_from_test"
        ),
        before=("tests/test_data_mfnet.py::test_validation_is_listed_or_split_from_train_by_name_and_never_from_test"),
    ),
    Fault(
        name="fold-forgets-bias",
        consequence=(
            "Folding a scale multiplies the weight and not the bias of a layer, so a folded or exported network "
            "answers differently from the adapted one."
        ),
        file="lightning_mm/adapters/layers/fold.py",
        old="        bias = None if bias is None else wide(bias) * scale\n",
        new="",
        caught_by="tests/adapters/test_adapt.py::test_fold_equals_hooks",
        before="tests/test_adapters_adapt.py::test_fold_equals_hooks[OneHot]",
    ),
    Fault(
        name="lora-fold-unscaled",
        consequence=(
            "A folded LoRA network adds up @ down without alpha / rank, so deployed networks differ from the "
            "adapted ones wherever alpha is set."
        ),
        file="lightning_mm/adapters/kinds/lora.py",
        old="tables = (self.down.float(), self.up.float() * self.scaling)",
        new="tables = (self.down.float(), self.up.float())",
        caught_by="tests/adapters/test_lora.py::test_fold_equals_hooks",
        before="tests/test_adapters_lora.py::test_fold_equals_hooks[lora-OneHot]",
    ),
    Fault(
        name="sample-major-placed-step-major",
        consequence=(
            "In layers whose batch axis is samples x steps (windows, time), coefficients go to the wrong samples "
            "of a mixed batch."
        ),
        file="lightning_mm/adapters/layers/layout.py",
        old="coefficients = coefficients.repeat_interleave(times, dim=0)",
        new="coefficients = coefficients.repeat(times, 1)",
        caught_by="tests/adapters/test_adapt.py::test_mixed_batch_equals_one_row_at_a_time",
        before="tests/test_adapters_adapt.py::test_mixed_batch_equals_one_row_at_a_time[True-OneHot]",
    ),
    Fault(
        name="lookup-keeps-old-places",
        consequence=(
            "After the first batch an adapted network with basis OneHot routes every later batch of the same size "
            "by the masks of the first one."
        ),
        file="lightning_mm/adapters/adapter.py",
        old="        call.route = self.basis.route(available[:1] if self.grouped else available)\n",
        new=(
            '        last = getattr(self, "_last", None)\n'
            "        call.route = self.basis.route(available[:1] if self.grouped else available)\n"
            "        if last is not None and last.shape == call.route.shape:\n"
            "            call.route = last\n"
            "        self._last = call.route\n"
        ),
        caught_by="tests/adapters/test_adapt.py::test_mixed_batch_equals_one_row_at_a_time",
        before="tests/test_adapters_adapt.py::test_mixed_batch_equals_one_row_at_a_time[True-OneHot]",
    ),
    Fault(
        name="pairwise-misses-pairs",
        consequence=(
            "Basis Pairwise has rows for neighbouring modalities only: two absences that are not neighbours get "
            "no row of their own."
        ),
        file="lightning_mm/adapters/basis.py",
        old="self.pairs = list(combinations(range(len(modalities)), 2))",
        new="self.pairs = [(i, i + 1) for i in range(len(modalities) - 1)]",
        caught_by="tests/adapters/test_basis.py::test_rows_of_every_combination",
        before="tests/test_adapters_bases.py::test_rows_of_every_combination[Pairwise]",
    ),
    Fault(
        name="absent-rows-merged-across-combinations",
        consequence=(
            "An adapted encoder runs once for all samples that lack its modality although their combinations "
            "adapt it differently: they all get the features of the first one's combination."
        ),
        file="lightning_mm/adapters/absent_rows.py",
        old="apart=route is not None)",
        new="apart=False)",
        caught_by="tests/adapters/test_absent_rows.py::test_encoders_see_each_row_once_and_the_outputs_stay",
        before=(
            "tests/test_adapters_absent_rows.py::test_encoders_see_each_row_once_and_the_outputs_stay[OneHot-False]"
        ),
    ),
    Fault(
        name="in-place-gradient-of-scale",
        consequence=(
            "Where layers are modulated in place in training, the gradient of the scale forgets the shift: "
            "adapters learn wrongly as soon as shifts are not zero."
        ),
        file="lightning_mm/adapters/layers/in_place.py",
        old="            of_scale = of_scale - shift * of_shift\n",
        new="            of_scale = of_scale - 0 * of_shift\n",
        caught_by="tests/adapters/test_in_place.py::test_gradients_are_those_of_the_ordinary_way",
        before="tests/test_adapters_reuse.py::test_gradients_are_those_of_the_ordinary_way[one-hot-ssf]",
    ),
    Fault(
        name="base-left-in-train-mode",
        consequence=(
            "A train() call on the network leaves it in train mode when it runs adapted: BatchNorm statistics of "
            "the frozen base drift and dropout acts."
        ),
        file="lightning_mm/adapters/network/eval_mode.py",
        old=("        if any(module.training for module, _ in self._modules):\n            self.network.eval()\n"),
        new="        return\n",
        caught_by="tests/adapters/test_adapt.py::test_base_stays_frozen_whatever_mode_is_set",
        before="tests/test_adapters_adapt.py::test_base_stays_frozen_whatever_mode_is_set",
    ),
    Fault(
        name="fingerprint-ignores-buffers",
        consequence=(
            "An adapter loads without a word onto a base with other BatchNorm statistics, as the fingerprint "
            "covers parameters only."
        ),
        file="lightning_mm/adapters/saving/fingerprint.py",
        old="for name, value in sorted(network.state_dict().items()):",
        new="for name, value in sorted(network.named_parameters(), key=lambda one: one[0]):",
        caught_by="tests/adapters/test_saving.py::test_the_fingerprint_covers_every_parameter_and_buffer",
        before="",
    ),
    Fault(
        name="learned-fill-not-loaded",
        consequence=(
            "A saved adapter comes back with its Learned fill at zero: the trained rows for absent inputs are "
            "lost silently."
        ),
        file="lightning_mm/adapters/saving/folder.py",
        old="    adapter.load_state_dict(weights)\n",
        new=(
            '    banks = {key: value for key, value in weights.items() if not key.startswith("fill.")}\n'
            "    adapter.load_state_dict(banks, strict=False)\n"
        ),
        caught_by="tests/adapters/test_saving.py::test_a_learned_fill_comes_back_as_it_was_trained",
        before="",
    ),
    Fault(
        name="mult-masks-by-own-length",
        consequence=(
            "In MulT a step attends to the padding of another modality: keys are masked by the length of the "
            "sequence that asks, not of the one that is asked."
        ),
        file="lightning_mm/models/mult/encoder.py",
        old="allowed = (step < asked.unsqueeze(1)).unsqueeze(1).expand(-1, queries, -1)",
        new="allowed = (step < asking.unsqueeze(1)).unsqueeze(1).expand(-1, queries, -1)",
        caught_by="tests/models/test_mult.py::test_sequences_with_lengths_are_read_up_to_their_end",
        before="tests/test_models_mult.py::test_sequences_with_lengths_are_read_up_to_their_end[0.0]",
    ),
    Fault(
        name="transformer-attends-to-padding",
        consequence=(
            "The transformer over the steps of all modalities attends to padding and to absent tokens, so an "
            "answer depends on how far the batch is padded."
        ),
        file="lightning_mm/models/sequence_fusion.py",
        old="valid.unsqueeze(1)))",
        new="valid.new_ones(valid.shape).unsqueeze(1)))",
        caught_by=(
            "tests/models/test_sequence_fusion.py::test_absent_modalities_are_as_if_they_were_not_part_of_the_sequence"
        ),
        before=(
            "tests/test_models_sequence_fusion.py::test_absent_modalities_are_as_if_they_were_not_part_of_the_sequence"
        ),
    ),
    Fault(
        name="fusion-votes-when-incomplete",
        consequence=(
            "The fusion vote of the video network counts although a stream is absent, so logits mix in a vote on "
            "features that are not there."
        ),
        file="lightning_mm/models/video.py",
        old="counts = torch.cat([present, present.all(dim=1, keepdim=True)], dim=1)",
        new="counts = torch.cat([present, present.any(dim=1, keepdim=True)], dim=1)",
        caught_by="tests/models/test_video.py::test_the_mean_is_over_the_votes_of_what_is_there",
        before="tests/test_models_video.py::test_the_mean_is_over_the_votes_of_what_is_there[True]",
    ),
    Fault(
        name="combinations-in-another-order",
        consequence=(
            "Chosen combinations are ordered by name position only, so tables no longer go from one modality to all."
        ),
        file="lightning_mm/modality_names.py",
        old=("sorted(wanted, key=lambda name: (len(self.parse(name)), [self.index(n) for n in self.parse(name)]))"),
        new="sorted(wanted, key=lambda name: [self.index(n) for n in self.parse(name)])",
        caught_by="tests/test_modalities.py::test_select_sorts_and_removes_repeats",
        before="tests/test_modalities.py::test_select_sorts_and_removes_repeats",
    ),
)
