"""Anima's layers in three spellings: diffusers', ComfyUI's files', and the names that LoRA files give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

CONDITIONER = "text_conditioner."  # diffusers' network of its own, here a part of the transformer as in ComfyUI's files
_ADAPTER = "llm_adapter."  # the same in those files

# Beginnings and middles of diffusers' names -> the original ones (Cosmos-Predict2's), longest first where they overlap.
_OUTER = (
    ("patch_embed.proj", "x_embedder.proj.1"),
    ("time_embed.t_embedder", "t_embedder.1"),
    ("time_embed.norm", "t_embedding_norm"),
    ("norm_out.linear_1", "final_layer.adaln_modulation.1"),
    ("norm_out.linear_2", "final_layer.adaln_modulation.2"),
    ("proj_out", "final_layer.linear"),
)
_IN_BLOCK = (
    *((f"norm{i}.linear_{k}", f"adaln_modulation_{part}.{k}")
      for i, part in enumerate(("self_attn", "cross_attn", "mlp"), start=1) for k in (1, 2)),
    *((f"attn{i}.{new}", f"{part}_attn.{old}")
      for i, part in enumerate(("self", "cross"), start=1)
      for new, old in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "output_proj"),
                       ("norm_q", "q_norm"), ("norm_k", "k_norm"))),
    ("ff.net.0.proj", "mlp.layer1"),
    ("ff.net.2", "mlp.layer2"),
)  # fmt: skip
_NEW_BLOCK, _OLD_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)"), re.compile(r"blocks\.(\d+)\.(.+)")
_COUNTERS = ("pos_embedder.", "accum_")  # buffers and counters of training, which no network has
FILE_PREFIXES = ("net.", "model.diffusion_model.", "diffusion_model.", "")  # of a file's names, all are in use
LORA = ("lora_unet_", "lora_te_")  # of the diffusion model's and the text encoder's modules, as sd-scripts has them
_COMFY_TEXT = "text_encoders.qwen3_06b.transformer.model."


def to_original(name: str) -> str:
    """Of the transformer, with the conditioner in it: diffusers' name of a module or weight -> the file's."""
    if name.startswith(CONDITIONER):
        return _ADAPTER + name.removeprefix(CONDITIONER)
    block = _NEW_BLOCK.fullmatch(name)
    if block:
        return f"blocks.{block[1]}.{_changed(block[2], _IN_BLOCK)}"
    return _changed(name, _OUTER)


def to_diffusers(name: str) -> str | None:
    """The way back; None for what is no weight of the network."""
    if name.startswith(_ADAPTER):
        return CONDITIONER + name.removeprefix(_ADAPTER)
    if name.startswith(_COUNTERS) or name.endswith("_extra_state"):
        return None
    block = _OLD_BLOCK.fullmatch(name)
    if block:
        return f"transformer_blocks.{block[1]}.{_changed(block[2], _turned(_IN_BLOCK))}"
    return _changed(name, _turned(_OUTER))


def _turned(table: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(new, old) for old, new in table]


def _changed(name: str, table: Sequence[tuple[str, str]]) -> str:
    """The beginning that the table knows, whole names or up to a dot."""
    for old, new in table:
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def file_prefix(names: Mapping[str, object]) -> str | None:
    """What stands in front of the names of a diffusion model's file; None where it is none of Anima's."""
    marks = ("llm_adapter.blocks.0.cross_attn.q_proj.weight", "x_embedder.proj.1.weight")
    return next((p for p in FILE_PREFIXES if all(f"{p}{mark}" in names for mark in marks)), None)


def lora_key(part: str, module: str) -> str:
    """sd-scripts' name of a module, which ComfyUI reads: lora_unet_blocks_0_self_attn_q_proj, lora_te_layers_0_..."""
    inner = module if part == "text_encoder" else to_original(module)
    return LORA[part == "text_encoder"] + inner.replace(".", "_")


def lora_aliases(part: str, module: str) -> list[str]:
    """Other names: dotted as ComfyUI's map and diffusion-pipe have them, diffusers' and peft's."""
    if part == "text_encoder":
        return [f"{_COMFY_TEXT}{module}", f"text_encoder.{module}"]
    own = module if module.startswith(CONDITIONER) else f"transformer.{module}"
    return [f"diffusion_model.{to_original(module)}", own, module]


_NAMED = re.compile(r"(transformer\.)?transformer_blocks\.\d+\.(attn[12]|ff\.net)\..+")


def kohya_name(name: str) -> str | None:
    """sd-scripts' name of a LoRA's module, told from any of its names without a base; None for a stranger's."""
    if re.match(r"lora_unet_(blocks_\d+_(self_attn|cross_attn|mlp_layer|adaln)|llm_adapter_)|lora_te_layers_", name):
        return name
    if name.startswith("diffusion_model.") and re.match(
        r"diffusion_model\.(blocks\.\d+\.(self_attn|cross_attn|mlp\.layer|adaln)|llm_adapter\.)", name
    ):
        return LORA[0] + name.removeprefix("diffusion_model.").replace(".", "_")
    if name.startswith(CONDITIONER) or _NAMED.fullmatch(name):
        return lora_key("transformer", name.removeprefix("transformer."))
    return lora_key("text_encoder", name.removeprefix(_COMFY_TEXT)) if name.startswith(_COMFY_TEXT) else None


def is_of_lora(shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the tensors of a LoRA file can only be for this family: layers that no other one has, or the widths of
    its cross attention, 2,048 for pictures and 1,024 for text."""
    modules = {name: shape for name, shape in shapes.items() if "llm_adapter" in name or CONDITIONER in name}
    if modules:
        return True
    down = ("lora_down.weight", "lora_A.weight", "lora_A.default.weight")
    width = {
        kind: {
            int(shape[1])
            for name, shape in shapes.items()
            if name.endswith(down) and len(shape) == 2 and re.search(kind, name)
        }
        for kind in (_TEXT_SIDE, _PICTURE_SIDE)
    }
    original = any(re.match(r"(lora_unet_|diffusion_model\.)blocks[._]\d+[._]mlp[._]layer1", n) for n in shapes)
    return (original or width[_PICTURE_SIDE] == {2048}) and width[_TEXT_SIDE] <= {1024} and bool(width[_TEXT_SIDE])


_TEXT_SIDE = r"blocks[._]\d+[._](cross_attn[._]k_proj|attn2\.to_k)"
_PICTURE_SIDE = r"transformer_blocks\.\d+\.attn2\.to_q"
