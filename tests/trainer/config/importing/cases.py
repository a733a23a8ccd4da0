"""Files of other trainers, after the form of real ones, for the tiny project of tests.trainer.runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.trainer.runs import make_project

# What every trainer is told for the tiny base: sizes that its images have, and nothing that needs a GPU.
SIZES = """
resolution = "64"
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 96
bucket_reso_steps = 16
train_batch_size = 2
"""

SD_SCRIPTS_FLAT = f"""
pretrained_model_name_or_path = "base"
train_data_dir = "train"
output_dir = "output"
output_name = "flat"
network_module = "networks.lora"
network_dim = 4
network_alpha = 2
network_args = ["conv_dim=2", "conv_alpha=1", "rank_dropout=0.1"]
optimizer_type = "AdamW"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
unet_lr = 1e-3
text_encoder_lr = 5e-4
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 2
lr_warmup_steps = 1
max_train_steps = 8
min_snr_gamma = 5
noise_offset = 0.05
caption_extension = ".txt"
mixed_precision = "no"
save_every_n_epochs = 1
seed = 7
xformers = true
lowram = true
huggingface_token = "hf_secret"
{SIZES}
"""

SD_SCRIPTS_SECTIONS = """
[model_arguments]
pretrained_model_name_or_path = "base"
v2 = false
[additional_network_arguments]
network_module = "networks.lora"
network_dim = 8
network_train_unet_only = true
unet_lr = 1e-3
[optimizer_arguments]
learning_rate = 1e-3
optimizer_type = "Prodigy"
optimizer_args = ["decouple=True", "weight_decay=0.01", "d_coef=2", "use_bias_correction=True"]
lr_scheduler = "constant"
[training_arguments]
max_train_epochs = 2
output_dir = "output"
output_name = "sections"
clip_skip = 2
max_token_length = 225
mixed_precision = "no"
log_prefix = "sections"
[dataset_arguments]
cache_latents = true
dataset_config = "dataset.toml"
keep_tokens = 1
"""
DATASET = """
[general]
enable_bucket = true
caption_extension = ".txt"
min_bucket_reso = 32
max_bucket_reso = 96
bucket_reso_steps = 16
[[datasets]]
resolution = 64
batch_size = 2
[[datasets.subsets]]
image_dir = "photos"
num_repeats = 2
"""

FULL = f"""
pretrained_model_name_or_path = "base"
train_data_dir = "train"
learning_rate = 1e-4
learning_rate_te = 5e-5
stop_text_encoder_training = 3
max_train_steps = 4
caption_extension = ".txt"
optimizer_type = "Adafactor"
optimizer_args = ["relative_step=False", "scale_parameter=False", "warmup_init=False"]
lr_scheduler = "constant_with_warmup"
lr_warmup_steps = 2
no_half_vae = true
save_model_as = "safetensors"
{SIZES}
"""

SHELL = """#!/bin/bash
BASE="base"   # the checkpoint
export OUT='output'
ARGS=(--xformers
      --cache_latents)
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision=fp16 sd-scripts/train_network.py \\
  --pretrained_model_name_or_path="$BASE" --train_data_dir=train --output_dir=${OUT} \\
  --network_module=networks.lora --network_dim=4 --network_alpha 4 \\
  --network_args "conv_dim=4" --optimizer_args weight_decay=0.05 "betas=(0.9, 0.95)" \\
  --learning_rate=1e-3 --text_encoder_lr 0 --resolution=64,48 --enable_bucket --min_bucket_reso=32 \\
  --max_bucket_reso=96 --bucket_reso_steps=16 --train_batch_size 2 --max_train_epochs=1 --caption_extension .txt \\
  "${ARGS[@]}" --seed 3 2>&1 | tee log.txt
"""
BATCH = """@echo off
rem kohya
set BASE=base
set "OUT=output"
call venv\\Scripts\\activate.bat
accelerate launch --num_cpu_threads_per_process=1 train_network.py ^
  --pretrained_model_name_or_path="%BASE%" --train_data_dir="train" --output_dir=%OUT% ^
  --network_module=lycoris.kohya --network_dim=4 --network_alpha=2 --network_args "algo=loha" conv_dim=2 ^
  --unet_lr=1e-3 --network_train_unet_only --resolution=64 --enable_bucket --min_bucket_reso=32 --max_bucket_reso=96 ^
  --bucket_reso_steps=16 --train_batch_size=2 --max_train_steps=4 --caption_extension=".txt" --optimizer_type=Lion
