"""The names of a LoRA's modules without a base: whatever program wrote them, told from the names themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from plugins.models._original_names import Pair, unet_names
from trainer.errors import UserError

UNET = ("lora_unet_", "model.diffusion_model.", "diffusion_model.", "unet.", "lycoris_")  # ComfyUI's, SimpleTuner's
TEXT = {  # beginning -> part; the long ones are ComfyUI's
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "text_encoder.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
_BARE = ("down_blocks.", "mid_block.", "up_blocks.", "input_blocks.", "middle_block.", "output_blocks.")  # peft's
_LAYERS = (2, 1)  # ResNets of a level: 2 in every published SD 1, SD 2 and SDXL, 1 in distilled ones
_WIDTH = 320  # of which all their UNets' widths are multiples
_ORIGINAL = ("input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_")


def kohyas(
    shapes: Mapping[str, Sequence[Sequence[int]]], prefixes: Mapping[str, str], original: bool | None
) -> dict[str, str]:
    """Each module's name in a file -> kohya's, for those that are understood.

    shapes: of each module's tensors; prefixes: of each text encoder's names; original: whether the UNet's blocks go by
    their original names, None = as they do in the first one. Names of blocks in one spelling stay in it where they fit
    networks of two depths. Raises UserError where they come in both spellings and fit both depths.
    """
    inner = {name: block for name in shapes if (block := _inside(name)) is not None}
    if original is None:
        original = next((block.startswith(_ORIGINAL) for block in inner.values()), False)
    widths = [side for name in inner for shape in shapes[name] for side in shape[:2]]
    translated = _blocks([*inner.values()], original, published=any(w and w % _WIDTH == 0 for w in widths))
    found = {name: UNET[0] + translated[block] for name, block in inner.items()}
    for name in shapes:
        text = _text(name)
        if text is not None and text[0] in prefixes:
            found[name] = text_key(prefixes[text[0]], text[1])
    return found


def text_key(prefix: str, module: str) -> str:
    """kohya's name of a text encoder's module, e.g. lora_te_text_model_encoder_layers_0_mlp_fc1. The projection behind
    the encoder is no part of its text model, and other programs look for it as lora_te2_text_projection."""
    flat = module.replace(".", "_").removeprefix("text_model_")
    return f"{prefix}_{flat}" if flat == "text_projection" else f"{prefix}_text_model_{flat}"


def _text(name: str) -> tuple[str, str] | None:
    for beginning, part in TEXT.items():
        if name.startswith(beginning):
            return part, name.removeprefix(beginning)
    return None


def _inside(name: str) -> str | None:
    """The UNet's module that a name means, with underscores; None where it means none."""
    for beginning in UNET:
        if name.startswith(beginning):
            return name.removeprefix(beginning).replace(".", "_")
    return name.replace(".", "_") if name.startswith(_BARE) else None


def _blocks(names: Sequence[str], original: bool, *, published: bool) -> dict[str, str]:
    """Each name in one spelling."""
    if all(name.startswith(_ORIGINAL) is original for name in names):
        return {name: name for name in names}
    known = [{n: _translate(n, layers, original) for n in names} for layers in _LAYERS]
    best = max(sum(found is not None for found in one.values()) for one in known)
    fitting = [
        {n: f or n for n, f in one.items()} for one in known if sum(found is not None for found in one.values()) == best
    ]
    if published or all(one == fitting[0] for one in fitting):
        return fitting[0]
    if len({name.startswith(_ORIGINAL) for name in names}) == 1:
        return {name: name for name in names}
    first = next(name for name in names if name.startswith(_ORIGINAL))
    raise UserError(
        f"{first}: stands in the original layout beside names of diffusers' blocks, and is another layer in a network "
        "of another depth; put the files into the base model instead (merge BASE FILES)."
    )


def _translate(name: str, layers: int, original: bool) -> str | None:
    """In the wanted spelling, whichever it is in; None for what no network of that depth has."""
    both = (_table(layers, original=True), _table(layers, original=False))
    if (found := _longest(name, both[original])) is not None:
        return found
    return name if _longest(name, both[not original]) is not None else None


def _longest(name: str, table: Mapping[str, str]) -> str | None:
    """Replaces the longest beginning that the table knows."""
    parts = name.split("_")
    for count in range(len(parts), 0, -1):
        found = table.get("_".join(parts[:count]))
        if found is not None:
            return "_".join([found, *parts[count:]])
    return None


@cache
def _table(layers: int, *, original: bool) -> dict[str, str]:
    """original: from the names of the original layout, else to them. Of four levels, which have those of fewer."""
    levels = {"block_out_channels": (0,) * 4, "layers_per_block": layers}
    pairs: list[Pair] = []
    for kind in ("UpBlock2D", "CrossAttnUpBlock2D"):  # the last one counts for the way to the original names: SDXL's
        pairs += unet_names({**levels, "up_block_types": (kind,) * 4}).pairs
    kept = [(o.replace(".", "_"), d.replace(".", "_")) for o, d in pairs if d.rpartition(".")[0][-7:] != "resnets"]
    return dict(kept) if original else {d: o for o, d in kept}
