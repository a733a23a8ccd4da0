"""The command line. Imports nothing heavy until a command runs."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer
from typer.main import get_command

from trainer.errors import RunError, UserError

app = typer.Typer(
    name="trainer",
    help="Trains LoRAs and full fine-tunes of Stable Diffusion, with Noise Oversampling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from trainer.commands import version

        print(version.line())
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Trains LoRAs and full fine-tunes of Stable Diffusion, with Noise Oversampling."""


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The TOML file of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set noise.oversampling=128."),
]

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes; must not be there yet.")]
Partial = Annotated[bool, typer.Option("--partial", help="Leave out what does not fit the base, and list it.")]
Dtype = Annotated[Literal["fp16", "bf16", "fp32"], typer.Option(help="Storage of the weights.")]


@app.command()
def train(
    config: ConfigFile,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="[CHECKPOINT]", help="With --resume: the folder of the checkpoint to continue from."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from CHECKPOINT, or from the run's newest valid one.")
    ] = False,
) -> None:
    """Train what a config describes; Ctrl-C saves and stops after the current step, a second one stops at once."""
    from trainer.commands import training as commands

    if checkpoint is not None and not resume:
        raise UserError(f"{checkpoint}: to continue from a checkpoint, add --resume.")
    if checkpoint is not None and config.is_dir() and not checkpoint.is_dir():
        config, checkpoint = checkpoint, config  # `train --resume CHECKPOINT CONFIG` says the same
    commands.train(config, overrides or [], resume=resume, given=checkpoint)
    commands.leave()


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Take one step with the largest batch: memory, time; writes nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the dataset report as JSON and nothing else.")] = False,
) -> None:
    """Show what would train and what is odd about the data; writes dataset-report.html and trains nothing."""
    from trainer.commands import training as commands

    commands.check(config, overrides or [], preflight=preflight, as_json=as_json)
    commands.leave()


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="A config, preset or command line of another trainer, or a finished LoRA."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the TOML goes; else <name>-imported.toml beside FILE.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Leave out a key that has no counterpart; several times, or all."),
    ] = None,
    script: Annotated[
        str, typer.Option(help="The script of sd-scripts that a TOML is for, where it does not say so itself.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the TOML if it is there already.")] = False,
) -> None:
    """Turn a file of sd-scripts, kohya_ss, OneTrainer, ai-toolkit or diffusers into a TOML file; tells what became of
    each key."""
    from trainer.commands import importing

    importing.import_file(file, output, without=without or [], script=script, overwrite=overwrite)


@app.command()
def preset(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[FAMILY CARD PURPOSE]", help="Such as sdxl 12gb style.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The config to write; without it, it is printed.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there already.")] = False,
) -> None:
    """Write a config to begin with, for your model, card and purpose; without words, list what there is."""
    from trainer.commands import presets

    presets.preset(words or [], output, overwrite=overwrite)


@app.command()
def cache(config: ConfigFile, overrides: Overrides = None) -> None:
    """Encode images and captions into the disk cache, ahead of training; needs data.cache_to_disk = true."""
    from trainer.commands import training as commands

    commands.cache(config, overrides or [])


@app.command()
def noise(
    config: ConfigFile,
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(min=1, help="How many of your images are looked at, at most.")] = 256,
) -> None:
    """Show what pairing noise with your own images would do, before you train; writes noise-report.html."""
    from trainer.commands import reports

    reports.noise(config, overrides or [], images=images)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another run with the same [validation].")],
) -> None:
    """Tell whether a setting helped: two runs on the same held-out images, paired, with an interval."""
    from trainer.commands import reports

    reports.compare(first, second)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Pictures that were drawn, such as those of sample --per-class.")],
    reference: Annotated[Path, typer.Argument(help="Real pictures, best ones that did not train.")],
    features: Annotated[
        str,
        typer.Option(help="A TorchScript file, a folder with a CLIP model of transformers, or simple: no network."),
    ] = "simple",
    side: Annotated[int, typer.Option(min=8, help="Pixels of the squares that a TorchScript file takes.")] = 299,
    range: Annotated[
        Literal["unit", "signed", "bytes", "imagenet"],
        typer.Option(help="Their values: 0 to 1, -1 to 1, 0 to 255, or normalised as for ImageNet's networks."),
    ] = "imagenet",
    images: Annotated[int, typer.Option(min=0, help="Pictures of each folder that count, by chance; 0 = all.")] = 0,
    resamples: Annotated[int, typer.Option(min=20, help="How often pictures are resampled for the intervals.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and the resampling.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file too.")] = None,
) -> None:
    """Score a folder of pictures against another: Frechet distance, KID, precision and recall, with 95 % intervals."""
    from trainer.commands import scoring

    scoring.score(
        folder,
        reference,
        features,
        side=side,
        range=range,
        most=images,
        resamples=resamples,
        seed=seed,
        into=json,
    )


