"""The documents name a test for each promise. Each of these tests exists."""

import ast
import re
from functools import cache

import pytest
from project import ROOT

# The documents, and the least number of different tests that each must name.
DOCUMENTS = {"security.md": 80, "releases.md": 60}
# The name of a test in a document, such as `test_lock.py::test_lock_is_free_after_its_holder_dies`.
NAME = re.compile(r"([\w./-]*\.py)::(\w+)(?:\[[^\]`]*\])?")
TEST_FILES = [
    path.relative_to(ROOT)
    for directory in ("tests", "host/tests", "app/tests", "molecule")
    for path in sorted((ROOT / directory).rglob("test_*.py"))
]

each_document = pytest.mark.parametrize("document", DOCUMENTS)


def text_of(document):
    """Return the text of a document."""
    return (ROOT / "docs" / document).read_text()


def named_in(text):
    """Return the tests that a text names, as pairs of a file and a function."""
    return set(NAME.findall(text))


def files_of(name):
    """Return the files that a name can mean: the file at this path, or else each whose path ends with it."""
    exact = [path for path in TEST_FILES if str(path) == name]
    return exact or [path for path in TEST_FILES if f"/{path}".endswith(f"/{name}")]


@cache
def functions_of(path):
    """Return the names of the functions in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@cache
def command_of(path, function):
    """Return the target of make that runs a test, if it is not `make test`; otherwise an empty string."""
    if path.is_relative_to("molecule/recovery"):
        return "drill"
    tree = ast.parse((ROOT / path).read_text())
    marks = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            marks += [ast.unparse(decorator) for decorator in node.decorator_list]
    return next((name for name in ("soak", "drill") if f"pytest.mark.{name}" in marks), "")


@each_document
def test_each_test_that_a_document_names_exists(document):
    wrong = [
        f"{name}::{function}"
        for name, function in sorted(named_in(text_of(document)))
        if [function in functions_of(path) for path in files_of(name)] != [True]
    ]
    assert wrong == [], "each name must mean one function in one file"


@each_document
def test_document_names_many_tests(document):
    assert len(named_in(text_of(document))) >= DOCUMENTS[document]


@each_document
def test_each_row_of_a_table_of_promises_names_its_test(document):
    """The last column of such a table is `test`."""
    tables = re.findall(r"^\|.*\| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", text_of(document), re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) >= DOCUMENTS[document]
    assert [row for row in rows if not re.fullmatch(f"`{NAME.pattern}`", row.split("|")[-2].strip())] == []


@each_document
def test_row_of_a_test_that_make_test_does_not_run_says_so(document):
    wrong = []
    for row in text_of(document).splitlines():
        for name, function in NAME.findall(row) if row.startswith("|") else []:
            command = command_of(*files_of(name), function)
            if command and f"`make {command}` only" not in row:
                wrong.append(f"{name}::{function}: `make {command}` only")
    assert wrong == []
