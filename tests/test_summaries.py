"""What print and notebooks show: one short line of a repr, a short table of a str, HTML escaped."""

import pytest
from networks import chain, examples, random_masks

import lottery_tf as lt
from lottery_tf.common.summary import Summary
from lottery_tf.inspecting.signal import LayerSignal, Signal


@pytest.fixture
def ticket(of):
    model = chain(
        of.layers.Dense(6, "relu", name="first"), of.layers.Dense(3, name="head"), shape=(4,)
    )
    return lt.prune(model, "random", 0.5)


def things(ticket):
    return {
        "ticket": ticket,
        "facts": lt.inspect(ticket),
        "compared": lt.inspect(ticket, ticket),
        "signal": lt.signal(ticket.build(), examples()),
        "recipe": lt.Recipe("tost", {"soft_activation_share": 0.25}),
    }


def test_a_repr_is_one_short_line_and_a_str_a_short_table(ticket):
    for name, thing in things(ticket).items():
        assert "\n" not in repr(thing) and len(repr(thing)) <= 100, name
        lines = str(thing).splitlines()
        assert 3 <= len(lines) <= 12, name
        assert all(line == line.rstrip() for line in lines)
        html = thing._repr_html_()
        assert html.startswith("<div><table>") and html.endswith("</div>")


def test_what_is_told_of_a_ticket(ticket):
    assert repr(ticket) == f"Ticket({ticket.info['model']}, random, 50.00 % pruned)"
    text = str(ticket)
    for words in ("first/kernel", "4×6", "total", "method random"):
        assert words in text
    rounds = ticket.with_masks(ticket.masks, round=3)
    assert repr(rounds).endswith("random, round 3, 50.00 % pruned)")


def test_what_is_told_of_a_recipe():
    assert repr(lt.Recipe("tost")) == "Recipe('tost')"
    assert repr(lt.Recipe([lt.LabelSmoothing(0.2)])) == (
        "Recipe('label_smoothing', {'label_smoothing_epsilon': 0.2})"
    )
    recipe = lt.Recipe("label_smoothing,ghost_skips", {"ghost_skips_share": 0.25})
    assert str(recipe).splitlines() == [
        "Recipe label_smoothing+ghost_skips",
        "tweak            changed parameters",
        "label_smoothing",
        "ghost_skips      share=0.25",
        "recipe.describe() has all parameters.",
    ]
    # By the name of a recipe its own parameters are no others.
    assert repr(lt.Recipe("tost_reference")) == "Recipe('tost_reference')"
    assert str(lt.Recipe("vanilla")) == "Recipe vanilla\nNo tweaks."
    assert eval(repr(recipe), {"Recipe": lt.Recipe}).describe() == recipe.describe()
    own = [type("Own" * 99, (lt.LabelSmoothing,), {})()]
    assert len(repr(lt.Recipe(own))) == 200


def test_names_are_escaped_and_readable(of):
    model = chain(of.layers.Dense(6, name="first"), of.layers.Dense(3, name="head"), shape=(4,))
    info = {"method": "<script>alert(1)</script>", "model": "a\x1b[2J\nb", "settings": {"x": "<i>"}}
    ticket = lt.Ticket.of(model, random_masks(model), info)
    html = ticket._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<i>" not in html
    assert "\x1b" not in str(ticket) + repr(ticket) + html and r"a\x1b[2J b" in repr(ticket)


def test_long_tickets_are_cut(of):
    model = chain(*(of.layers.Dense(4, name=f"d{n}") for n in range(20)), shape=(4,))
    ticket = lt.Ticket.of(model, random_masks(model))
    lines = str(ticket).splitlines()
    assert len(lines) <= 18 and "… and 8 more weights; lt.inspect(ticket) has all." in lines
    assert len(str(lt.inspect(ticket)).splitlines()) == 25


def test_a_signal_says_what_is_blocked():
    layers = [LayerSignal("a", 1.0, 1.0, 3), LayerSignal("b", 1e-9, 1e-9, 3)]
    found = Signal(layers, 2.3, 1.0)
    assert repr(found) == "Signal(2 layers, loss 2.3)"
    row = next(line for line in str(found).splitlines() if line.startswith("b "))
    assert row.endswith("blocked")
    assert "No gradient reaches b" in str(found)


def test_columns_of_numbers_stand_to_the_right():
    summary = Summary("t", ["name", "number", "text"], [["a", "1", "b"], ["b", "–", "1"]])
    assert summary.html().count("text-align:right") == 3
    assert Summary("only a title", [], []).text() == "only a title"
    assert Summary("t", ["<"], [["<"]]).html().count("&lt;") == 2