@app.command()
def captions(
    folder: Annotated[Path, typer.Argument(help="The folder of images and captions (not those below it).")],
    remove: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Drop a tag.")] = None,
    replace: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Put a tag in another's place.")] = None,
    add: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Add a tag at the end.")] = None,
    first: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Put a tag first.")] = None,
    deduplicate: Annotated[bool, typer.Option("--deduplicate", help="Leave each tag once.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="Sort the tags, but for those of --first.")] = False,
    having: Annotated[str, typer.Option(metavar="TAG", help="Only captions that have this tag.")] = "",
    tag: Annotated[
        str, typer.Option(metavar="MODEL", help="Tag images without a caption: a WD14 tagger's file, folder or hub id.")
    ] = "",
    append: Annotated[bool, typer.Option("--append", help="--tag: add to captions that are there, too.")] = False,
    general: Annotated[float, typer.Option(min=0, max=1, help="--tag: probability that a tag needs.")] = 0.35,
    character: Annotated[float, typer.Option(min=0, max=1, help="--tag: probability that a character needs.")] = 0.85,
    exclude: Annotated[list[str] | None, typer.Option(metavar="TAG", help="--tag: never this one.")] = None,
    ratings: Annotated[bool, typer.Option("--ratings", help="--tag: put the rating first.")] = False,
    underscores: Annotated[bool, typer.Option("--underscores", help="--tag: keep them instead of blanks.")] = False,
    extension: Annotated[str, typer.Option(help="Of the caption files, e.g. .txt; else .txt and .caption.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without it the changes are only shown.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last change of this folder back.")] = False,
) -> None:
    """Change the tags of all captions in a folder, or make them: seen before, and with a way back.

    What is given is done in this order: tag, remove, replace, add, first, deduplicate, sort; with --tag only to what
    that tags.
    """
    from trainer.commands import captions as command

    if undo:
        command.undo(folder)
        return
    asked = [("remove", tag) for tag in remove or []] + [("replace", pair) for pair in replace or []]
    asked += [("add", tag) for tag in add or []] + [("first", tag) for tag in reversed(first or [])]
    asked += [(name, "") for name, on in (("deduplicate", deduplicate), ("sort", sort)) if on]
    tagging = command.tagging(tag, append, general, character, exclude or [], ratings=ratings, underscores=underscores)
    command.change(folder, asked, having=having, extension=extension, apply=apply, tagging=tagging)


@app.command()
def plugins() -> None:
    """List the plugins that are installed."""
    from trainer.commands import reports

    reports.plugins()


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page for people instead.")] = False,
) -> None:
    """Print the JSON schema of the config file, for editors."""
    from trainer.commands import reports

    reports.schema(markdown=markdown)


@app.command()
def sample(
    config: ConfigFile,
    overrides: Overrides = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA file; without it the base draws.")] = None,
    embedding: Annotated[
        list[Path] | None, typer.Option(help="A file of textual inversion; prompts know it by the file's name.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; else samples.prompts of the config.")] = None,
    strength: Annotated[str, typer.Option(help="Strengths of the LoRA, one column each, e.g. 0,0.5,1.")] = "0,1",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file, or a folder for numbered ones; else they go to the run's folder."),
    ] = None,
    partial: Partial = False,
    negative: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    sampler: Annotated[str | None, typer.Option(help="By kohya's name, such as euler_a.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first prompt; each next prompt adds one.")] = None,
    parts: Annotated[
        Path | None, typer.Option(help="Also save each picture in this folder, as ROW-COLUMN.png, counted from 0.")
    ] = None,
    per_class: Annotated[
        int,
        typer.Option(
            min=0,
            help="So many pictures of each of model.classes, or of each prompt, into the folder --output instead of a "
            "grid, with the last --strength of a LoRA. Pictures that are there stay.",
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="With --per-class: pictures drawn at once.")] = 4,
) -> None:
    """Draw a grid of prompts by strengths of a LoRA, with fixed seeds; every grid gets a file of its own. Or, with
    --per-class, pictures of each class."""
    from trainer.commands import class_sampling, sampling

    given = {
        "negative": negative, "width": width, "height": height, "steps": steps, "sampler": sampler,
        "guidance": guidance, "seed": seed,
    }  # fmt: skip
    own = [f"samples.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    strengths = _numbers("--strength", strength)
    if per_class:
        own += [f"samples.prompts={json.dumps(prompt)}", "model.classes=[]"] if prompt else []
        one = strengths[-1]
        class_sampling.sample_classes(
            config, [*(overrides or []), *own], lora, one, per_class, batch, output, partial, embedding or []
        )
        return
    overridden = [*(overrides or []), *own]
    sampling.sample(config, overridden, lora, prompt or [], strengths, output, partial, parts, embedding or [])


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A LoRA, a checkpoint or a diffusers folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a file is: family, prediction, rank, alpha, metadata, and whether anything in it is NaN or zero."""
    _files().inspect(file, as_json=as_json)


@app.command()
def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file.")],
    output: Output,
    rank: Annotated[int, typer.Option(min=1, help="The new rank.")],
    conv_rank: Annotated[int, typer.Option(min=0, help="The new rank of 3x3 convolutions; 0 = the same.")] = 0,
    dtype: Dtype = "fp16",
) -> None:
    """Bring a LoRA to another rank."""
    _files().resize(file, rank, conv_rank, output, dtype)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A LoRA file of any program.")],
    output: Output,
    projections: Annotated[
        Literal["linear", "convolution"] | None,
        typer.Option(help="Write the projections around the UNet's transformers with two or four dimensions."),
    ] = None,
    dtype: Dtype = "fp16",
) -> None:
    """Write a LoRA with kohya's names, which all programs read."""
    _files().convert(file, projections, output, dtype)


@app.command()
def extract(
    tuned: Annotated[Path, typer.Argument(help="The fine-tuned checkpoint.")],
    base: Annotated[Path, typer.Argument(help="The checkpoint it came from.")],
    output: Output,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    conv_rank: Annotated[int, typer.Option(min=0, help="0 leaves the 3x3 convolutions out.")] = 0,
    alpha: Annotated[float, typer.Option(min=0, help="alpha of every module; 0 = its rank.")] = 0.0,
    min_diff: Annotated[
        float, typer.Option(min=0, help="Leave layers out of which no number differs by more than this.")
    ] = 0.0,
    dtype: Dtype = "fp16",
) -> None:
    """Extract a LoRA from the difference of two checkpoints."""
    _files().extract(tuned, base, rank, conv_rank, output, dtype, min_diff=min_diff, alpha=alpha)


@app.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="A checkpoint or diffusers folder and LoRA files, or LoRAs alone.")
    ],
    output: Output,
    strength: Annotated[str, typer.Option(help="How strongly the LoRAs act: a number for all, or 1,0.5,...")] = "1",
    rank: Annotated[int, typer.Option(min=0, help="LoRAs alone: rank of the result; 0 = exact, ranks add up.")] = 0,
    dtype: Dtype = "fp16",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out what does not fit the base, and list it.")
    ] = False,
) -> None:
    """Merge LoRAs into a base (a .safetensors file or, by its name, a diffusers folder), or several into one LoRA."""
    _files().merge(files, _numbers("--strength", strength), rank, output, dtype, partial)


