import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.common.steps import parse_steps


@pytest.mark.parametrize(
    ("text", "steps"), [("0it", 0), ("500it", 500), ("2ep", 200), ("0.5ep", 50), ("0ep", 0)]
)
def test_steps(text, steps):
    assert parse_steps(text, steps_per_epoch=100) == steps


@pytest.mark.parametrize("text", ["", "500", "2 ep", "-1it", "1.5it", "ep", "2epochs", "1e3it"])
def test_other_forms_are_refused(text):
    with pytest.raises(UsageError, match="500it.*2ep"):
        parse_steps(text, steps_per_epoch=100)
