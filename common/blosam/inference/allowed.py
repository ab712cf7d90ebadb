"""What a bundle's inference config may do when nobody vouches for the bundle.

MONAI's configs are programs: ``_target_`` calls any function by name, a ``$`` string is evaluated as Python, a
``%`` string copies another place or file. Here every string of ``inference.json`` is compared with the little that
our own template needs, before MONAI's parser sees it; anything else is refused by name.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any

from monai.bundle import ReferenceResolver

from blosam.errors import BlosamError
from blosam.networks import BloSam

MAX_DEPTH = 20
MAX_ITEMS = 2_000
MAX_NUMBER = 1_000_000
MAX_SIZE = 4_096  # pixels of the network's input, its rank, its number of tokens
MAX_EXPRESSION = 200  # characters

COMPONENTS: dict[str, frozenset[str]] = {
    target: frozenset(arguments.split())
    for target, arguments in {
        # Its arguments are numbers and words alone: building a network reads no file.
        "blosam.networks.BloSam": " ".join(inspect.signature(BloSam).parameters),
        # Reads what the bundle's own weights say about themselves; see _CHECKPOINT.
        "blosam.networks.network_for": " ".join(["checkpoint", "method", *inspect.signature(BloSam).parameters]),
        "blosam.data.Canonical2Dd": "keys allow_missing_keys label_keys",
        "blosam.data.ResizeLongestPadd": "keys size mode allow_missing_keys",
        "blosam.data.SaveImaged": "keys output_dir",
        "blosam.compatibility.check_run": "bundle_root",
        "blosam.engines.CheckpointLoader": "load_path load_dict labels strict map_location",
        "blosam.engines.ProgressBar": "description",
        "Activationsd": "keys softmax sigmoid",
        "AsDiscreted": "keys argmax threshold",
        "CastToTyped": "keys dtype",
        "Compose": "transforms",
        "DataLoader": "dataset batch_size num_workers sampler shuffle",
        "Dataset": "data transform",
        "EnsureTyped": "keys",
        "Invertd": "keys orig_keys transform nearest_interp to_tensor",
        "LoadImaged": "keys reader image_only",
        "SimpleInferer": "",
        "SqueezeDimd": "keys dim",
        "SupervisedEvaluator": "device val_data_loader network inferer postprocessing val_handlers amp",
    }.items()
}
"""Classes that may be built, and the arguments they may get."""

IMPORTS = ("import torch", "from blosam.data import list_images")

WHOLE_EXPRESSIONS = (
    "[{'image': path} for path in list_images(@dataset_dir)]",
    "@network_def.to(@device)",
    "@evaluator.run()",
    "monai.utils.set_determinism(seed=0)",
    "torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
)
"""Expressions beyond the small grammar of :func:`_is_simple`, letter by letter (spaces aside)."""

_MEND = "Bundles may not do that unless somebody vouches for them: ask the maker, read the file, then add --trust."
_SIZES = ("image_size", "size", "out_channels", "rank", "num_prompt_tokens", "num_workers", "batch_size")
_CHECKPOINT = "@checkpoint"  # which is set to the bundle's own weights before anything is built
_READERS = ("blosam.dicom.ClinicalReader",)  # a reader is built by its dotted path, so any class could be named
_DTYPES = {"uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32"}
_REFERENCES = ReferenceResolver._vars
_REFERENCE = re.compile(r"@\w+(?:(?:#|::)\w+)*")
_COPY = re.compile(r"%\w+(?:#\w+)*")
_IMPORT = re.compile(r"\$\s*(?:from|import)\b")


def check_config(config: dict[str, Any], name: str, mend: str = "") -> None:
    """Refuse an inference config that does anything but what our template does.

    Args:
        config: the content of ``inference.json``.
        name: of the file, for messages.
        mend: what to do; by default, to have somebody vouch for the bundle.

    Raises:
        BlosamError: naming the first id that is not allowed and its value.
    """
    for count, (identifier, value) in enumerate(walk(config)):
        if count >= MAX_ITEMS or identifier.count("#") >= MAX_DEPTH:
            raise BlosamError(f"{name}: more than {MAX_ITEMS} values or {MAX_DEPTH} levels. Do not use this bundle.")
        reason = _reason_against(identifier, value) or _reason_against_copy(config, value)
        if reason:
            shown = repr(value)
            shown = shown[:117] + "..." if len(shown) > 120 else shown
            raise BlosamError(f"{name}: '{identifier}' is {shown}: {reason}. {mend or _MEND}")


def walk(config: Any, identifier: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config with its id (``a#b#0``), containers before their content."""
    yield identifier, config
    if isinstance(config, dict):
        pairs = list(config.items())
    else:
        pairs = list(enumerate(config)) if isinstance(config, list) else []
    for key, value in pairs:
        yield from walk(value, f"{identifier}#{key}" if identifier else str(key))


