"""Slow (python -m pytest -m slow): a training killed again and again ends as if nothing had happened.

Each kill is at a random moment. Writing a checkpoint is slowed down, so that many kills fall into the middle of it.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
RUN = ("--dataset prosqa --nodes 9 --max_steps 3 --train_size 64 --valid_size 8 --test_size 8 --epochs 8 --epochs_first 2 "
       "--epochs_per_stage 2 --n_layer 1 --n_head 2 --n_embd 16 --dropout 0.1 --batch_size 16 --device cpu").split()
# A write in 20 pieces with a pause after each; sys.argv[1] says for how long.
SLOW = """
import signal, sys, time, torch, coconut, data, io, train
signal.signal(signal.SIGINT, signal.default_int_handler)     # which a job in the background would inherit as ignored
torch.set_num_threads(1)
pause, torch_save = float(sys.argv.pop(1)), torch.save
def slow_save(obj, f):
    whole = io.BytesIO()
    torch_save(obj, whole)
    whole = whole.getvalue()
    for i in range(0, len(whole), len(whole) // 20 + 1):
        f.write(whole[i:i + len(whole) // 20 + 1])
        f.flush()
        time.sleep(pause)
torch.save = slow_save
data.run_or_explain(lambda: train.main(sys.argv[1:]))
"""


def start(out, pause, *flags):
    return subprocess.Popen([sys.executable, "-c", SLOW, str(pause), *RUN, "--out", str(out), *flags], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    assert start(out, 0).wait() == 0
    return out


def outcome(out):
    """Weights, optimizer and settings of both checkpoints, and the log, without what a clock measured and where the run lies."""
    files = [torch.load(out / name, weights_only=True) for name in ("best.pt", "last.pt")]
    for saved in files:
        saved["args"] = {k: v for k, v in saved["args"].items() if k not in ("out", "resume")}
        for timed in ("seconds", "log_size"):
            saved.pop(timed, None)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return files, [{k: v for k, v in record.items() if k not in ("ms", "rate", "eta", "seconds")} for record in log]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_twenty_kills_leave_no_trace(undisturbed, tmp_path):
    rng, out, kills, halves = random.Random(0), tmp_path / "run", 0, 0
    while kills < 20:
        child = start(out, 0.02, "--resume")
        # Half of the kills at any moment from the start of the program on, half within a write.
        if rng.random() < 0.5:
            time.sleep(rng.uniform(1, 8))
        else:
            while child.poll() is None and not list(out.glob("*.partial")):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == 0:           # it had ended before: once more from the start
            assert equal(outcome(out), outcome(undisturbed))
            shutil.rmtree(out)
            continue
        kills, halves = kills + 1, halves + bool(list(out.glob("*.partial")))
    assert halves >= 5
    child = start(out, 0, "--resume")
    printed, err = child.communicate()
    assert child.returncode == 0, err
    assert equal(outcome(out), outcome(undisturbed)) and not list(out.glob("*.partial"))


def test_ctrl_c_ends_with_one_line_that_says_how_to_go_on(undisturbed, tmp_path):
    out = tmp_path / "run"
    child = start(out, 0.02)
    while not (out / "log.jsonl").exists() or '"epoch": 2' not in (out / "log.jsonl").read_text():
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130 and err.count("\n") == 1 and "--resume" in err
    child = start(out, 0, "--resume")
    assert child.wait() == 0 and equal(outcome(out), outcome(undisturbed))


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"


def test_a_full_disk_gets_one_line_and_the_last_checkpoint_still_loads(undisturbed, tmp_path):
    out = tmp_path / "run"
    child = start(out, 0.02)
    while not (out / "last.pt").exists():
        time.sleep(0.01)
    child.kill()
    child.communicate()
    whole = (out / "last.pt").read_bytes()
    child = subprocess.run([sys.executable, "-c", LIMITED + SLOW, "0", *RUN, "--out", str(out), "--resume"], cwd=ROOT, text=True, capture_output=True)
    assert child.returncode == 2 and child.stderr.startswith("error: ") and child.stderr.count("\n") == 1 and "could not be written" in child.stderr
    assert (out / "last.pt").read_bytes() == whole
    assert start(out, 0, "--resume").wait() == 0 and equal(outcome(out), outcome(undisturbed))
