"""The README keeps its promises: its commands are understood, its links lead somewhere, its table is what the logs give."""

import json
import re
import shlex
from pathlib import Path

import pytest

import sample
import train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").glob("*.md"))]
README = PAGES[0].read_text()
QUICK = (ROOT / "results/quick.md").read_text()
STAND_INS = {"D": "prosqa", "M": "cot", "$m": "icot", "$s": "1", "DIR": "problems", "FILE.png": "a.png", "...": ""}


def commands():
    """Every "python train.py ..." and "python sample.py ..." of the pages, to the end of its line or its backticks."""
    for page in PAGES:
        for program, rest in re.findall(r"python (train|sample)\.py\b([^`\n|;]*)", page.read_text().replace("\\\n", " ")):
            yield program, [word for word in (STAND_INS.get(w, w) for w in shlex.split(rest, comments=True)) if word]


def test_every_command_is_understood():
    found = list(commands())
    for program, words in found:
        if "--help" in words:
            continue
        if program == "train":
            typed, _ = train.parse(words)
            train.settings_of(typed)
        elif "--init" in words or any(not word.startswith("--") for word in words):     # all others speak of a flag, not of a run
            sample.parse(words)
    assert len(found) > 16 and {program for program, _ in found} == {"train", "sample"}


def test_every_link_leads_to_a_file():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if not link.startswith("http")]
    assert len(links) > 30
    assert not [link for page, link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("name", ["gpt.py", "data.py", "coconut.py", "train.py", "sample.py"])
def test_the_reading_table_has_the_lengths_of_the_files(name):
    lines = len((ROOT / name).read_text().splitlines())
    assert f"| [{name}]({name}) | {lines} |" in README, f"{name} has {lines} lines"


def test_the_table_of_results_is_what_the_logs_give(capsys):
    """Row by row; how long a run took is left out, since some ran beside others."""
    sample.main([*map(str, sorted((ROOT / "results/quick").glob("*.jsonl"))), "--table"])
    given = [re.sub(r"^(\S+ +\S+ +\d+ +\S+(?: ± +\S+)? +\S+) +\d+", r"\1", line).split() for line in capsys.readouterr().out.splitlines()]
    rows = re.findall(r"^    (?:prosqa|prontoqa) .*$", README, re.M)
    assert len(rows) >= 9 and not [row for row in rows if row.split() not in given]


def best_of_stages(log):
    records = [json.loads(line) for line in (ROOT / "results" / log).read_text().splitlines()]
    best = {}
    for r in records:
        if r["kind"] == "valid":
            best[r["stage"]] = max(best.get(r["stage"], 0), 100 * r["correct"] / r["total"])
    return list(best.values()), [f"{r['correct']}/{r['total']}" for r in records if r["kind"] == "test"]


@pytest.mark.parametrize("row", re.findall(r"^\| `python train.py .*$", QUICK, re.M))
def test_the_default_runs_are_told_as_their_logs_have_them(row):
    cells = row.split("|")
    log, = re.findall(r"\((quick/.*?\.jsonl)\)", row)
    best, (answers,) = best_of_stages(log)
    said = [int(number) for number in re.findall(r"\d+", cells[6])]
    assert said == [round(number) for number in best[-len(said):]]
    assert cells[7].split()[0] == answers


def test_results_beside_a_log_are_its_test():
    """A line or row with one log and one count of right answers: the log's."""
    pairs = [(re.findall(r"\((quick/[^)]*?\.jsonl)\)", line), re.findall(r"\b\d+/(?:500|800)\b", line))
             for page in PAGES[1:] for line in page.read_text().splitlines()]
    pairs = [(logs[0], counts[0]) for logs, counts in pairs if len(logs) == len(counts) == 1]
    assert len(pairs) > 15
    assert not [pair for pair in pairs if pair[1] not in best_of_stages(pair[0])[1]]


def printed():
    """What the commands of results/thoughts.txt printed: (the runs and flags of each, its lines)."""
    for block in re.split(r"^\$ python ", (ROOT / "results/thoughts.txt").read_text(), flags=re.M)[1:]:
        command, *lines = block.splitlines()
        runs = [Path(word).name for word in command.split() if word.startswith("runs/")]
        yield runs, {word for word in command.split(" --")[1:] if not word.startswith(("plot", "test_size"))}, lines


def row_of(start):
    """The cells of the README's row that starts so."""
    row, = re.findall(rf"^\| {re.escape(start)}.*$", README, re.M)
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("row, flags", [("500 as in training", set()), ("1,000 of 4 steps", {"min_steps 4", "max_steps 4"}),
                                        ("1,000 denser graphs", {"parents 2.5"})])
def test_the_comparison_of_methods_is_what_was_printed(row, flags):
    told = {}
    for runs, given, lines in printed():
        if given == flags | {"compare"}:
            share, = (line.split()[2:] for line in lines if line.split()[:1] == ["all"])
            told |= {run: value.strip("%") for run, value in zip(runs, share)}
    seeds = {"coconut": ("0-onecore", "1", "2"), "cot": "012", "pause_as_thought": "012"}
    for cell, (method, names) in zip(row_of(row)[1:], seeds.items()):
        assert cell.split(" %")[0].split(", ") == [told[f"prosqa-{method}-seed{name}"] for name in names]


@pytest.mark.parametrize("row, runs", [
    ("ProsQA, 14 nodes, Coconut, seed 0", ["prosqa-14nodes-coconut"]), ("the same, pause as thought", ["prosqa-14nodes-pause_as_thought"]),
    ("ProsQA, 9 nodes, Coconut, seed 0", ["prosqa-coconut-seed0"]), ("the same, one core", ["prosqa-coconut-seed0-onecore"]),
    ("the same, seed 1", ["prosqa-coconut-seed1"]), ("the same, seed 2", ["prosqa-coconut-seed2"]),
    ("9 nodes, pause as thought", [f"prosqa-pause_as_thought-seed{i}" for i in range(3)]), ("ProntoQA, Coconut", ["prontoqa-coconut-seed0"])])
def test_what_tampered_thoughts_do_is_what_was_printed(row, runs):
    told = {}
    for (run, *_), given, lines in printed():
        if given == {"corrupt"}:
            told[run] = {line[:30].strip(): re.search(r"(\d+)/", line)[1] for line in lines if "/" in line}
    for run, untouched, noise in zip(runs, *(cell.split("; ") for cell in row_of(row)[1:3])):
        assert untouched.split("/")[0] == told[run]["untouched"]
        assert noise.split(", ") == [count for what, count in told[run].items() if what.startswith("noise")]
    if row_of(row)[3]:
        assert row_of(row)[3:] == [told[runs[0]]["in reverse order"], told[runs[0]]["another problem's"]]