pause
"""
POWERSHELL = """$base = "base"
$Env:HF_HOME = "huggingface"
$lr = 1e-3
$ext_args = @("--shuffle_caption", "--keep_tokens=1")
python -m accelerate.commands.launch --num_cpu_threads_per_process=1 "./train_network.py" `
  --pretrained_model_name_or_path=$base `
  --train_data_dir=train --network_module=networks.lora `
  --learning_rate=$lr --network_dim=4 --resolution=64 --enable_bucket --min_bucket_reso=32 --max_bucket_reso=96 `
  --bucket_reso_steps=16 --caption_extension=.txt --max_train_steps=4 --lr_scheduler=polynomial @ext_args
"""

KOHYA_SS = """{
  "LoRA_type": "Kohya LoCon", "LyCORIS_preset": "full", "adaptive_noise_scale": 0, "additional_parameters":
  "--loss_type=huber --huber_c 0.2", "block_dims": "", "bucket_no_upscale": true, "bucket_reso_steps": 16,
  "cache_latents": true, "cache_latents_to_disk": false, "caption_dropout_every_n_epochs": 0,
  "caption_dropout_rate": 0.1, "caption_extension": ".txt", "clip_skip": 1, "conv_alpha": 1, "conv_dim": 2,
  "dataset_config": "", "enable_bucket": true, "epoch": 2, "factor": -1, "flip_aug": true, "full_bf16": false,
  "gradient_accumulation_steps": 1, "gradient_checkpointing": false, "keep_tokens": "0", "learning_rate": 0.0001,
  "lr_scheduler": "cosine", "lr_scheduler_num_cycles": "", "lr_scheduler_power": "", "lr_warmup": 10,
  "max_bucket_reso": 96, "max_data_loader_n_workers": "0", "max_grad_norm": 0, "max_resolution": "64,64",
  "max_timestep": 1000, "max_token_length": "75", "max_train_epochs": "", "max_train_steps": "",
  "min_bucket_reso": 32, "min_snr_gamma": 5, "min_timestep": 0, "mixed_precision": "no", "model_list": "custom",
  "multires_noise_discount": 0.3, "multires_noise_iterations": 6, "network_alpha": 2, "network_dim": 4,
  "network_dropout": 0, "noise_offset": 0.05, "noise_offset_type": "Multires", "num_cpu_threads_per_process": 2,
  "optimizer": "AdamW", "optimizer_args": "\\"weight_decay=0.1\\"", "output_dir": "output", "output_name": "gui",
  "pretrained_model_name_or_path": "base", "prior_loss_weight": 1.0, "sample_every_n_epochs": 0,
  "sample_prompts": "", "save_every_n_epochs": 1, "save_every_n_steps": 0, "save_precision": "fp16", "sdxl": false,
  "seed": "0", "shuffle_caption": true, "text_encoder_lr": 0, "train_batch_size": 2, "train_data_dir": "train",
  "unet_lr": 0.001, "v2": false, "vae": "", "wandb_api_key": "secret-key", "xformers": "xformers",
  "flux1_checkbox": false, "t5xxl": "", "rank_dropout": 0.1, "use_cp": false
}"""


ONETRAINER = """{
  "__version": 11, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "base",
  "output_model_destination": "output/one.safetensors", "output_model_format": "KOHYA_LORA", "resolution": "64",
  "concept_file_name": "concepts.json", "sample_definition_file_name": "samples.json", "cache_dir": "cache",
  "epochs": 4, "batch_size": 2, "learning_rate": 0.0003, "learning_rate_scheduler": "REX",
  "learning_rate_warmup_steps": 1.0e-1, "train_dtype": "FLOAT_32", "layer_filter": "attentions",
  "layer_filter_preset": "attn-mlp", "lora_rank": 4, "lora_alpha": 2.0, "peft_type": "LORA",
  "unet": {"__version": 0, "train": true, "learning_rate": null, "weight_dtype": "FLOAT_32"},
  "vae": {"weight_dtype": "BFLOAT_16"},
  "text_encoder": {"train": true, "stop_training_after": 2, "stop_training_after_unit": "EPOCH",
    "learning_rate": 0.0001, "weight_dtype": "FLOAT_32"},
  "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.02, "eps": 1e-8, "d0": null},
  "timestep_distribution": "SIGMOID", "noising_weight": 4.0, "noising_bias": 0.1, "offset_noise_weight": 0.02,
  "generalized_offset_noise": true, "k_noise_sampling": 16, "loss_weight_fn": "MIN_SNR_GAMMA",
  "loss_weight_strength": 5.0, "masked_training": false, "ema": "OFF", "tensorboard": false,
  "secrets": {"huggingface_token": "hf_secret"}, "workspace_dir": "workspace"
}"""
CONCEPTS = """[
  {"name": "cats", "path": "photos", "enabled": true, "balancing": 2.0, "balancing_strategy": "REPEATS",
   "image": {"enable_crop_jitter": false, "enable_random_flip": true},
   "text": {"prompt_source": "sample", "enable_tag_shuffling": true, "keep_tags_count": 1}},
  {"name": "what it knows", "path": "known", "type": "PRIOR_PREDICTION"},
  {"name": "off", "path": "nowhere", "enabled": false}
]"""
AI_TOOLKIT = """---
job: extension
config:
  name: "job"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      device: cuda:0
      trigger_word: "ohwx"
      network:
        type: "lora"
        linear: 4
        linear_alpha: 4
      save:
        dtype: float16 # precision
        save_every: 250
        max_step_saves_to_keep: 4
      datasets:
        - folder_path: "photos"
          caption_ext: "txt"
          caption_dropout_rate: 0.05
          shuffle_tokens: false
          cache_latents_to_disk: false
          bucket_tolerance: 16
          resolution: [ 48, 64 ]
      train:
        batch_size: 2
        steps: 20
        gradient_accumulation_steps: 1
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: false
        noise_scheduler: "ddpm"
        optimizer: "adamw"
        optimizer_params:
          weight_decay: 1e-4
        lr: 1e-4
        min_snr_gamma: 5
        optimal_noise_pairing_samples: 8
        content_or_style: style
        skip_first_sample: true
        diff_output_preservation: true
        diff_output_preservation_class: "cat"
        diff_output_preservation_multiplier: 0.5
        ema_config:
          use_ema: true
          ema_decay: 0.99
        dtype: fp32
      model:
        name_or_path: "base"
        is_v2: false
      sample:
        sampler: "ddpm"
        sample_every: 250
        width: 64
        height: 64
        prompts:
          - "[trigger] a photo of a cat"
        neg: ""
        seed: 42
        walk_seed: true
        guidance_scale: 4
        sample_steps: 2
