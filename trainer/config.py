"""The TOML schema: every key with its type, bounds, default and help text.

The only source of the UI form and the JSON schema.

A dataset option may stand in a subset, its dataset or [general]; the nearest one wins (kohya's rule). The models below
carry the real defaults, and `model_fields_set` tells what was written, so that the lookup in `effective` needs no None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from trainer import registry
from trainer.run.intervals import Interval


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and no value is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def key(
    default: Any,
    help: str,
    *,
    kohya: tuple[str, ...] = (),
    basic: bool = False,
    unit: str = "",
    path: bool = False,
    **bounds: Any,
) -> Any:
    """A config key. `kohya`: its names in other trainers, for "did you mean"; `basic`: shown first in the UI;
    `path`: relative to the file it stands in, made absolute when it is read."""
    extra: dict[str, Any] = {"kohya": list(kohya), "basic": basic, "unit": unit, "path": path}
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=help, json_schema_extra=extra, **bounds)
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def extra(field: FieldInfo) -> dict[str, Any]:
    """What `key` was told about a field beyond pydantic's own."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Size = Annotated[tuple[int, int], BeforeValidator(_to_tuple)]
FloatPair = Annotated[tuple[float, float], BeforeValidator(_to_tuple)]
TagWeight = Annotated[float, Field(ge=0, le=1)]


def _level(value: Any) -> Any:
    return {True: "full", False: "off"}.get(value, value) if isinstance(value, bool) else value


Checkpointing = Annotated[Literal["off", "selective", "full", "auto"], BeforeValidator(_level)]


def _interval(value: int | str) -> int | str:
    Interval.parse(value)
    return value


Every = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_interval)]  # read by trainer.run.intervals
Sampler = Literal[
    "ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "dpmsolver", "dpmsolver++", "dpmsingle",
    "k_lms", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a",
]  # fmt: skip


