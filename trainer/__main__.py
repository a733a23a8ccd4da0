"""The command line. Imports nothing heavy until a command runs."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from trainer.errors import RunError, UserError

app = typer.Typer(
    name="trainer",
    help="Trains LoRAs and full fine-tunes of Stable Diffusion, with Noise Oversampling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The TOML file of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set noise.oversampling=128."),
]

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes; must not be there yet.")]
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
    from trainer import commands

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
    from trainer import commands

    commands.check(config, overrides or [], preflight=preflight, as_json=as_json)
    commands.leave()


@app.command()
def cache(config: ConfigFile, overrides: Overrides = None) -> None:
    """Encode images and captions into the disk cache, ahead of training; needs data.cache_to_disk = true."""
    from trainer import commands

    commands.cache(config, overrides or [])


@app.command()
def noise(
    config: ConfigFile,
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(min=1, help="How many of your images are looked at, at most.")] = 256,
) -> None:
    """Show what pairing noise with your own images would do, before you train; writes noise-report.html."""
    from trainer import commands

    commands.noise(config, overrides or [], images=images)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another run with the same [validation].")],
) -> None:
    """Tell whether a setting helped: two runs on the same held-out images, paired, with an interval."""
    from trainer import commands

    commands.compare(first, second)


@app.command()
def plugins() -> None:
    """List the plugins that are installed."""
    from trainer import commands

    commands.plugins()


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page for people instead.")] = False,
) -> None:
    """Print the JSON schema of the config file, for editors."""
    from trainer import commands

    commands.schema(markdown=markdown)


@app.command()
def sample(
    config: ConfigFile,
    overrides: Overrides = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA file; without it the base draws.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; else samples.prompts of the config.")] = None,
    strength: Annotated[str, typer.Option(help="Strengths of the LoRA, one column each, e.g. 0,0.5,1.")] = "0,1",
    output: Output = Path("sample.png"),
) -> None:
    """Draw a grid of prompts by strengths of a LoRA, with fixed seeds."""
    _quietly().sample(config, overrides or [], lora, prompt or [], _numbers("--strength", strength), output)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A LoRA, a checkpoint or a diffusers folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a file is: family, prediction, rank, alpha, metadata, and whether anything in it is NaN or zero."""
    _quietly().inspect(file, as_json=as_json)


@app.command()
def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file.")],
    output: Output,
    rank: Annotated[int, typer.Option(min=1, help="The new rank.")],
    conv_rank: Annotated[int, typer.Option(min=0, help="The new rank of 3x3 convolutions; 0 = the same.")] = 0,
    dtype: Dtype = "fp16",
) -> None:
    """Bring a LoRA to another rank."""
    _quietly().resize(file, rank, conv_rank, output, dtype)


@app.command()
def extract(
    tuned: Annotated[Path, typer.Argument(help="The fine-tuned checkpoint.")],
    base: Annotated[Path, typer.Argument(help="The checkpoint it came from.")],
    output: Output,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    conv_rank: Annotated[int, typer.Option(min=0, help="0 leaves the 3x3 convolutions out.")] = 0,
    dtype: Dtype = "fp16",
) -> None:
    """Extract a LoRA from the difference of two checkpoints."""
    _quietly().extract(tuned, base, rank, conv_rank, output, dtype)


@app.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="A checkpoint or diffusers folder and LoRA files, or LoRAs alone.")
    ],
    output: Output,
    strength: Annotated[str, typer.Option(help="How strongly the LoRAs act: a number for all, or 1,0.5,...")] = "1",
    rank: Annotated[int, typer.Option(min=0, help="LoRAs alone: rank of the result; 0 = exact, ranks add up.")] = 0,
    dtype: Dtype = "fp16",
) -> None:
    """Merge LoRAs into a base (a .safetensors file or, by its name, a diffusers folder), or several into one LoRA."""
    _quietly().merge(files, _numbers("--strength", strength), rank, output, dtype)


def _quietly() -> ModuleType:
    """The commands about files; the libraries they need take seconds to import and talk meanwhile."""
    from trainer.quiet import quiet

    quiet()
    return importlib.import_module("trainer.file_commands")


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
    from trainer import commands

    commands.demo(output, compare=compare)


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
    from trainer import commands

    commands.ui(
        folder,
        host=host,
        port=port,
        auth=auth,
        without_login=no_auth,
        root_path=root_path,
        names=name or [],
        browser=browser,
    )


def main() -> None:
    """Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # into a pipe, Windows writes few letters and raises for all others
            stream.reconfigure(errors="backslashreplace")
    try:
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
