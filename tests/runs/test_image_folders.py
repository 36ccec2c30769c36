"""Runs on an image folder: what they go on with depends on the images as they are read."""

import json

import numpy as np
import pytest
from PIL import Image

from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, load
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.masks.wrapper import all_kept
from lottery_tf.models import ModelSettings
from lottery_tf.runs import find as find_stage
from lottery_tf.runs import retrain as retrain_stage
from lottery_tf.runs.experiment import create_model
from lottery_tf.runs.find import find, find_run
from lottery_tf.runs.retrain import retrain_ticket
from lottery_tf.runs.settings import DATA_SUM, Experiment
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.recipe import Recipe

ONE_ROUND = FindingSettings(rounds=1)
NEW = ("image_size", "image_resize", "image_channels", "test_share", "test_seed", "class_names")


class Reached(Exception):
    """The work would begin."""


def reached(*_, **__):
    raise Reached


def images(folder, shape, splits=("train", "test")):
    """Four images of each of two classes, in each split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def colour(tmp_path):
    return images(tmp_path / "colour", (8, 8, 3))


@pytest.fixture
def grey(tmp_path):
    return images(tmp_path / "grey", (8, 8))


def experiment(folder, **options):
    return Experiment(
        DataSettings("image_folder", str(folder), batch_size=2, **options),
        ModelSettings(model="lenet_300_100"),
        TrainingSettings(train_for="2it"),
    )


def begun(out, folder, **options):
    """A run that has begun, and read its data."""
    asked = experiment(folder, **options)
    find_run(out, asked, ONE_ROUND).begin(load(asked.data).sha256)
    return out


def check(out, folder, **options):
    find_run(out, experiment(folder, **options), ONE_ROUND).check()


def as_of_older_release(out, *also):
    """Makes a run's settings those of a release without options for image folders."""
    file = out / "config.json"
    config = {k: v for k, v in json.loads(file.read_text()).items() if k not in {*NEW, *also}}
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "sha256"}))


def test_channels_that_change_nothing_are_the_same_run(tmp_path, colour, grey):
    for folder, channels in ((colour, 3), (grey, 1)):
        check(begun(tmp_path / f"by default {channels}", folder), folder, image_channels=channels)
        check(begun(tmp_path / f"asked {channels}", folder, image_channels=channels), folder)


def test_other_channels_are_another_run(tmp_path, colour, grey):
    """A finished run never reads its data, so that settings have to tell."""
    for folder, channels in ((colour, 1), (grey, 3)):
        out = begun(tmp_path / f"asked {channels}", folder, image_channels=channels)
        with pytest.raises(UsageError, match=f"image_channels is {channels} there and None here"):
            check(out, folder)
        out = begun(tmp_path / f"by default {channels}", folder)
        with pytest.raises(UsageError, match=f"image_channels is None there and {channels} here"):
            check(out, folder, image_channels=channels)


@pytest.mark.parametrize("lacking", [(), (DATA_SUM,)])
def test_an_older_release_has_read_grey_images_as_rgb(tmp_path, colour, grey, lacking, monkeypatch):
    """What is finished is shown, and what goes on says how."""
    monkeypatch.setattr(find_stage, "create_model", reached)
    out = begun(tmp_path / "run", grey, image_channels=3)
    as_of_older_release(out, *lacking)
    check(out, grey)
    with pytest.raises(UsageError, match="grey images as RGB: give `image_channels=3`, or"):
        find(out, experiment(grey), ONE_ROUND)
    with pytest.raises(Reached):
        find(out, experiment(grey, image_channels=3), ONE_ROUND)
    with pytest.raises(UsageError, match="image_channels is 3 there and 1 here"):
        check(out, grey, image_channels=1)
    out = begun(tmp_path / "of colours", colour)
    as_of_older_release(out, *lacking)
    with pytest.raises(Reached):
        find(out, experiment(colour), ONE_ROUND)


def test_other_images_are_told_before_the_network_is_made(tmp_path, colour):
    out = begun(tmp_path / "run", colour)
    (colour / "train" / "a" / "0.png").unlink()
    with pytest.raises(UsageError, match="those in `data_dir` are different now"):
        find(out, experiment(colour), ONE_ROUND)


# Retraining


def ticket_on(folder, lacking=(), **options):
    """A ticket that was found on a folder, but for training; it may lack settings."""
    asked = experiment(folder, **options)
    data = load(asked.data)
    model = create_model(asked, data)
    settings = {k: v for k, v in asked.describe().items() if k not in lacking}
    info = {"settings": settings | {DATA_SUM: data.sha256}, "method": "imp"}
    path = folder.parent / "ticket"
    Ticket.of(model, all_kept(model, asked.prunable), info).save(path)
    return path


def retrain(ticket, folder, **options):
    out = folder.parent / "retrained"
    try:
        retrain_ticket(out, ticket, Recipe("vanilla"), experiment(folder, **options))
    finally:
        assert not out.exists()


@pytest.mark.parametrize(
    ("found_with", "lacking", "asked", "message"),
    [
        ({}, (), {"image_channels": 1}, r"images \(8, 8, 1\) to 2 classes.* \(8, 8, 3\)"),
        ({"image_channels": 3}, (), {"image_channels": 1}, "`image_channels=1`, got one for 3"),
        ({}, NEW, {"image_channels": 1}, "`image_channels=1`, got one for 3: leave"),
        ({}, NEW, {"image_size": "6"}, "`image_size=6x6`, got one without: leave `image_size` out"),
        ({"image_size": 6}, (), {"image_size": 7}, "`image_size=7x7`, got one for 6x6"),
    ],
)
def test_images_that_are_read_otherwise_do_not_fit(colour, found_with, lacking, asked, message):
    with pytest.raises(UsageError, match=message):
        retrain(ticket_on(colour, lacking, **found_with), colour, **asked)


@pytest.mark.parametrize("lacking", [(), NEW])
def test_a_ticket_fits_its_own_images(colour, lacking, monkeypatch):
    monkeypatch.setattr(retrain_stage, "retrain", reached)
    for asked in ({}, {"image_channels": 3}):
        with pytest.raises(Reached):
            retrain(ticket_on(colour, lacking), colour, **asked)


def test_drawn_test_images_are_never_those_of_training(tmp_path, lines, monkeypatch):
    """With other images others may be drawn; where there are train and test, a line is enough."""
    monkeypatch.setattr(retrain_stage, "retrain", reached)
    drawn = images(tmp_path / "drawn", (8, 8, 3), splits=("",))
    ticket = ticket_on(drawn)
    with pytest.raises(Reached):
        retrain(ticket, drawn)
    (drawn / "a" / "3.png").rename(drawn / "a" / "another.png")
    (drawn / "b" / "0.png").unlink()
    with pytest.raises(
        UsageError, match="it may have been trained on test images that are drawn from others. Give"
    ):
        retrain(ticket, drawn)
    split = images(tmp_path / "split", (8, 8, 3))
    with pytest.raises(Reached):
        retrain(ticket, split)
    assert "are not those with which the ticket was found" in lines[-1]
