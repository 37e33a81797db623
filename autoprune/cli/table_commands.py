"""`autoprune table`: the commands and their options; see `tables` for what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: Named here and not imported: `commands` imports this module.
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
_Table = Annotated[Path, typer.Argument(help="Latency table (.jsonl).")]

table_app = typer.Typer(
    name="table",
    help="Look at latency tables: show, check, merge, diff.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@table_app.command()
def show(table: _Table, json: _Json = False) -> None:
    """Show a table: what it was measured on, its error, and each layer's plateaus."""
    from autoprune.cli.tables import run_show

    raise typer.Exit(run_show(table, as_json=json))


@table_app.command()
def check(
    table: _Table,
    config: Annotated[
        Path | None, typer.Argument(help="YAML config that names the network and the device.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Function that builds the network; the table's, if left out.")
    ] = None,
    inputs: Annotated[str | None, typer.Option(help="Shape of the example inputs.")] = None,
    device: Annotated[str | None, typer.Option(help="What to measure on.")] = None,
    samples: Annotated[int, typer.Option(help="Candidates measured at most.", min=4)] = 12,
    timeout: Annotated[float, typer.Option(help="Seconds it may take.", min=1.0)] = 120.0,
    seed: Annotated[int, typer.Option(help="Of the candidates.")] = 0,
    json: _Json = False,
) -> None:
    """Measure a fresh sample, and tell whether the table still holds on this device.

    Exit status: 0 it holds, 1 it does not, 2 it is of another device or network.
    """
    from autoprune.cli.tables import run_check

    options = {"model": model, "inputs": inputs, "device": device}
    given = {name: value for name, value in options.items() if value is not None}
    code = run_check(
        table, config, given, samples=samples, timeout_s=timeout, seed=seed, as_json=json
    )
    raise typer.Exit(code)


@table_app.command()
def merge(
    tables: Annotated[list[Path], typer.Argument(help="Tables of one device and network.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    json: _Json = False,
) -> None:
    """Merge tables of the same device, settings and network into one."""
    from autoprune.cli.tables import run_merge

    raise typer.Exit(run_merge(tables, out, as_json=json))


@table_app.command()
def diff(
    first: _Table,
    second: Annotated[Path, typer.Argument(help="The table to compare it with.")],
    json: _Json = False,
) -> None:
    """Tell where two tables differ, by how much, and whether that is beyond the noise.

    Exit status: 0 they agree, 1 they differ beyond the noise.
    """
    from autoprune.cli.tables import run_diff

    raise typer.Exit(run_diff(first, second, as_json=json))
