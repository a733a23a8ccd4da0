"""sd-scripts' network_module and network_args: kohya's own LoRA and LyCORIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.sd_scripts import anima, blocks
from trainer.config.foreign.sd_scripts.rates import rates
from trainer.config.foreign.values import BadValueError, Values

ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
_MODULES = {"networks.lora": "lora", anima.MODULE: "lora", "networks.loha": "loha", "networks.lokr": "lokr"}
_WITHOUT_CONVOLUTIONS = ("attn-mlp", "attn-only", "unet-transformer-only")
_KNOWN_PRESETS = ("", "full", "unet-only", *_WITHOUT_CONVOLUTIONS)
OF_LOKR = ("factor", "decompose_both", "full_matrix")
_ARG = "network_args."
_SIZES = ("lora.alpha", "lora.conv_rank", "lora.conv_alpha")
_BLOCKWISE = (
    "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_dims", "block_alphas", "conv_block_dims",
    "conv_block_alphas", "block_lr_zero_threshold",
)  # fmt: skip


def argument(values: Values, name: str) -> str:
    return values.text(_ARG + name)


def _is(values: Values, name: str) -> bool:
    return values.flag(_ARG + name)


def is_lycoris(values: Values) -> bool:
    return values.text("network_module").startswith(("lycoris", "locon"))


def method(values: Values) -> str:
    """The kind of adapter, "" for one that is not known here."""
    module = values.text("network_module") or "networks.lora"
    if not is_lycoris(values):
        return _MODULES.get(module, "")
    found = ALGORITHMS.get((argument(values, "algo") or "lora").lower(), "")
    if _is(values, "dora_wd"):
        return "dora" if found == "lora" else ""
    return found


def module(values: Values, _name: str) -> Outcome:
    """network_module."""
    found, kind = values.text("network_module") or "networks.lora", method(values)
    if not kind:
        return missing(f"{found}{_algorithm(values)} is a kind of adapter that is not here: lora, dora, loha, lokr are")
    if is_lycoris(values) and not _preset_is_known(values):
        return missing(f"the preset {argument(values, 'preset')!r} adapts a choice of layers that cannot be told here")
    sets: dict[str, Any] = {"lora.method": kind}
    if is_lycoris(values) and argument(values, "preset") == "attn-only":
        sets["lora.layers"] = ["attn1", "attn2", "self_attn"]
    if is_lycoris(values) and conv_rank(values) and values.context.family != "sdxl":
        return changed(sets, "conv_in, conv_out and the time embedding of SD 1.x and 2.x get no adapter here")
    return carried(sets)


def _algorithm(values: Values) -> str:
    told = [f"{name}={argument(values, name)}" for name in ("algo", "dora_wd") if argument(values, name)]
    return f" ({', '.join(told)})" if told else ""


def _preset_is_known(values: Values) -> bool:
    return argument(values, "preset") in _KNOWN_PRESETS


def lokr(values: Values) -> dict[str, Any]:
    """How LoKr splits a layer."""
    if method(values) != "lokr":
        return {}
    found: dict[str, Any] = {f"lora.args.{name}": _is(values, name) for name in OF_LOKR[1:] if _is(values, name)}
    factor = values.whole(_ARG + OF_LOKR[0])
    return found | ({f"lora.args.{OF_LOKR[0]}": factor} if factor and factor > 0 else {})


def _of_file(values: Values, name: str) -> float:
    """A size of network_weights' own, which dim_from_weights takes; 0 where nothing of the kind is said."""
    found = values.context.tables.get("network_weights") if values.flag("dim_from_weights") else None
    return float(found.get(name, 0)) if isinstance(found, Mapping) else 0.0


def rank(values: Values) -> int:
    return int(_of_file(values, "network_dim")) or values.whole("network_dim") or 4


def alpha(values: Values) -> float:
    """0 counts as the rank."""
    return _of_file(values, "network_alpha") or values.number("network_alpha") or float(rank(values))


MOST = 4096  # the largest rank here


def dimension(values: Values, name: str) -> Outcome | int | None:
    """network_dim, or conv_dim of network_args."""
    found = rank(values) if name == "network_dim" else conv_rank(values)
    if found > MOST:
        return missing(f"ranks go up to {MOST} here; LyCORIS takes whole matrices instead of factors then")
    return found or unneeded("the convolutions get no adapter")


def longest(values: Values, name: str) -> Outcome | float | None:
    """scale_weight_norms."""
    found = values.number(name) or None
    if found and method(values) != "lora":
        return missing(f"only lora.method = lora can be limited here, not {method(values)}")
    return found


