import dataclasses
import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lottery_tf.cli import main as main_module
from lottery_tf.cli.main import COMMANDS, Command, main
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.common.settings import setting

ROOT = Path(main_module.__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Oven:
    """How it bakes."""

    heat: int = setting(180, "degrees Celsius")


class Bake:
    """A stand-in for a command's module."""

    def __init__(self):
        self.baked = []
        self.error = None

    def run(self, flags):
        self.baked.append((flags.settings(Oven), flags.positional))
        if self.error:
            raise self.error


@pytest.fixture
def bake(monkeypatch):
    command = Bake()
    monkeypatch.setitem(sys.modules, "fake_bake", command)
    monkeypatch.setattr(
        main_module, "COMMANDS", {"bake": Command("fake_bake", "bakes cakes", (Oven,))}
    )
    return command


def test_a_command_runs_with_its_flags(bake, capfd):
    assert main(["bake", "--heat=200"]) == 0
    assert bake.baked == [(Oven(200), [])]
    assert capfd.readouterr() == ("", "")


def test_the_words_of_the_process_are_the_default(bake, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lottery-tf", "bake", "--heat=3"])
    assert main() == 0
    assert bake.baked == [(Oven(3), [])]


def takes_cakes(monkeypatch):
    command = Command("fake_bake", "bakes cakes", (Oven,), "CAKE")
    monkeypatch.setattr(main_module, "COMMANDS", {"bake": command})


def test_positional_arguments_where_the_command_takes_them(bake, monkeypatch):
    takes_cakes(monkeypatch)
    assert main(["bake", "lemon", "--heat=3"]) == 0
    assert bake.baked == [(Oven(3), ["lemon"])]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--heat=3", "--help"], ["--haet", "-h"]])
def test_help_of_a_command_runs_nothing(bake, capfd, words, monkeypatch):
    takes_cakes(monkeypatch)
    assert main(["bake", *words]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("bake: bakes cakes\n\nusage: lottery-tf bake [--name=value ...] CAKE\n")
    assert "--heat=INTEGER\n      degrees Celsius (default: 180)" in out
    assert err == ""
    assert bake.baked == []


def test_a_mistake_in_the_flags_is_one_sentence_and_code_2(bake, capfd):
    assert main(["bake", "--haet=3"]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", "lottery-tf bake: there is no flag '--haet'; nearest: --heat.\n")
    assert bake.baked == []


def test_a_mistake_found_at_work_is_one_sentence_and_code_2(bake, capfd):
    bake.error = UsageError("runs/a belongs to another configuration.")
    assert main(["bake"]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", "lottery-tf bake: runs/a belongs to another configuration.\n")


@pytest.mark.parametrize("error", [UsageError, WorkFailed])
def test_a_setting_is_told_as_its_flag(bake, capfd, error):
    bake.error = error("Expected `rounds` above 0.")
    assert main(["bake"]) == (2 if error is UsageError else 1)
    assert capfd.readouterr().err == "lottery-tf bake: Expected --rounds above 0.\n"


def test_below_a_traceback_too_but_not_in_the_words_of_others(bake, capfd):
    bake.error = RuntimeError("allow more with `tolerance`.")
    assert main(["bake"]) == 1
    told = capfd.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("RuntimeError: allow more with --tolerance.\n")
    bake.error = ValueError("Argument `optimizer` must be a text.")  # as Keras says it
    assert main(["bake"]) == 1
    assert capfd.readouterr().err.endswith("ValueError: Argument `optimizer` must be a text.\n")


@pytest.mark.parametrize("error", [RuntimeError("out of flour"), ValueError("out of flour")])
def test_work_that_fails_shows_its_traceback_and_gives_1(bake, capfd, error):
    bake.error = error
    assert main(["bake"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Traceback")
    assert err.endswith(f"{type(error).__name__}: out of flour\n")


def chained(outer, inner):
    """``outer``, raised while ``inner`` was dealt with."""
    outer.__context__ = inner
    return outer


class OfTensorFlow(Exception):
    __module__ = "tensorflow.errors"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there/file")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "No space left on device, at /there/file"),
        (chained(ValueError("Can't close the ZIP file"), FULL), "No space left on device, at /the"),
        (OfTensorFlow("weights: No space left on device"), "No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/cd"), "Read-only file system, at /cd"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"),
            "Permission denied, at /x",
        ),
    ],
)
def test_trouble_with_the_disk_is_one_sentence_and_code_1(bake, capfd, error, words):
    bake.error = error
    assert main(["bake"]) == 1
    told = capfd.readouterr().err
    assert told.startswith(f"lottery-tf bake: {words}") and told.count("\n") == 1
    goes_on = "what is there is whole, and the same command goes on.\n"
    assert told.endswith(goes_on) != isinstance(error, PermissionError)


def test_a_refusal_that_was_dealt_with_is_not_the_trouble(bake, capfd):
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/home/x")
    bake.error = chained(KeyError("a mistake in the code"), refused)
    assert main(["bake"]) == 1
    assert capfd.readouterr().err.endswith("KeyError: 'a mistake in the code'\n")


def test_ctrl_c_gives_130_and_says_how_to_go_on(bake, capfd):
    bake.error = KeyboardInterrupt()
    assert main(["bake"]) == 130
    out, err = capfd.readouterr()
    assert out == ""
    assert err.split("\n") == [
        "",
        "lottery-tf bake: interrupted; the same command goes on where it was.",
        "",
    ]


def test_a_module_that_cannot_be_imported_is_no_mistake_of_the_user(monkeypatch, capfd):
    monkeypatch.setattr(main_module, "COMMANDS", {"bake": Command("no_such_module", "bakes", ())})
    assert main(["bake"]) == 1
    assert "ModuleNotFoundError" in capfd.readouterr().err


def test_an_unknown_command(capfd):
    assert main(["evaluat", "--out=x"]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", "lottery-tf: there is no command 'evaluat'; nearest: evaluate.\n")
    assert main(["--out=x"]) == 2
    assert (
        capfd.readouterr().err == "lottery-tf: there is no command '--out=x'; --help lists them.\n"
    )


def test_the_overview(capfd):
    assert main(["--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for name, command in COMMANDS.items():
        assert command.module == f"lottery_tf.cli.{name}"
        assert any(line.split() == [name, *command.summary.split()] for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 90
    assert main([]) == 2
    assert capfd.readouterr() == ("", out)


def test_the_version(capfd, monkeypatch):
    monkeypatch.setattr(main_module.importlib.metadata, "version", lambda name: "1.2.3")
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == "lottery-tf 1.2.3\n"


# Processes of their own


def python(*args, folder=None, **environment):
    """Runs Python on this checkout; variables of TensorFlow's are those in ``environment``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    path = os.pathsep.join(map(str, filter(None, [ROOT, folder])))
    return subprocess.run(
        [sys.executable, *args],
        env=inherited | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("argv", "code"),
    [([], 2), (["--help"], 0), (["-h"], 0), (["--version"], 0), (["fnid"], 2), (["--x"], 2)],
)
def test_what_needs_no_tensorflow_does_not_import_it(argv, code):
    script = f"""
import sys
from lottery_tf.cli.main import main
code = main({argv})
heavy = {{"tensorflow", "tf_keras", "tensorflow_model_optimization"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""
    done = python("-c", script)
    assert done.returncode == code, done.stderr


def test_python_m_lottery_tf_gives_the_exit_code():
    assert python("-m", "lottery_tf", "--help").stdout.startswith(
        "lottery-tf draws lottery tickets"
    )
    done = python("-m", "lottery_tf", "fnid")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lottery-tf: there is no command 'fnid'; nearest: find.\n"


def command(folder, text):
    """A fake command module and a script that runs it as `lottery-tf fake`."""
    (folder / "fake.py").write_text("import os, sys\n" + textwrap.dedent(text))
    (folder / "script.py").write_text(
        "import sys\n"
        "from lottery_tf.cli import main\n"
        "main.COMMANDS['fake'] = main.Command('fake', 'a fake', ())\n"
        "sys.exit(main.main(['fake', *sys.argv[1:]]))\n"
    )
    return folder / "script.py"


SAYS = """
    def say(text):
        os.write(2, text.encode())
    say("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    say("I0000 00:00:1795376777.114360    4060 port.cc:153] oneDNN custom operations are on.\\n")
    say("E0000 00:00:1795376777.2    4060 cuda.cc:1] out of memory\\n")
    say("E0000 00:00:1795376777.3    4060 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
        "CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\\n")
    say("E0000 00:00:1795376777.4    4060 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
        "CUDA error: Failed call to cuInit: UNKNOWN ERROR (999)\\n")
    sys.stderr.write("the import's own words")
"""


def test_notes_at_the_start_are_left_out_and_errors_are_not(tmp_path):
    script = command(tmp_path, SAYS + "    def run(flags): print('I0000 done', file=sys.stderr)\n")
    done = python(str(script), folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr == (
        "E0000 00:00:1795376777.2    4060 cuda.cc:1] out of memory\n"
        "E0000 00:00:1795376777.4    4060 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
        "CUDA error: Failed call to cuInit: UNKNOWN ERROR (999)\n"
        "the import's own wordsI0000 done\n"
    )


def test_who_asks_for_the_notes_gets_them(tmp_path):
    script = command(tmp_path, SAYS + "    def run(flags): pass\n")
    for level in ("0", "1"):
        assert "oneDNN" in python(str(script), folder=tmp_path, TF_CPP_MIN_LOG_LEVEL=level).stderr
    assert "oneDNN" not in python(str(script), folder=tmp_path, TF_CPP_MIN_LOG_LEVEL="3").stderr


def test_the_last_words_before_an_abort_are_seen(tmp_path):
    words = "F0000 00:00:1.2 1 cpu_feature_guard.cc:1] this binary needs AVX\\n"
    script = command(tmp_path, f'os.write(2, b"{words}")\nos.abort()\n')
    done = python(str(script), folder=tmp_path)
    assert done.returncode < 0
    assert "this binary needs AVX" in done.stderr


@pytest.mark.e2e
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_at_the_start_is_one_line_too(tmp_path):
    """A terminal sends it to all processes of the command, so to the one that filters too."""
    text = """
    import signal, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
    time.sleep(1)
    os.write(2, b"E0000 said before\\n")
    os.killpg(0, signal.SIGINT)
    time.sleep(60)
    """
    done = python(str(command(tmp_path, text)), folder=tmp_path)
    assert done.returncode == 130
    assert done.stderr == (
        "E0000 said before\n"
        "\nlottery-tf fake: interrupted; the same command goes on where it was.\n"
    )


def test_an_error_at_import_is_seen(tmp_path):
    script = command(tmp_path, "raise RuntimeError('no flour')\n")
    done = python(str(script), folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: no flour\n")


@pytest.mark.e2e
def test_tensorflow_starts_without_a_word(tmp_path):
    """And the command still sees its GPUs, if any, and may set up devices as it likes."""
    text = """
    import tensorflow as tf
    from lottery_tf.graph.compat import keras
    import tensorflow_model_optimization
    def run(flags):
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        print(len(tf.config.list_logical_devices("CPU")), int(tf.constant(2) + 2))
    """
    done = python(str(command(tmp_path, text)), folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 4\n", "")


COMMAND_LINES = [
    *([name, "--help"] for name in COMMANDS),
    ["find", "--rounds=1", "--model=resnet21"],
    ["find", "--sparsity=2", "--out=x"],
    ["find"],
    ["retrain", "--ticket=T", "--recipe=label_smothing", "--out=x"],
    ["retrain", "--ticket=T", "--recipe=tost", "--ghost_skips_share=3", "--out=x"],
    ["retrain", "--out=x"],
    ["sweep", "--processes=0", "--out=x"],
    ["sweep", "--rounds=1", "--recipes=vanila", "--out=x"],
    ["sweep", "--rounds=1", "--sparsities=2", "--out=x"],
    ["sweep", "--rounds=1", "--tune=learningrate:0.1", "--out=x"],
    ["sweep", "--rounds=1", "--grid=none.yaml", "--out=x"],
    ["sweep", "--out=x"],
    ["export", "--out=x"],
    ["inspect"],
    ["inspect", "x", "--recipe=tost"],
    ["inspect", "x", "--signal", "--recipe=tist"],
    ["inspect", "x", "--signal", "--soft_activation_share=0.5"],
    ["report"],
    ["evaluate"],
    ["quickstart", "--seeds="],
]


def test_help_and_mistakes_do_without_tensorflow(tmp_path):
    """And without what else takes seconds to import, all in one process."""
    script = (
        "import json, sys\n"
        "from lottery_tf.cli.main import main\n"
        "codes = [main(words) for words in json.loads(sys.argv[1])]\n"
        "slow = {'tensorflow', 'tf_keras', 'tensorflow_datasets', 'tensorflow_model_optimization',"
        " 'matplotlib', 'pandas', 'ray', 'sklearn', 'scipy'}\n"
        "print(json.dumps([codes, sorted(slow & {*sys.modules})]))\n"
    )
    done = python("-c", script, json.dumps(COMMAND_LINES), folder=tmp_path)
    codes, slow = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(COMMANDS) + [2] * (len(COMMAND_LINES) - len(COMMANDS)), done.stderr
    assert slow == []
    assert not list(tmp_path.iterdir())
