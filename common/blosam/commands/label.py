"""``blosam label``: a MONAI Label server for 3D Slicer and OHIF with one or more bundles."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from blosam.errors import BlosamError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def label(
    bundle: Annotated[list[Path], typer.Option("--bundle", "-b", help="A bundle folder; repeat for several.")],
    studies: Annotated[str, typer.Option("--studies", "-s", help="Folder of images, or a DICOMweb address.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this computer only.")] = "127.0.0.1",
    app: Annotated[Path, typer.Option(help="Folder for the server: copies of bundles that train, logs.")] = Path(
        "runs/label"
    ),
    modality: Annotated[list[str] | None, typer.Option(help="DICOMweb only: modalities to list, e.g. DX.")] = None,
) -> None:
    """Serve bundles to 3D Slicer and OHIF: automatic masks, corrections, training. Run `make label` once before.

    Your bundles are not changed: training goes on in copies, APP/model/NAME. Ctrl-C stops the server.

    Example: blosam label --bundle bundles/blosam_lung --studies chest_images
    """
    from blosam.label.environment import label_python
    from blosam.label.folder import prepare_app
    from blosam.label.launch import Server, check_port

    python = label_python()
    studies = _studies(studies)
    app = app.resolve()
    check_port(host, port)
    bundles = prepare_app(app, bundle)
    _check_weights(bundles)
    if host not in _LOOPBACK:
        typer.echo(
            f"warning: --host {host}: everybody who reaches this computer can see and change the images and labels; "
            "MONAI Label asks for no password. Use 127.0.0.1, or a proxy with authentication.",
            err=True,
        )
    names = [copy.root.name for copy in bundles]
    # A service manager ends programs with SIGTERM: leave as with Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = Server(python, app, names, studies, host, port, modality or _modalities(bundles))
    try:
        typer.echo("starting MONAI Label ...")
        server.wait_until_ready()
        typer.echo(_instructions(server.url, app, names, studies))
        server.wait()
    except KeyboardInterrupt:
        typer.echo("stopped")
    finally:
        server.stop()


def _studies(studies: str) -> str:
    """An address as it is, or the full path of an existing folder.

    Raises:
        BlosamError: when it is neither.
    """
    if studies.startswith(("http://", "https://")):
        return studies
    folder = Path(studies).resolve()
    if not folder.is_dir():
        raise BlosamError(f"--studies {studies}: no such folder. Give a folder of images, or a DICOMweb address.")
    return str(folder)


def _check_weights(bundles: list) -> None:
    """Load each bundle once, so that weights that do not fit are refused here; say which bundles have none."""
    from blosam.predictor import Predictor

    for copy in bundles:
        if copy.weights.is_file():
            Predictor(copy.root)
        else:
            typer.echo(
                f"note: {copy.root.name} has no weights yet. Automatic masks come after the first training; or stop, "
                "run `make models` for weights trained on phantoms, and start again."
            )


def _modalities(bundles: list) -> list[str]:
    """DICOM modalities that the bundles accept; those of radiographs when they do not say."""
    found = [name for copy in bundles for name in copy.metadata.get("accepted_images", {}).get("modalities", [])]
    return list(dict.fromkeys(found)) or ["DX", "CR"]


def _instructions(url: str, app: Path, names: list[str], studies: str) -> str:
    remote = studies.startswith(("http://", "https://"))
    lines = [
        f"MONAI Label with {', '.join(names)} is ready: {url}",
        "3D Slicer: install the extension MONAILabel; open the module MONAI Label; enter this address as server and",
        "  press the green arrow; Next Sample; Auto Segmentation, Run; correct with the Segment Editor; Submit Label;",
        "  after 2 labels or more: Active Learning, Train.",
    ]
    if remote:
        lines.append(f"OHIF: open {url}/ohif/ in a browser; choose a study; MONAI Label in the right panel.")
    else:
        lines.append("OHIF needs images from a DICOMweb server: start with --studies http://...")
    lines += [
        f"New weights: in {app / 'model'}/NAME; blosam predict IMAGE --bundle {app / 'model' / names[0]} uses them",
        f"Labels: {'not kept for DICOMweb (see docs/label.md)' if remote else Path(studies) / 'labels' / 'final'}",
        "Ctrl-C stops the server.",
    ]
    return "\n".join(lines)
