"""The command line. Imports nothing heavy until a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Take one step with the largest batch: memory, time; writes nothing.")
    ] = False,
) -> None:
    """Validate config and data and print what would train; trains nothing."""
    from trainer import commands

    commands.check(config, overrides or [], preflight=preflight)


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
def schema() -> None:
    """Print the JSON schema of the config file, for editors."""
    from trainer import commands

    commands.schema()


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
