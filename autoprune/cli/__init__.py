"""The `autoprune` command."""

from autoprune.cli.commands import app, main

__all__ = ["app", "main"]
