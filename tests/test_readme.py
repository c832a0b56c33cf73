"""The README keeps its promises: its commands are understood, its links lead somewhere, its table is what the logs give."""

import re
import shlex
from pathlib import Path

import pytest

import sample
import train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").glob("*.md"))]
README = PAGES[0].read_text()
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
            args = train.parse(words)
            args.dataset = args.dataset or "prosqa"
            train.complete(args)
        elif "--init" in words or any(not word.startswith("--") for word in words):     # all others speak of a flag, not of a run
            sample.parse(words)
    assert len(found) > 25 and {program for program, _ in found} == {"train", "sample"}


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
    given = [line[:56] + line[66:] for line in capsys.readouterr().out.splitlines()]
    rows = re.findall(r"^    (?:prosqa|prontoqa) .*$", README, re.M)
    assert len(rows) >= 9 and not [row for row in rows if row.strip() not in given]
