"""The tables of results/figures.py are what the logs say, its pictures what the tables say, and what is in results/ is up to date."""

import json
import sys
from pathlib import Path

import pytest
from conftest import TINY, one_line, open_tiny

import data
import figures
import train
from gpt import UserError

VALID = dict(kind="valid", stage=0, epoch=1, correct=1, total=4, seconds=1.0)


def write(path, *lines, **settings):
    """A log of a run of these settings, else the usual ones, with these records; what is text is written as it is."""
    begun = dict(kind="run", epoch=0, settings=train.usual("quick", "prosqa") | settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in (begun, *lines)))
    return path


def said(correct, dataset="prosqa", total=100, **more):
    return dict(kind="test", dataset=dataset, correct=correct, total=total, tokens=14.0, **more)


def test_the_page_of_all_runs_is_what_its_logs_say(capsys):
    assert figures.page(figures.RESULTS / "logs") == (figures.RESULTS / "logs/README.md").read_text()
    assert not capsys.readouterr().err                          # no line is broken


def test_a_row_of_the_page_by_hand(tmp_path):
    write(tmp_path / "a.jsonl", {**VALID, "seconds": 61.0, "loss_per_problem": 9.0}, {**VALID, "epoch": 2, "seconds": 170.0, "loss_per_problem": 0.5},
          said(1, total=8), said(2, "prosqa --nodes 9", 8, other=5, forced=3), method="cot", c=2, seed=3, easy=1, stages=1)
    write(tmp_path / "b.jsonl", VALID)                                              # stopped before its test
    (tmp_path / "cells").mkdir()
    write(tmp_path / "cells/c.jsonl", VALID, said(6, "prosqa --same_depth", 8))     # tested on other problems alone
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in figures.page(tmp_path).splitlines() if line.startswith("|")]
    assert rows[0] == ["dataset", "method", "accuracy", "nodes 9", "tokens", "with"] and rows[2] == ["prosqa", "cot", "12.5", "25.0", "14.0", "--c 2 --easy 1"]
    assert rows[5:7] == [
        ["[a](a.jsonl)", "cot", "--c 2 --easy 1", "3", "2", "3", "prosqa: 1/8 = 12.5% (2.2 to 47.1)<br>prosqa --nodes 9: 2/8 = 25.0% (7.1 to 59.1), 5 the other candidate, 3 by forced choice",
         "9.00 0.50"], ["[b](b.jsonl)", "coconut", "", "0", "1", "0", "", ""]]
    assert rows[9] == ["prosqa", "coconut", "-", "75.0", "14.0", ""] and rows[12][0] == "[c](cells/c.jsonl)"


def test_an_epoch_told_twice_counts_as_told_last_and_a_broken_line_is_left_out(tmp_path, capsys):
    log = write(tmp_path / "a.jsonl", VALID, {**VALID, "epoch": 2}, '{"kind": "va', "[]", {**VALID, "epoch": 2, "correct": 3}, '{"kind')
    assert figures.curve(figures.read([log])) == (["epoch", "stage", "a"], [(1, "0", 0.25), (2, "0", 0.75)])
    assert capsys.readouterr().err == f"note: broken lines of {log} are left out: [4, 5, 7]\n"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    for name, right in ("aa/run", 1), ("bb/run", 2), ("cc/other", 3):
        write(tmp_path / name / "log.jsonl", {**VALID, "correct": right})
    monkeypatch.chdir(tmp_path)
    logs = [str(Path(name) / "log.jsonl") for name in ("aa/run", "bb/run")]
    assert figures.curve(figures.read(["aa/run", "bb/run/log.jsonl", "cc/other"])) == (
        ["epoch", "stage", *logs, "other"], [(1, "0", 0.25, 0.5, 0.75)])
    monkeypatch.chdir("cc/other")
    assert list(figures.read(["."])) == list(figures.read(["log.jsonl"])) == ["other"]


