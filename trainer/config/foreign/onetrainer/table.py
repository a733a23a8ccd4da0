"""The table of OneTrainer: the keys of its config, with those of parts written as unet.train."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign import keys
from trainer.config.foreign.keys import Key, Table, absent, flag, needless, number, one_of, part, row, text, whole
from trainer.config.foreign.onetrainer import adapters, images, optimizer, parts, training, words
from trainer.config.foreign.outcome import Outcome, changed, unneeded
from trainer.config.foreign.values import Values

TEXTS = ("text_encoder", "text_encoder_2")


def _path_of_result(values: Values, name: str) -> Outcome | None:
    """output_model_destination: the run's name and the folder of runs."""
    found = values.text(name).replace("\\", "/")
    folder, _, file = found.rpartition("/")
    stem = file.removesuffix(".safetensors").removesuffix(".ckpt")
    if not stem:
        return None
    sets = {"run.name": stem} | ({"run.output_dir": folder} if folder else {})
    return changed(sets, "a run has a folder of its own, with the result in it")


def _form(values: Values, name: str) -> Outcome | str:
    if parts.is_lora(values):
        return unneeded("LoRA files follow kohya's format")
    return "folder" if values.text(name) == "DIFFUSERS" else "file"


def _vae(values: Values, name: str) -> str | None:
    return values.text(name) or None


def _ema(values: Values, name: str) -> Outcome | float | int | str | None:
    """ema, ema_decay, ema_update_step_interval."""
    if values.text("ema") == "OFF":
        return unneeded("off")
    if name == "ema":
        return "cpu" if values.text(name) == "CPU" else "auto"
    return values.number(name) if name == "ema_decay" else values.whole(name)


def _tensorboard(values: Values, name: str) -> bool:
    return values.flag(name)


def _of_validation(values: Values, name: str) -> Outcome:
    if not values.flag("validation"):
        return unneeded("off")
    return Outcome("carried", {"validation.every": training.every(values, "validate_after")})


def _prompted(values: Values, name: str) -> Any:
    return training.every(values, name) if images.samples(values) else unneeded("there are no prompts")


def _method(values: Values, name: str) -> str:
    return "lora" if parts.is_lora(values) else "full"


def _family(values: Values, name: str) -> str:
    return values.context.family


_RATES = ("optimizer.lr", "optimizer.text_encoder_lr", "optimizer.rates.text_encoder", "optimizer.rates.text_encoder_2")

