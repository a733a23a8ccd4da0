"""The table of kohya's sd-scripts: every key of its scripts for SD and SDXL, and older ones that files still hold."""

from __future__ import annotations

from dataclasses import replace

from trainer.config.foreign.keys import (
    Key,
    Table,
    Together,
    absent,
    flag,
    needless,
    number,
    one_of,
    part,
    positive,
    row,
    same,
    text,
    whole,
)
from trainer.config.foreign.outcome import unneeded
from trainer.config.foreign.sd_scripts import anima, data, network, optimizer, rates, saving, steps, training, words
from trainer.config.foreign.sd_scripts.data import option
from trainer.config.foreign.values import Values


def together(*pairs: tuple[str, str], of: Together, otherwise: str = "off") -> list[Key]:
    """Keys with ours of which each means something only beside the others."""
    return [part(name, ours, of, otherwise=otherwise) for name, ours in pairs]


def _longest_caption(values: Values, name: str) -> int | None:
    found = values.whole(name)
    return found if found in (75, 150, 225) else None


MODEL = [
    row("pretrained_model_name_or_path", "model.base", text),
    row("vae", "model.vae", text),
    row("v_parameterization", "model.prediction", training.prediction, False),
    row("zero_terminal_snr", "model.zero_terminal_snr", training.zero_snr, False),
    row("clip_skip", "model.clip_skip", whole),
    row("max_token_length", "model.max_tokens", _longest_caption),
    row("weighted_captions", "model.weighted_captions", flag, False),
    *needless("the family is recognised from the base's files", "v2", "sdxl"),
    *needless("the tokenizer is found beside the base or in the hub's cache", "tokenizer_cache_dir"),
    row("no_half_vae", "model.vae_precision", training.whole_vae),
    *needless("files are read piece by piece here", "disable_mmap_load_safetensors"),
]
RATES = [
    row("learning_rate", "optimizer.lr", rates.usual, 2e-6),
    part("unet_lr", ("optimizer.lr", "training.unet"), rates.ours),
    part(
        "text_encoder_lr",
        ("training.text_encoder", "optimizer.text_encoder_lr"),
        rates.ours,
    ),
    part("network_train_unet_only", ("training.text_encoder", "optimizer.text_encoder_lr"), rates.ours, False),
    part("network_train_text_encoder_only", "training.unet", rates.ours, False),
    part("train_text_encoder", ("training.text_encoder", "optimizer.text_encoder_lr"), rates.ours, False),
    part("learning_rate_te", ("training.text_encoder", "optimizer.text_encoder_lr"), rates.ours),
    *(
        part(f"learning_rate_te{n}", (own, "training.text_encoder", "optimizer.text_encoder_lr"), rates.ours)
        for n, own in ((1, "optimizer.rates.text_encoder"), (2, "optimizer.rates.text_encoder_2"))
    ),
    part("stop_text_encoder_training", ("training.text_encoder_until", "training.text_encoder"), rates.ours),
    row("block_lr", "optimizer.rates", network.of_network),
]
OPTIMIZER = [
    row("optimizer_type", "optimizer.name", optimizer.optimizer, "AdamW"),
    row("use_8bit_adam", "optimizer.name", optimizer.older_flag, False),
    row("use_lion_optimizer", "optimizer.name", optimizer.older_flag, False),
    row("optimizer_args.*", "optimizer.args", optimizer.argument),
    row("max_grad_norm", "training.max_grad_norm", training.clipping, 1.0),
    row("fused_backward_pass", "training.fused_backward", training.fused, False),
    row("fused_optimizer_groups", "training.fused_backward", training.fused),
]
STEPS = [
    part("max_train_steps", "training.steps", steps.length, 1600, "max_train_epochs comes first"),
    part("max_train_epochs", "training.epochs", steps.length),
    row("lr_scheduler", "schedule.name", steps.scheduler, "constant"),
    row("lr_scheduler_type", "schedule.name", steps.scheduler),
    *(
        part(name, ours, steps.shape, default, "this lr_scheduler does not use it")
        for name, ours, default in (
            ("lr_warmup_steps", "schedule.warmup", 0),
            ("lr_decay_steps", "schedule.decay", 0),
            ("lr_scheduler_num_cycles", "schedule.cycles", 1),
            ("lr_scheduler_power", "schedule.power", 1),
            ("lr_scheduler_min_lr_ratio", "schedule.minimum", None),
        )
    ),
    *needless("the same as the warm-up, or this lr_scheduler does not use it", "lr_scheduler_timescale"),
    row("lr_scheduler_args.*", "schedule.pieces", steps.argument),
    row("seed", "run.seed", whole),
    row("gradient_accumulation_steps", "training.gradient_accumulation", whole, 1),
    row("train_batch_size", "general.batch_size", whole, 1),
]
MEMORY = [
    row("mixed_precision", "training.precision", one_of(training.PRECISIONS), "no"),
    row("gradient_checkpointing", "training.gradient_checkpointing", flag, False),
    row("full_fp16", "training.weight_dtype", training.whole_precision, False),
    row("full_bf16", "training.weight_dtype", training.whole_precision, False),
    row("fp8_base", "training.base_precision", training.small_base, False),
    row("fp8_base_unet", "training.base_precision", training.small_base, False),
    row("torch_compile", "performance.compile", flag, False),
    *needless("attention always runs through torch's scaled dot product", "xformers", "sdpa", "mem_eff_attn",
              "diffusers_xformers", "split_attn", "attn_mode"),
    *needless("what a step does not need leaves the GPU by itself", "lowram", "highvram", "lowvram", "medvram"),
    *needless("torch.compile's own compiler is used", "dynamo_backend"),
    *needless("activations are recomputed, not moved to the host's memory", "cpu_offload_checkpointing"),
    *needless("images are encoded one by one", "vae_batch_size"),
    *needless("a few threads make the batches; data.workers says how many", "max_data_loader_n_workers",
              "persistent_data_loader_workers"),
    *needless("see docs/multi-gpu.md: the same command is started by accelerate launch", "ddp_timeout",
              "ddp_gradient_as_bucket_view", "ddp_static_graph", "deepspeed", "zero_stage", "offload_optimizer_device",
              "offload_optimizer_nvme_path", "offload_param_device", "offload_param_nvme_path", "zero3_init_flag",
              "zero3_save_16bit_model", "fp16_master_weights_and_gradients"),
]  # fmt: skip
NETWORK = [
    row("network_module", "lora.method", network.module),
    row("network_dim", "lora.rank", network.dimension),
    part("network_alpha", ("lora.alpha",), network.sizes, 1.0),
    row("network_dropout", "lora.dropout", network.dropout),
    row("network_weights", "lora.init_from", text),
    row("dim_from_weights", (), training.weights_file, False),
    row("scale_weight_norms", "lora.max_norm", network.longest),
    row("network_args.conv_dim", "lora.conv_rank", network.dimension),
    part("network_args.conv_alpha", "lora.conv_alpha", network.sizes, otherwise="the convolutions get no adapter"),
    row("network_args.dropout", "lora.dropout", network.dropout),
    row("network_args.rank_dropout", "lora.rank_dropout", positive),
    row("network_args.module_dropout", "lora.module_dropout", positive),
    *(
        row(f"network_args.{name}", ("lora.ranks", "optimizer.rates"), network.blockwise)
        for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight",
                     "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")
    ),
    *(
        row(f"network_args.{name}", "optimizer.lora_plus", network.plus_ratio)
        for name in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
    ),
    *(row(f"network_args.{name}", "lora.method", network.module) for name in ("algo", "dora_wd", "preset")),
    *(row(f"network_args.{name}", (), network.tucker) for name in ("use_tucker", "use_cp", "use_conv_cp")),
    *needless("without effect in LyCORIS", "network_args.disable_conv_cp"),
    *needless("another way to the same numbers", "network_args.bypass_mode"),
    *needless("as DoRA is here: a length for each row", "network_args.wd_on_output"),
    *(
        row(f"network_args.{name}", (), network.only_for("lokr", why, neutral=("-1",)))
        for name, why in (("unbalanced_factorization", "LoKr is always balanced here"),)
    ),
    *(
        part(f"network_args.{name}", f"lora.args.{name}", network.lokr, otherwise="off, or only read with algo=lokr")
        for name in network.OF_LOKR
    ),
    *(
        row(f"network_args.{name}", (), network.only_for("", why))
        for name, why in (
            ("use_scalar", "adapters have no scalar of their own here"),
            ("train_norm", "norms do not train with a LoRA here"),
            ("rank_dropout_scale", "what is left is not scaled up after rank_dropout here"),
            ("train_t5xxl", "there is no T5 in SD or SDXL"),
        )
    ),
    part("network_args.rs_lora", ("lora.alpha", "lora.conv_alpha"), network.sizes),
    *(
        row(f"network_args.{name}", (), network.only_for(algorithm, f"the algorithm {algorithm} is not here"))
        for name, algorithm in (("block_size", "dylora"), ("unit", "dylora"), ("constraint", "diag-oft"),
                                ("constrain", "diag-oft"), ("rescaled", "diag-oft"), ("train_on_input", "ia3"))
    ),
    row("network_args.*", (), network.unknown_argument),
    *absent("merge the LoRAs into the base first: python launch.py merge BASE LORA -o merged.safetensors",
            "base_weights", "base_weights_multiplier"),
]  # fmt: skip
NOISE = together(
    ("noise_offset", "noise.offset.strength"),
    ("noise_offset_random_strength", "noise.offset.random_strength"),
    ("adaptive_noise_scale", "noise.offset.adaptive"),
    ("multires_noise_iterations", "noise.pyramid.iterations"),
    ("multires_noise_discount", "noise.pyramid.discount"),
    ("ip_noise_gamma", "noise.perturbation.gamma"),
    ("ip_noise_gamma_random_strength", "noise.perturbation.random_strength"),
    of=training.noise,
)
LOSS = [
    row("loss_type", "loss.kind", text, "l2"),
    row("huber_schedule", "loss.huber_schedule", text, "snr"),
    row("huber_c", "loss.huber_c", number, 0.1),
    row("huber_scale", "loss.huber_scale", number, 1.0),
    row("min_snr_gamma", ("loss.weighting", "loss.gamma"), training.weighting),
    row("debiased_estimation_loss", "loss.weighting", training.weighting, False),
    row("scale_v_pred_loss_like_noise_pred", "loss.scale_v_like_noise", flag, False),
    row("v_pred_like_loss", "loss.v_like", positive),
    row("min_timestep", "timesteps.min", whole),
    row("max_timestep", "timesteps.max", whole),
    row("prior_loss_weight", "data.prior_loss_weight", number, 1.0),
    *needless("a mask counts wherever there is one", "masked_loss"),
]
IMAGES = [
    row(data.DATASET_FILE, ("data.config", "datasets"), data.dataset_file),
    row("train_data_dir", "data.train_data_dir", data.where),
    row("reg_data_dir", "data.reg_data_dir", data.where),
    row("in_json", "datasets[].subsets[].metadata_file", data.where),
    row("alpha_mask", "datasets[].subsets[].alpha_mask", data.alpha_mask, False),
    *needless("masks are named in a folder's table: conditioning_data_dir there", "conditioning_data_dir"),
    part("cache_latents", ("data.cache_latents", "data.latent_sampling"), data.cache, False),
    part("cache_latents_to_disk", ("data.cache_to_disk",), data.cache, False),
    *needless("captions are encoded once wherever the text encoder does not train", "cache_text_encoder_outputs"),
    part("cache_text_encoder_outputs_to_disk", ("data.cache_to_disk",), data.cache, False),
    *needless("the cache knows what fits by its content", "skip_cache_check", "cache_info"),
    *absent("a class of your own for images", "dataset_class"),
    *absent("shows images and trains nothing; here that is: python launch.py check", "debug_dataset"),
    *absent("tokens are always padded here", "no_token_padding"),
    option("resolution", data.size),
    option("enable_bucket", flag, False),
    option("min_bucket_reso", whole, 256),
    option("max_bucket_reso", whole, 1024),
    option("bucket_reso_steps", data.step, 64),
    option("bucket_no_upscale", flag, False),
    option("resize_interpolation", text),
    option("dataset_repeats", whole, 1, "num_repeats"),
    option("shuffle_caption", flag, False),
    option("caption_separator", text, ","),
    option("caption_extension", data.extension, ".caption"),
    option("caption_extention", data.extension, None, "caption_extension"),
    option("keep_tokens", whole, 0),
    option("keep_tokens_separator", text),
    option("secondary_separator", text),
    option("enable_wildcard", flag, False),
    option("caption_prefix", text),
    option("caption_suffix", text),
    option("caption_dropout_rate", number, 0.0),
    option("caption_dropout_every_n_epochs", whole, 0),
    option("caption_tag_dropout_rate", number, 0.0),
    option("token_warmup_min", whole, 1),
    option("token_warmup_step", number, 0.0),
    option("color_aug", flag, False),
    option("flip_aug", flag, False),
    option("random_crop", flag, False),
    option("face_crop_aug_range", data.faces),
]
PROMPTS = [
    row("prompts_file", "slider.prompts_file", text),
    row("max_denoising_steps", "slider.denoising_steps", whole, 40),
    row("leco_denoise_guidance_scale", "slider.denoising_guidance", number, 3.0),
]
SAVING = [
    row("output_name", "run.name", saving.name),
    row("output_dir", "run.output_dir", text),
    row("save_precision", "save.dtype", one_of({"float": "fp32"}), "float"),
    row("save_model_as", "save.full", saving.form),
    *needless("always so", "use_safetensors"),
    *(
        row(name, "save.every", saving.interval)
        for name in ("save_every_n_epochs", "save_every_n_steps", "save_n_epoch_ratio")
    ),
    *needless("what is needed to resume is always saved; save.keep says how many times", "save_state",
              "save_state_on_train_end", "save_last_n_epochs_state", "save_last_n_steps_state"),
    *absent("all results are kept", "save_last_n_epochs", "save_last_n_steps", harmless=True),
    *absent("its states cannot be continued here; go on from the LoRA file: network_weights", "resume",
            "resume_from_huggingface", "initial_epoch", "initial_step", "skip_until_initial_step"),
    row("training_comment", "save.comment", text),
    *absent("not among the file's metadata here", "metadata_title", "metadata_author", "metadata_description",
            "metadata_license", "metadata_tags", "metadata_usage_hint", "metadata_thumbnail", "metadata_merged_from",
            "metadata_trigger_phrase", "metadata_preprocessor", "metadata_is_negative_embedding", "no_metadata",
            harmless=True),
    *absent("nothing is uploaded here", "huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo",
            "huggingface_token", "huggingface_repo_visibility", "save_state_to_huggingface", "async_upload",
            harmless=True),
    row("sample_prompts", "samples.prompts", same),
    *(row(name, "samples.every", saving.interval) for name in ("sample_every_n_epochs", "sample_every_n_steps")),
    row("sample_at_first", "samples.at_start", flag, False),
    row("sample_sampler", "samples.sampler", text, "ddim"),
    *together(
        ("validation_split", "validation.split"),
        ("validation_seed", "validation.seed"),
        ("validate_every_n_steps", "validation.every"),
        ("validate_every_n_epochs", "validation.every"),
        ("max_validation_steps", "validation.images"),
        of=saving.validation,
        otherwise="nothing is held out",
    ),
    row("log_with", ("logging.tensorboard", "logging.wandb"), saving.log_with),
    *needless("logs lie in the run's folder", "logging_dir", "log_prefix", "log_config", "console_log_level",
              "console_log_file", "console_log_simple", "output_config"),
    row("log_tracker_name", "logging.wandb_project", text),
    *absent("the run is called by run.name there too", "wandb_run_name", "log_tracker_config", harmless=True),
    *needless("log in with: wandb login", "wandb_api_key"),
]  # fmt: skip
OTHERS = [
    *needless("empty", "network_args", "optimizer_args", "lr_scheduler_args"),
    *needless("sd-scripts does not read it; a GUI notes it there", "epoch", "noise_offset_type", "lr_restart_cycles",
              "model_train_type", "train_inpainting"),
    *absent("there is no Perlin noise here; noise.pyramid is near to it", "perlin_noise"),
]  # fmt: skip

