"""Checks before a bundle's workflow runs: is it made for this version, and do all overrides name a setting?

The configs call :func:`check_run` in ``initialize``. MONAI itself takes any override, so that a misspelt
``--num_shot 4`` would silently train on all images.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as monai_run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY

from blosam import __version__
from blosam.errors import BlosamError

KNOWN_SCHEMA = 20240725  # of metadata.json: the date in its "schema" address
_COMMANDS = ("run", "run_workflow")
_NO_SETTINGS = {"workflow", "workflow_name"}


def check_run(bundle_root: str | Path = ".", arguments: Sequence[str] | None = None) -> None:
    """Refuse a bundle made for a newer version, and overrides of ``python -m monai.bundle run`` that set nothing.

    Args:
        bundle_root: the bundle's folder; without ``configs/metadata.json`` in it, only the overrides are checked.
        arguments: what follows ``python -m monai.bundle``; None takes this process's own, if it is that command.

    Raises:
        BlosamError: naming the file or override and the mend.
        SystemExit: with the same words, in place of MONAI's long traceback, when this process is MONAI's command.
    """
    own = arguments is None and _is_monais_command()
    try:
        metadata = Path(bundle_root) / "configs" / "metadata.json"
        if metadata.is_file():
            check_metadata(json.loads(metadata.read_text(encoding="utf-8")), metadata)
        if own or arguments is not None:
            check_overrides(sys.argv[1:] if arguments is None else arguments)
    except BlosamError as error:
        if own:
            raise SystemExit(f"error: {error}") from None
        raise


def check_metadata(metadata: Mapping[str, Any], where: str | Path) -> None:
    """Refuse metadata of a newer schema, or of a bundle that needs a newer blosam.

    Args:
        metadata: the content of ``metadata.json``.
        where: what to name in the message.

    Raises:
        BlosamError: naming both versions.
    """
    check_schema(metadata, where)
    packages = metadata.get("required_packages_version")
    needed = str(packages.get("blosam", "")) if isinstance(packages, Mapping) else ""
    if numbers(needed) > numbers(__version__):
        raise BlosamError(f"{where}: the bundle needs blosam {needed}, this is {__version__}. Update blosam.")


def check_schema(metadata: Mapping[str, Any], where: str | Path) -> None:
    """Refuse metadata that follow a newer schema than this version knows.

    Args:
        metadata: the content of ``metadata.json``.
        where: what to name in the message.

    Raises:
        BlosamError: naming both dates.
    """
    dates = [int(date) for date in re.findall(r"meta_schema_(\d{8})", str(metadata.get("schema", "")))]
    if dates and max(dates) > KNOWN_SCHEMA:
        raise BlosamError(
            f"{where}: its metadata follow the schema of {max(dates)}, this blosam {__version__} knows those up to "
            f"{KNOWN_SCHEMA}. Update blosam."
        )


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse overrides that name no setting of the configs they are laid over.

    Args:
        arguments: what follows ``python -m monai.bundle``.

    Raises:
        BlosamError: naming the override and the nearest setting.
    """
    options = _options(arguments)
    files = _file_list(options.get("config_file"))
    if not files or arguments[0] not in _COMMANDS:
        return
    config = ConfigParser.load_config_files(files)
    known = {*inspect.signature(monai_run).parameters, *inspect.signature(ConfigWorkflow).parameters, *_NO_SETTINGS}
    if "tracking" in options:
        known |= {key for settings in DEFAULT_EXP_MGMT_SETTINGS.values() for key in settings["configs"]}
    for name in options:
        if name in known or name.startswith("_meta_") or names_setting(config, name):
            continue
        near = difflib.get_close_matches(name, [*config, *known], n=1)
        advice = f"Did you mean --{near[0]}?" if near else f"The settings are the first lines of {files[0]}."
        raise BlosamError(f"--{name}: no such setting in {' and '.join(Path(f).name for f in files)}. {advice}")


def names_setting(config: Mapping[str, Any], name: str) -> bool:
    """Whether an id (``a``, ``a#b``) is in a config, or is a further argument of a component in it."""
    value: Any = config
    keys = name.lstrip("+").replace("#", ID_SEP_KEY).split(ID_SEP_KEY)
    for position, key in enumerate(keys):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            return position == len(keys) - 1 and isinstance(value, Mapping) and "_target_" in value
    return True


def _is_monais_command() -> bool:
    """Whether this process is ``python -m monai.bundle``, also when ``torchrun`` started it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__"


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Name and value of every ``--name value`` and ``--name=value``; Fire reads hyphens inside names as underscores."""
    options: dict[str, str] = {}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name.replace("-", "_")] = value if equals else following
    return options


def _file_list(value: str | None) -> list[str]:
    """The paths in ``--config_file``: one, or a list written as Python writes it."""
    if not value:
        return []
    if not value.lstrip().startswith(("[", "(")):
        return [value]
    try:
        return [str(path) for path in ast.literal_eval(value)]
    except (ValueError, SyntaxError):  # Fire also takes [a.json,b.json]
        return [path.strip() for path in value.strip("[]() ").split(",")]


def numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
