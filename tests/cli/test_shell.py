"""The command line in a shell: help, flags, completion, pipes, narrow terminals, the log."""

import contextlib
import dataclasses
import functools
import inspect
import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Mapping

import pytest
from rich.console import Console
from rich.table import Table

from heatbox._utils import progress
from heatbox.cli import main as cli
from heatbox.cli import terminal
from heatbox.cli.evaluate import evaluate_or_rescore
from heatbox.cli.main import COMMANDS, load, main, overview
from heatbox.cli.parsing import examples, parse
from heatbox.cli.train import train_command
from helpers.scenes import write_model, write_split

ESCAPE = "\x1b"


def leaves():
    """Every command's words and function."""
    for name in COMMANDS:
        target = load(name)
        if name == "train":
            yield "train glyphs_resnet", train_command("glyphs_resnet")
        elif isinstance(target, Mapping):
            yield from ((f"{name} {action}", function) for action, function in target.items())
        else:
            yield name, target
    yield "evaluate --from-run", evaluate_or_rescore(["--from-run"])[0]


LEAVES = dict(leaves())


@functools.cache
def help_of(words):
    """What `--help` of a command prints."""
    args = ["evaluate", "--from-run", "x"] if "--from-run" in words else words.split()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        main([*args, "--help"])
    assert stop.value.code == 0
    return printed.getvalue()


def settings_of(function):
    """Flag → (type, default) of a command, those of its configuration included."""
    found = {}
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = typing.get_origin(hints[name]) and typing.get_args(hints[name])[0]
        kind = kind if dataclasses.is_dataclass(kind) else hints[name]
        if dataclasses.is_dataclass(kind):
            types = typing.get_type_hints(kind, include_extras=True)
            found |= {field.name: (types[field.name], field.default) for field in dataclasses.fields(kind)}
        elif "Positional" not in str(hints[name]):
            found[name.removeprefix("as_")] = (hints[name], parameter.default)
    return found


# -------------------------------------------------------------------------------------- help and examples


def test_the_list_of_commands_has_the_summary_of_each_command():
    for name, command in COMMANDS.items():
        target = load(name)
        if isinstance(target, Mapping):
            continue
        function = train_command("glyphs_resnet") if name == "train" else target
        assert inspect.getdoc(function).splitlines()[0] == command.summary, name


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_has_help_and_examples_that_parse(words):
    function = LEAVES[words]
    shown = examples(function)
    assert shown
    for line in shown:
        command, *args = shlex.split(re.split(r" [>|] ", line)[0])
        assert command == "heatbox"
        name, target = args[0], load(args[0])
        if COMMANDS[name].select:
            found, _, rest = load(name, COMMANDS[name].select)(args[1:])
        else:
            nested = isinstance(target, Mapping)
            found, rest = (target[args[1]], args[2:]) if nested else (target, args[1:])
        call, verbose = parse(found, rest, "heatbox")
        assert callable(call)
        assert not verbose


@pytest.mark.parametrize("words", LEAVES)
def test_help_of_every_command(words):
    printed = help_of(words)
    assert "Examples:\n    heatbox " in printed
    assert "--verbose" in printed
    assert ESCAPE not in printed


@pytest.mark.parametrize("args", [["data"], ["analyze"], []])
def test_commands_with_subcommands_list_them(args, capsys):
    assert main(args) == 2
    listed = capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*args, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == listed
    assert all(f"  {name} " in listed for name in (load(args[0]) if args else COMMANDS))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["evalate"], "there is no command 'evalate'; did you mean evaluate"),
        (["data", "chek"], "heatbox data has no command 'chek', expected check, convert, prepare, list"),
        (["train"], "no recipe was named"),
        (["train", "--data", "CUB"], "no recipe was named"),
        (["train", "glyphs_resne"], "there is no recipe 'glyphs_resne'; did you mean glyphs_resnet"),
    ],
)
def test_unknown_names(args, says, capsys):
    assert main(args) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"heatbox \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_list_of_commands_fits(width):
    lines = overview(width).splitlines()
    assert max(map(len, lines[1:])) <= width
    assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


# -------------------------------------------------------------------------------------------------- flags