def executed(config: dict[str, Any]) -> list[str]:
    """What a config builds, evaluates and imports, sorted: the words to show before it runs."""
    found = set()
    for _, value in walk(config):
        if isinstance(value, dict) and "_target_" in value:
            found.add(f"builds {value['_target_']}")
        elif isinstance(value, str) and value.startswith("$"):
            found.add(f"evaluates {value[1:].strip()}" if not _IMPORT.match(value) else value[1:].strip())
    return sorted(found)


def _reason_against(identifier: str, value: Any) -> str:
    """Why one value is not allowed; empty when it is."""
    if isinstance(value, dict):
        return _reason_against_component(identifier, value) if "_target_" in value else ""
    if isinstance(value, str):
        return _reason_against_text(value)
    if isinstance(value, float | int):
        limit = MAX_SIZE if identifier.rsplit("#", 1)[-1] in _SIZES else MAX_NUMBER
        return "" if abs(value) <= limit else f"beyond {limit}"
    return ""


def _reason_against_component(identifier: str, component: dict[str, Any]) -> str:
    target = component["_target_"]
    if not isinstance(target, str) or target not in COMPONENTS:
        return "it builds a class that is not on the list of allowed ones"
    unknown = sorted(set(component) - COMPONENTS[target] - {"_target_", "_desc_"})
    if unknown:
        return f"{target} may not get the argument '{unknown[0]}'"
    if component.get("checkpoint", _CHECKPOINT) != _CHECKPOINT:
        return f"its checkpoint must be {_CHECKPOINT}"
    if target == "LoadImaged" and component.get("reader") not in _READERS:
        return f"its reader must be {_READERS[0]}"
    return ""


def _reason_against_text(text: str) -> str:
    if _IMPORT.match(text):
        return "" if text[1:] in IMPORTS else "it imports something that is not on the list of allowed modules"
    if text.startswith("$"):
        return "" if _is_allowed(text) else "it evaluates an expression that is not on the list of allowed ones"
    if text.startswith("@") and not _REFERENCE.fullmatch(text):
        return "it is no plain reference"
    return ""


def _reason_against_copy(config: dict[str, Any], value: Any) -> str:
    """Why a ``%`` string is not allowed: it may copy a part of the same file that copies nothing itself."""
    if not isinstance(value, str) or not value.startswith("%"):
        return ""
    if not _COPY.fullmatch(value):
        return "it reads another file"
    source = config
    for key in value[1:].split("#"):
        try:
            source = source[int(key) if isinstance(source, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            return "there is no such id to copy"
    # Copies of copies could grow without bounds.
    copies = any(isinstance(inner, str) and inner.startswith("%") for _, inner in walk(source))
    return "it copies something that is a copy itself" if copies else ""


def _is_allowed(text: str) -> bool:
    """Whether an expression, as MONAI would hand it to ``eval``, is one of ours."""
    tree = _parsed(text)
    if tree is None:
        return False
    whole = {ast.dump(_parsed("$" + known)) for known in WHOLE_EXPRESSIONS}
    if ast.dump(tree) in whole:
        return True
    references = sum(isinstance(node, ast.Name) and node.id == _REFERENCES for node in ast.walk(tree))
    # With two references in a sum, a chain of ids could double a text or list until the memory is full.
    return references <= 1 and _is_simple(tree.body)


def _parsed(text: str) -> ast.Expression | None:
    """The syntax tree after MONAI's own replacement of references; None when it is no expression, or a long one."""
    if len(text) > MAX_EXPRESSION:
        return None
    references = ReferenceResolver.match_refs_pattern(text)
    if not all(_REFERENCE.fullmatch("@" + name) for name in references):
        return None
    source = ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references))
    if "@" in source:
        return None
    try:
        return ast.parse(source[1:].strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_simple(node: ast.expr) -> bool:
    """Numbers, texts, references and their ``len``, sums and differences of these; ``torch`` dtypes and devices."""
    match node:
        case ast.Constant(value=bool() | None | str()):
            return True
        case ast.Constant(value=int() | float() as number):
            return abs(number) <= MAX_NUMBER
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str())) if name == _REFERENCES:
            return True
        case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
            return isinstance(argument, ast.Subscript) and _is_simple(argument)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return _is_simple(left) and _is_simple(right)
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in _DTYPES
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="device"), args=[argument], keywords=[]):
            return isinstance(argument, ast.Constant | ast.Subscript) and _is_simple(argument)
    return False
