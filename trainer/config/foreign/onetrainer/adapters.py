"""OneTrainer's kinds of adapters, their sizes and layer filters."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.onetrainer.parts import is_lora
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import Values

_PRESETS = {"attentions": "attn-mlp", "attn": "attn-only", "": "full"}


def kind(values: Values, name: str) -> Outcome:
    """peft_type, lora_decompose."""
    found = values.text("peft_type")
    if not is_lora(values):
        return unneeded("for adapters")
    if found == "LORA":
        dora = values.flag("lora_decompose")
        if name == "lora_decompose" and not dora:
            return unneeded("off")
        return carried({"lora.method": "dora" if dora else "lora"})
    if found == "LOKR" and values.flag("lokr_weight_decompose"):
        return missing("LoKr has no weight decomposition here")
    return (
        carried({"lora.method": found.lower()}) if found in ("LOHA", "LOKR") else missing(f"there is no {found} here")
    )


def sizes(values: Values) -> dict[str, Any]:
    if not is_lora(values):
        return {}
    name = "lokr_dim" if values.text("peft_type") == "LOKR" else "lora_rank"
    rank, alpha = values.whole(name), values.number("lora_alpha")
    found = {"lora.rank": rank, "lora.alpha": alpha}
    return found | ({"lora.conv_rank": rank, "lora.conv_alpha": alpha} if preset(values) == "full" else {})


def preset(values: Values) -> str:
    """Which layers are adapted; the text of the filter counts where there is one."""
    text = values.text("layer_filter").strip()
    if text:
        return _PRESETS.get(text, "custom")
    return values.text("layer_filter_preset") or "full"


def layers(values: Values, name: str) -> Outcome:
    """layer_filter, layer_filter_preset."""
    found = preset(values)
    if not is_lora(values):
        return unneeded("all layers train") if found == "full" else missing("a full fine-tune trains all layers here")
    if found == "attn-mlp":
        return unneeded("the layers that a LoRA adapts here: those of the transformers")
    if found != "full":
        return _chosen(values, found)
    rest = {k: v for k, v in sizes(values).items() if "conv" in k}
    return changed(rest, "with the ResNets; conv_in, conv_out and the embeddings of time and size get no adapter here")


def _chosen(values: Values, found: str) -> Outcome:
    """The layers of the transformers whose names hold a word of the filter. It is for the UNet alone there; the text
    encoders' layers are named so that they stay in."""
    words = ["attn"] if found == "attn-only" else [word.strip() for word in values.text("layer_filter").split(",")]
    if found == "custom" and (values.flag("layer_filter_regex") or not all("attn" in w or "ff" in w for w in words)):
        return missing("lora.layers chooses among the transformers' layers by words such as attn1 or ff")
    return changed({"lora.layers": [*words, "self_attn", "mlp"]}, "with all layers of the text encoders, as there")


def dropout(values: Values, name: str) -> Outcome | None:
    found = values.number(name)
    if not found or not is_lora(values):
        return unneeded("off")
    if values.text("peft_type") != "LORA":
        return missing(f"{values.text('peft_type')} has no dropout of its inputs here")
    return changed({"lora.dropout": found}, "drops the inputs of the first factor here, its outputs there")


def lokr(values: Values) -> dict[str, Any]:
    """How LoKr splits a layer."""
    if values.text("peft_type") != "LOKR" or not is_lora(values):
        return {}
    names = {"lokr_decompose_both": "decompose_both", "lokr_full_matrix": "full_matrix"}
    found: dict[str, Any] = {f"lora.args.{ours}": True for name, ours in names.items() if values.flag(name)}
    factor = values.whole("lokr_decompose_factor") or -1
    return found | ({"lora.args.factor": factor} if factor > 0 else {})


def only_lokr(values: Values, name: str) -> Outcome:
    if values.text("peft_type") != "LOKR" or not is_lora(values):
        return unneeded("for LoKr")
    neutral = {"lokr_dora_on_output": ("true",), "lokr_vec_trick": ("true", "false")}
    value = values.text(name).lower()
    if value in ("false", "", *neutral.get(name, ())):
        return unneeded("the same here")
    return missing("LoKr is not split in Tucker's way here")


def axis(values: Values, _name: str) -> Outcome:
    if not values.flag("lora_decompose") or not is_lora(values):
        return unneeded("for DoRA")
    if values.flag("lora_decompose_output_axis"):
        return unneeded("as here: a length for each row")
    return missing("DoRA has a length for each row here: set lora_decompose_output_axis")