meta:
  name: "[name]"
  version: '1.0'
"""
METADATA = {
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "0.0002",
    "ss_text_encoder_lr": "5e-05",
    "ss_max_train_steps": "12",
    "ss_num_epochs": "10",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "4",
    "ss_network_alpha": "2.0",
    "ss_network_args": json.dumps({"conv_dim": "2", "conv_alpha": "1", "dropout": None}),
    "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))",
    "ss_lr_scheduler": "cosine",
    "ss_lr_warmup_steps": "1",
    "ss_seed": "42",
    "ss_mixed_precision": "no",
    "ss_clip_skip": "None",
    "ss_min_snr_gamma": "5.0",
    "ss_noise_offset": "None",
    "ss_cache_latents": "True",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "base",
    "ss_output_name": "again",
    "ss_training_comment": "None",
    "ss_datasets": json.dumps(
        [
            {
                "batch_size_per_device": 2,
                "resolution": [64, 48],
                "enable_bucket": False,
                "subsets": [{"num_repeats": 2, "image_dir": "photos", "keep_tokens": 1, "shuffle_caption": True}],
            }
        ]
    ),
    "modelspec.prediction_type": "epsilon",
    "sshs_model_hash": "ab",
}


def make_lora(file: Path) -> None:
    """A file with the header of a LoRA of UNet and text encoder."""
    names = ("lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1")
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, 8, dtype=torch.float16) for name in names}
    save_file(tensors, file, metadata=METADATA)


DIFFUSERS = """export MODEL_NAME="base"
export DATA="photos"
accelerate launch --mixed_precision="no" train_text_to_image_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME --train_data_dir=$DATA --resolution=64 --random_flip \
  --train_batch_size=2 --num_train_epochs=3 --learning_rate=1e-04 --lr_scheduler="cosine" --lr_warmup_steps=0 \
  --snr_gamma=5.0 --rank=4 --seed=42 --output_dir="output/pokemon" --checkpointing_steps=500
