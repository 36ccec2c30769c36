"""The FLOPs of the tickets in a report."""

import numpy as np

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.reporting.tickets import ticket_flops


def test_flops_are_those_of_inspect(tmp_path):
    layers = [keras.layers.Dense(2, name="d"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    tickets = []
    for name, mask in (("half", [[1, 0], [1, 0]]), ("none", np.zeros((2, 2)))):
        lt.Ticket.of(model, lt.Masks({"d/kernel": mask})).save(tmp_path / name)
        tickets.append(str(tmp_path / name))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.json").write_text("{}")
    # Two for each of the kept weights, and of the two weights of the head.
    flops = ticket_flops([*tickets, str(tmp_path / "damaged"), str(tmp_path / "gone")])
    assert flops == dict(zip(tickets, (8, 4), strict=True))
    assert flops[tickets[0]] == lt.inspect(lt.Ticket.load(tickets[0])).flops_sparse