def conv_rank(values: Values) -> int:
    """LyCORIS adapts convolutions like all else unless its preset says otherwise; kohya's LoRA only when asked to."""
    if from_file := int(_of_file(values, "conv_dim")):
        return from_file
    own = values.whole(f"{_ARG}conv_dim") or 0
    if not is_lycoris(values):
        return own
    return 0 if argument(values, "preset") in _WITHOUT_CONVOLUTIONS else own or rank(values)


def conv_alpha(values: Values) -> float:
    if from_file := _of_file(values, "conv_alpha"):
        return from_file
    own = values.number(f"{_ARG}conv_alpha")
    if is_lycoris(values):
        return own or alpha(values)
    return own or (1.0 if own is None else float(conv_rank(values)))


def sizes(values: Values) -> dict[str, Any]:
    """Rank and alpha, also where blocks have their own."""
    root = rank(values) ** 0.5 if _is(values, "rs_lora") else 1.0  # scaled by alpha / sqrt(rank) then
    found: dict[str, Any] = {"lora.rank": rank(values), "lora.alpha": alpha(values) * root}
    if conv_rank(values):
        root = conv_rank(values) ** 0.5 if _is(values, "rs_lora") else 1.0
        found |= {"lora.conv_rank": conv_rank(values), "lora.conv_alpha": conv_alpha(values) * root}
    return found | _sizes_by_blocks(values)


def _sizes_by_blocks(values: Values) -> dict[str, Any]:
    if not is_blockwise(values) or is_lycoris(values) or not family(values):
        return {}
    try:
        found = _blocks(values)
    except ValueError:
        return {}  # told where the lists themselves are read
    return {} if isinstance(found, str) else {k: v for k, v in found.items() if k in _SIZES}


def only_for(algorithm: str, why: str, *, neutral: Sequence[str] = ()) -> Any:
    """How an argument that LyCORIS reads for one algorithm, and that is not here, is told."""

    def how(values: Values, name: str) -> Outcome:
        value = values.text(name).lower()
        if value in ("false", "0", "0.0", *neutral) or not value:
            return unneeded("off")
        if algorithm and (argument(values, "algo") or "lora").lower() != algorithm:
            return unneeded(f"only read with algo={algorithm}")
        return missing(why)

    return how


def dropout(values: Values, name: str) -> Outcome | None:
    """network_dropout, or LyCORIS' own `dropout`, which comes before it."""
    if name == "network_dropout" and is_lycoris(values) and values.has(f"{_ARG}dropout"):
        return unneeded("network_args dropout comes first")
    found = values.number(name) or None
    if found and method(values) in ("loha", "lokr"):
        return missing(f"{method(values)} has no dropout of its inputs here; rank_dropout and module_dropout are there")
    if found:
        return changed({"lora.dropout": found}, "drops the inputs of the first factor here, its outputs there")
    return None


def tucker(values: Values, name: str) -> Outcome:
    if not values.flag(name) or method(values) in ("lora", "dora") or not conv_rank(values):
        return unneeded("off, or without effect for this kind of adapter")
    return missing("3x3 convolutions are not split in Tucker's way here")


def plus(values: Values) -> dict[str, Any]:
    """LoRA+: a ratio for all, for the UNet, for the text encoder. {} where they cannot be told as one."""
    usual = values.number(f"{_ARG}loraplus_lr_ratio")
    network = values.number(f"{_ARG}loraplus_unet_lr_ratio") or usual
    text = values.number(f"{_ARG}loraplus_text_encoder_lr_ratio") or usual
    found = rates(values)
    used = {ratio or 1.0 for ratio, trains in ((network, found.network), (text, any(found.text))) if trains}
    return {"optimizer.lora_plus": used.pop()} if len(used) == 1 else {}


def plus_ratio(values: Values, name: str) -> Outcome:
    if not values.has(name):
        return unneeded("off")
    found = plus(values)
    return carried(found) if found else missing("one ratio counts for UNet and text encoder here")


# --- blocks


def is_blockwise(values: Values) -> bool:
    return any(values.has(_ARG + name) for name in _BLOCKWISE)


def blockwise(values: Values, name: str) -> Outcome:
    """Ranks and rates of single blocks, which several arguments say together."""
    if not values.has(name):
        return unneeded("off")
    if not family(values):
        return missing("SD and SDXL count blocks otherwise: say --script train_network.py or sdxl_train_network.py")
    if is_lycoris(values):
        return unneeded("LyCORIS does not read it")
    try:
        found = _blocks(values)
    except ValueError as error:
        raise BadValueError(name, values[name], str(error)) from None
    if isinstance(found, str):
        return missing(found)
    return changed(found, "blocks go by their names here") if found else unneeded("the same as for all blocks")


def family(values: Values) -> str:
    """Also by the length of a list."""
    if values.context.family:
        return values.context.family
    for name, lengths in (("block_dims", (25, 23)), ("conv_block_dims", (25, 23)), ("down_lr_weight", (12, 9))):
        count = argument(values, name).count(",") + 1
        if count in lengths:
            return ("sd", "sdxl")[lengths.index(count)]
    return ""


