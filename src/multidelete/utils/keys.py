"""Keys of everything that is kept in the cache."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIBRARIES = ("torch", "transformers", "numpy", "pillow")  # other versions of these compute other values


def cache_key(kind: str, *parts: Any, code: Iterable[str]) -> str:
    """Key of an entry of the cache.

    Args:
        kind: What is kept; entries of two kinds never share a key.
        parts: Everything that the entry depends on, as values with a stable text.
        code: Names of the modules that compute it, see :func:`code_version`.
    """
    versions = [f"{library} {version(library)}" for library in LIBRARIES]
    text = json.dumps([kind, *map(str, parts), *versions, code_version(*sorted(set(code)))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over everything that ``transformers`` may read in a folder: weights, configurations, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model"}:
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return total.hexdigest()


@cache
def code_version(*modules: str) -> str:
    """Hash of the code of some modules and of all modules of their packages that they import.

    Comments, docstrings and formatting do not count; the version of Python does, because it parses.

    Args:
        modules: Names of importable modules.
    """
    text = json.dumps([platform.python_version_tuple()[:2], sorted(_closure(modules).items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _closure(modules: Iterable[str]) -> dict[str, str]:
    """Hash of the code of each module, and of what they import of their packages and of this one."""
    hashes: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if name in hashes or path is None:
            continue
        hashes[name], imported = _read(path, name)
        packages = {"multidelete", name.split(".")[0]}
        waiting += [each for each in imported if each.split(".")[0] in packages]
    return hashes


@cache
def _path_of(module: str) -> Path | None:
    """Source file of a module; None for what has none, as a name inside a module or an interactive session."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a file's code, and the names of what it imports."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    code = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return code, tuple(_imports(tree, package))


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            name = ".".join(filter(None, [parent, node.module]))
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)  # a submodule, or a name inside the module
