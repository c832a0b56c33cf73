"""The README keeps its promises: its commands are understood, its links lead somewhere, its code and numbers are those of the files and logs."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

import coconut
import figures
import sample
import train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "results").glob("*.md"))]
README = PAGES[0].read_text()
STAND_INS = {"D": "prosqa", "M": "cot", "$s": "1", "DIR": "problems", "...": ""}


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
    """The best word of each thought; on another processor a few answers may differ."""
    sample.main([str(ROOT / "results/model"), "--n", "10"])
    printed = capsys.readouterr().out
    best = [re.findall(r"^ *thought \d +(.{20})", text, re.M) for text in (README, printed)]
    assert len(best[0]) == 4 and best[0] in [best[1][i:i + 4] for i in range(0, 40, 4)]
    assert int(re.search(r"(\d+) of 10 right", printed)[1]) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_of_a_command_is_what_it_prints(page, capsys, monkeypatch):
    """To the share or count that another processor may change."""
    monkeypatch.chdir(ROOT)
    for words, shown in re.findall(r"^    \$ python sample\.py (.*)\n((?:    .*\n)+)", page.read_text(), re.M):
        sample.main(words.split())
        told, found = ([float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)] for text in (shown, capsys.readouterr().out))
        assert len(told) > 10 and told == pytest.approx(found, abs=12 if "corrupt" in words else 3), words


def test_the_tables_of_results_are_what_the_logs_give():
    given = [[str(cell) for cell in row] for row in figures.summary(figures.read(sorted((ROOT / "results/logs").glob("*.jsonl"))))[1]]
    rows = [re.split("  +", row) for page in PAGES for row in re.findall(r"^    (pro(?:sqa|ntoqa) .*)$", page.read_text(), re.M)]
    assert len(rows) >= 8 and all(row in [[cell for cell in one if cell not in ("", "-")] for one in given] for row in rows)


def test_the_table_of_the_tuning_is_what_its_logs_give():
    """Each in its column: default, half the rates, twice, a longer easy round."""
    def share(cell):
        test = figures.records(ROOT / f"results/logs/cells/{cell}.jsonl")["test"]["prosqa --same_depth --data_seed 1"]
        return f"{100 * test['correct'] / test['total']:.1f}"
    told = re.findall(r"^    (\w+) +([\d. ]+)$", (ROOT / "results/README.md").read_text(), re.M)
    assert {method: row.split() for method, row in told} == {
        method: [share(f"{method}-{cell}") for cell in ("default", "half", "double", "easy6")] for method in train.METHODS}
