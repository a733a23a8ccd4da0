"""kohya's metadata: the keys that other tools look for, as text, without paths."""

from __future__ import annotations

import json
from dataclasses import replace

from trainer import registry
from trainer.files.metadata import TrainingFacts, checkpoint_metadata, lora_metadata

FACTS = TrainingFacts(
    output_name="my-style",
    base_version="sd_v1",
    architecture="stable-diffusion-v1",
    prediction="epsilon",
    rank=16,
    alpha=8.0,
    seed=42,
    learning_rate=1e-4,
    optimizer="torch.optim.AdamW(weight_decay=0.01)",
    steps=400,
    max_steps=1600,
    epoch=3,
    resolution=(512, 768),
    tag_frequency={"10_cat": {"a cat": 3, "red": 1}},
    dataset_dirs={"10_cat": (10, 4)},
)


def test_the_core_keys_are_text_in_kohyas_words() -> None:
    metadata = lora_metadata(FACTS)
    assert all(isinstance(v, str) for v in metadata.values())
    expected = {
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_network_module": "networks.lora",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_learning_rate": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_max_train_steps": "1600",
        "ss_steps": "400",
        "ss_epoch": "3",
        "ss_seed": "42",
        "ss_output_name": "my-style",
        "ss_resolution": "(512, 768)",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "512x768",
        "modelspec.title": "my-style",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_tag_frequency"]) == {"10_cat": {"a cat": 3, "red": 1}}
    assert json.loads(metadata["ss_dataset_dirs"]) == {"10_cat": {"n_repeats": 10, "img_count": 4}}


def test_convolution_ranks_are_network_arguments() -> None:
    assert "ss_network_args" not in lora_metadata(FACTS)
    arguments = lora_metadata(replace(FACTS, conv_rank=4, conv_alpha=2.0))["ss_network_args"]
    assert json.loads(arguments) == {"conv_dim": "4", "conv_alpha": "2.0"}


def test_other_kinds_name_the_reader_that_knows_them() -> None:
    metadata = lora_metadata(replace(FACTS, network_module="lycoris.kohya", network_args={"algo": "loha"}, conv_rank=2))
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"]) == {"algo": "loha", "conv_dim": "2", "conv_alpha": "1.0"}


def test_trigger_and_comment_are_told_in_the_standard_too() -> None:
    metadata = lora_metadata(replace(FACTS, trigger="ohwx", comment="first try"))
    assert metadata["modelspec.trigger_phrase"] == "ohwx"
    assert metadata["modelspec.description"] == metadata["ss_training_comment"] == "first try"
    assert "modelspec.trigger_phrase" not in lora_metadata(FACTS)


def test_a_whole_model_has_the_standards_keys() -> None:
    metadata = checkpoint_metadata(
        output_name="m", architecture="stable-diffusion-v1", prediction="v", resolution=(512, 512), finished_at=0
    )
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.prediction_type"] == "v"
    assert all(key.startswith("modelspec.") for key in metadata)


def test_epochs_are_counted_from_batches() -> None:
    metadata = lora_metadata(replace(FACTS, batches_per_epoch=300))
    assert (metadata["ss_num_epochs"], metadata["ss_num_batches_per_epoch"]) == ("6", "300")


def test_v_prediction_is_called_v() -> None:
    assert registry.find("objectives", "velocity").modelspec_name == "v"
    assert lora_metadata(replace(FACTS, prediction="v"))["modelspec.prediction_type"] == "v"


def test_more_keys_can_be_added() -> None:
    metadata = lora_metadata(replace(FACTS, extra={"ss_lr_scheduler": "cosine", "ss_noise_oversampling": 64}))
    assert (metadata["ss_lr_scheduler"], metadata["ss_noise_oversampling"]) == ("cosine", "64")
