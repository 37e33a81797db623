"""Commands and their options; what they do is imported when they run, so `--help` is quick."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.table_commands import table_app
from autoprune.core.errors import AutopruneError

#: Exit status: the budget holds, it does not hold, the user's input is wrong, stopped by Ctrl-C.
HELD, NOT_HELD, BAD_INPUT, STOPPED = 0, 1, 2, 130

#: Exit status of a mistake in autoprune itself (EX_SOFTWARE of BSD's sysexits).
INTERNAL = 70

app = typer.Typer(
    name="autoprune",
    help="From a network and a budget to a smaller network that holds it, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path | None, typer.Argument(help="YAML config; the options below override it.")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one setting: budget.latency=0.5x; may be repeated."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Function that builds the network: package.module:build or file.py:build."),
]
Inputs = Annotated[
    str | None,
    typer.Option(help="Shape of the example inputs, such as 8x3x32x32, or a function."),
]
Device = Annotated[
    str | None, typer.Option(help="What to measure on; `autoprune devices` lists them.")
]
Seed = Annotated[int | None, typer.Option(help="Of every random choice.")]

Workers = Annotated[
    int | None, typer.Option(help="Evaluate on so many Ray workers, on this machine.", min=1)
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Cluster that has the workers: auto, host:port or ray://host:port."),
]


def worker_settings(workers: int | None, ray_address: str | None) -> list[str]:
    """`--workers` and `--ray-address` as overrides; what the config says of workers else stays."""
    found = [] if workers is None else [f"workers.count={workers}"]
    return found + ([] if ray_address is None else [f"workers.address={ray_address}"])


def _options(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def search(
    config: Config = None,
    model: Model = None,
    inputs: Inputs = None,
    evaluate: Annotated[
        str | None, typer.Option(help='Function: network → {"accuracy": ...}.')
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Function that gives batches of inputs.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="Function that gives (inputs, labels) batches.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="latency=0.6x, macs=60M, params=0.5x, memory=2MiB; may be repeated. Several "
            "budgets in one search: latency=[0.9x,0.5x]."
        ),
    ] = None,
    device: Device = None,
    searcher: Annotated[str | None, typer.Option(help="uniform, random, tpe, amc, ...")] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to evaluate.")] = None,
    local_search: Annotated[
        float | None,
        typer.Option(help="Share of the trials, at the end, around the best so far: 0.3."),
    ] = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a name or a YAML file.")] = None,
    table: Annotated[str | None, typer.Option(help="Latency table to load.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database for the trials: postgresql+psycopg://user@host/db.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Begin this study in the database, or join the drivers that search it."),
    ] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    settings: Sets = None,
    json: Json = False,
) -> None:
    """Search for a smaller network that holds a budget.

    Exit status: 0 the budget holds, 1 it does not, 2 the input is wrong.
    """
    from autoprune.cli.searching import run_search

    options = _options(
        model=model,
        inputs=inputs,
        evaluate=evaluate,
        calibration=calibration,
        train=train,
        budget=",".join(budget) if budget else None,
        device=device,
        searcher=searcher,
        trials=trials,
        local_search=local_search,
        seed=seed,
        out=None if out is None else str(out),
        space=space,
        table=table,
        storage=storage,
        study=study,
    )
    settings = [*worker_settings(workers, ray_address), *(settings or [])]
    raise typer.Exit(run_search(config, options, settings, as_json=json))


@app.command()
def resume(run: RunPath, json: Json = False) -> None:
    """Go on with a run that was stopped, however it was."""
    from autoprune.cli.searching import run_resume

    raise typer.Exit(run_resume(run, as_json=json))


@app.command()
def profile(
    config: Config = None,
    model: Model = None,
    inputs: Inputs = None,
    device: Device = None,
    candidates: Annotated[
        int | None, typer.Option(help="Candidates measured at most.", min=8)
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds it may take.", min=1.0)] = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(help="Table of this device whose kernel times are taken over; repeatable."),
    ] = None,
    seed: Seed = None,
    out: Annotated[Path, typer.Option(help="File to write the table to.")] = Path("table.jsonl"),
    settings: Sets = None,
    json: Json = False,
) -> None:
    """Measure a latency table of a network, and tell its own error on held-out candidates."""
    from autoprune.cli.profiling import run_profile

    options = _options(model=model, inputs=inputs, device=device, seed=seed)
    more = [] if candidates is None else [f"profile.candidates={candidates}"]
    more += [] if timeout is None else [f"profile.timeout_s={timeout}"]
    more += [] if not reuse else [f"profile.reuse={list(reuse)!r}"]
    raise typer.Exit(run_profile(config, options, [*(settings or []), *more], out, as_json=json))


@app.command()
def inspect(
    config: Config = None,
    model: Model = None,
    inputs: Inputs = None,
    settings: Sets = None,
    json: Json = False,
) -> None:
    """Show what can be pruned together, what can't, and why."""
    from autoprune.cli.looking import run_inspect

    options = _options(model=model, inputs=inputs)
    raise typer.Exit(run_inspect(config, options, settings or [], as_json=json))


