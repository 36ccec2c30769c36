import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lottery_tf import Masks, UsageError
from lottery_tf.masks.masks import shapes_in

some_masks = st.dictionaries(
    st.sampled_from(["a/kernel", "b/kernel", "c/d/kernel"]),
    arrays(bool, array_shapes(max_dims=4, max_side=4)),
)


def test_four_weights():
    masks = Masks({"a": [[1, 0], [0, 0]], "b": [True]})
    assert (masks.total, masks.kept) == (5, 2)
    assert masks.sparsity == 0.6
    assert masks.sparsity_total(trainable=10) == 0.3
    assert masks.collapsed == []
    assert Masks({"a": [0, 0], "b": [1]}).collapsed == ["a"]


def test_no_masks_mean_no_sparsity():
    assert Masks({}).sparsity == Masks({}).sparsity_total(0) == 0
    assert Masks({"a": np.zeros((0, 3), bool)}).collapsed == []


def test_nesting():
    outer, inner = Masks({"a": [1, 1, 0]}), Masks({"a": [1, 0, 0]})
    assert inner.nested_in(outer) and outer.nested_in(outer)
    assert not outer.nested_in(inner)
    assert not inner.nested_in(Masks({"b": [1, 1, 0]}))
    assert not inner.nested_in(Masks({"a": [1, 1, 0], "b": [1]}))
    assert not inner.nested_in(Masks({"a": [[1, 1, 0]]}))


def test_masks_are_equal_if_all_of_them_are():
    both = Masks({"a": [1, 0], "b": [1]})
    assert both == Masks({"b": [True], "a": [True, False]})
    for other in ({"a": [1, 0]}, {"a": [1, 0], "c": [1]}, {"a": [1, 1], "b": [1]}):
        assert both != Masks(other) and Masks(other) != both
    assert both != {"a": [1, 0], "b": [1]} and both.__eq__(0) is NotImplemented


def test_they_show_how_many_are_kept():
    assert repr(Masks({"a": np.arange(2000) > 0, "b": [True]})) == (
        "Masks(2 weights, 2,000 of 2,001 kept)"
    )


@given(some_masks)
def test_file_round_trip(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("masks") / "masks.npz"
    Masks(arrays).save(path)
    assert Masks.load(path) == Masks(arrays)


def test_ones_keep_everything():
    masks = Masks.ones({"a": (2, 3), "b": ()})
    assert {name: mask.shape for name, mask in masks.items()} == {"a": (2, 3), "b": ()}
    assert all(mask.dtype == bool and mask.all() for mask in masks.values())


def test_a_file_is_named_as_numpy_names_it(tmp_path):
    for name in ("masks", "masks.v2"):
        Masks({"a/kernel": [1, 0]}).save(tmp_path / name)
        assert Masks.load(tmp_path / f"{name}.npz") == Masks({"a/kernel": [1, 0]})
    assert {file.suffix for file in tmp_path.iterdir()} == {".npz"}


@pytest.mark.parametrize(
    "theirs",
    [{"a/kernel": np.ones(2)}, {"mine": np.ones(2, bool)}, {"a/kernel": [True], "b/kernel": [1.0]}],
)
def test_masks_alone_are_replaced(tmp_path, theirs):
    """Other arrays, and those of no weight, are somebody else's."""
    path = tmp_path / "masks.npz"
    Masks({"a/kernel": [1, 0]}).save(path)
    Masks({"a/kernel": [0, 1]}).save(path)
    assert Masks.load(path) == Masks({"a/kernel": [0, 1]})
    np.savez(path, **theirs)
    before = path.read_bytes()
    for name in ("masks.npz", "masks"):  # which is the same file
        with pytest.raises(UsageError, match="or masks; it holds something else"):
            Masks({"a/kernel": [1, 0]}).save(tmp_path / name)
    assert path.read_bytes() == before


def test_shapes_are_read_from_the_headers_alone(tmp_path):
    path = tmp_path / "masks.npz"
    with pytest.raises(UsageError, match=f"an .npz file at {path}; there is none"):
        shapes_in(path)
    np.savez(path, **{"a/kernel": np.ones((2, 3), bool), "b": np.float32(1)})
    with zipfile.ZipFile(path, "a") as file, file.open("new.npy", "w") as array:
        np.lib.format.write_array(array, np.zeros(3), version=(2, 0))
    assert shapes_in(path) == {"a/kernel": (2, 3), "b": (), "new": (3,)}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="Expected arrays in .*damaged or no .npz file"):
        shapes_in(path)


def test_arrays_are_copies_and_read_only():
    array = np.ones(3, bool)
    masks = Masks({"a": array})
    array[0] = False
    assert masks["a"].all()
    with pytest.raises(ValueError, match="read-only"):
        masks["a"][0] = False


@pytest.mark.parametrize("bad", [[0.5, 1], [2, 1], [-1, 0], [float("nan"), 0]])
def test_only_zero_and_one_make_a_mask(bad):
    with pytest.raises(UsageError, match="0 and 1 for a"):
        Masks({"a": bad})


def test_damaged_files(tmp_path):
    path = tmp_path / "masks.npz"
    with pytest.raises(UsageError, match="there is none"):
        Masks.load(path)
    Masks({"a": np.ones(1000, bool)}).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="damaged"):
        Masks.load(path)


def test_pickles_are_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    path = tmp_path / "masks.npz"
    np.savez(path, **{"a/kernel": np.array([Bomb()], dtype=object)})
    with pytest.raises(UsageError, match="damaged"):
        Masks.load(path)
    with pytest.raises(UsageError, match="something else"):  # nor to see whose file it is
        Masks({"a/kernel": [1]}).save(path)
