"""``blosam weights``: list, fetch and verify the base weights."""

from __future__ import annotations

from typing import Annotated

import typer

from blosam import weights

app = typer.Typer(
    help="List, fetch and verify base weights (SAM's checkpoints and the small packaged encoder).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _known(name: str) -> str:
    if name not in weights.REGISTRY:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(weights.REGISTRY)}")
    return name


Name = Annotated[str, typer.Argument(callback=_known, help=f"One of {', '.join(weights.REGISTRY)}.")]


@app.command("list")
def list_() -> None:
    """Show every known file: size, licence, whether it is here and verified, where it belongs and comes from.

    Example: blosam weights list
    """
    rows = [("NAME", "SIZE", "LICENCE", "STATE", "PATH", "URL")]
    rows += [
        (entry.name, _size(entry), entry.licence, _state(entry), str(entry.path), entry.url or "(packaged)")
        for entry in weights.REGISTRY.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def fetch(
    name: Name,
    url: Annotated[
        str | None, typer.Option(help="Another address of the same file (see also BLOSAM_WEIGHTS_URL).")
    ] = None,
) -> None:
    """Fetch a file into the cache folder and verify it; an interrupted fetch goes on where it stopped.

    The folder is BLOSAM_WEIGHTS_DIR, else ~/.cache/blosam. Example: blosam weights fetch vit_b
    """
    entry = weights.get(name)
    if not entry.packaged and not weights.is_verified(name):
        typer.echo(f"{name}: {_size(entry)}, licence {entry.licence}, to {entry.path}")
    path = weights.fetch(name, url)
    typer.echo(f"{name}: {weights.Status.OK.value}  {path}")


@app.command()
def verify(name: Name) -> None:
    """Compare a file here with its known size and SHA-256; exit code 1 when it differs or is missing.

    Example: blosam weights verify vit_b
    """
    entry, status = weights.get(name), weights.verify(name)
    if status is weights.Status.OK:
        typer.echo(f"{name}: {status.value}  {entry.path}")
        return
    if entry.packaged:
        mend = "it is not in this installation. Install blosam again"
    elif status is weights.Status.MISSING:
        mend = f"Run `blosam weights fetch {name}`"
    else:
        mend = f"Delete it and run `blosam weights fetch {name}`"
    typer.echo(f"error: {entry.path}: {status.value}. {mend}.", err=True)
    raise typer.Exit(1)


def _size(entry: weights.Weights) -> str:
    size = entry.bytes
    if size is None and entry.path.is_file():
        size = entry.path.stat().st_size
    return "-" if size is None else f"{size / 1e6:,.1f} MB"


def _state(entry: weights.Weights) -> str:
    """What is known without reading the whole file."""
    part = entry.path.with_name(entry.path.name + ".part")
    if entry.path.is_file():
        if entry.packaged:
            return "present"
        if entry.path.stat().st_size != entry.bytes:
            return "wrong size"
        return "verified" if weights.is_verified(entry.name) else "present, not verified"
    if entry.packaged:
        return "not in this installation"
    return f"{part.stat().st_size / entry.bytes:.0%} fetched" if part.is_file() else "not fetched"
