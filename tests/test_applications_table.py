"""The page on Kerases has what benchmarks/applications.py measured, and its one exception."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = json.loads((ROOT / "benchmarks/results/applications/applications.json").read_text())
PAGE = (ROOT / "docs/keras.md").read_text()
EXCEPTIONS = {("ConvNeXtTiny", "tf_keras", ".keras")}


@pytest.fixture(scope="module")
def applications():
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location(
        "applications", ROOT / "benchmarks/applications.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_network_is_there_in_each_keras(applications):
    assert [(row["network"], row["keras"]) for row in ROWS] == [
        (name, keras)
        for name in applications.SIZES
        for keras in ("tf_keras", "keras")
        if keras == "tf_keras" or name not in applications.ONLY_TF_KERAS
    ]


def test_every_operation_works_but_for_what_the_page_names(applications):
    for row in ROWS:
        for operation in applications.OPERATIONS:
            cell = str(row[operation])
            if (row["network"], row["keras"], operation) in EXCEPTIONS:
                assert cell.startswith("Expected a format that can hold the model")
            elif operation == "FLOPs":
                assert re.fullmatch(r"\d\d% of [\d,]+ M", cell)
            elif operation != "prepare, s":
                assert cell == "yes" or float(cell.removeprefix("yes, Δ ")) <= 2e-6, row


def test_the_table_of_the_page_is_the_measured_one():
    found = re.findall(r"^\| (\w+) \| [\d.]+ M \| (\S+) \| (\S+) \| (.+) \|$", PAGE, re.MULTILINE)
    measured = {(row["network"], row["keras"]): row for row in ROWS}
    assert found == [
        (
            name,
            *(
                f"{measured[name, keras]['prepare, s']:.0f}" if (name, keras) in measured else "–"
                for keras in ("tf_keras", "keras")
            ),
            measured[name, "tf_keras"]["FLOPs"],
        )
        for name in dict.fromkeys(row["network"] for row in ROWS)
    ]


def test_the_table_beside_the_numbers_is_made_of_them(applications):
    written = (ROOT / "benchmarks/results/applications/applications.md").read_text()
    assert written == applications.table(ROWS)


@pytest.mark.e2e  # 2 minutes each: the one network of which the command is tried as a whole
def test_the_command_finds_the_same_for_the_first_network(applications, of):
    (before,) = (r for r in ROWS if (r["network"], r["keras"]) == ("MobileNet", of.__name__))
    row = applications.measure("MobileNet", of.__name__)
    for operation in applications.OPERATIONS:
        if operation != "prepare, s":
            assert row[operation].split(",")[0] == before[operation].split(",")[0], operation