def test_the_summary_has_a_row_for_each_method_with_the_mean_and_every_run(tmp_path):
    for name, method, correct, c in ("a", "coconut", 90, 1), ("b", "coconut", 96, 1), ("c", "cot", 50, 1), ("d", "cot", None, 1), ("e", "coconut", 20, 2):
        lines = [said(correct), said(1, "prosqa --nodes 9"), said(correct - 10, "prosqa --same_depth")][:3 if method == "coconut" else 2] if correct else []
        write(tmp_path / f"{name}.jsonl", VALID, *lines, *[said(30, "prosqa --no-either_root")] * (name == "c"), method=method, c=c, data_seed=2)
    assert figures.summary(figures.read(sorted(tmp_path.iterdir())))[1] == [
        ("prosqa", "coconut", "93.0 (90.0 96.0)", "1.0 (1.0 1.0)", "83.0 (80.0 86.0)", "-", "14.0", ""),
        ("prosqa", "coconut", "20.0", "1.0", "10.0", "-", "14.0", "--c 2"), ("prosqa", "cot", "50.0", "1.0", "-", "30.0", "14.0", "")]


def test_what_is_unusual_about_a_run_are_given_flags_but_not_its_seed_or_machine(finished):
    run, _ = train.open_run(finished, "cpu")
    words = figures.unusual(run.settings).replace("--no-either_root", "--either_root False").split()
    given = " ".join(TINY).replace("--no-either_root", "--either_root False").split()
    told, given = (dict(zip(some[::2], some[1::2])) for some in (words, given))
    usual = vars(train.settings_of({}))
    assert told == {flag: v for flag, v in given.items() if flag != "--device" and v != str(usual[flag[2:]])}
    run.settings.setting, run.settings.seed = "paper", 5
    assert {"--setting", "--lr"} <= {*figures.unusual(run.settings).split()} and "seed" not in figures.unusual(run.settings)
    included = {name: train.open_run(figures.RESULTS / name, "cpu")[0].settings for name in ("model", "model-cot", "model-pause", "model-mix", "model-full")}
    assert [figures.unusual(settings) for settings in included.values()] == ["", "", "", "--mix 0.6", "--setting full"]      # so the defaults are the recipe of results/


def test_comparing_counts_who_is_right_where(opened, monkeypatch):
    """By the number of steps and, for ProsQA, by the depth of the wrong candidate."""
    run, problems = opened
    depths = [data.depths(p)[1] for p in problems]
    right = {"a": {0, 1, 2, 3, 4}, "b": {0, 7}}
    monkeypatch.setattr(train, "ask", lambda run, ps, *_: (
        [f"### {p.answer if i in right[run.gpt] else 'x'}" for i, p in enumerate(ps)], None, None))
    runs = {name: train.Run(name, None, run.settings, 0, 0) for name in "ab"}
    expected = [("wrong candidate's depth", depth, depths.count(depth), *(
        sum(depths[i] == depth for i in right[name]) / depths.count(depth) for name in "ab")) for depth in sorted({*depths})]
    assert figures.compare(runs, problems) == (
        ["by", "", "problems", "a", "b"], [("all", "", 8, 5/8, 2/8), ("steps", 3, 8, 5/8, 2/8), *expected])
    others = [data.Problem(p.question.split("Is")[0], p.steps, p.answer) for p in problems[:4]]
    assert len(expected) > 1 and figures.compare(runs, others)[1][1:] == [("steps", 3, 4, 1.0, 1/4)]