# The name of an option, and the commands that have it.
SAME_EVERYWHERE = {
    "data": "evaluate, faithfulness, score, train glyphs_resnet, analyze erf, analyze activation, "
    "analyze class-weights, analyze complexity, analyze signed-cam, analyze thresholds, "
    "analyze all, paper",
    "model": "label, locate, evaluate, faithfulness, train glyphs_resnet, analyze erf, analyze "
    "shape-bias, analyze activation, analyze class-weights, analyze complexity, analyze "
    "signed-cam, analyze thresholds, analyze all",
    "out": "demo, label, locate, evaluate, faithfulness, calibrate, score, train glyphs_resnet, "
    "report, convert, data check, data prepare, analyze erf, analyze shape-bias, analyze "
    "activation, analyze class-weights, analyze complexity, analyze signed-cam, analyze "
    "thresholds, analyze all, paper",
    "json": "demo, label, evaluate, faithfulness, evaluate --from-run, calibrate, score, train "
    "glyphs_resnet, recipes, models, compare, data check, data list, analyze erf, analyze "
    "shape-bias, analyze responses, analyze activation, analyze class-weights, analyze "
    "complexity, analyze signed-cam, analyze thresholds, analyze all, paper",
    "device": "label, locate, evaluate, faithfulness, train glyphs_resnet, analyze erf, analyze "
    "shape-bias, analyze activation, analyze class-weights, analyze complexity, analyze "
    "signed-cam, analyze thresholds, analyze all, paper",
    "batch_size": "label, evaluate, faithfulness, train glyphs_resnet, analyze erf, analyze shape-bias, "
    "analyze activation, analyze class-weights, analyze complexity, analyze signed-cam, "
    "analyze thresholds, analyze all",
    "seed": "demo, label, faithfulness, locate, evaluate, calibrate, train glyphs_resnet, analyze erf, "
    "analyze shape-bias, analyze activation, analyze class-weights, analyze complexity, "
    "analyze signed-cam, analyze thresholds, analyze all",
}
OTHER_WORDS = {
    "dataset", "dataset_path", "data_dir", "data_root", "root", "arch", "backbone", "network",
    "output_dir", "out_dir", "outdir", "save_dir", "dest", "as_json", "format", "gpu", "cuda", "accelerator",
    "bs", "batch", "batchsize", "random_state", "rng", "manual_seed", "weights", "ckpt", "max_images",
    "num_images", "n_classes", "classes", "quiet", "force", "epoch", "learning_rate", "image_size",
}  # fmt: skip


@pytest.mark.parametrize("flag", SAME_EVERYWHERE)
def test_an_option_has_one_name(flag):
    assert {words for words, function in LEAVES.items() if flag in settings_of(function)} == set(
        SAME_EVERYWHERE[flag].split(", ")
    )


@pytest.mark.parametrize("words", LEAVES)
def test_no_option_has_another_name(words):
    assert not OTHER_WORDS & set(settings_of(LEAVES[words]))


@pytest.mark.parametrize("words", LEAVES)
def test_flags_of_one_name_are_of_one_kind(words):
    for flag, (kind, default) in settings_of(LEAVES[words]).items():
        if flag == "device":
            assert (kind, default) == (str, "auto")
        if flag == "seed":
            assert (kind, default) == (int, 0)
        if flag == "json":
            assert default is False
        if flag == "batch_size":
            assert kind is int
        if flag == "out":
            assert "Path" in str(kind)
        if flag in ("model", "data"):
            assert re.search(rf"-{flag[0]} \S.*--{flag} \S", help_of(words)), "a short form as everywhere"


# --------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("evaluate", "shape-bias", "--batch-size", "replknet_31b_in1k_384"):
        assert word in script
    assert len(script) < 2**17  # a shell hands it on as one argument


