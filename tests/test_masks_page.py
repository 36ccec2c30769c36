"""docs/masks.md: its program runs, and its table has every method."""

import re
from pathlib import Path

import pytest
import tensorflow as tf
from networks import examples, mlp, random_masks
from settings_tables import check_table, settings, table_of

import lottery_tf as lt
from lottery_tf.common.settings import describe
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.structure import STRUCTURES, parse

FILE = Path(__file__).parents[1] / "docs" / "masks.md"
PAGE = FILE.read_text()


@pytest.mark.e2e
def test_the_program_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    model = mlp()
    start = keras.models.clone_model(model)
    pruned = lt.strip(lt.wrap(model, random_masks(model)))
    data = tf.data.Dataset.from_tensor_slices(examples()).batch(6)
    names = {"lt": lt, "keras": keras, "model": model, "train_ds": data, "pruned_model": pruned}
    names["start"] = start
    exec(code, names)
    assert names["ticket"].info["method"] == "from_model"


def test_the_table_has_every_method_and_the_page_only_flags_that_there_are():
    methods = FindingSettings.__dataclass_fields__["method"].metadata["choices"]
    before, _ = PAGE.split("## Structures")
    assert set(re.findall(r"^\| `(\w+)` \|", before, re.MULTILINE)) == set(methods)
    flags = set(re.findall(r"`--(\w+)", PAGE)) - {"notrain_tickets", "dataset", "out"}
    of_both = describe(FindingSettings(rounds=1)) | describe(PrunableSettings())
    assert flags <= of_both.keys()


def test_the_table_of_settings_is_that_of_the_code():
    check_table(FILE, table_of(settings(FindingSettings, PrunableSettings), "setting", str))


def test_the_table_of_structures_has_each_kind():
    _, after = PAGE.partition("## Kinds of layers")[0].split("## Structures")
    rows = re.findall(r"^\| `(\S+)`(?:, or any `(\S+)`)? \|", after, re.MULTILINE)
    assert [parse(example).text for example, _ in rows] == [example for example, _ in rows]
    forms = {form.partition(" ")[0] for form in STRUCTURES}
    assert forms == {form or example for example, form in rows} - {"block:1x16:max"} | {
        "block:HxW:max"
    }