@app.command()
def verify(run: RunPath, json: Json = False) -> None:
    """Measure a finished run's network again, beside the dense one.

    Exit status: 0 the budget holds, 1 it does not.
    """
    from autoprune.cli.looking import run_verify

    raise typer.Exit(run_verify(run, as_json=json))


@app.command()
def explain(run: RunPath, json: Json = False) -> None:
    """Show each layer's time, dense against pruned: what pruning brought, and where it did not."""
    from autoprune.cli.explaining import run_explain

    raise typer.Exit(run_explain(run, as_json=json))


@app.command()
def pick(
    run: RunPath,
    budget: Annotated[
        list[str], typer.Option(help="latency=0.6x, macs=60M, params=0.5x; may be repeated.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; one in RUN where it is left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Take the best network for a budget off a finished run, without a new search.

    Exit status: 0 the budget holds as it was measured now, 1 it does not, 2 no network of the run
    holds it.
    """
    from autoprune.cli.picking import run_pick

    raise typer.Exit(run_pick(run, budget, out, as_json=json))


@app.command()
def export(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="File to write.")],
    format: Annotated[
        str | None, typer.Option(help="onnx or torch (torch.export, .pt2); by the ending.")
    ] = None,
) -> None:
    """Write a finished run's network to a file."""
    from autoprune.cli.looking import run_export

    raise typer.Exit(run_export(run, out, format))


@app.command()
def devices(json: Json = False) -> None:
    """List what can be measured on, and what is missing where it can't."""
    from autoprune.cli.looking import run_devices

    raise typer.Exit(run_devices(as_json=json))


@app.command()
def batch(
    what: Annotated[
        str, typer.Argument(help="A sweep's YAML, or what to do with RUN: status, resume, cancel.")
    ],
    run: Annotated[Path | None, typer.Argument(help="Folder of a batch.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would run and about how long; run nothing.")
    ] = False,
    ray_address: RayAddress = None,
    settings: Sets = None,
    json: Json = False,
) -> None:
    """Run models × budgets × devices × searchers × seeds as one batch, on Ray.

    autoprune batch SWEEP.yaml; autoprune batch status|resume|cancel RUN.
    Exit status: 0 every budget holds, 1 not, 2 the input is wrong.
    """
    from autoprune.cli import batching
    from autoprune.core.errors import ConfigError

    address = [] if ray_address is None else [f"jobs.address={ray_address}"]
    more = [*address, *(settings or [])]
    if what not in ("status", "resume", "cancel"):
        if run is not None:
            raise ConfigError(
                f"batch takes a sweep's YAML, or status, resume or cancel and a folder; got "
                f"{what!r} and {str(run)!r}"
            )
        code = batching.run_sweep(Path(what), more, dry_run=dry_run, as_json=json)
        raise typer.Exit(code)
    if run is None:
        raise ConfigError(f"batch {what} needs the folder of a batch: autoprune batch {what} RUN")
    if dry_run or settings or (address and what != "resume"):
        raise ConfigError(
            f"batch {what} takes no --dry-run or --set"
            + ("" if what == "resume" else ", and no --ray-address")
        )
    if what == "cancel":
        raise typer.Exit(batching.run_batch_cancel(run))
    if what == "status":
        raise typer.Exit(batching.run_batch_status(run, as_json=json))
    raise typer.Exit(batching.run_batch_resume(run, ray_address, as_json=json))


app.add_typer(table_app)


def main() -> None:
    """Run the command; a user's mistake ends with its message and status 2."""
    try:
        app()
    except AutopruneError as error:
        for line in (f"error: {error}", *getattr(error, "__notes__", ())):
            typer.echo(line, err=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(STOPPED)
    except BrokenPipeError:
        # The reader of a pipe went away (`autoprune ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NOT_HELD)
    except Exception:  # Ours: left to Python it would end with 1, which says "not held".
        traceback.print_exc()
        typer.echo(
            "this is a mistake in autoprune, not in your input: please report it, with the lines "
            "above and the command",
            err=True,
        )
        sys.exit(INTERNAL)
