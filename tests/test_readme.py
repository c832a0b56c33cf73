"""The README keeps its promises: its commands are understood, its links lead somewhere, its code and numbers are those of the files and logs."""

import inspect
import json
import re
import shlex
from pathlib import Path
from statistics import mean, stdev

import pytest

import coconut
import figures
import sample
import train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "results").glob("*.md"))]
README = PAGES[0].read_text()
STAND_INS = {"D": "prosqa", "M": "cot", "$m": "icot", "$s": "1", "DIR": "problems", "FILE.png": "a.png", "...": ""}


def commands():
    """Every command of train.py, sample.py and results/figures.py of the pages, to the end of its line or its backticks."""
    for page in PAGES:
        for program, rest in re.findall(r"python (train|sample|results/figures)\.py\b([^`\n|;#]*)", page.read_text().replace("\\\n", " ")):
            yield program, [word for word in (STAND_INS.get(w, w) for w in shlex.split(rest)) if word]


def test_every_command_is_understood():
    found = list(commands())
    for program, words in found:
        if "--help" in words:
            continue
        if program == "train":
            typed, _ = train.parse(words)
            train.settings_of(typed)
        elif program == "results/figures":
            figures.parse(words)
        elif any(not word.startswith("--") for word in words):      # all others speak of a flag, not of a run
            sample.parse(words)
    assert len(found) > 16 and {program for program, _ in found} == {"train", "sample", "results/figures"}