"""
HF_IMAGES = "".join(json.dumps({"file_name": f"{n}.png", "text": f"a cat {n}"}) + "\n" for n in range(3))


@dataclass(frozen=True)
class Case:
    """A file to import, and the files that it names."""

    name: str
    text: str
    script: str = ""
    without: tuple[str, ...] = ()
    more: dict[str, str] = field(default_factory=dict)
    make: Callable[[Path], None] | None = None

    def write(self, folder: Path) -> Path:
        """Into a tiny project; returns the file."""
        make_project(folder, images=3)
        (folder / "train").mkdir()
        (folder / "photos").rename(folder / "train" / "2_cat")
        for other in ("photos", "known"):
            (folder / other).symlink_to(folder / "train" / "2_cat", target_is_directory=True)
        for name, text in self.more.items():
            (folder / name).write_text(text, encoding="utf-8")
        file = folder / self.name
        if self.make is not None:
            self.make(file)
        else:
            file.write_text(self.text, encoding="utf-8")
        return file


LORA_EASY = """
[[subsets]]
name = "subset 1"
image_dir = "photos"
num_repeats = 2
caption_extension = ".txt"
keep_tokens = 0
shuffle_caption = true
[train_mode]
train_mode = "lora"
[general_args.args]
pretrained_model_name_or_path = "base"
mixed_precision = "no"
seed = 23
max_token_length = 225
prior_loss_weight = 1.0
sdpa = true
max_train_epochs = 2
cache_latents = true
[general_args.dataset_args]
resolution = 64
batch_size = 2
[network_args.args]
network_dim = 8
network_alpha = 4.0
min_timestep = 0
max_timestep = 1000
[network_args.args.network_args]
conv_dim = 4
conv_alpha = 2.0
rank_dropout = 0.1
[optimizer_args.args]
optimizer_type = "AdamW"
lr_scheduler = "cosine"
learning_rate = 1e-4
unet_lr = 1e-3
text_encoder_lr = 5e-4
warmup_ratio = 0.1
max_grad_norm = 1.0
min_snr_gamma = 5
loss_type = "l2"
[optimizer_args.args.optimizer_args]
weight_decay = "0.1"
betas = "0.9,0.99"
[saving_args.args]
easy_name = "cats"
output_dir = "output"
output_name = "of-${replace}"
save_precision = "fp16"
save_model_as = "safetensors"
save_every_n_epochs = 1
save_toml = true
[noise_args.args]
multires_noise_iterations = 6
multires_noise_discount = 0.3
[bucket_args.dataset_args]
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 96
bucket_reso_steps = 16
bucket_no_upscale = false
"""

INVERSION = (
    SD_SCRIPTS_FLAT.split("network_module", maxsplit=1)[0]
    + f"""
token_string = "ohwx"
init_word = "a"
num_vectors_per_token = 2
learning_rate = 1e-3
max_train_steps = 8
mixed_precision = "no"
save_model_as = "safetensors"
use_style_template = true
{SIZES}
"""
)
WORDS_BESIDE = ONETRAINER.replace(
    '"masked_training"',
    '"preserve_embedding_norm": true, "bundle_additional_embeddings": false, "embedding_learning_rate": 0.01, '
    '"additional_embeddings": [{"placeholder": "<ohwx>", "train": true, "token_count": 3, '
    '"initial_embedding_text": "a", "is_output_embedding": false, "stop_training_after_unit": "NEVER"}], '
    '"masked_training"',
)
WORDS_ALONE = ONETRAINER.replace('"LORA", "model_type"', '"EMBEDDING", "model_type"').replace(
    '"masked_training"', '"embedding": {"placeholder": "ohwx", "initial_embedding_text": "a"}, "masked_training"'
)
AI_WORD = AI_TOOLKIT.replace(
    'trigger_word: "ohwx"', 'embedding: {trigger: "ohwx", tokens: 2, init_words: "a"}'
).replace("        batch_size: 2\n", "        batch_size: 2\n        embedding_lr: 1.0e-2\n")

CASES = {
    "LoRA_Easy_Training_Scripts": Case("easy.toml", LORA_EASY),
    "sd-scripts, flat": Case("flat.toml", SD_SCRIPTS_FLAT),
    "sd-scripts, sections and a dataset file": Case(
        "sections.toml", SD_SCRIPTS_SECTIONS, more={"dataset.toml": DATASET}
    ),
    "sd-scripts, full fine-tune": Case("full.toml", FULL),
    "sh": Case("train.sh", SHELL),
    "cmd": Case("train.bat", BATCH),
    "powershell": Case("train.ps1", POWERSHELL),
    "kohya_ss": Case("gui.json", KOHYA_SS),
    "sd-scripts, a new word": Case("word.toml", INVERSION),
    "OneTrainer, a new word beside a LoRA": Case("beside.json", WORDS_BESIDE, more={"concepts.json": CONCEPTS}),
    "OneTrainer, a new word alone": Case("alone.json", WORDS_ALONE, more={"concepts.json": CONCEPTS}),
    "ai-toolkit, a new word beside a LoRA": Case("word.yaml", AI_WORD),
    "finished LoRA": Case("done.safetensors", "", make=make_lora),
    "OneTrainer": Case("one.json", ONETRAINER, more={"concepts.json": CONCEPTS}),
    "ai-toolkit": Case("job.yaml", AI_TOOLKIT),
    "diffusers": Case("train.txt", DIFFUSERS, more={"photos/metadata.jsonl": HF_IMAGES}),
}
