"""One attempt at a trial, as an engine's process makes it."""

import types

import tensorflow as tf

from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.sweeping.attempt import attempt


def test_a_log_has_all_errors_and_no_advice_on_tracing(tmp_path, monkeypatch, caplog):
    """TensorFlow gives it in a process that trains several models one after the other."""

    def run(out, how):
        tf.get_logger().warning("5 out of the last 5 calls triggered tf.function retracing.")
        tf.get_logger().error("Out of memory.")
        return 0.5

    monkeypatch.setattr(tf.get_logger(), "level", tf.get_logger().level)  # put back at the end
    trial = types.SimpleNamespace(folder="one", run=run)
    assert attempt(trial, tmp_path, DeviceSettings()).dev_accuracy == 0.5
    assert caplog.messages == ["Out of memory."]