def complete(script, *words):
    """What bash offers after the words."""
    program = f"""
        source {script}
        COMP_WORDS=({" ".join(words)} "") COMP_CWORD={len(words)}
        COMP_LINE="{" ".join(words)} " COMP_POINT=${{#COMP_LINE}}
        function=$(complete -p heatbox | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function heatbox "" {words[-1]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, env={**os.environ, "PATH": path}, check=True
    )
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "heatbox.bash"
    script.write_text(capsys.readouterr().out)
    assert set(COMMANDS) <= complete(script, "heatbox")
    assert {"check", "prepare", "list"} <= complete(script, "heatbox", "data")
    assert {"glyphs_resnet", "replknet_31b_in1k_384"} <= complete(script, "heatbox", "train")
    assert {"--threshold", "--device"} <= complete(script, "heatbox", "locate")


# ------------------------------------------------------------------------------------ pipes and terminals


def run(*args, **environment):
    """heatbox in a process of its own, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "heatbox", *args],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def on_a_terminal(*args, columns=80, **environment):
    """What heatbox writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "heatbox", *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(columns), "LINES": "50", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:  # raised by Linux when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


@pytest.mark.parametrize("args", [["data", "list"], ["evaluate", "--help"], ["convert", "--nonsense"]])
def test_no_escape_codes_in_a_pipe(args):
    done = run(*args, PYTHONIOENCODING="ascii", TERM="xterm")  # a terminal that knows few signs, too
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if "--nonsense" in args else 0)


def test_a_terminal_gets_colours_unless_they_are_unwanted():
    colours = re.compile(r"\x1b\[[\d;]*(3\d|4\d|9\d)[\d;]*m")
    assert ESCAPE in on_a_terminal("convert", "--help", TERM="xterm")
    assert ESCAPE not in on_a_terminal("convert", "--help", TERM="xterm", NO_COLOR="1")
    assert not colours.search(on_a_terminal("recipes", TERM="xterm", NO_COLOR="1"))


def test_a_narrow_terminal_loses_no_number():
    printed = on_a_terminal("recipes", columns=30, TERM="xterm", NO_COLOR="1")
    assert "…" not in printed
    assert "published PC1: 93.60 / 80.40" in printed.replace("\r", "")


class Terminal(io.StringIO):
    """Standard output that claims to be a terminal."""

    def isatty(self):
        return True


def numbers():
    table = Table(title="scores", caption="of two maps")
    for heading in ("map", "MaxBoxAcc", "MaxBoxAccV2"):
        table.add_column(heading, no_wrap=True)
    table.add_row("cam", "58.60 [55.2, 63.4]", "57.40 [55.3, 60.7]")
    table.add_row("pc1", "84.20 [81.4, 87.6]", "")
    return table


@pytest.mark.parametrize("columns", [20, 120])
def test_tables_in_terminals(columns, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.print_table(numbers())
    printed = screen.getvalue()
    for words in ("scores", "of two maps", "58.60 [55.2, 63.4]", "57.40 [55.3, 60.7]", "84.20 [81.4, 87.6]"):
        assert words in printed
    assert ("cam │" in printed or "cam |" in printed) == (columns == 120)
    assert ("map: cam\nMaxBoxAcc: 58.60 [55.2, 63.4]\n" in printed) == (columns == 20)


def test_a_table_between_the_two_folds_its_words(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.print_table(numbers())
    letters = re.sub(r"[^\w.\[\],]", "", screen.getvalue())
    assert "…" not in screen.getvalue()
    assert all(part in letters for part in ("58.60", "57.40", "84.20", "[55.2,", "63.4]", "[81.4,", "87.6]"))


@pytest.mark.parametrize("args", ["--help", "recipes"])
def test_a_closed_pipe_is_not_an_error(args):
    """As with `heatbox recipes | head -1`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "heatbox", args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 141
    assert "Error" not in said
    assert "Traceback" not in said


def test_tables_in_pipes(capsys):
    terminal.print_table(numbers())
    assert "58.60 [55.2, 63.4]" in capsys.readouterr().out
    assert Console().width <= terminal.PIPE_WIDTH


# ------------------------------------------------------------------------------------------------ progress


def test_progress_in_a_pipe_is_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in progress.on_terminal(range(200), "counting [b]sheep"):
        now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "counting [b]sheep (200 to do)",
        "counting [b]sheep: 60 of 200, about 2 min left",
        "counting [b]sheep: 120 of 200, about 1 min left",
        "counting [b]sheep: 180 of 200, about 1 min left",
    ]


def test_progress_of_unknown_length_in_a_pipe(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in progress.on_terminal(iter(range(3)), "counting"):
        now[0] += 61.0
    assert capsys.readouterr().err.splitlines() == ["counting", "counting: 1", "counting: 2", "counting: 3"]


# -------------------------------------------------------------------------------------------------- the log


def test_the_log_is_printed_on_request_only(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "set")
    write_model(tmp_path)
    command = ["evaluate", "-m", "mine.py:blobs", "-d", "set", "--size", "64", "--out", "run", "--json"]
    assert main(command) == 0
    quiet = capsys.readouterr()
    assert "heatbox.cli.terminal" not in quiet.err
    for args in ([*command, "--overwrite", "-v"], ["-v", *command, "--overwrite"]):
        assert main(args) == 0
        printed = capsys.readouterr()
        assert printed.out == quiet.out
        for words in (
            "heatbox.cli.terminal: heatbox evaluate -m mine.py:blobs",
            "Python 3.",
            "torch 2.",
            "heatbox._utils.devices: computing on ",
            "heatbox.data.open: read set",
            "heatbox._utils.io: wrote run/predictions.parquet",
            "heatbox._utils.io: wrote run/metrics.json",
            "heatbox.cli.terminal: ended after ",
        ):
            assert words in printed.err


def test_the_log_ends_with_the_command(capsys):
    with terminal.logged(True, "heatbox"):
        assert cli.COMMANDS
    assert "ended after" in capsys.readouterr().err
    import logging

    assert not logging.getLogger("heatbox").handlers