def test_every_link_leads_to_a_file():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if not link.startswith("http")]
    assert len(links) > 20
    assert not [link for page, link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("name", ["gpt.py", "data.py", "coconut.py", "train.py", "sample.py"])
def test_the_reading_table_has_the_lengths_of_the_files(name):
    lines = len((ROOT / name).read_text().splitlines())
    assert f"| [{name}]({name}) | {lines} |" in README, f"{name} has {lines} lines"


def test_the_readme_is_short_and_shows_the_definition_as_it_is():
    words = [word for line in README.splitlines() if not line.startswith(("    ", "|")) for word in line.split()]
    assert len(README.splitlines()) <= 150 and len(words) <= 1000
    code = re.sub(r'    """.*?"""\n', "", inspect.getsource(coconut.explicit_forward), flags=re.S)
    assert "".join(f"    {line}\n" for line in code.splitlines()) in README


def test_the_included_model_thinks_what_the_readme_says(capsys):
    """The best word of each thought, and how it answers after fewer or other thoughts; on another processor a few answers may differ."""
    sample.main([str(ROOT / "results/model"), "--n", "10"])
    printed = capsys.readouterr().out
    best = [re.findall(r"^ *thought \d +(.{20})", text, re.M) for text in (README, printed)]
    assert len(best[0]) == 5 and best[0] == best[1][:5]
    assert int(re.search(r"(\d+) of 10 right", printed)[1]) >= 9
    sample.main([str(ROOT / "results/model"), "--sweep_thoughts"])
    found = [float(share) for share in re.findall(r"^ +\d +([\d.]+)%", capsys.readouterr().out, re.M)]
    page = (ROOT / "results/README.md").read_text()
    said = re.search(r"^\| answer right, % \| (.*) \|$", page, re.M)[1].split(" | ")
    assert len(said) == 6 and found == pytest.approx([float(share) for share in said], abs=1)
    sample.main([str(ROOT / "results/model"), "--parallel"])
    rows = [re.findall(r"^ +[123]  +(\S.*%)$", text, re.M) for text in (README, capsys.readouterr().out)]
    shares = [[float(share) for row in some for share in re.findall(r"([\d.]+)%", row)] for some in rows]
    assert len(shares[0]) == 9 + 10 + 10 and shares[0] == pytest.approx(shares[1], abs=1)
    sample.main([str(ROOT / "results/model"), "--corrupt", "--same_depth"])
    found = re.findall(r"(\d+)/\d+ = .*?(\d+) +(\d+)$", capsys.readouterr().out, re.M)
    said = re.findall(r"^(?:\|[^|]+){3}\| (\d+)(?: of \d+)? \| (\d+) \| (\d+) \|$", page, re.M)
    assert len(found) == 11 and [int(n) for row in found for n in row] == pytest.approx([int(n) for row in said for n in row], abs=12)


def counts_of(log):
    """The counts of right answers in a log's test records."""
    records = map(json.loads, (ROOT / "results" / log).read_text().splitlines())
    return [f"{r['correct']}/{r['total']}" for r in records if r["kind"] == "test"]


def test_the_table_of_results_is_what_the_logs_give():
    """The README's ProsQA, and both datasets beside the paper's figures."""
    given = [[str(cell) for cell in row] for row in figures.summary(figures.read(sorted((ROOT / "results/logs").glob("*.jsonl"))))[1]]
    usual = [row[:5] for row in given if not row[5]]
    rows = [re.split("  +", row) for row in re.findall(r"^    (prosqa .*)$", README, re.M)]
    assert len(rows) == 8 and all(row in usual for row in rows)
    beside = re.findall(r"^\| (\w+) \| ([^|]+) \| [^|]* \| ([^|]+) \| [^|]* \|$", (ROOT / "results/README.md").read_text(), re.M)
    means = {(dataset, method): accuracy for dataset, method, accuracy, *_ in usual}
    told = [(method, prosqa, prontoqa) for method, prosqa, prontoqa in beside if method in train.METHODS]
    assert len(told) == 8 and all(means["prosqa", m] == prosqa and means["prontoqa", m] == prontoqa for m, prosqa, prontoqa in told)
    # Two other pages' accuracies, with and without the short cut, stand side by side in a row of the same table.
    pairs = [pair for page in ("dispute", "depth") for pair in re.findall(
        r"^\|[^|]+\| ([\d. ()]+) \| ([\d. ()]+) \|$", (ROOT / f"results/{page}.md").read_text(), re.M)]
    assert len(pairs) == 14 + 10 and all(any("  ".join(pair) in "  ".join(row) for row in given) for pair in pairs)


def test_results_beyond_the_training_problems_are_in_the_logs():
    page = (ROOT / "results/README.md").read_text().split("## Beyond the training problems")[1].split("\n## ")[0]
    kinds = ["", *re.findall(r"\| `(--[^`]+)`(?= \|)", page)]
    for name, method in ("Coconut", "coconut"), ("CoT", "cot"), ("pause as thought", "pause_as_thought"):
        tests = [json.loads(line) for seed in ("", "-seed1", "-seed2")
                 for line in (ROOT / f"results/logs/prosqa-{method}-either_root{seed}.jsonl").read_text().splitlines() if '"test"' in line]
        shares = [[100 * test["correct"] / 500 for test in tests if test["dataset"] == f"prosqa {kind}".strip()] for kind in kinds]
        assert f"| {name} | " + " | ".join(f"{mean(some):.1f} ± {stdev(some):.1f}" for some in shares) + " |\n" in page
    assert len(kinds) == 4 and {len(some) for some in shares} == {3}


def test_results_beside_a_log_are_its_test():
    """A line with one log and one count of right answers: the log's."""
    pairs = [(re.findall(r"\((logs/[^)]*?\.jsonl)\)", line), re.findall(r"\b\d+/(?:300|500|800)\b", line))
             for page in PAGES for line in page.read_text().splitlines()]
    pairs = [(logs[0], counts[0]) for logs, counts in pairs if len(logs) == len(counts) == 1]
    assert len(pairs) >= 5
    assert not [pair for pair in pairs if pair[1] not in counts_of(pair[0])]
    official = re.findall(r"% \| ([\d.]+) \| [^|]*\| [\d.]+ \| \d+ \| \[log\]\((logs/.*?)\)", (ROOT / "results/README.md").read_text())
    assert len(official) == 10 and all(f"{int(counts_of(log)[2].removesuffix('/300')) / 3:.1f}" == share for share, log in official)
    shares = re.findall(r"\| ([\d.]+)% \|.*\((logs/.*?\.jsonl)\)", "".join(page.read_text() for page in PAGES))      # of --same_depth
    assert len(shares) == 19 and all(f"{100 * int(counts_of(log)[1].split('/')[0]) / 500:.1f}" == share for share, log in shares)