def test_runs_are_compared_on_the_problems_that_the_flags_ask_for(runs, capsys):
    paths = [str(runs / name) for name in ("coconut", "cot")]
    figures.main(["--compare", *paths, "--nodes", "8", "--test_size", "5"])
    run, _ = open_tiny(paths[0])
    problems = data.test_problems(run.settings, dict(nodes=8, test_size=5))
    right = [sum(map(data.grade, problems, train.ask(one, problems, one.fillers())[0])) for one, _ in map(open_tiny, paths)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["by", "problems", *paths] and lines[1].split() == ["all", "5", *(f"{n / 5:.1%}" for n in right)]


# ---- pictures

def test_all_pictures_of_the_pages_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "logs").mkdir()
    figures.build(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(drawn) == {path.name for path in figures.RESULTS.glob("*.png")}
    assert all(image[:4] == b"\x89PNG" and 20_000 < len(image) < 300_000 for image in drawn.values())
    assert (tmp_path / "logs/README.md").read_text() == (figures.RESULTS / "logs/README.md").read_text()


@pytest.fixture
def axes():
    return pytest.importorskip("matplotlib.figure").Figure().subplots()


def test_a_tree_is_drawn_from_its_rows(axes):
    figures.plot_tree(axes, ["node"], [(0, "Tom", "", "", "*"), (1, "  ant", 0.25, "", ""), (2, " bee", "", "", ""), (1, "cat", 0.75, "", "*")], "")
    assert [text.get_text() for text in axes.texts] == ["Tom", "ant 25%", "bee", "cat 75%"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 0], [1, 1]], [[1, 1], [2, 2]], [[0, 0], [1, 3]]]
    assert [one.get_sizes()[0] for one in axes.collections] == [15, 165, 15, 465]


def test_a_sweep_is_drawn_as_stacked_bars(axes):
    heads = ["steps", "right", "Correct\nPath", "Correct\nLabel"]
    figures.plot_bars(axes, heads, [(0, 0.75, 0.5, 0.0), (1, 0.875, 0.0, 0.625)], "")
    bars = [[(bar.get_y(), bar.get_height()) for bar in part] for part in axes.containers]
    assert bars == [[(0, 0), (0, 62.5)], [(0, 75), (62.5, 25)], [(75, 25), (87.5, 12.5)]]


def test_every_usual_run_is_a_dot_and_its_losses_a_line(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    monkeypatch.setattr(figures, "unusual", lambda settings: "" if settings.n_layer == 4 else f"--n_layer {settings.n_layer}")
    for name, method, layers, *right in ("a", "coconut", 4, 8, 7), ("b", "icot", 4, 4), ("c", "cot", 2, 5), ("d", "pause", 4, 5), (
            "e", "pause", 12, 6):
        epochs = [VALID | dict(epoch=epoch, loss_per_problem=10.0 * epoch) for epoch in range(1, 8)]
        write(tmp_path / f"{name}.jsonl", *epochs, *(said(n, f"prosqa{kind}", 8) for n, kind in zip(right, ("", " --same_depth"))),
              method=method, n_layer=layers, easy=3, stages=1)
    easy, dots = figure.subplots(1, 2)
    figures.plot_front((easy, dots), figures.read(sorted(tmp_path.iterdir())), "prosqa")
    usual, same_depth = ([(round(x), y) for x, y in some.get_offsets().tolist()] for some in dots.collections)
    assert usual == [(0, 100), (2, 50), (1, 62.5), (3, 75)] and same_depth == [(0, 87.5)]
    assert [text.get_text().split("\n")[-1] for text in dots.get_xticklabels()] == ["Coconut", "token", "iCoT", "12 layers"]
    assert [line.get_xydata().tolist() for line in easy.lines[:-1]] == [[[0, 30], [1, 60]]] * 2
    assert [text.get_text() for text in easy.get_legend().get_texts()] == ["Coconut", "pause token"]


def test_without_matplotlib_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"\Apictures need matplotlib: pip install matplotlib\Z"):
        figures.draw("a.png", None)


@pytest.mark.parametrize("words, says", [
    ("nowhere", "nowhere"), ("{runs}/coconut/best.pt", "no log"), ("{runs}/coconut --nodes 9", "need --compare"), ("--same_depth", "need --compare"),
    ("--compare", "needs a RUN"), ("--compare nowhere", "there is no"),
    ("--compare {runs}/cot --hops 2", "does not apply")])
def test_what_cannot_be_told_is_refused_in_one_line(runs, words, says, capsys):
    assert says in one_line(figures.main, words.format(runs=runs).split(), capsys)