def _blocks(values: Values) -> dict[str, Any] | str:
    """Our lora.ranks, lora.alpha and optimizer.rates, or why they cannot say it."""
    kind, count = family(values), 23 if family(values) == "sdxl" else 25
    down, middle, up = (argument(values, f"{side}_lr_weight") or None for side in ("down", "mid", "up"))
    factors = blocks.weights(kind, down, middle, up, values.number(f"{_ARG}block_lr_zero_threshold") or 0.0)
    of = partial(_list, values, count)
    linear = (of("block_dims", rank(values)), of("block_alphas", alpha(values)))
    wide = (of("conv_block_dims", conv_rank(values)), of("conv_block_alphas", conv_alpha(values)))
    for ranks in (linear[0], wide[0]):
        ranks[:] = [r if factors is None or factors[i] else 0 for i, r in enumerate(ranks)]
    found = _linear(values, kind, *linear, convolutions=any(wide[0]))
    if isinstance(found, str):
        return found
    if any(wide[0]):
        more = _wide(values, kind, *wide)
        if isinstance(more, str):
            return more
        found |= more
    return found | _rates(values, kind, factors, convolutions=any(wide[0]))


def _list(values: Values, count: int, name: str, otherwise: float) -> list[float]:
    text = argument(values, name)
    found = [float(word) for word in text.split(",")] if text else [otherwise] * count
    if len(found) != count:
        raise ValueError(f"{name} has {len(found)} numbers, expected {count}")
    return found


def _linear(
    values: Values, kind: str, ranks: Sequence[float], alphas: Sequence[float], *, convolutions: bool
) -> dict[str, Any] | str:
    """Ranks of linear layers and 1x1 convolutions. All adapters are scaled by the same alpha / rank here."""
    places = dict(blocks.transformers(kind))
    for index, names in blocks.convolutions(kind).items() if convolutions else ():
        places[index] = (*places.get(index, ()), *(name for name in names if ".resnets" in name))
    scales = {alphas[i] / ranks[i] for i in places if ranks[i]}
    if any(rates(values).text):
        scales.add(alpha(values) / rank(values))
    if len(scales) > 1:
        return "alpha / rank is the same for all blocks here: give every block an alpha in proportion to its rank"
    sets = _ranks(places, ranks, rank(values))
    if scales:
        sets["lora.alpha"] = scales.pop() * rank(values)
    return sets


def _wide(values: Values, kind: str, ranks: Sequence[float], alphas: Sequence[float]) -> dict[str, Any] | str:
    """Ranks of 3x3 convolutions."""
    places = blocks.convolutions(kind)
    scales = {alphas[i] / ranks[i] for i in places if ranks[i]}
    if len(scales) != 1:
        return "conv_alpha / conv_dim is the same for all blocks here"
    usual = conv_rank(values) or int(max(ranks))
    layers = {i: tuple(layer for name in names for layer in blocks.wide(name)) for i, names in places.items()}
    sets = _ranks(layers, ranks, None)
    return sets | {"lora.conv_rank": usual, "lora.conv_alpha": scales.pop() * usual}


def _ranks(places: Mapping[int, blocks.Prefixes], ranks: Sequence[float], usual: int | None) -> dict[str, Any]:
    return {f"lora.ranks.{p}": int(ranks[i]) for i, names in places.items() for p in names if ranks[i] != usual}


def _rates(values: Values, kind: str, factors: Sequence[float] | None, *, convolutions: bool) -> dict[str, Any]:
    if factors is None:
        return {}
    places = dict(blocks.transformers(kind))
    if convolutions:
        for index, names in blocks.convolutions(kind).items():
            places[index] = (*places.get(index, ()), *names)
    whole = rates(values).network
    return {
        f"optimizer.rates.{name}": whole * factors[index]
        for index, names in places.items()
        for name in names
        if factors[index] not in (0, 1)
    }


def of_network(values: Values, name: str) -> Outcome | None:
    """block_lr of sdxl_train.py: a rate for each of 23 blocks."""
    text = values.text(name)
    if not text:
        return None
    found = [float(word) for word in text.split(",")]
    if len(found) != 23:
        raise BadValueError(name, text, "23 numbers")
    places = dict(blocks.transformers("sdxl")) | blocks.ends()
    for index, names in blocks.convolutions("sdxl").items():
        places[index] = (*places.get(index, ()), *names)
    sets = {f"optimizer.rates.{name}": found[index] for index, names in sorted(places.items()) for name in names}
    return changed(sets, "blocks go by their names here")


def unknown_argument(values: Values, name: str) -> Outcome:
    return missing("an argument of the network that is not known here")
