"""The table of ai-toolkit: the keys of a job for SD or SDXL, written as train.lr, datasets.0.resolution and so on."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from trainer.config.foreign import keys
from trainer.config.foreign.ai_toolkit import images, preservation, rules, words
from trainer.config.foreign.keys import Key, Table, absent, flag, needless, number, one_of, part, row, text, whole
from trainer.config.foreign.outcome import Outcome, missing, unneeded
from trainer.config.foreign.values import NOTHING, Values


def _absent(why: str, section: str, defaults: dict[str, Any]) -> list[Key]:
    return [key for name, value in defaults.items() for key in absent(why, f"{section}{name}", default=value)]


def _form(values: Values, name: str) -> Outcome | str:
    if rules.is_lora(values):
        return unneeded("a LoRA is one file")
    return "folder" if values.text(name) == "diffusers" else "file"


def _family(values: Values, name: str) -> str | None:
    return values.context.family or None


def _prediction(values: Values, name: str) -> str:
    return "v" if values.flag(name) else "epsilon"


def _gamma(values: Values, name: str) -> Outcome:
    found = values.number(name)
    return Outcome("carried", {"loss.weighting": "min_snr", "loss.gamma": found}) if found else unneeded("off")


def _dropout(values: Values, name: str) -> Outcome:
    found = values.number(name)
    if not found:
        return unneeded("off")
    return Outcome("changed", {"lora.dropout": found}, "drops the inputs of the first factor here, its outputs there")


def _base_lora(values: Values, name: str) -> Outcome:
    value = values.given.get(name)
    return unneeded("not set") if value in NOTHING else missing("merge it into the base first: python launch.py merge")


def _wandb(values: Values, name: str) -> Outcome | bool:
    if values.flag(name) and find_spec("wandb") is None:
        return missing("the package wandb is not installed here; then set logging.wandb = true", harmless=True)
    return values.flag(name)


def _project(values: Values, name: str) -> str | None:
    return values.text(name) if values.flag("logging.use_wandb") else None


def _measures(_values: Values, _name: str) -> Outcome:
    return missing("validation.split and [[validation.datasets]] measure what is learned here", harmless=True)


_SAMPLES = (
    ("sample.prompts", "samples.prompts", None),
    ("sample.samples", "samples.prompts", None),
    ("sample.sample_every", "samples.every", 100),
    ("train.skip_first_sample", "samples.at_start", False),
    ("sample.width", "samples.width", 512),
    ("sample.height", "samples.height", 512),
    ("sample.sample_steps", "samples.steps", 20),
    ("sample.guidance_scale", "samples.guidance", 7),
    ("sample.neg", "samples.negative", False),
    ("sample.seed", "samples.seed", 0),
    ("sample.walk_seed", "samples.prompts", False),
    ("train.disable_sampling", "samples.prompts", False),
)
_RATES = ("optimizer.lr", "optimizer.text_encoder_lr")
_KEPT = ("preservation.words", "preservation.weight")

JOB = [
    row("name", "run.name", text),
    row("training_folder", "run.output_dir", text),
    row("training_seed", "run.seed", whole),
    row("trigger_word", "datasets[].subsets[].trigger", images.trigger),
    *needless("of the program itself", "job", "meta.*", "type", "device", "log_dir", "performance_log_every",
              "sqlite_db_path", "torch_profiler", "process.name"),
    row("logging.log_every", "logging.every", whole),
    row("logging.use_wandb", "logging.wandb", _wandb),
    row("logging.project_name", "logging.wandb_project", _project),
    *needless("of the program itself", "logging.verbose", "logging.use_ui_logger", "logging.run_name"),
    *_absent("not here", "", {"adapter": None, "decorator": None, "guidance": None,
                              "first_sample": None, "do_lorm": False}),
    *(row(f"{name}.*", (), lambda v, n: missing("not here")) for name in ("adapter", "decorator",
      "guidance", "first_sample")),
    row("slider.*", (), lambda v, n: missing("a slider's targets are written as [[slider.targets]]: docs/sliders.md")),
]  # fmt: skip


MODEL = [
    row("model.name_or_path", "model.base", text),
    row("model.vae_path", "model.vae", text),
    row("model.vae_dtype", "model.vae_precision", keys.vae_precision(rules.PRECISIONS)),
    row("model.is_v_pred", "model.prediction", _prediction, False),
    row("model.arch", "model.family", _family),
    row("model.is_xl", "model.family", _family),
    *needless("recognised from the base's files", "model.is_v2", "model.experimental_xl"),
    row("model.compile", "performance.compile", flag, False),
    row("model.lora_path", (), _base_lora),
    row("model.assistant_lora_path", (), _base_lora),
    *needless("for other models", "model.is_flux", "model.is_v3", "model.is_pixart", "model.is_pixart_sigma",
              "model.is_auraflow", "model.is_lumina2", "model.is_ssd", "model.is_vega", "model.quantize",
              "model.quantize_te", "model.qtype", "model.qtype_te", "model.quantize_kwargs", "model.attn_masking",
              "model.use_flux_cfg", "model.split_model_*", "model.text_encoder_bits", "model.model_kwargs*",
              "model.model_paths*", "model.accuracy_recovery_adapter", "model.inference_lora_path",
              "model.unconditional_lora_path", "model.latent_space_version", "model.in_context",
              "model.refiner_start_at"),
    *needless("memory and speed; nothing of the training", "model.low_vram", "model.dtype", "model.te_dtype",
              "model.vae_device", "model.te_device", "model.auto_memory", "model.layer_offloading*", "model.compile_*",
              "model.block_compile", "model.cache_size_limit", "model.extras_name_or_path"),
    *_absent("not here", "model.", {"refiner_name_or_path": None, "ignore_if_contains": None, "only_if_contains": None,
             "unet_path": None, "unet_sample_size": None, "te_name_or_path": None, "use_text_encoder_1": True,
             "use_text_encoder_2": True}),
]  # fmt: skip
NETWORK = [
    row("network.type", "lora.method", rules.kind, "lora"),
    part("network.linear", "lora.rank", rules.sizes, otherwise="all weights train"),
    part("network.rank", "lora.rank", rules.sizes, otherwise="all weights train"),
    part("network.linear_alpha", "lora.alpha", rules.sizes, otherwise="all weights train"),
    part("network.alpha", "lora.alpha", rules.sizes, 1.0, "all weights train"),
    part("network.conv", "lora.conv_rank", rules.sizes, otherwise="the convolutions get no adapter"),
    part("network.conv_alpha", "lora.conv_alpha", rules.sizes, otherwise="the convolutions get no adapter"),
    row("network.dropout", "lora.dropout", _dropout),
    row("network.pretrained_lora_path", "lora.init_from", text),
    part("network.lokr_full_rank", "lora.args.full_matrix", rules.lokr, True, "for LoKr"),
    part("network.lokr_factor", "lora.args.factor", rules.lokr, -1, "for LoKr, whose sides are split by themselves"),
    *needless("of its own files", "network.old_lokr_format"),
    *needless(
        "of other models", "network.transformer_only", "network.split_multistage_loras", "network.layer_offloading"
    ),
    *_absent("not here", "network.", {"lorm": None, "all_layers": False, "network_kwargs": None}),
    row("network.network_kwargs.*", (), lambda v, n: missing("an argument of the network that is not known here")),
    row("network.lorm.*", (), lambda v, n: missing("LoRM is not here")),
]
TRAIN = [
    row("train.steps", "training.steps", whole, 1000),
    row("embedding.trigger", words.KEYS, words.outcome, "custom_embedding"),
    row("embedding.tokens", words.KEYS, words.outcome, 4),
    row("embedding.init_words", words.KEYS, words.outcome, "*"),
    row("embedding.save_format", (), words.form, "safetensors"),
    row("embedding.trigger_class_name", (), words.masked),
    part("train.embedding_lr", "embeddings.lr", words.words, otherwise="there is no embedding"),
    part("train.lr", _RATES, rules.rates, 1e-6),
    part("train.unet_lr", "optimizer.lr", rules.rates, otherwise="it does not train"),
    part("train.text_encoder_lr", "optimizer.text_encoder_lr", rules.rates, otherwise="it does not train"),
    part("train.train_unet", "training.unet", rules.rates, True),
    part("train.train_text_encoder", ("training.text_encoder", _RATES[1]), rules.rates, False),
    row("train.optimizer", "optimizer.name", rules.optimizer, "adamw"),
    row("train.optimizer_params.*", "optimizer.args", rules.argument),
    row("train.lr_scheduler", "schedule.name", rules.schedule, "constant"),
    row("train.lr_scheduler_params.*", "schedule.warmup", rules.schedule_argument),
    *needless("empty", "train.optimizer_params", "train.lr_scheduler_params", "train.ema_config"),
    row("train.batch_size", "datasets[].batch_size", images.batch, 1),
    part("train.gradient_accumulation", "training.gradient_accumulation", rules.accumulation, 1),
    part("train.gradient_accumulation_steps", "training.gradient_accumulation", rules.accumulation, 1),
    row("train.dtype", "training.precision", one_of(rules.PRECISIONS), "fp32"),
    row("train.gradient_checkpointing", "training.gradient_checkpointing", flag, True),
    row("train.max_grad_norm", "training.max_grad_norm", number, 1.0),
    row("train.min_snr_gamma", ("loss.weighting", "loss.gamma"), _gamma),
    row("train.loss_type", "loss.kind", rules.loss, "mse"),
    row("train.content_or_style", "timesteps.distribution", rules.timesteps, "balanced"),
    row("train.min_denoising_steps", "timesteps.max", rules.denoising, 0),
    row("train.max_denoising_steps", "timesteps.min", rules.denoising, 999),
    row("train.noise_scheduler", "model.prediction", rules.scheduler, "ddpm"),
    part("train.noise_offset", "noise.offset.strength", rules.noise, 0.0),
    part("train.optimal_noise_pairing_samples", "noise.oversampling.k", rules.noise, 1),
    part("train.ema_config.use_ema", "ema.decay", rules.average, False),
    part("train.ema_config.ema_decay", "ema.decay", rules.average),
    row("train.reg_weight", "data.prior_loss_weight", number, 1.0),
    row("train.prompt_dropout_prob", "datasets[].subsets[].caption_dropout_rate", images.whole_prompt_dropout, 0.0),
    part("train.diff_output_preservation", _KEPT, preservation.about_the_class, False),
    part("train.diff_output_preservation_class", _KEPT[0], preservation.about_the_class, ""),
    part("train.diff_output_preservation_multiplier", _KEPT[1], preservation.about_the_class, 1.0),
    part("train.blank_prompt_preservation", ("preservation.blank", _KEPT[1]), preservation.blank, False),
    part("train.blank_prompt_preservation_multiplier", _KEPT[1], preservation.blank, 1.0),
    part("train.inverted_mask_prior", "preservation.outside_mask", preservation.outside, False),
    part("train.inverted_mask_prior_multiplier", "preservation.outside_mask", preservation.outside, 0.5),
    *needless("attention always runs through torch's scaled dot product", "train.xformers", "train.sdp",
              "train.attention_backend"),
    *needless("what a step does not need leaves the GPU by itself", "train.unload_text_encoder",
              "train.cache_text_embeddings", "train.single_item_batching"),
    *needless("for flow models", "train.timestep_type", "train.linear_timesteps", "train.linear_timesteps2",
              "train.next_sample_timesteps", "train.bypass_guidance_embedding", "train.switch_boundary_every"),
    *needless("beside another key that is off or told", "train.ema_config.use_feedback", "train.*_scale",
              "train.*_multiplier", "train.*_strength", "train.*_lr",
              "train.*_value", "train.*_factor", "train.*_schedule", "train.*_weight", "train.guidance_loss_target",
              "train.adapter_assist_type", "train.cfg_rescale", "train.max_negative_prompts",
              "train.force_first_sample", "train.train_refiner", "train.free_u", "train.show_turbo_outputs",
              "train.max_loss_debug", "train.unconditional_prompt"),
    *_absent("not here", "train.", {
        "snr_gamma": None, "learnable_snr_gos": False, "weight_jitter": 0.0, "merge_network_on_save": False,
        "start_step": None, "adapter_assist_name_or_path": None, "noise_multiplier": 1.0,
        "target_noise_multiplier": 1.0, "random_noise_multiplier": 0.0, "do_signal_correction_noise": False,
        "do_batch_noise_correction": False, "do_signal_amplification": False, "random_noise_shift": 0.0,
        "img_multiplier": 1.0, "noisy_latent_multiplier": 1.0, "latent_multiplier": 1.0, "negative_prompt": None,
        "num_train_timesteps": 1000, "adaptive_scaling_factor": False, "match_noise_norm": False,
        "short_and_long_captions": False, "short_and_long_captions_encoder_split": False,
        "match_adapter_assist": False, "match_adapter_chance": 0.0, "loss_target": "noise",
        "standardize_images": False, "standardize_latents": False, "dynamic_noise_offset": False, "do_cfg": False,
        "do_random_cfg": False, "cfg_scale": 1.0, "correct_pred_norm": False, "t0_loss_target": False,
        "t0_velocity_equiv_weight": False, "do_fft_loss": False, "do_fft_velocity_equiv_weight": False,
        "pred_scaler": 1.0, "prompt_saturation_chance": 0.0, "do_prior_divergence": False, "target_norm_std": None,
        "do_paramiter_swapping": False, "latent_feature_extractor_path": None,
        "diffusion_feature_extractor_path": None, "force_consistent_noise": False, "blended_blur_noise": False,
        "do_guidance_loss": False, "do_guidance_loss_cfg_zero": False, "do_differential_guidance": False,
        "do_blank_stabilization": False, "max_loss": None, "train_turbo": False,
    }),
    row("train.validation_config.*", (), _measures),
    *needless("validation_config says it", "train.validation_config"),
]  # fmt: skip
IMAGES = [
    *(row(f"datasets.*.{name}", "datasets", images.option) for name in images.TAKEN),
    *needless("of the program itself, or off unless another key is set", *(f"datasets.*.{name}" for name in (
        "num_workers", "prefetch_factor", "cache_latents_num_workers", "cache_text_embeddings", "type", "debug",
        "fast_image_size", "load_image_when_caching_latents", "cache_tensors_to_disk", "cache_clip_vision_to_disk",
        "replay_transforms", "shrink_video_to_frames", "fps", "guidance_type", "random_triggers_max",
        "control_transparent_color", "full_size_control_images", "num_controls_from_same_folder",
        "trim_auto_frame_count_tail", "extra_values", "diff_output_preservation*", "do_audio", "audio_*", "do_i2v",
        "auto_frame_count", "clip_image_*", "poi", "shuffle_augmentations"))),
    *_absent("not here", "datasets.*.", {
        "flip_y": False, "random_scale": False, "scale": 1.0, "prior_reg": False, "network_weight": 1.0,
        "random_triggers": None, "augments": None, "augmentations": None, "control_path": None, "control_path_1": None,
        "control_path_2": None, "control_path_3": None, "control_from_same_folder": False, "controls": None,
        "inpaint_path": None, "unconditional_path": None, "invert_mask": False, "use_short_captions": False,
        "standardize_images": False, "num_frames": 1, "square_crop": False, "replacements": None,
    }),
]  # fmt: skip
SAVING = [
    row("save.dtype", "save.dtype", one_of(rules.PRECISIONS), "float16"),
    row("save.save_every", "save.every", whole, 1000),
    row("save.save_format", "save.full", _form, "safetensors"),
    *absent("all results are kept", "save.max_step_saves_to_keep", harmless=True, default=5),
    *absent("nothing is uploaded here", "save.push_to_hub", "save.hf_repo_id", "save.hf_private", harmless=True),
    *(part(name, ours, rules.samples, default, "there are no prompts") for name, ours, default in _SAMPLES),
    *needless("pictures are drawn with kohya's samplers, as .png files", "sample.sampler", "sample.format",
              "sample.sample_start_step", "sample.num_frames", "sample.fps", "sample.network_multiplier",
              "sample.guidance_rescale", "sample.adapter_conditioning_scale", "sample.refiner_start_at",
              "sample.extra_values", "sample.do_cfg_norm"),
]  # fmt: skip

KEYS = Table(JOB, MODEL, NETWORK, TRAIN, IMAGES, SAVING)
