"""[data], [general] and [[datasets]]: the images, by kohya's names.

A dataset option may stand in a subset, its dataset or [general]; the nearest one wins (kohya's rule). The models below
carry the real defaults, and `model_fields_set` tells what was written, so that the lookup in `effective` needs no None.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from trainer.config.schema.base import FloatPair, Section, Size, key


class DataSettings(Section):
    skip_broken: bool = key(False, "Go on without images that cannot be read, and list them, instead of stopping.")
    cache_latents: bool = key(True, "Encode every image once and keep the latents.")
    cache_text: bool = key(True, "Encode every caption once, where the text encoder does not train.")
    config: str = key(
        "",
        "A dataset file of kohya's form: its [general] and [[datasets]].",
        path="file",
    )
    train_data_dir: str = key("", "A folder of folders such as '10_ohwx man': repeats, then the class.", path="folder")
    reg_data_dir: str = key("", "The same for regularisation images.", path="folder")
    class_dir: str = key(
        "",
        "A folder with a folder for each class: its name is the caption of the images in it that have none of their "
        "own. Their other options come from [general].",
        path="folder",
    )
    latent_sampling: Literal["mean", "once", "fresh"] = key(
        "mean", "Cached latents: the VAE's mean, one sample of its posterior, or a fresh sample each time."
    )
    inpaint_masks: int = key(
        4,
        "An inpainting base and cached latents: so many random masks of each image. Without the cache each "
        "presentation has its own.",
        ge=1,
        le=1000,
    )
    cache_to_disk: bool = key(False, "Keep latents and text on the disk, for other runs too.")
    cache_dir: str = key("cache", "Folder of the disk cache.", path="made")
    cache_dtype: Literal["fp32", "fp16", "bf16"] = key("fp32", "Storage of latents on the disk.")
    kohya_latents: Literal["", "_sd.npz", "_sdxl.npz"] = key(
        "", "With cache_to_disk: take over kohya's latents that fit, in files that end so. Their VAE cannot be known."
    )
    workers: int = key(
        2,
        "Threads that make the next batches while a step runs; 0 = none.",
        ge=0,
        le=64,
    )
    background: str = key("white", "Colour behind transparent images: a name or #rrggbb.")
    prior_loss_weight: float = key(1.0, "Weight of regularisation images in the loss.", ge=0, le=1000)
    prior_prediction: bool = key(
        False, "Regularisation images teach what the base itself answers about them, instead of what they show."
    )


OF_BASE = "diff_output_preservation"  # of sd-scripts' custom_attributes
TagWeight = Annotated[float, Field(ge=0, le=1)]


class SubsetOptions(Section):
    """kohya's options that may stand in [general], a dataset or a subset."""

    num_repeats: int = key(1, "Times each image is seen per epoch.", ge=1)
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
    custom_attributes: dict[str, Any] = key(
        {}, "sd-scripts' own: diff_output_preservation = true is prior_prediction; all others are without effect."
    )
    caption_dropout_rate: float = key(0.0, "Share of captions replaced by the empty one.", ge=0, le=1)
    caption_tag_dropout_rate: float = key(0.0, "Share of tags dropped.", ge=0, le=1)
    caption_dropout_every_n_epochs: int = key(0, "Drop all captions in every N-th epoch; 0 = never.", ge=0)
    tag_weights: dict[str, TagWeight] = key(
        {}, "How often single tags are kept: 1 = always, 0 = never. For all others caption_tag_dropout_rate decides."
    )
    loss_weight: float = key(1.0, "Weight of these images in the loss.", ge=0, le=1000)
    prior_prediction: bool = key(
        False, "These images teach what the base itself answers about them, instead of what they show."
    )
    inpaint_mask: Literal["auto", "random", "own"] = key(
        "auto",
        "What an inpainting base is not shown: what the image's own mask has white, or boxes, ellipses, strokes or "
        "everything, drawn at random; auto = its own where it has one.",
    )
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

    @property
    def asks_base(self) -> bool:
        """Whether the target is the base's own answer, here or in sd-scripts' words."""
        return self.prior_prediction or bool(self.custom_attributes.get(OF_BASE))


class DatasetOptions(SubsetOptions):
    """kohya's options that may stand in [general] or a dataset."""

    resolution: int | Size = key(512, "Area that is trained: a side in pixels or [width, height].", basic=True)
    batch_size: int = key(1, "Images per micro-batch and process.", ge=1, basic=True)
    enable_bucket: bool = key(False, "Keep each image's aspect ratio by training in buckets of near shape.", basic=True)
    min_bucket_reso: int = key(256, "Shortest side of a bucket.", ge=8)
    max_bucket_reso: int = key(1024, "Longest side of a bucket.", ge=8)
    bucket_reso_steps: int = key(64, "Sides of buckets are multiples of this.", ge=8)
    bucket_no_upscale: bool = key(False, "Never enlarge an image.")
    network_multiplier: float = key(1.0, "Accepted as 1 only: a LoRA trains at its full strength.")
    validation_split: float | None = key(
        None, "Share of these images held out, 0 = none; not set = as validation.split says.", ge=0, lt=1
    )
    validation_seed: int | None = key(None, "Seed of the choice; not set = validation.seed.")


class SubsetSettings(SubsetOptions):
    image_dir: str = key("", "Folder of images (not searched recursively).", basic=True, path="folder")
    is_reg: bool = key(False, "Regularisation images (prior preservation).")
    alpha_mask: bool = key(False, "Use the transparency as loss mask: only what is opaque trains.")
    metadata_file: str = key("", "JSON file with captions.", path="file")
    conditioning_data_dir: str = key(
        "",
        "Folder of loss masks, one picture per image of its size and name (or with OneTrainer's or Segment Anything's "
        "endings); white trains, black does not. Of cut-outs (rembg) what is opaque trains.",
        path="folder",
    )


class DatasetSettings(DatasetOptions):
    subsets: list[SubsetSettings] = key([], "Folders of images.", basic=True)


class GeneralSettings(DatasetOptions):
    """[general]: values for all datasets."""


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
