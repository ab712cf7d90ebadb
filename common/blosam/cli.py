"""The ``blosam`` command: few labelled images in, a segmentation model out."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from blosam import __version__
from blosam.errors import BlosamError

app = typer.Typer(
    help="Turn 2-8 labelled medical images into a segmentation model. Start with `blosam demo`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"blosam {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Print what the libraries log, too."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Turn 2-8 labelled medical images into a segmentation model. Start with `blosam demo`."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("blosam").setLevel(logging.INFO)
    if not verbose:
        for noisy in ("ignite", "monai", "torch.onnx"):
            # Ignite announces every error before it is raised; the command prints it once, itself.
            logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "ignite" else logging.ERROR)
        # Said by MONAI whenever a config is read or an image loaded; --verbose shows both.
        warnings.filterwarnings("ignore", message="parsing config_file")
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)


def _register() -> None:
    """Mount the commands; each imports PyTorch only when it runs, so ``--help`` stays quick."""
    from blosam.commands import (
        compare,
        demo,
        evaluate,
        export,
        info,
        label,
        pacs,
        predict,
        prepare,
        pretrain,
        switch,
        train,
        weights,
    )

    app.command("demo")(demo.demo)
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("predict")(predict.predict)
    app.command("export")(export.export)
    app.command("switch")(switch.switch)
    app.command("info")(info.info)
    app.command("compare")(compare.compare)
    app.command("pacs")(pacs.pacs)
    app.command("label")(label.label)
    app.command("prepare")(prepare.prepare)
    app.command("pretrain")(pretrain.pretrain)
    app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point: a :class:`BlosamError` becomes one line on stderr and exit code 1; Ctrl-C is exit code 130."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _register()
    try:
        app(standalone_mode=True)
    except BlosamError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
