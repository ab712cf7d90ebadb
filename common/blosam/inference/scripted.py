"""What a TorchScript file may do when nobody vouches for it: compute a network's output, nothing else.

A ``model.ts`` is a program. PyTorch's operators include some that read or map files, and a class in the file may ask
for its own code to run while it is loaded. So the program text, which lies in the file as ``code/*.py``, is parsed
(not run) and compared with the statements and operators that an exported network consists of.
"""

from __future__ import annotations

import ast

from blosam.errors import BlosamError

from .archive import Archive

_MEND = "Export the bundle again with `blosam export`, or add --trust if you trust the file's maker."

_ALLOWED = """
    _convolution adaptive_avg_pool2d add arange avg_pool2d batch_norm bmm cat chunk clamp contiguous conv2d
    conv_transpose2d cos cumsum device div dropout einsum embedding eq exp expand expand_as flatten floor_divide
    full ge gelu group_norm gt index instance_norm layer_norm le leaky_relu linear lt masked_fill matmul max
    max_pool2d mean min mul ne neg ones ones_like pad permute pow reflection_pad2d relu remainder repeat reshape
    roll rsqrt rsub scaled_dot_product_attention select sigmoid silu sin size slice softmax split
    split_with_sizes sqrt square squeeze stack sub sum t tanh to transpose type_as unbind unflatten unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_nearest2d view where zeros zeros_like
"""
OPERATORS = frozenset(_ALLOWED.split())
"""Names below ``torch.`` that may be called: arithmetic on tensors in memory. No file, no random numbers."""

_CONVERSIONS = frozenset({"int", "float", "bool", "annotate", "unchecked_cast", "getattr", "len"})
_STATEMENTS = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.Return, ast.Call,
    ast.keyword, ast.Attribute, ast.Name, ast.Subscript, ast.Slice, ast.Constant, ast.List, ast.Tuple, ast.Load,
    ast.Store, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Pass,
)  # fmt: skip


def is_torchscript(archive: Archive) -> bool:
    """Whether the entries are those of a TorchScript file."""
    tops = {name.split("/", 1)[0] for name in archive.entries}
    return len(tops) == 1 and f"{next(iter(tops))}/constants.pkl" in archive.entries


def extra_file(archive: Archive, name: str) -> str:
    """Text of a file stored beside the model, empty when it is not there."""
    top = next(iter(archive.entries)).split("/", 1)[0]
    entry = f"{top}/extra/{name}"
    return archive.read_text(entry) if entry in archive.entries else ""


def check_program(archive: Archive) -> None:
    """Refuse a program that is more than a network.

    Raises:
        BlosamError: naming the statement or operator.
    """
    for name in archive.entries:
        if "/code/" not in name or name.endswith(".debug_pkl"):
            continue
        if not name.endswith(".py"):
            raise BlosamError(f"{archive.path}: holds '{name}', which is no part of an exported network. {_MEND}")
        try:
            tree = ast.parse(archive.read_text(name))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BlosamError(f"{archive.path}: '{name}' is no readable program. {_MEND}") from error
        for node in ast.walk(tree):
            reason = _reason_against(node)
            if reason:
                raise BlosamError(f"{archive.path}: its program {reason}. {_MEND}")


def operators(archive: Archive) -> list[str]:
    """The operators that a TorchScript program names, sorted."""
    found = set()
    for name in archive.entries:
        if "/code/" in name and name.endswith(".py"):
            for node in ast.walk(ast.parse(archive.read_text(name))):
                if isinstance(node, ast.Call):
                    found.add(ast.unparse(node.func))
    return sorted(name.removeprefix("torch.") for name in found if name.startswith(("torch.", "ops.")))


def _reason_against(node: ast.AST) -> str:
    """Why a piece of the program is not allowed; empty when it is."""
    if not isinstance(node, _STATEMENTS):
        return f"holds a statement of the kind {type(node).__name__}"
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("forward"):
        return f"defines '{node.name}', not only forward passes"
    if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] != ["Module"]:
        return f"defines the class '{node.name}', which is no network module"
    if isinstance(node, ast.Call) and not _is_allowed_call(node.func):
        return f"calls '{ast.unparse(node.func)[:80]}'"
    return ""


def _is_allowed_call(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name):
            return name in _CONVERSIONS
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in OPERATORS
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="ops"), attr="prim"), attr=name):
            return name == "NumToTensor"
        case ast.Attribute(value=ast.Name() | ast.Attribute(), attr=name):
            return name.startswith("forward")
    return False
