"""python -m studies FILE: trains what is missing of a study, measures it, and writes its table and figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from studies import cells, report
from studies.plan import Plan, read
from trainer.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    scale: Annotated[str, typer.Option(help="One of the study's scales, such as card.")] = "",
    table: Annotated[bool, typer.Option("--table", help="Only write the table and figure of what is there.")] = False,
) -> None:
    """Train what is missing, measure, compare. Start it in as many processes as there is room for; kill it any time."""
    try:
        plan = read(file, scale)
        others = [] if table else cells.complete(plan, typer.echo)
        written = write(plan)
    except UserError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    for cell in others:
        typer.echo(f"{cell.name}: another process is at it.")
    typer.echo(written.read_text(encoding="utf-8"))
    typer.echo(f"Table and figure: {written}, {written.with_suffix('.svg').name}")


def write(plan: Plan) -> Path:
    """The table's file; the figure lies beside it."""
    numbers = {
        name: {
            arm: {c.seed: n for c in plan.of(arm) if (n := cells.number(plan, c, name)) is not None}
            for arm in plan.study.arms
        }
        for name in plan.study.measures
    }
    plan.output.mkdir(parents=True, exist_ok=True)
    found = plan.output / "table.md"
    found.write_text(report.table(plan, numbers), encoding="utf-8")
    found.with_suffix(".svg").write_text(report.figure(plan, numbers), encoding="utf-8")
    return found


if __name__ == "__main__":
    app()