class Run(Section):
    name: str = key("", "Name of the run: results go to <output_dir>/<name>/.", basic=True, kohya=("output_name",))
    output_dir: str = key("output", "Folder that holds all runs.", path=True, kohya=("output_path",))
    seed: int = key(42, "Seed of every random stream of the run.", ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", "Where to train; auto takes the GPU if there is one.")
    deterministic: bool = key(
        False,
        "On a GPU, only algorithms that give the same bits every time: a resumed run then equals an uninterrupted one "
        "exactly, and steps are somewhat slower. On a CPU it is so anyway.",
    )


class Model(Section):
    base: str = key(
        "",
        "The checkpoint to train: a single file, a diffusers folder or a hub id.",
        basic=True,
        path=True,
        kohya=("pretrained_model_name_or_path", "base_model_name"),
    )
    family: str = key("auto", "Architecture; auto recognises it from the files.", kohya=("v2", "sdxl", "model_type"))
    prediction: str = key("auto", "What the model predicts; auto asks the base.", kohya=("v_parameterization",))
    zero_terminal_snr: Literal["auto", "on", "off"] = key(
        "auto",
        "on: rescale the noise schedule so that its last timestep is pure noise; auto asks the base.",
        kohya=("rescale_noise_scheduler_to_zero_terminal_snr", "force_zero_terminal_snr"),
    )
    init: Literal["pretrained", "random"] = key(
        "pretrained",
        "random: take only the architecture of a diffusers folder and start its UNet and text encoder anew.",
    )
    vae: str = key("", "Another VAE than the base's: a file or a diffusers folder.", path=True)
    clip_skip: int = key(
        0,
        "The text encoder's layer that is used, counted from the end; 0 and 1 = the last. SDXL ignores it.",
        ge=0,
        le=32,
    )
    max_tokens: Literal[75, 150, 225] = key(
        75, "Longest caption in tokens; the rest is cut off.", kohya=("max_token_length",)
    )
    weighted_captions: bool = key(
        False, "Read (word:1.3) and [word] in captions as weights, as A1111 does, instead of as text."
    )
    tokenizer: str = key("", "A folder with the tokenizer; empty looks beside the base, then elsewhere.", path=True)


class Training(Section):
    method: Literal["lora", "full"] = key(
        "lora", "lora trains small adapters, full the weights themselves.", basic=True
    )
    steps: int = key(
        1600, "Optimizer steps. Excludes epochs.", ge=1, basic=True, kohya=("max_train_steps", "num_steps")
    )
    epochs: int = key(
        0, "Times every image (with its repeats) is seen; 0 = count steps instead.", ge=0, kohya=("max_train_epochs",)
    )
    text_encoder: bool = key(
        False, "Train the text encoder too.", kohya=("network_train_unet_only", "train_text_encoder")
    )
    unet: bool = key(True, "Train the UNet.", kohya=("network_train_text_encoder_only", "train_unet"))
    text_encoder_until: float = key(
        0,
        "The text encoder stops learning after so many steps; below 1 a share of the run; 0 = never.",
        ge=0,
        unit="steps",
        kohya=("stop_text_encoder_training", "stop_training_after"),
    )
    precision: Literal["fp32", "bf16", "fp16"] = key(
        "fp32",
        "Arithmetic of the networks, and the storage of their frozen weights. What trains is always kept in float32.",
        kohya=("mixed_precision",),
    )
    weight_dtype: Literal["fp32", "bf16"] = key(
        "fp32",
        "Storage of the weights that a full fine-tune changes. bf16 halves the memory of weights and gradients; "
        "updates are rounded to it at random, so that small ones are kept on the average. Costs time and accuracy.",
        kohya=("full_bf16", "stochastic_rounding"),
    )
    fused_backward: bool = key(
        False,
        "Full fine-tune: each weight is updated as soon as its gradient is known, which is freed at once. Saves the "
        "memory of all gradients and costs time; no accumulation, no clipping by norm.",
        kohya=("fused_backward_pass", "fused_optimizer_groups"),
    )
    base_precision: Literal["same", "8bit", "4bit"] = key(
        "same",
        "Storage of the frozen linear layers under a LoRA. 8bit and 4bit (NF4) save memory and cost time and accuracy.",
        kohya=("fp8_base", "fp8_base_unet", "quantize"),
    )
    gradient_accumulation: int = key(
        1, "Micro-batches per optimizer step.", ge=1, kohya=("gradient_accumulation_steps",)
    )
    gradient_checkpointing: Checkpointing = key(
        "off",
        "Compute activations a second time instead of keeping them. full saves most memory, steps take about a third "
        "longer; selective is about half of both; auto tries them on the GPU and takes the quickest that fits. true is "
        "full, false is off.",
    )
    max_grad_norm: float = key(1.0, "Gradients are clipped to this norm; 0 = never.", ge=0, kohya=("clip_grad_norm",))
    max_grad_value: float = key(
        0.0,
        "Each number of a gradient is clipped to this size instead, which bends the gradient's direction; 0 = never.",
        ge=0,
        kohya=("clip_grad_value",),
    )
    preflight: bool = key(
        True, "Try one step with the largest batch first: tells memory and time, and fails before the work begins."
    )


class Lora(Section):
    rank: int = key(
        16, "Rank of linear layers and 1x1 convolutions.", ge=1, le=4096, basic=True, kohya=("network_dim", "lora_rank")
    )
    alpha: float = key(16.0, "The adapter is scaled by alpha / rank.", gt=0, kohya=("network_alpha", "lora_alpha"))
    conv_rank: int = key(
        0, "Rank of 3x3 convolutions in the ResNets (LoCon); 0 = none.", ge=0, le=4096, kohya=("conv_dim",)
    )
    conv_alpha: float = key(1.0, "alpha of the 3x3 convolutions.", gt=0)
    dropout: float = key(
        0.0, "Share of an adapter's inputs dropped in training.", ge=0, lt=1, kohya=("network_dropout",)
    )
    max_norm: float = key(
        0.0,
        "After each step adapters whose change of a layer is longer than this are shrunk to it, against burnt "
        "pictures; 0 = never, 1 is usual.",
        ge=0,
        kohya=("scale_weight_norms",),
    )
    rank_dropout: float = key(0.0, "Share of an adapter's ranks dropped in training, sample by sample.", ge=0, lt=1)
    module_dropout: float = key(0.0, "Share of steps in which an adapter is left out as a whole.", ge=0, lt=1)
    method: Literal["lora", "dora", "loha", "lokr"] = key(
        "lora",
        "The kind of adapter: dora also learns the length of each row, loha and lokr (LyCORIS) put more into fewer "
        "numbers. Not every program reads the last three.",
        kohya=("network_module", "algo"),
    )
    ranks: dict[str, Annotated[int, Field(ge=0, le=4096)]] = key(
        {},
        'Other ranks for blocks by the beginning of their names, e.g. {"unet.down_blocks" = 8}; 0 = no adapter. '
        "alpha / rank stays.",
        kohya=("block_dims", "conv_block_dims"),
    )
    init_from: str = key(
        "",
        "A LoRA file to go on from, of the same rank: ours, kohya's, diffusers' or peft's.",
        path=True,
        kohya=("network_weights",),
    )


class Optimizer(Section):
    name: str = key(
        "adamw",
        "adamw, adamw8bit, prodigy, lion, adafactor, ...: a class of torch.optim, bitsandbytes or pytorch-optimizer, "
        "or module.Class.",
        kohya=("optimizer_type", "optimizer"),
    )
    lr: float = key(1e-4, "Learning rate; 1 for prodigy.", gt=0, le=100, basic=True, kohya=("learning_rate", "unet_lr"))
    text_encoder_lr: float = key(0.0, "Learning rate of the text encoder; 0 = the same.", ge=0, le=100)
    rates: dict[str, Annotated[float, Field(ge=0, le=100)]] = key(
        {},
        'Learning rates of blocks by the beginning of their names, e.g. {"unet.down_blocks" = 5e-5}; 0 = frozen.',
        kohya=("block_lr", "down_lr_weight", "mid_lr_weight", "up_lr_weight"),
    )
    windows: dict[str, FloatPair] = key(
        {},
        'When blocks learn, by the beginning of their names: from and until a step, e.g. {"text_encoder" = [0, 500], '
        '"unet.mid_block" = [0.2, 0]}; below 1 a share of the run, until 0 = to the end. Else they stay as they are.',
        kohya=("freeze_until", "stop_training_after"),
    )
    lora_plus: float = key(
        1.0, "LoRA+: the up matrices learn this many times as fast.", gt=0, le=1000, kohya=("loraplus_lr_ratio",)
    )
    args: dict[str, Any] = key({}, "Arguments of the optimizer's constructor.", kohya=("optimizer_args",))


class Schedule(Section):
    name: Literal[
        "constant",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "rex",
        "warmup_stable_decay",
        "piecewise_constant",
    ] = key(
        "constant", "How the learning rate moves after the warm-up.", kohya=("lr_scheduler", "learning_rate_scheduler")
    )
    warmup: float = key(
        0,
        "Steps of rising learning rate; below 1 a share of all steps.",
        ge=0,
        kohya=("lr_warmup_steps",),
        unit="steps",
    )
    cycles: float = key(
        1, "cosine_with_restarts: how often it falls.", ge=1, le=1000, kohya=("lr_scheduler_num_cycles",)
    )
    power: float = key(1, "polynomial: the exponent.", gt=0, kohya=("lr_scheduler_power",))
    minimum: float = key(
        0.0, "Share of the learning rate that is never undercut.", ge=0, le=1, kohya=("lr_scheduler_min_lr_ratio",)
    )
    pieces: list[FloatPair] = key(
        [],
        "piecewise_constant: until which share of the run each factor of the learning rate holds, e.g. "
        "[[0.5, 1.0], [1.0, 0.1]].",
        kohya=("step_rules",),
    )
    decay: float = key(
        0.2, "warmup_stable_decay: share of the run in which it falls.", gt=0, le=1, kohya=("lr_decay_steps",)
    )


class Ema(Section):
    decay: float = key(
        0.0,
        "An exponential moving average of the trained weights is saved, sampled and measured instead of them; 0 = off, "
        "0.999 is usual.",
        ge=0,
        lt=1,
        kohya=("ema_decay", "use_ema"),
    )
    every: int = key(1, "Steps between updates of the average.", ge=1, unit="steps")
    device: Literal["auto", "cpu"] = key("auto", "cpu: the average lies in the host's memory.")


class Timesteps(Section):
    min: int = key(0, "Lowest timestep that is trained.", ge=0, lt=1000, kohya=("min_timestep",))
    max: int = key(1000, "Timesteps below this one are trained.", gt=0, le=1000, kohya=("max_timestep",))
    distribution: Literal["uniform", "logit_normal", "sigmoid", "beta", "weights"] = key(
        "uniform",
        "How often each timestep is drawn. sigmoid is logit_normal with mean 0.",
        kohya=("timestep_distribution", "timestep_sampling", "weighting_scheme"),
    )
    mean: float = key(0.0, "logit_normal: the centre; above 0 noisier.", kohya=("logit_mean", "noising_bias"))
    std: float = key(1.0, "logit_normal and sigmoid: the width.", gt=0, kohya=("logit_std", "sigmoid_scale"))
    alpha: float = key(1.0, "beta: first parameter; larger is noisier.", gt=0)
    beta: float = key(1.0, "beta: second parameter; larger is cleaner.", gt=0)
    weights: list[Annotated[float, Field(ge=0)]] = key(
        [], "weights: relative frequency of equal slices of the range, clean to noisy, e.g. [1, 2, 1]."
    )
    shift: float = key(
        1.0,
        "Moves all draws towards noise (above 1) or image (below 1).",
        gt=0,
        kohya=("timestep_shift", "discrete_flow_shift"),
    )
    stratified: bool = key(False, "One draw in each of batch_size equal slices: less variance from step to step.")


class Loss(Section):
    kind: Literal["l2", "l1", "huber", "smooth_l1"] = key("l2", "Error of each latent cell.", kohya=("loss_type",))
    huber_c: float = key(0.1, "huber and smooth_l1: where the error turns linear.", gt=0)
    huber_scale: float = key(1.0, "Factor of huber_c (not for the snr schedule).", gt=0)
    huber_schedule: Literal["constant", "exponential", "snr"] = key("snr", "How huber_c depends on the timestep.")
    weighting: Literal["none", "min_snr", "soft_min_snr", "debiased", "p2"] = key(
        "none",
        "Weight of each timestep in the loss.",
        kohya=("min_snr_gamma", "debiased_estimation_loss", "loss_weight_fn", "snr_gamma"),
    )
    gamma: float = key(
        5.0, "Strength of min_snr, soft_min_snr (about 5) or p2 (about 1).", gt=0, kohya=("loss_weight_strength",)
    )
    scale_v_like_noise: bool = key(
        False, "v-prediction: weights as if the noise were predicted.", kohya=("scale_v_pred_loss_like_noise_pred",)
    )
    v_like: float = key(0.0, "epsilon: adds this much of v-prediction's weighting.", ge=0, kohya=("v_pred_like_loss",))


class Noise(Section):
    """One key per noise plugin; see `Config`, where the plugins' settings are added."""

    def stages(self) -> dict[str, BaseModel]:
        """The settings of every stage that is on, by plugin name."""
        found = {name: getattr(self, name, None) for name in registry.names("noise")}
        return {n: s for n, s in found.items() if s is not None and registry.find("noise", n).active(s)}


class Samples(Section):
    prompts: list[str] | str = key(
        [],
        "Prompts that are drawn during training, or a prompt file (.txt, .toml, .json). A prompt may end in kohya's "
        "flags: --n negative --w width --h height --d seed --s steps --l guidance --ss sampler.",
        kohya=("sample_prompts",),
        path=True,
    )
    negative: str = key("", "Negative prompt of all samples.")
    every: Every = key(
        0,
        "How often samples are drawn: steps, or a text such as '15m' or '1 epoch'; 0 = only at the end.",
        kohya=("sample_every_n_steps", "sample_every_n_epochs"),
        unit="steps",
    )
    at_start: bool = key(False, "Draw the samples before the first step too.", kohya=("sample_at_first",))
    sampler: Sampler = key("ddim", "Sampler, by kohya's names.", kohya=("sample_sampler",))
    steps: int = key(30, "Sampling steps.", ge=1, le=1000)
    guidance: float = key(7.5, "Classifier-free guidance scale.", ge=0)
    width: int = key(512, "Width in pixels.", ge=8)
    height: int = key(512, "Height in pixels.", ge=8)
    seed: int = key(1, "Seed of the first prompt; each next prompt adds one.", ge=0, lt=2**63)


class Save(Section):
    every: Every = key(
        0,
        "How often results are saved: steps, or a text such as '15m' or '1 epoch'; 0 = only at the end.",
        kohya=("save_every_n_steps", "save_every_n_epochs"),
        unit="steps",
    )
    dtype: Literal["fp32", "fp16", "bf16"] = key("fp16", "Storage of saved weights.", kohya=("save_precision",))
    full: Literal["folder", "file", "both"] = key(
        "folder",
        "A full fine-tune's result: a diffusers folder, one file as ComfyUI and A1111 load it, or both.",
        kohya=("save_model_as",),
    )
    keep: int = key(
        2, "Checkpoints that are kept to resume from, the newest ones.", ge=1, kohya=("save_last_n_steps_state",)
    )
    keep_every: int = key(
        0, "Checkpoints whose step is a multiple of this are kept for good; 0 = none of them.", ge=0, unit="steps"
    )
    comment: str = key("", "Free text for the file's metadata.", kohya=("training_comment",))


class Logging(Section):
    every: int = key(1, "Steps between metrics; each costs one synchronisation.", ge=1, unit="steps")
    tensorboard: bool = key(True, "Write TensorBoard files into the run's folder.", kohya=("log_with", "logging_dir"))
    wandb: bool = key(False, "Log to Weights & Biases too; needs the package wandb and a login.", kohya=("log_with",))
    wandb_project: str = key("immiscible", "Project at Weights & Biases.", kohya=("log_tracker_name",))


class Data(Section):
    skip_broken: bool = key(False, "Go on without images that cannot be read, and list them, instead of stopping.")
    cache_latents: bool = key(True, "Encode every image once and keep the latents.")
    cache_text: bool = key(True, "Encode every caption once, where the text encoder does not train.")
    config: str = key(
        "",
        "A dataset file of kohya's form: its [general] and [[datasets]].",
        path=True,
        kohya=("dataset_config",),
    )
    train_data_dir: str = key("", "A folder of folders such as '10_ohwx man': repeats, then the class.", path=True)
    reg_data_dir: str = key("", "The same for regularisation images.", path=True)
    latent_sampling: Literal["mean", "once", "fresh"] = key(
        "mean", "Cached latents: the VAE's mean, one sample of its posterior, or a fresh sample each time."
    )
    cache_to_disk: bool = key(
        False, "Keep latents and text on the disk, for other runs too.", kohya=("cache_latents_to_disk",)
    )
    cache_dir: str = key("cache", "Folder of the disk cache.", path=True, kohya=("cache_directory",))
    cache_dtype: Literal["fp32", "fp16", "bf16"] = key("fp32", "Storage of latents on the disk.")
    kohya_latents: Literal["", "_sd.npz", "_sdxl.npz"] = key(
        "", "With cache_to_disk: take over kohya's latents that fit, in files that end so. Their VAE cannot be known."
    )
    workers: int = key(
        2,
        "Threads that make the next batches while a step runs; 0 = none.",
        ge=0,
        le=64,
        kohya=("max_data_loader_n_workers",),
    )
    background: str = key("white", "Colour behind transparent images: a name or #rrggbb.")
    prior_loss_weight: float = key(1.0, "Weight of regularisation images in the loss.", ge=0, le=1000)


class SubsetOptions(Section):
    """kohya's options that may stand in [general], a dataset or a subset."""

    num_repeats: int = key(1, "Times each image is seen per epoch.", ge=1, kohya=("repeats", "dataset_repeats"))
    shuffle_caption: bool = key(False, "Shuffle the tags of a caption.")
    caption_separator: str = key(",", "What separates the tags of a caption.")
    keep_tokens: int = key(0, "The first N tags stay in place.", ge=0)
    keep_tokens_separator: str = key("", "Tags before this mark stay in place.")
    secondary_separator: str = key("", "A separator inside a tag, replaced at the end.")
    enable_wildcard: bool = key(False, "Expand {a|b} and several lines of a caption.")
    caption_prefix: str = key("", "Put before every caption.")
    caption_suffix: str = key("", "Put after every caption.")
    token_warmup_min: int = key(1, "Tags at the first step of the warm-up.", ge=0)
    token_warmup_step: float = key(0, "Steps (below 1: a share) until all tags are used.", ge=0)
    color_aug: bool = key(False, "Weak random changes of colour. Excludes cached latents.")
    flip_aug: bool = key(False, "Show half of the presentations mirrored.")
    random_crop: bool = key(False, "Crop at random instead of in the centre. Excludes cached latents.")
    face_crop_aug_range: FloatPair | None = key(
        None,
        "Crop around faces: least and greatest side in faces; names end in the face's _x_y_width_height. "
        "Excludes cached latents.",
    )
    custom_attributes: dict[str, Any] = key({}, "Accepted and without effect: nothing reads them.")
    caption_dropout_rate: float = key(0.0, "Share of captions replaced by the empty one.", ge=0, le=1)
    caption_tag_dropout_rate: float = key(0.0, "Share of tags dropped.", ge=0, le=1)
    caption_dropout_every_n_epochs: int = key(0, "Drop all captions in every N-th epoch; 0 = never.", ge=0)
    tag_weights: dict[str, TagWeight] = key(
        {}, "How often single tags are kept: 1 = always, 0 = never. For all others caption_tag_dropout_rate decides."
    )
    loss_weight: float = key(1.0, "Weight of these images in the loss.", ge=0, le=1000)
    mask_outside: float = key(0.0, "Weight of the loss outside the mask, where there is one.", ge=0, le=1)
    trigger: str = key(
        "", "A word that stands first in every caption and is never dropped, not even with the caption.", basic=True
    )
    caption_extension: str = key("", "Extension of the caption files; empty accepts .txt and .caption.", basic=True)
    class_tokens: str = key("", "Caption of images that have no caption file.")
    cache_info: bool = key(False, "Accepted and without effect: sizes are read from the images' headers.")
    resize_interpolation: Literal["", "lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"] = (
        key("", "Resampling; empty: area when shrinking, else Lanczos.")
    )


class DatasetOptions(SubsetOptions):
    """kohya's options that may stand in [general] or a dataset."""

    resolution: int | Size = key(512, "Area that is trained: a side in pixels or [width, height].", basic=True)
    batch_size: int = key(1, "Images per micro-batch and process.", ge=1, basic=True, kohya=("train_batch_size",))
    enable_bucket: bool = key(False, "Keep each image's aspect ratio by training in buckets of near shape.", basic=True)
    min_bucket_reso: int = key(256, "Shortest side of a bucket.", ge=8)
    max_bucket_reso: int = key(1024, "Longest side of a bucket.", ge=8)
    bucket_reso_steps: int = key(64, "Sides of buckets are multiples of this.", ge=8)
    bucket_no_upscale: bool = key(False, "Never enlarge an image.")
    network_multiplier: float = key(1.0, "Accepted and without effect, as in sd-scripts.")
    validation_split: float = key(0.0, "Share of these images held out; 0 = as validation.split says.", ge=0, lt=1)
    validation_seed: int | None = key(None, "Seed of the choice; not set = validation.seed.")


class Subset(SubsetOptions):
    image_dir: str = key("", "Folder of images (not searched recursively).", basic=True, path=True)
    is_reg: bool = key(False, "Regularisation images (prior preservation).")
    alpha_mask: bool = key(False, "Use the transparency as loss mask: only what is opaque trains.")
    metadata_file: str = key("", "JSON file with captions.", kohya=("in_json",), path=True)
    conditioning_data_dir: str = key(
        "",
        "Folder of loss masks, one picture of the same name and size per image; white trains, black does not.",
        path=True,
    )


class Dataset(DatasetOptions):
    subsets: list[Subset] = key([], "Folders of images.", basic=True)


class General(DatasetOptions):
    """[general]: values for all datasets."""


class Validation(Section):
    """What tells whether the run learns: the loss on images that do not train, always with the same plain noise."""

    split: float = key(
        0.0,
        "Share of the images that is held out of training to measure what was learned; 0 = none.",
        ge=0,
        lt=1,
        basic=True,
        kohya=("validation_split",),
    )
    seed: int = key(
        0,
        "Seed of the choice of images and of their noise; independent of run.seed, so that runs can be compared.",
        ge=0,
        lt=2**63,
        kohya=("validation_seed",),
    )
    every: Every = key(
        0,
        "How often to measure: steps, or a text such as '15m' or '1 epoch'; 0 = ten times in the run.",
        kohya=("validate_every_n_steps", "validate_every_n_epochs"),
        unit="steps",
    )
    draws: int = key(4, "Noises and timesteps per image, one in each of as many slices of the schedule.", ge=1, le=1000)
    images: int = key(
        50, "At most so many held-out images are measured; 0 = all.", ge=0, kohya=("max_validation_steps",)
    )
    training_images: int = key(
        16, "So many training images are measured in the same way, so that memorising shows.", ge=0
    )
    early_stop: int = key(0, "End the run after so many measurements without a new best; 0 = never.", ge=0)
    keep_best: bool = key(True, "Save the result with the lowest held-out loss as <name>-best.")
    datasets: list[Dataset] = key([], "Images to measure with, in place of held-out ones; written like [[datasets]].")


class Performance(Section):
    """Levers of speed that change no result but for rounding."""

    compile: bool = key(
        False,
        "Compile the UNet's transformer blocks (torch.compile): quicker steps after a minute at the start. Each size "
        "of batch is compared with eager gradients once; where the compiler fails, the run says so and does without.",
        kohya=("torch_compile",),
    )
    channels_last: bool = key(
        False,
        "Keep pictures inside the UNet with channels last, which convolutions on newer GPUs like; whether it helps "
        "depends on the GPU.",
        kohya=("opt_channels_last",),
    )


class BaseConfig(Section):
    """A whole file. `Config` is this with the settings of the noise plugins that are installed."""

    run: Run = Field(default_factory=Run)
    model: Model = Field(default_factory=Model)
    training: Training = Field(default_factory=Training)
    lora: Lora = Field(default_factory=Lora)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    ema: Ema = Field(default_factory=Ema)
    timesteps: Timesteps = Field(default_factory=Timesteps)
    loss: Loss = Field(default_factory=Loss)
    noise: Noise = Field(default_factory=Noise)
    samples: Samples = Field(default_factory=Samples)
    validation: Validation = Field(default_factory=Validation)
    save: Save = Field(default_factory=Save)
    logging: Logging = Field(default_factory=Logging)
    data: Data = Field(default_factory=Data)
    performance: Performance = Field(default_factory=Performance)
    general: General = Field(default_factory=General)
    datasets: list[Dataset] = Field(default_factory=list, description="Sets of images with one resolution each.")


def _noise_section() -> type[Noise]:
    """`Noise` with one optional field per plugin; `oversampling = 64` stands for `[noise.oversampling] k = 64`."""
    fields: dict[str, Any] = {}
    for name in registry.names("noise"):
        plugin = registry.find("noise", name)

        def from_headline(value: Any, headline: str = plugin.headline) -> Any:
            return value if value is None or isinstance(value, (dict, BaseModel)) else {headline: value}

        described = plugin.Settings.model_fields[plugin.headline]
        fields[name] = (
            Annotated[plugin.Settings | None, BeforeValidator(from_headline)],
            Field(None, description=(plugin.__doc__ or "").strip().split("\n")[0], json_schema_extra=extra(described)),
        )
    return create_model("Noise", __base__=Noise, **fields)


if TYPE_CHECKING:
    Config = BaseConfig
else:
    _Noise = _noise_section()
    Config = create_model("Config", __base__=BaseConfig, noise=(_Noise, Field(default_factory=_Noise)))

Level = TypeVar("Level", bound=Section)


def effective(target: type[Level], *levels: Section) -> Level:
    """The options of `target`, each from the first level that has it written (nearest first), else the default."""
    values: dict[str, Any] = {}
    for name in target.model_fields:
        for level in levels:
            if name in level.model_fields_set and name in type(level).model_fields:
                values[name] = getattr(level, name)
                break
    return target.model_validate(values)