def _files() -> ModuleType:
    """The commands about files, whose libraries take seconds to import."""
    from trainer.commands.quiet import loading

    with loading():
        from trainer.commands import files
    return files


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option}: found {text!r}, expected numbers with commas between them.") from None


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Path("output/demo"),
    compare: Annotated[bool, typer.Option("--compare", help="Also train the twin with plain noise.")] = False,
) -> None:
    """Train a LoRA with Noise Oversampling on real images with the embedded model; no GPU needed."""
    from trainer.commands.quiet import loading

    with loading():
        from demo import run
    run.main(output, compare=compare)


@app.command("gpu-check")
def gpu_check(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long it may take, about.")] = 10.0,
    json: Annotated[Path, typer.Option("--json", help="Where all figures go, each as soon as it exists.")] = Path(
        "gpu-check.json"
    ),
) -> None:
    """Measure what this card does: its tests, steps of SD 1.5 and SDXL, memory, and which presets fit; no downloads."""
    from trainer.commands.quiet import loading

    try:
        with loading():
            from gpu_check import run
    except ImportError as error:
        raise UserError(
            f"gpu-check: {error.name or error} is not installed here. 'python launch.py setup' installs everything; "
            "tests/gpu/README.md tells what to bring to a machine without a network."
        ) from error
    run.main(minutes, json)


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(help="Where configs and runs lie.")] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 = all of this machine's.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; without it the first free one from 7860.")] = None,
    auth: Annotated[
        str, typer.Option(metavar="USER:PASSWORD", help="Ask for this login.", envvar="IMMISCIBLE_UI_AUTH")
    ] = "",
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Allow other machines without a login.")] = False,
    root_path: Annotated[str, typer.Option(help="Path or address under which a proxy shows the page.")] = "",
    name: Annotated[list[str] | None, typer.Option(help="A host name that this server is known by.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> None:
    """Open the user interface in the browser."""
    from ui import serve

    serve.main(
        folder,
        host=host,
        port=port,
        auth=auth,
        without_login=no_auth,
        root_path=root_path,
        names=name or [],
        browser=browser,
    )


def _refuse_settings(words: list[str]) -> None:
    """Raises UserError for settings as options, such as --learning_rate 1e-4, where the command takes --set."""
    command = getattr(get_command(app), "commands", {}).get(words[0] if words else "")
    own = (
        {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))} if command is not None else set()
    )
    if "--set" in own and any(word.startswith("--") and word.partition("=")[0] not in own for word in words):
        from trainer.commands import options

        options.refuse_settings(words[1:], own)


def main() -> None:
    """Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # into a pipe, Windows writes few letters and raises for all others
            stream.reconfigure(errors="backslashreplace")
    try:
        _refuse_settings(sys.argv[1:])
        app()
    except UserError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
