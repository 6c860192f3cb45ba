"""The modules that the Hub serves keep to what a flat folder of remote code can do."""

import ast
import re
import sys
from pathlib import Path

import pytest

from videoxl.convert.hub_bundle import CODE_PACKAGES, code_files

FILES = code_files()
# transformers brings what is not ours to declare (regex, tqdm, …), but served code may rely on these alone.
REQUIRED_PACKAGES = {"transformers", "torch", "numpy", "PIL", "av", "huggingface_hub", "safetensors", "accelerate"}
FORBIDDEN_NAMES = {"importlib", "pkgutil", "runpy", "__import__", "__file__", "TYPE_CHECKING", "__package__"}
# Transformers finds a file's siblings by patterns over the raw text, docstrings included.
RELATIVE_IMPORT = re.compile(r"^\s*(?:import\s+(\.\S*)|from\s+(\.\S*)\s+import)", re.MULTILINE)

served = pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())


def guarded_nodes(tree: ast.AST) -> set[ast.AST]:
    """Everything inside a `try` that expects an ImportError."""
    tries = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any("ImportError" in ast.dump(handler) for handler in node.handlers)
    ]
    return {inner for node in tries for statement in node.body for inner in ast.walk(statement)}


def test_every_module_of_the_three_folders_is_served():
    for package in CODE_PACKAGES:
        modules = {path.name for path in Path(package.__file__).parent.rglob("*.py")} - {"__init__.py"}
        assert modules <= set(FILES), "a module that does not end in _videoxl.py is not served"


@served
def test_relative_imports_name_a_module_of_the_same_folder(file):
    for match in RELATIVE_IMPORT.finditer(file.read_text(encoding="utf-8")):
        name = match[1] or match[2]
        assert re.fullmatch(r"\.\w+_videoxl", name), match[0]
        assert (file.parent / f"{name[1:]}.py").is_file(), match[0]


@served
def test_absolute_imports_are_of_what_is_installed(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = guarded_nodes(tree)
    allowed = REQUIRED_PACKAGES | set(sys.stdlib_module_names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for package in {name.split(".")[0] for name in names}:
            assert package != "videoxl"
            assert package in allowed or node in guarded, f"{package} is optional: import it in try/except ImportError"


@served
def test_nothing_looks_for_files_or_modules_by_itself(file):
    names = {node.id for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    imported = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert not FORBIDDEN_NAMES & (names | imported)