WORDS = [
    part("token_string", words.KEYS, words.word),
    row("init_word", "embeddings.words", words.first),
    part("num_vectors_per_token", "embeddings.vectors", words.word, 1),
    *(row(f"use_{kind}_template", "general.caption_prefix", words.template, False) for kind in ("object", "style")),
    *absent("words begin as words of the vocabulary here, or as in lora.init_from", "weights"),
]

LORA = ("train_network.py", "sdxl_train_network.py", anima.SCRIPTS[0])
LECO = ("train_leco.py", "sdxl_train_leco.py")
INVERSION = ("train_textual_inversion.py", "sdxl_train_textual_inversion.py")
WITH_IMAGES = (*LORA, "train_db.py", "fine_tune.py", "sdxl_train.py", *INVERSION, anima.SCRIPTS[1])
SCRIPTS = (*WITH_IMAGES, *LECO)
# Keys that only some of its scripts have.
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*(key.name for key in IMAGES), "train_batch_size", "text_encoder_lr"), WITH_IMAGES),
    **dict.fromkeys((key.name for key in PROMPTS), LECO),
    **dict.fromkeys(
        (*(key.name for key in NETWORK), "unet_lr", "network_train_unet_only", "network_train_text_encoder_only",
         "training_comment", "no_metadata"),
        (*LORA, *LECO),
    ),
    **dict.fromkeys(
        ("text_encoder_lr", "fp8_base_unet", "initial_epoch",
         "initial_step", "skip_until_initial_step", "validation_split", "validation_seed", "validate_every_n_steps",
         "validate_every_n_epochs", "max_validation_steps"),
        LORA,
    ),
    **dict.fromkeys(("train_text_encoder", "diffusers_xformers"), ("fine_tune.py", "sdxl_train.py")),
    **dict.fromkeys(
        ("learning_rate_te1", "learning_rate_te2", "block_lr", "fused_optimizer_groups"), ("sdxl_train.py",)
    ),
    **dict.fromkeys(("no_token_padding", "stop_text_encoder_training"), ("train_db.py",)),
    **dict.fromkeys(
        ("reg_data_dir", "prior_loss_weight"),
        (*LORA, "train_db.py", "sdxl_train.py", *INVERSION, anima.SCRIPTS[1]),
    ),
    **dict.fromkeys(
        ("in_json", "dataset_repeats"), (*LORA, "fine_tune.py", "sdxl_train.py", *INVERSION, anima.SCRIPTS[1])
    ),
    "learning_rate_te": ("fine_tune.py", "train_db.py"),
    **dict.fromkeys((key.name for key in WORDS), INVERSION),
    **dict.fromkeys((key.name for key in anima.KEYS), anima.SCRIPTS),
}  # fmt: skip


def _read_by(key: Key) -> Key:
    """The key, without effect for the scripts that do not have it."""
    scripts = [name for name in READ_BY.get(key.name, SCRIPTS) if not anima.passes_over(name, key.name)]

    def how(values: Values, name: str) -> object:
        script = values.context.script
        return key.how(values, name) if script in scripts else unneeded(f"{script} does not read it")

    return replace(key, how=how) if len(scripts) < len(SCRIPTS) else key


_SECTIONS = (
    MODEL, anima.KEYS, RATES, OPTIMIZER, STEPS, MEMORY, NETWORK, WORDS, NOISE, LOSS, IMAGES, PROMPTS, SAVING, OTHERS
)  # fmt: skip
KEYS = Table(_read_by(key) for section in _SECTIONS for key in section)
SECRETS = ("huggingface_token", "wandb_api_key")