MODEL = [
    row("training_method", "training.method", _method, "FINE_TUNE"),
    row("model_type", "model.family", _family),
    row("base_model_name", "model.base", text, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    row("vae.model_name", "model.vae", _vae),
    row("vae.weight_dtype", "model.vae_precision", keys.vae_precision(training.PRECISIONS)),
    row("text_encoder_layer_skip", "model.clip_skip", training.skip, 0),
    row("text_encoder_2_layer_skip", "model.clip_skip", training.skip, 0),
    *(
        row(name, ours, training.forced, False)
        for name, ours in (
            ("rescale_noise_scheduler_to_zero_terminal_snr", ("model.zero_terminal_snr", "model.prediction")),
            ("force_v_prediction", "model.prediction"),
            ("force_epsilon_prediction", "model.prediction"),
        )
    ),
]
PARTS = [
    part("learning_rate", _RATES, parts.rates, 3e-6, "its parts have rates of their own"),
    part("learning_rate_scaler", _RATES[:2], parts.rates, "NONE"),
    part("unet.train", "training.unet", parts.rates, True),
    part("unet.learning_rate", "optimizer.lr", parts.rates, otherwise="it does not train"),
    *(part(f"{name}.train", ("training.text_encoder", *_RATES[1:]), parts.rates, True) for name in TEXTS),
    *(part(f"{name}.learning_rate", _RATES[1:], parts.rates, otherwise="it does not train") for name in TEXTS),
    *(
        row(f"{name}.{key}", ours, parts.stop, default)
        for name, ours, usual in (
            ("unet", "optimizer.windows.unet", (0, "NEVER")),
            ("text_encoder", ("training.text_encoder_until", "optimizer.windows.text_encoder"), (30, "EPOCH")),
            ("text_encoder_2", ("training.text_encoder_until", "optimizer.windows.text_encoder_2"), (30, "EPOCH")),
        )
        for key, default in zip(("stop_training_after", "stop_training_after_unit"), usual, strict=True)
    ),
    *(
        row(f"{name}.dropout_probability", "general.caption_dropout_rate", images.caption_dropout, 0.0)
        for name in TEXTS
    ),
    row("unet.weight_dtype", ("training.weight_dtype", "training.base_precision"), training.weight_dtype, "FLOAT_32"),
    row("unet.gradient_checkpointing", "training.gradient_checkpointing", flag, True),
]
STEPS = [
    row("epochs", "training.epochs", whole, 100),
    row("batch_size", "general.batch_size", whole, 1),
    row("gradient_accumulation_steps", "training.gradient_accumulation", whole, 1),
    row("learning_rate_scheduler", ("schedule.name", "schedule.pieces"), parts.schedule, "CONSTANT"),
    *(
        part(name, ours, parts.shape, default, "this scheduler does not use it")
        for name, ours, default in (
            ("learning_rate_warmup_steps", "schedule.warmup", 200),
            ("learning_rate_cycles", "schedule.cycles", 1.0),
            ("learning_rate_min_factor", "schedule.minimum", 0.0),
        )
    ),
    *absent("a class of another library; schedules here have names", "custom_learning_rate_scheduler",
            "scheduler_params"),
    row("clip_grad_norm", "training.max_grad_norm", optimizer.clipping, 1.0),
    row("ema", "ema.device", _ema, "OFF"),
    row("ema_decay", "ema.decay", _ema, 0.999),
    row("ema_update_step_interval", "ema.every", _ema, 5),
    row("train_dtype", ("training.precision", "performance.tf32"), training.arithmetic, "FLOAT_16"),
    row("fallback_train_dtype", (), training.fallback),
    row("compile", "performance.compile", flag, False),
    row("optimizer.optimizer", "optimizer.name", optimizer.named, "ADAMW"),
    row("optimizer.fused_back_pass", "training.fused_backward", optimizer.fused, False),
    row("optimizer.*", "optimizer.args", optimizer.argument),
    *needless("what it remembers of other optimizers", "optimizer_defaults"),
    *absent("the loss is not multiplied here", "loss_scaler", default="NONE"),
]  # fmt: skip
LOSS = [
    *(row(name, "loss.kind", training.loss, default) for name, default in (("mse_strength", 1.0), ("mae_strength", 0.0),
      ("log_cosh_strength", 0.0), ("huber_strength", 0.0))),
    *needless("for huber_strength", "huber_delta"),
    *needless("for models that predict their variance", "vb_loss_strength"),
    row("loss_weight_fn", "loss.weighting", training.weighting, "CONSTANT"),
    row("loss_weight_strength", "loss.gamma", training.weighting, 5.0),
    row("timestep_distribution", "timesteps.distribution", training.distribution, "UNIFORM"),
    *needless("timestep_distribution says it", "noising_weight", "noising_bias"),
    row("min_noising_strength", "timesteps.min", training.strength, 0.0),
    row("max_noising_strength", "timesteps.max", training.strength, 1.0),
    row("timestep_shift", "timesteps.shift", number, 1.0),
    *needless("for flow models", "dynamic_timestep_shifting"),
    *(
        part(name, ours, training.noise, default)
        for name, ours, default in (
            ("offset_noise_weight", "noise.offset.strength", 0.0),
            ("generalized_offset_noise", "noise.offset.time_dependent", False),
            ("k_noise_sampling", "noise.oversampling.k", 1),
        )
    ),
    *absent("its perturbation is part of the target too; noise.perturbation here is not", "perturbation_noise_weight"),
    row("masked_training", "datasets", images.masked, False),
    row("unmasked_weight", "datasets", images.masked, 0.1),
    part("normalize_masked_area_loss", "loss.normalize_masked_area", training.masks, False, "without masked_training"),
    part("masked_prior_preservation_weight", "preservation.outside_mask", training.masks, 0.0, "off"),
    *needless("it counts for inpainting models alone, where a quarter of random areas is everything",
              "unmasked_probability"),
    *absent("an image of its own to show is not here", "custom_conditioning_image"),
]  # fmt: skip
ADAPTERS = [
    row("peft_type", "lora.method", adapters.kind, "LORA"),
    row("lora_decompose", "lora.method", adapters.kind, False),
    row("lora_decompose_output_axis", (), adapters.axis, False),
    *needless("the same but for a tiny number", "lora_decompose_norm_epsilon"),
    part("lora_rank", "lora.rank", adapters.sizes, 16, "for adapters"),
    part("lokr_dim", "lora.rank", adapters.sizes, 16, "for LoKr"),
    part("lora_alpha", "lora.alpha", adapters.sizes, 1.0, "for adapters"),
    row("lora_model_name", "lora.init_from", text),
    row("dropout_probability", "lora.dropout", adapters.dropout, 0.0),
    row("layer_filter", ("lora.layers", "lora.conv_rank"), adapters.layers),
    row("layer_filter_preset", ("lora.layers", "lora.conv_rank"), adapters.layers, "full"),
    *absent("layers are chosen by the beginnings of their names: lora.ranks", "layer_filter_regex"),
    part("lokr_decompose_both", "lora.args.decompose_both", adapters.lokr, False, "off, or for LoKr"),
    part("lokr_decompose_factor", "lora.args.factor", adapters.lokr, -1, "by itself, or for LoKr"),
    part("lokr_full_matrix", "lora.args.full_matrix", adapters.lokr, False, "off, or for LoKr"),
    *(row(name, (), adapters.only_lokr) for name in ("lokr_use_tucker", "lokr_dora_on_output", "lokr_vec_trick")),
    *needless("LoKr with DoRA is not here; peft_type says so", "lokr_weight_decompose"),
    *needless("for OFT", "oft_block_size", "oft_block_share", "oft_scaled"),
    *needless("an adapter's own weights stay in float32 here", "lora_weight_dtype"),
    row("additional_embeddings", words.KEYS, words.outcome),
    *(row(f"embedding.{name}", words.KEYS, words.outcome) for name in words.NAMES),
    part("embedding_learning_rate", "embeddings.lr", words.words, otherwise="as the base's"),
    part("preserve_embedding_norm", "embeddings.keep_norm", words.words, False, "there are no words"),
    part("bundle_additional_embeddings", "embeddings.bundle", words.words, True, "there are no words"),
    *needless("vectors are kept in float32 here", "embedding_weight_dtype"),
    *needless("of the program itself", "embedding.*"),
]  # fmt: skip
IMAGES = [
    row("concepts", ("datasets", "validation.datasets"), images.outcome),
    row("concept_file_name", ("datasets", "validation.datasets"), images.outcome),
    row("resolution", "general.resolution", images.resolution, "512"),
    row("aspect_ratio_bucketing", "general.enable_bucket", images.buckets, True),
    row("latent_caching", "data.cache_latents", flag, True),
    row("cache_dir", "data.cache_dir", text),
    *needless("the cache knows what fits by its content", "clear_cache_before_training"),
    *needless("see python launch.py cache", "only_cache"),
    row("dataloader_threads", "data.workers", whole),
    *absent("pictures are not wrapped round here", "force_circular_padding"),
    *needless("videos are not here", "frames", "sample_video_format", "sample_audio_format"),
]
SAVING = [
    row("output_model_destination", ("run.name", "run.output_dir"), _path_of_result),
    row("output_model_format", "save.full", _form),
    row("output_dtype", "save.dtype", one_of(training.PRECISIONS), "FLOAT_32"),
    row("save_every", "save.every", training.every, 0),
    row("save_every_unit", "save.every", training.every, "NEVER"),
    *needless("the first one is saved as the others are", "save_skip_first", "save_filename_prefix"),
    *needless("what is needed to resume is saved with each result", "backup_after", "backup_after_unit",
              "rolling_backup", "rolling_backup_count", "backup_before_save"),
    *absent("its backups cannot be continued here", "continue_last_backup"),
    *needless("nothing is ever overwritten here", "prevent_overwrites"),
    *needless("the config lies beside each result", "include_train_config"),
    row("samples", "samples.prompts", images.prompts),
    row("sample_definition_file_name", "samples.prompts", images.prompts),
    row("sample_after", "samples.every", _prompted, 10),
    row("sample_after_unit", "samples.every", _prompted, "MINUTE"),
    *needless("pictures are .png files in the run's folder", "sample_image_format", "samples_to_tensorboard",
              "sample_skip_first"),
    *needless("pictures are drawn with the average where there is one", "non_ema_sampling"),
    row("validation", "validation.every", _of_validation, False),
    row("validate_after", "validation.every", _of_validation, 1),
    row("validate_after_unit", "validation.every", _of_validation, "EPOCH"),
    row("tensorboard", "logging.tensorboard", _tensorboard, True),
]  # fmt: skip
OTHERS = [
    *needless("how it runs, not what it learns", "__version", "*.__version", "workspace_dir", "debug_mode", "debug_dir",
              "huggingface_cache_dir", "offline_mode", "tensorboard_expose", "tensorboard_always_on",
              "tensorboard_port", "train_device", "temp_device", "enable_autocast_cache", "attention_mechanism",
              "async_offloading", "layer_offload_fraction", "enable_async_offloading", "enable_activation_offloading"),
    *needless("several GPUs: docs/multi-gpu.md", "multi_gpu", "device_indexes", "gradient_reduce_precision",
              "fused_gradient_reduce", "async_gradient_reduce", "async_gradient_reduce_buffer"),
    *needless("never imported", "cloud.*", "secrets.*", "cloud", "secrets"),
    *needless("of the file of another model, or of a part that is as it is here", "prior.*", "transformer.*",
              "unconditional_transformer.*", "text_encoder_3.*", "text_encoder_4.*", "effnet_encoder.*", "decoder.*",
              "decoder_text_encoder.*", "decoder_vqgan.*", "quantization.*", "text_encoder_3_layer_skip",
              "text_encoder_4_layer_skip", "text_encoder_sequence_length", "text_encoder_2_sequence_length",
              "unet.*", "text_encoder.*", "text_encoder_2.*", "vae.*"),
]  # fmt: skip

_SECTIONS: tuple[list[Key], ...] = (MODEL, PARTS, STEPS, LOSS, ADAPTERS, IMAGES, SAVING, OTHERS)
KEYS = Table(*_SECTIONS)
# Older files call them otherwise.
OLDER = {
    "train_unet": "unet.train",
    "unet_learning_rate": "unet.learning_rate",
    "unet_weight_dtype": "unet.weight_dtype",
    "train_text_encoder": "text_encoder.train",
    "text_encoder_learning_rate": "text_encoder.learning_rate",
    "text_encoder_weight_dtype": "text_encoder.weight_dtype",
    "train_text_encoder_2": "text_encoder_2.train",
    "text_encoder_2_learning_rate": "text_encoder_2.learning_rate",
    "text_encoder_2_weight_dtype": "text_encoder_2.weight_dtype",
    "vae_model_name": "vae.model_name",
    "vae_weight_dtype": "vae.weight_dtype",
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
    "save_after": "save_every",
    "save_after_unit": "save_every_unit",
    "weight_dtype": "unet.weight_dtype",
    "gradient_checkpointing": "unet.gradient_checkpointing",
}
