"""Figures name sparsities as the tables do: by what is pruned."""

from report_runs import write_study

from lottery_tf.reporting import report
from lottery_tf.reporting.charts import Chart
from lottery_tf.reporting.drawing import draw
from lottery_tf.reporting.figures import Figures
from lottery_tf.reporting.plots import plot


def test_the_axis_and_the_points_say_what_is_pruned(tmp_path):
    """On an axis that is logarithmic in what is left."""
    found = report([write_study(tmp_path, (0.488, 0.9375))])
    for section in Figures(found, {}).sections()[:2]:
        (chart,) = section.figures
        assert chart.x == "pruned, % of prunable weights" and chart.falling
        assert list(chart.some_ticks.values()) == ["48.8", "93.75"]
        drawn = plot(chart)
        assert drawn["layout"]["xaxis"]["ticktext"] == ["48.8", "93.75"]
        pointed = [trace for trace in drawn["data"] if trace.get("hoverinfo") != "skip"]
        assert pointed
        for trace in pointed:
            assert trace["hovertemplate"] == "%{y:.2f} at %{text}"
            assert trace["text"] == ["48.8 % pruned", "93.75 % pruned"]
        picture = draw(chart, "")[".svg"].decode()
        assert "<!-- 48.8 -->" in picture and "<!-- 93.75 -->" in picture


def test_where_seconds_are_the_axis_both_are_said(tmp_path):
    found = report([write_study(tmp_path, (0.488, 0.9375))])
    (chart,) = Figures(found, {}).sections()[-1].figures
    trace = plot(chart)["data"][0]
    assert trace["hovertemplate"] == "%{y:.2f} at %{x:.4g}, %{text}"
    assert trace["text"] == ["48.8 % pruned", "93.75 % pruned"]


def test_of_many_ticks_some_keep_their_words():
    shares = [100 * 0.8**number for number in range(19)]
    chart = Chart("a", "", "pruned", [], shares, [f"{100 - share:.1f}" for share in shares])
    assert list(chart.some_ticks) == shares[::3] and chart.some_ticks[shares[3]] == "48.8"
