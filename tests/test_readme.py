"""README's example runs as it stands, on a model that is not from the zoo."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.e2e
@pytest.mark.parametrize("line", ["import keras", "import tf_keras as keras"])
def test_the_example_runs(line, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code.startswith("import keras\n")
    if line != "import keras":  # the other Keras need not be trained to the end
        assert code.count("epochs=10") == 2
        code = code.replace("import keras", line, 1).replace("epochs=10", "epochs=3")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(README), "exec"), names)
    ticket, final = names["ticket"], names["final"]
    assert ticket.sparsity == round(0.9 * 64 * 200) / (64 * 200)
    assert [type(layer).__name__ for layer in final.layers] == ["Dense", "Dense"]
    kernel = final.layers[0].kernel.numpy()
    (mask,) = ticket.masks.values()
    assert np.all(kernel[~mask] == 0) and np.all(kernel[mask] != 0)
    final.compile(loss=names["recipe"].loss(), metrics=["accuracy"])
    accuracy = final.evaluate(names["dev_ds"], verbose=0, return_dict=True)["accuracy"]
    assert accuracy > (0.9 if line == "import keras" else 0.5)
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    batch = tf.cast(next(iter(names["dev_ds"]))[0], tf.float32)
    (output,) = served(batch).values()
    np.testing.assert_allclose(output, final(batch), atol=1e-5)
