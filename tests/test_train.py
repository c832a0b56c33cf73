"""The curriculum, the loop's promises (same seed same run, a killed run loses nothing), and one line for every mistake."""

import io
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import conftest
import pytest
import tiktoken
import torch
import torch.nn.functional as F
from conftest import TINY, Payload, assert_same_run, generated, one_line, open_tiny, records, same, train_tiny

import coconut
import data
import train
from gpt import GPT, GPTConfig, UserError, from_pretrained, run_or_explain


# ---- the curriculum

def settings(**other):
    return Namespace(**dict(method="coconut", c=1, stages=3, batch_size=7, micro_batch=3, mix=0.0, easy=0, float32=False) | other)


def a_run(tokenizer, stage, gpt=None, **other):
    return train.Run(gpt, tokenizer, settings(**other), stage, 3)


def test_schedule_of_coconut_is_the_papers_table():
    """c = 2, K = 3, a problem of 4 steps: GSM8K's stages, the last of which removes what is left. A short one gets as many thoughts."""
    assert [train.schedule(settings(c=2), s) for s in range(5)] == [(0, 0), (1, 2), (2, 4), (3, 6), (train.ALL, 6)]
    assert [train.Run(None, None, settings(stages=6, c=2), s, 6).fillers() for s in (0, 2, 6)] == [0, 4, 12]
    assert [train.last_stage_of(settings(), [Namespace(steps=["x"] * n) for n in (1, longest)], None) for longest in (3, 4)] == [3, 4]
    args = settings(epochs_first=2, epochs_per_stage=3)
    assert [train.stage_at(e, args, 2) for e in range(10)] == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert train.stage_at(0, settings(epochs_first=0, epochs_per_stage=3), 2) == 1


@pytest.mark.parametrize("method, stage0, last", [
    ("coconut", (0, 0), (3, 6)), ("cot", (0, 0), (0, 0)), ("no_cot", (3, 0), (3, 0)), ("pause", (3, 6), (3, 6)),
    ("no_curriculum", (3, 6), (3, 6)), ("no_thought", (0, 0), (3, 0)), ("pause_as_thought", (0, 0), (3, 6)), ("new", (0, 6), (0, 6))])
def test_methods_are_the_papers_grid(method, stage0, last, monkeypatch):
    """(steps removed, fillers) of a 3-step problem, c = 2, K = 3, in the first and the last stage; "new" is a row to add."""
    monkeypatch.setitem(train.METHODS, "new", ("thought", "kept"))
    args = settings(method=method, c=2)
    assert [(min(3, removed), n) for removed, n in (train.schedule(args, stage) for stage in (0, 3))] == [stage0, last]
    assert train.METHODS[method][0] == ("pause" if "pause" in method else "thought" if last[1] else None)
    assert train.last_stage_of(args, [Namespace(steps=["x"] * 3)], None) == (0 if stage0 == last else 3)


def test_papers_settings_are_the_papers():
    """Paper: Experiments, Setup."""
    for dataset, c, epochs, sizes in ("prontoqa", 1, (50, 5, 5), (9000, 200, 800)), ("prosqa", 1, (50, 5, 5), (17886, 300, 500)), (
            "gsm8k", 2, (50, 6, 3), None):
        paper = Namespace(**train.usual("paper", dataset))
        assert (paper.epochs, paper.epochs_first, paper.epochs_per_stage) == epochs and paper.c == c
        assert paper.init == "gpt2" and paper.stages == 3 * (dataset == "gsm8k")
        assert (paper.n_layer, paper.n_head, paper.n_embd, paper.dropout) == (12, 12, 768, 0.1)
        assert (paper.batch_size, paper.lr, paper.weight_decay, paper.muon_lr, paper.mix) == (128, 1e-4, 0.01, 0.0, 0.0)
        assert paper.reset_optimizer and not paper.easy and not paper.warmup and not paper.decay
        assert not sizes or sizes == (paper.train_size, paper.valid_size, paper.test_size)
        assert dataset != "prontoqa" or paper.hops == 5
        assert dataset != "prosqa" or (paper.nodes, paper.min_steps, paper.max_steps, paper.parents) == (28, 3, 6, 1.5) == tuple(
            train.usual("full", dataset)[flag] for flag in ("nodes", "min_steps", "max_steps", "parents"))


@pytest.fixture
def some():
    problems = generated(n=40, nodes=9, max_steps=3)
    return problems, data.Tokenizer.of(problems)


def rows(run, problems, seed=0):
    """(question, target, thoughts) of every example in an epoch's batches, as lists without padding."""
    return [(tuple(q[some:].tolist()), tuple(i for i in t.tolist() if i >= 0), micro.n)
            for micros in train.batches(run, list(map(run.tokenizer.ids, problems)), random.Random(seed)) for micro in micros
            for q, some, t in zip(micro.question, micro.padding, micro.target)]


def test_stage_k_replaces_the_first_k_steps_of_every_problem_once_in_another_order_each_epoch(some):
    problems, tokenizer = some
    for stage in range(4):
        made = rows(a_run(tokenizer, stage), problems)
        assert sorted((tokenizer.decode(q), tokenizer.decode(t), k) for q, t, k in made) == sorted(
            (f"{p.question}\n<bot>", "".join(step + "\n" for step in p.steps[stage:]) + f"### {p.answer}<|endoftext|>", stage)
            for p in problems)
    again = rows(a_run(tokenizer, 3), problems, seed=1)
    assert sorted(again) == sorted(made) and again != made


def test_icot_removes_tokens_from_the_left_and_at_last_all(some):
    """8 more every epoch, all beyond 39 (Deng et al. 2024); in training at times one or two more."""
    problems, tokenizer = some
    args = settings(method="icot", icot_per_epoch=8)
    assert [train.schedule(args, s) for s in range(7)] == [(8 * s, 0) for s in range(5)] + [(train.ALL, 0)] * 2
    for tokens, last in (0, 0), (1, 1), (16, 2), (17, 3), (39, 5), (99, 5):                 # of the longest chain
        assert train.last_stage_of(args, [[], [[0] * tokens]], Namespace(ids=lambda steps: (None, steps))) == last
    assert [train.stage_at(e, args, 5) for e in range(8)] == [min(e, 5) for e in range(8)]
    run, extra = a_run(tokenizer, 1, method="icot", icot_per_epoch=3, mix=0.5), []          # mixing does not count
    whole = {tuple(ids[0][:-1]): ids for ids in map(tokenizer.ids, problems)}
    for seed in range(100):
        for question, target, n in rows(run, problems, seed):
            steps, answer = whole[question][1:]
            left = [i for step in steps for i in step] + [*answer]
            extra.append(len(left) - 3 - len(target))
            assert n == 0 and list(target) == left[-len(target):]
    assert [extra.count(o) / 4000 for o in range(3)] == pytest.approx([0.982, 0.018, 0.0003], abs=0.006) and min(extra) == 0


def test_mixing_trains_earlier_stages_at_the_given_rate(some):
    problems, tokenizer = some
    thoughts = [k for seed in range(200) for _, _, k in rows(a_run(tokenizer, 3, mix=0.4), problems, seed)]
    assert [thoughts.count(n) / len(thoughts) for n in range(4)] == pytest.approx([0.1, 0.1, 0.1, 0.7], abs=0.03)
    last = rows(a_run(tokenizer, 3, mix=1, stages=2), problems)                 # of stage K + 1, never K, which has as many thoughts
    assert {tokenizer.decode(target)[:4] == "### " for _, target, n in last if n == 2} == {True} and {n for *_, n in last} == {0, 1, 2}


def test_buckets_hold_every_problem_once_and_batches_of_like_length(monkeypatch):
    rng, batches = random.Random(0), {}
    problems = [([9] * rng.randint(5, 60), [[1, 2]], [3, 4]) for _ in range(130)]          # as ids
    run = a_run(Namespace(bot=11, eot=12, pause=13, ids=lambda ids: ids), 2, batch_size=8, micro_batch=8)
    for bucket in (1, 4, 100):
        monkeypatch.setattr(train, "BUCKET", bucket)
        batches[bucket] = [(micros[0].question.size(1) - micros[0].padding).tolist()
                           for micros in train.batches(run, problems, random.Random(1))]
        assert sorted(sum(batches[bucket], [])) == sorted(len(ids[0]) + 1 for ids in problems) and len(batches[bucket]) == 17
    plain, some, most = (sum(max(batch) * len(batch) - sum(batch) for batch in one) for one in batches.values())
    assert most < some < 0.5 * plain and [*map(max, batches[100])] != sorted(map(max, batches[100]))


def test_an_easy_round_through_the_stages_comes_first_without_distractors_of_fresh_problems_that_are_never_tested(tmp_path, monkeypatch, capsys):
    args = train.settings_of(dict(train_size=100, nodes=10, max_steps=4, easy=2, epochs_first=3, epochs_per_stage=1))
    run = train.new_run(args, data.problem_sets(args, ("train", "test"))["train"])
    assert [train.stage_at(epoch, args, 4) for epoch in range(18)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] + [0, 0, 0, 1, 2, 3, 4, 4]
    epochs = [train.fresh(run, epoch, ()) for epoch in range(8, 12)]
    facts = [sum(p.question.count(".") for p in problems) / 100 for problems in epochs]
    assert max(facts[:2]) < 5 and min(facts[2:]) > 7 and len({p.question for problems in epochs for p in problems}) == 400
    assert epochs[2] == data.problem_sets(args, ("train",), seed="0 0 10")["train"]                     # whole problems
    tested = {p.question for p in epochs[2][:50]}
    assert not tested & {p.question for p in train.fresh(run, 10, tested)}
    args.seed = 1
    assert not {p.question for p in epochs[2]} & {p.question for p in train.fresh(run, 10, ())}         # another seed's
    args.method = "icot"
    assert [train.stage_at(epoch, args, 5) for epoch in range(18)] == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5] + [0, 1, 2, 3, 4, 5, 5, 5]
    asked, fresh = [], train.fresh
    monkeypatch.setattr(train, "fresh", lambda run, epoch, tested: asked.append((epoch, len(tested))) or fresh(run, epoch, tested))
    log = records(train_tiny(tmp_path / "run", "--easy", 1, "--epochs", 7))
    assert [r["stage"] for r in log if r["kind"] == "valid"] == [0, 1, 2, 3, 0, 0, 1] and asked == [(epoch, 8 + 8) for epoch in range(7)]
    assert "note: stage 3, the last, begins in epoch 9: raise --epochs" in capsys.readouterr().out


def test_micro_batches_give_the_gradient_of_the_whole_batch(some):
    """Also where the pieces predict different numbers of tokens, as here, where every third problem has two steps left."""
    problems, _ = some
    made, grads = [], []
    runs = [train.new_run(settings(
        batch_size=40, micro_batch=micro_batch, seed=0, n_layer=1, n_head=2, n_embd=16, dropout=0.0, init="scratch",
        detach_thoughts=False, lr=0.0, muon_lr=0.0, weight_decay=0.0, warmup=0, decay=0.0), problems) for micro_batch in (40, 7)]
    for p in problems[1::3]:
        p.steps = p.steps[-2:]
    for run in runs:
        gpt, run.stage = run.gpt.double(), 2
        optimizer, = train.make_optimizers(run)
        optimizer.zero_grad = lambda: None
        made.append(train.train_epoch(run, [optimizer], train.batches(run, list(map(run.tokenizer.ids, problems)), random.Random(0)), 0, 1))
        grads.append(torch.cat([p.grad.flatten() for p in gpt.parameters()]))
        assert grads[-1].norm().item() == pytest.approx(1.0, rel=1e-5)                                  # clipped
    assert made[0]["loss"] == pytest.approx(made[1]["loss"], rel=2e-7)
    assert (grads[0] - grads[1]).norm() < 1e-9 * grads[0].norm()


def test_the_loss_of_a_problem_is_the_sum_over_its_tokens(some):
    problems, tokenizer = some
    run = a_run(tokenizer, 2, GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16, dropout=0.0)), batch_size=8, detach_thoughts=False,
                warmup=0, decay=0.0, lr=0.0, muon_lr=0.0, weight_decay=0.0)
    ids = list(map(tokenizer.ids, problems))
    told = train.train_epoch(run, train.make_optimizers(run), train.batches(run, ids, random.Random(0)), 0, 5)
    sums = [F.cross_entropy(coconut.explicit_forward(run.gpt, micro.question, micro.n, micro.language)[0], micro.target[0],
                            reduction="sum").item()
            for micro in (data.collate([train.layout(run, one, 2)]) for one in ids)]
    assert told["loss_per_problem"] == pytest.approx(sum(sums) / 40, rel=1e-4) and told["lr"] == 0


def test_learning_rate_warms_up_stays_and_falls():
    factor = [train.lr_factor(s, 100, 10, 0.4) for s in range(100)]
    assert factor[0] == 0.1 and factor[9:61] == [1.0] * 52 and factor[80] == pytest.approx(0.5) and factor[99] == 0.05
    assert {train.lr_factor(s, 100, 0, 0.0) for s in range(100)} == {1.0}


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    gpt = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16))
    adamw, muon = train.make_optimizers(a_run(None, 0, gpt, lr=1e-3, muon_lr=0.02, weight_decay=0.1))
    given = [{id(p) for group in o.param_groups for p in group["params"]} for o in (adamw, muon)]
    assert given[1] == {id(p) for p in gpt.h.parameters() if p.dim() == 2} and len(given[1]) == 2 * 4
    assert given[0] == {id(p) for p in gpt.parameters()} - given[1]
    assert [(o.param_groups[0]["lr"], o.param_groups[0]["weight_decay"]) for o in (adamw, muon)] == [(1e-3, 0.1), (0.02, 0.1)]
    only, = train.make_optimizers(a_run(None, 0, gpt, lr=1e-3, muon_lr=0.0, weight_decay=0.0))
    assert isinstance(only, torch.optim.AdamW)


def test_muon_is_torchs_within_the_accuracy_of_bfloat16():
    """Its weights after five steps: the differences are a few percent of the way. Wide, tall and square matrices, two of one shape."""
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((8, 24), (24, 8), (16, 16), (8, 24))]
    ends = []
    for muon in train.Muon, torch.optim.Muon:
        matrices = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer, rng = muon(matrices, lr=0.1, weight_decay=0.1), torch.Generator().manual_seed(1)
        for _ in range(5):
            for p in matrices:
                p.grad = torch.randn(p.shape, generator=rng)
            optimizer.step()
        ends.append(matrices)
    for p, q, begin in zip(*ends, start):
        assert (p - q).norm() < 0.03 * (q - begin).norm()


def test_the_optimizer_is_reset_at_stage_changes_only_when_asked(tmp_path):
    for flag, steps in ("--reset_optimizer", 4), ("--no-reset_optimizer", 20):
        out = train_tiny(tmp_path / flag, flag)                        # 5 epochs of 4 steps, the last stage lasting one
        assert torch.load(out / "last.pt", weights_only=True)["optimizers"][0]["state"][0]["step"].item() == steps


@pytest.mark.parametrize("device, width, variables, threads", [
    ("cpu", 64, {}, 1), ("cpu", 64, {"OMP_NUM_THREADS": "2"}, 2), ("cpu", 768, {}, 2), ("meta", 64, {}, 2)])
def test_a_small_model_on_a_cpu_has_one_thread_unless_told_otherwise(monkeypatch, device, width, variables, threads):
    taken = [2]
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    torch.set_flush_denormal(False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    gpt = train.to_device(GPT(GPTConfig(vocab_size=9, block_size=4, n_layer=1, n_head=1, n_embd=width)), device)
    assert taken[-1] == threads and gpt.wte.weight.device.type == device
    assert (torch.tensor(1e-30) * 1e-10).item() == 0                    # no tiny numbers, which are slow


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(tmp_path, monkeypatch):
    loss, calls = coconut.loss, []

    def breaks(gpt, *args):
        calls.append(1)
        return loss(gpt, *args) * (float("nan") if len(calls) > 7 else 1.0)
    monkeypatch.setattr(coconut, "loss", breaks)
    with pytest.raises(UserError, match=r"\Aweights are nan or infinite by step 8 of 20: try a lower --lr and --muon_lr\Z"):
        train_tiny(tmp_path / "run")
    with pytest.raises(UserError, match="nan or infinite by step 1 "):          # of which only the weights tell
        train_tiny(tmp_path / "other", "--lr", "1e39", "--batch_size", 60)
    assert not (tmp_path / "other/last.pt").exists()
    saved = train.open_run(tmp_path / "run/last.pt", "cpu")[1]
    assert saved["epoch"] == 1 and all(w.isfinite().all() for w in saved["model"].values())


# ---- the run

def test_best_checkpoint_is_the_best_of_the_last_stage(tmp_path, monkeypatch):
    """Epochs of stages 0 0 1 2 3 3 3 3: early stages answer better here, and of equals the later one is kept; stopped after seven."""
    counts = [7, 8, 8, 7, 2, 5, 5]
    monkeypatch.setattr(train, "evaluate", lambda *_, **__: dict(correct=counts.pop(0), total=8, tokens=9.0))
    with pytest.raises(IndexError):
        train_tiny(tmp_path / "run", "--epochs", 8)
    counts += [1, 0]
    out = train_tiny(tmp_path / "run", "--epochs", 8, "--resume")
    best, last = (train.open_run(out / name, "cpu")[1] for name in ("best.pt", "last.pt"))
    assert best["epoch"] == 7 and last["best"] == 5


def test_same_seed_same_run_and_other_seed_another(finished, tmp_path):
    """It passes all stages and is tested at the end."""
    log = records(finished)
    assert [r["stage"] for r in log if r["kind"] == "valid"] == [0, 0, 1, 2, 3]
    rates = [train.QUICK["lr"] * train.lr_factor(i, 20, 100, 0.9) for i in range(20)]
    assert [r["lr"] for r in log if r["kind"] == "valid"] == pytest.approx(rates[3::4])     # of the last of 4 steps
    assert (log[-1]["kind"], log[-1]["total"], log[-1]["stage"]) == ("test", 8, 3)
    assert_same_run(finished, train_tiny(tmp_path / "again"))
    other = train_tiny(tmp_path / "other", "--seed", 20250101120000)
    assert not same(*(train.open_run(run, "cpu")[1]["model"] for run in (other, finished)))


# A step takes 50 ms, and a checkpoint is written in 20 pieces with a pause after each; sys.argv[1] says for how long.
SLOW = """
import io, sys, time, torch, coconut, train
torch.set_num_threads(1)
pause, torch_save, loss = float(sys.argv.pop(1)), torch.save, coconut.loss
coconut.loss = lambda *args: (time.sleep(0.05), loss(*args))[1]
def slow_save(obj, path):
    whole = io.BytesIO()
    torch_save(obj, whole)
    whole = whole.getvalue()
    with open(path, "wb") as f:
        for i in range(0, len(whole), len(whole) // 20 + 1):
            f.write(whole[i:i + len(whole) // 20 + 1])
            f.flush()
            time.sleep(pause)
torch.save = slow_save
train.main(sys.argv[1:])
"""


def killed(out, pause, when):
    """A run in a process of its own, killed as soon as when()."""
    command = [sys.executable, "-c", SLOW, str(pause), *TINY, "--out", str(out), "--resume"]
    child = subprocess.Popen(command, cwd=Path(train.__file__).parent, stdout=subprocess.DEVNULL)
    while child.poll() is None and not when():
        time.sleep(0.002)
    child.kill()
    return child.wait()


def test_a_killed_run_resumes_to_the_same_end(finished, tmp_path):
    """SIGKILL in the middle of an epoch; the same command with --resume ends bit for bit alike."""
    train.save(tmp_path / "best.pt", train.open_run(finished, "cpu")[0], 1)      # as a kill between the first two saves leaves it
    log = tmp_path / "log.jsonl"
    assert killed(tmp_path, 0, lambda: log.exists() and '"epoch": 2' in log.read_text()
                  and (tmp_path / "last.pt").stat().st_mtime_ns > log.stat().st_mtime_ns) == -signal.SIGKILL
    assert train.open_run(tmp_path / "last.pt", "cpu")[1]["epoch"] == 2
    assert_same_run(finished, train_tiny(tmp_path, "--resume"))


def test_a_run_goes_on_and_is_tested_with_less_memory(finished, tmp_path, monkeypatch):
    """A smaller --micro_batch: the same training, but for rounding."""
    evaluate = train.evaluate
    monkeypatch.setattr(train, "evaluate", lambda run, problems: evaluate(run, problems) if run.stage < 2 else open("full"))
    with pytest.raises(FileNotFoundError, match="full"):
        train_tiny(tmp_path)
    monkeypatch.setattr(train, "evaluate", evaluate)
    train_tiny(tmp_path, "--resume", "--micro_batch", 5)
    train.main(f"--eval_only --out {tmp_path} --micro_batch 3 --device cpu".split())
    (one, _), (two, _) = (train.open_run(out / "last.pt", "cpu") for out in (finished, tmp_path))
    assert (one.settings.micro_batch, two.settings.micro_batch) == (32, 5)
    assert all(torch.allclose(p, q, atol=1e-3) for p, q in zip(one.gpt.parameters(), two.gpt.parameters()))
    assert records(tmp_path)[-1] == records(tmp_path)[-2]


@pytest.mark.slow
def test_eight_kills_leave_no_trace(finished, tmp_path):
    """In turn within a write, and at any moment from the start of the program on."""
    rng, halves = random.Random(0), 0
    for _ in range(4):
        killed(tmp_path, 0.05, lambda: list(tmp_path.glob("*.partial")) and rng.random() < 0.02)
        halves += bool(list(tmp_path.glob("*.partial")))
        end = time.time() + rng.uniform(1, 5)
        killed(tmp_path, 0.05, lambda: time.time() > end)
        for left in tmp_path.glob("*.partial"):
            left.unlink()
    assert halves >= 3
    assert_same_run(finished, train_tiny(tmp_path, "--resume"))
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_is_tested_again_on_its_own_problems_or_on_the_same_from_files(finished, tmp_path):
    """The log gets a record of each test."""
    made = f"prosqa --nodes 9 --max_steps 3 --train_size 1 --valid_size 8 --test_size 8 --out {tmp_path}/a/b".split()
    data.main(made)
    with pytest.raises(UserError, match=r"there already: .*train.json"):
        data.main(made)
    run, folder, file, other = shutil.copytree(finished, tmp_path / "run"), tmp_path / "a/b", tmp_path / "a/b/test.json", "--nodes 10 --same_depth"
    for more in "", f"--dataset {folder}", f"--dataset {file}", other:
        train.main(["--eval_only", "--out", str(run), "--device", "cpu", *more.split()])
    first, own, *again = records(run)[-5:]
    assert first == own and again[:2] == [own | dict(dataset=str(path)) for path in (folder, file)]
    assert again[2]["dataset"] == f"prosqa {other}"


def test_a_write_that_fails_leaves_the_old_checkpoint(opened, tmp_path, monkeypatch):
    (run, _), path, true_save = opened, tmp_path / "m.pt", torch.save
    train.save(path, run, 1)

    def fail(obj, path):
        true_save(obj, path)
        raise RuntimeError("No space left on device")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="m.pt could not be written"):
        train.save(path, run, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]
    again, saved = train.open_run(path, "cpu")
    assert saved["epoch"] == 1 and again.settings == run.settings and same(saved["model"], run.gpt.state_dict())


@pytest.mark.parametrize("change", [
    lambda saved: saved.update(more=Payload()), lambda saved: saved.pop("model"), lambda saved: saved["model"].pop("ln_f.bias"), lambda saved: saved.pop("config")])
def test_what_is_not_a_whole_checkpoint_is_refused_in_one_line_and_code_in_it_never_runs(finished, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    saved = torch.load(finished / "best.pt", weights_only=True)
    change(saved)
    torch.save(saved, "m.pt")
    whole, rng = Path("m.pt").read_bytes(), random.Random(0)
    for content in [whole, b"", b"not a checkpoint", rng.randbytes(5000), *(whole[:rng.randrange(len(whole))] for _ in range(5))]:
        Path("m.pt").write_bytes(content)
        with pytest.raises(UserError, match="m.pt is not a whole checkpoint"):
            train.open_run("m.pt", "cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_no_damage_to_a_checkpoint_passes_unseen(finished, tmp_path):
    """A changed byte, or 4 KiB of zeros: one line, or the very same numbers."""
    whole, rng, refused = (finished / "last.pt").read_bytes(), random.Random(0), 0
    expected = torch.load(finished / "last.pt", weights_only=True)
    for i in range(60):
        start, size = rng.randrange(len(whole)), (1, 4096)[i % 2]
        (tmp_path / "m.pt").write_bytes(whole[:start] + bytes(255 - byte if size == 1 else 0 for byte in whole[start:start + size]) + whole[start + size:])
        try:
            assert same(train.open_run(tmp_path / "m.pt", "cpu")[1], expected)
        except UserError:
            refused += 1
    assert refused > 40


def test_a_model_is_never_replaced_by_another_run(finished, tmp_path):
    """Not where its last.pt is gone either."""
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "last.pt").unlink()
    with pytest.raises(UserError, match="run holds a model"):
        train_tiny(run, "--seed", 5, "--resume")


@pytest.mark.parametrize("method, made", [("coconut", 3), ("pause_as_thought", 0)])
def test_counting_tokens_counts_thoughts_but_not_pauses(runs, method, made):
    """The paper's "tokens": what the model makes. Thoughts are made, pause tokens are given to it."""
    run, problems = open_tiny(runs / method)
    for i, (p, text) in enumerate(zip(problems, train.ask(run, problems, 3)[0])):
        p.answer = "?" if i % 2 else text            # every second is right
    result = train.evaluate(run, problems)
    rows = (data.sequence(*run.tokenizer.ids(p), run.tokenizer, train.METHODS[method][0], 3) for p in problems)
    written = [len(coconut.generate(run.gpt, data.collate([row]), run.tokenizer.eos, train.MAX_NEW_WORDS)[0][0]) for row in rows]
    assert (result["correct"], result["total"], result["tokens"]) == (4, 8, made + sum(written) / 8)


@pytest.mark.parametrize("method", ["coconut", "pause_as_thought", "no_thought", "cot"])
def test_a_forced_choice_compares_the_two_answers_after_what_the_model_itself_thought_and_wrote(runs, method, monkeypatch):
    run, problems = open_tiny(runs / method)
    made, tokenizer, expected = train.evaluate(run, problems, fully=True), run.tokenizer, []
    texts = train.ask(run, problems, run.fillers())[0]
    for p, text in zip(problems, texts):
        g, scores = data.graph(p), []
        for candidate in (g.answer, g.other):
            written = tokenizer.encode(f"{text.split('###')[0]}### {g.entity} is a {candidate}.") + [tokenizer.eos]
            question, n, language = data.sequence(tokenizer.ids(p)[0], [], written, tokenizer, train.METHODS[method][0], run.fillers())
            logits = coconut.explicit_forward(run.gpt, torch.tensor([question]), n, torch.tensor([language[:-1]]))
            scores.append(F.cross_entropy(logits[0], torch.tensor(language[1:]), reduction="sum").item())
        expected.append(scores[0] < scores[1])
    assert made["forced"] == sum(expected) and len(set(expected)) == 2
    assert "forced" not in train.evaluate(run, problems)
    named = [f"### {data.wrong(p).answer}" if i < 3 else "### Tom is a ." if i < 5 else f"### {p.answer}" for i, p in enumerate(problems)]
    monkeypatch.setattr(train, "ask", lambda *_: (named, [1] * 8, torch.zeros(8, 0, 16)))
    told = train.evaluate(run, problems, fully=True)
    assert (told["correct"], told["other"]) == (3, 3)
    gsm8k = data.Problem("How many?", [], "3")
    assert data.wrong(gsm8k) is None and data.wrong(data.Problem("?", [], "True")).answer == "False"


def test_a_log_begins_with_what_its_numbers_rest_on(finished):
    begin = records(finished)[0]
    assert begin["kind"] == "run" and begin["epoch"] == 0 and begin["settings"] == vars(train.open_run(finished, "cpu")[0].settings)
    assert begin["torch"] == torch.__version__ and begin["threads"] == 1 and begin["processor"] and "commit" in begin


def test_wilsons_interval():
    """Newcombe 1998, Table I, method 3."""
    for correct, total, low, high in (81, 263, .2553, .3662), (15, 148, .0624, .1605), (0, 20, 0, .1611), (1, 29, .0061, .1718):
        assert train.wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_answers_come_in_order_beyond_one_batch(opened):
    """70 problems, more than go into a batch, and given vectors that say whose they are."""
    (run, _), problems, given = opened, generated(n=70, nodes=9, max_steps=3), torch.randn(70, 2, 16)
    texts, _, thoughts = train.ask(run, problems, 4, given=given)
    assert torch.equal(thoughts[:, :2], given) and thoughts.shape == (70, 4, 16)
    for i in (0, 31, 32, 69):
        assert train.ask(run, [problems[i]], 4, given=given[i:i + 1])[0] == [texts[i]]


def test_tokens_of_one_name_begin_alike():
    tokenizer = data.Tokenizer.of(generated(n=100, nodes=9, max_steps=3))
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=512))
    train.begin_alike(gpt, tokenizer)

    def likeness(a, b):
        return torch.cosine_similarity(*(gpt.wte.weight[i] for i in tokenizer.encode(a + b)), dim=0).item()
    assert likeness("Every bompus is a ", "bompus. ") > 0.35 and likeness("bompus. ", "bompus") > 0.6 and likeness("Tom is a ", "Tom") > 0.6
    assert likeness("Every bompus is a ", "Every gorpus is a ") > 0.35 and abs(likeness("Every bompus is a ", "gorpus. ")) < 0.2
    assert torch.equal(gpt.wte.weight[[tokenizer.eot, tokenizer.pause]], gpt.wte.weight[[tokenizer.bot] * 2])


# ---- where a run starts: GPT-2, GSM8K, another run

GSM = "Tom has {} cows and buys 2. How many are there?||<<{}+2={}>> <<{}*1=x>> #### {:,}"
GSM_RUN = "--dataset gsm8k --setting paper --batch_size 8 --epochs 3 --epochs_first 1 --epochs_per_stage 1 --stages 1 --device cpu --out"


def test_gsm8k_trains_from_gpt2_and_another_run_from_that(tmp_path, monkeypatch):
    """With stand-ins for what the network gives: GPT-2's vocabulary (here bytes and "<<"), its weights, GSM8K's files."""
    ranks = {token: i for i, token in enumerate([*(bytes([i]) for i in range(256)), b"<<"])}
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: tiktoken.Encoding(
        name, pat_str=r"<<|\n|[^\n<]+|<", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 257}))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(train, "MAX_NEW_TOKENS", 9)
    (cache := tmp_path / "coconut").mkdir()
    weights = GPT(GPTConfig(vocab_size=258, block_size=400, n_layer=1, n_head=1, n_embd=16)).state_dict()
    torch.save({k: v.t().clone() if v.dim() == 2 and k.startswith("h.") else v for k, v in weights.items()}, cache / "gpt2-607a30d7.bin")
    for split, size in ("train", 24), ("valid", 6), ("test", 6):
        (cache / f"gsm8k-{split}.txt").write_text("".join(GSM.format(i, i, i + 2, i, i + 1000) + "\n" for i in range(size)))
    train.main([*GSM_RUN.split(), str(tmp_path / "one"), "--lr", "0"])
    (run, _), start = train.open_run(tmp_path / "one", "cpu"), from_pretrained("gpt2")
    gpt, tokenizer = run.gpt, run.tokenizer
    assert (run.stage, run.last_stage, run.settings.c, tokenizer.words) == (2, 2, 2, None)      # stage K + 1, for longer chains
    assert torch.equal(gpt.wte.weight[:258], start.wte.weight) and gpt.config.vocab_size == 261 and gpt.config.dropout == 0.1
    assert torch.equal(gpt.wte.weight[258:], start.wte.weight[[256] * 3]) and tokenizer.pause == 260           # like "<<"
    assert (log := records(tmp_path / "one")[-1])["total"] == 6 and 2 < log["tokens"] <= 9 + 2
    train.main([*GSM_RUN.split(), str(tmp_path / "two"), "--lr", "0", "--init", str(tmp_path / "one")])
    two, _ = train.open_run(tmp_path / "two/last.pt", "cpu")
    again = train.new_run(Namespace(**vars(two.settings) | dict(init=str(tmp_path / "two/last.pt"))), generated())
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*(r.gpt.parameters() for r in (run, two, again))))
    saved = torch.load(cache / "gpt2-607a30d7.bin", weights_only=True)
    torch.save(saved | {"wte.weight": saved["wte.weight"][:200].clone()}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="other.bin knows 200 words"):
        train.main([*GSM_RUN.split(), str(tmp_path / "three"), "--init", str(tmp_path / "other.bin")])
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: open("nowhere"))
    with pytest.raises(UserError, match=r"\AGPT-2's vocabulary could not be fetched .*TIKTOKEN_CACHE_DIR[^\n]*\Z"):
        data.Tokenizer()


# ---- problems of one's own, and mistakes

def test_problems_without_steps_train_from_a_folder_with_nothing_but_the_defaults(tmp_path):
    for split, some in ("train", range(9)), ("valid", range(9, 12)), ("test", range(7, 12)):
        data.write([data.Problem(f"Is it {i}?", [], "Yes") for i in some], tmp_path / f"{split}.json")
    train.main(f"--dataset {tmp_path} --method no_cot --epochs 1 --n_layer 1 --device cpu --out {tmp_path}/run".split())
    assert records(tmp_path / "run")[-1]["total"] == 5
    data.write([data.Problem("Is it? " * 600, [], "Yes")], tmp_path / "train.json")
    with pytest.raises(UserError, match=r"a text of \d{4} positions is too long for a model of 1024: shorten it, or take fewer thoughts"):
        train.main(f"--dataset {tmp_path} --method no_cot --epochs 1 --n_layer 1 --device cpu --out {tmp_path}/long".split())


def test_a_problem_is_worked_out_at_three_stages(capsys):
    """What is predicted stands beside what is read: at stage 4 nothing before <eot>, and there the answer's first token."""
    train.main("--example --nodes 12 --min_steps 4 --max_steps 4".split())
    printed = capsys.readouterr().out
    assert re.findall("^stage .*? thoughts", printed, re.M) == [f"stage {s} of 4: {s} thoughts" for s in (0, 2, 4)]
    rows = [line.split() for line in printed.split("stage 4")[1].splitlines()[2:]]
    assert [row[0] for row in rows if len(row) < 2 or row[1] == "###_"][-6:] == ["<bot>", "t1", "t2", "t3", "t4", "<eot>"]
    assert rows[-1][-1] == "<|endoftext|>" and rows[-2][-1] == rows[-1][0] == "."


@pytest.mark.parametrize("command, says", [
    ("--dataset nothere", "no dataset nothere"), ("--dataset {run}/log.jsonl", "no dataset"), ("--dataset {tmp}", "must hold one train.json"),
    ("--dataset {tmp} --data_seed 1", "--data_seed does not apply"), ("--dataset prontoqa --nodes 9", "does not apply to prontoqa"),
    ("--n_head 5", "not a multiple of n_head 5"), ("--device abacus", "--device abacus"), ("--out {run}", "--resume"), ("--out {model} --resume", "holds a model"),
    ("{tiny} --out {run} --resume --lr 1", "begun with lr"),
    ("--dataset gsm8k", "take --setting paper"), ("--dataset prontoqa --setting full", "for prosqa: leave it out"), ("--eval_only", "--out"), ("--eval_only --out {run} --c 2", "leave out --c"),
    ("--init {run} --n_head 1", "its own shape: leave out --n_head"), ("--eval_only --out {run} --example", "not allowed with"),
    ("--eval_only --out {tmp}", "there is no"), ("--init nothere --train_size 20", "there is no nothere")])
def test_a_mistake_gets_one_line_and_exit_code_2(finished, tmp_path, monkeypatch, capsys, command, says):
    monkeypatch.chdir(tmp_path)
    words = command.format(tmp=tmp_path, run=finished, model=Path(train.__file__).parent / "results/model", tiny=" ".join(TINY))
    assert says in one_line(train.main, words.split(), capsys)


def test_a_bug_keeps_its_traceback_and_a_long_error_and_ctrl_c_get_one_line(capsys):
    def fails(_):
        raise UserError("two\nlines")
    assert one_line(fails, [], capsys) == "error: two lines\n"
    assert one_line(lambda _: open("x" * 10 ** 6), [], capsys).endswith("x...\n")
    with pytest.raises(ValueError, match="length 3"):
        run_or_explain(lambda: dict([(1, 2, 3)]))

    def stops(error):
        raise error
    with pytest.raises(SystemExit, match="130"):
        run_or_explain(lambda: stops(KeyboardInterrupt))
    assert capsys.readouterr().err.count("\n") == 1
    assert "smaller --micro_batch (with --resume)" in one_line(stops, torch.OutOfMemoryError("CUDA out of memory."), capsys)


def test_a_terminal_that_lacks_a_sign_gets_another(monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    run_or_explain(lambda: print("█ 7 %", flush=True))
    assert terminal.buffer.getvalue().split() == [b"?", b"7", b"%"]


def test_mps_is_refused_and_never_taken_unasked(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert train.pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(UserError, match="wrong attention or gradients"):
        train.pick_device("mps")


def test_a_run_trains_and_answers_under_its_autocast_and_stays_float32(tmp_path, monkeypatch):
    inside, heads, logits = set(), [], GPT.logits       # heads: what calls the head, and the type of what it gives
    monkeypatch.setattr(GPT, "logits", lambda gpt, hidden: heads.append((result := logits(gpt, hidden)).dtype) or result)
    for name in ("loss", "generate"):
        def watched(*args, name=name, original=getattr(coconut, name)):
            inside.add((name, torch.is_autocast_enabled("cpu")))
            heads.append(name)
            return original(*args)
        monkeypatch.setattr(coconut, name, watched)
    monkeypatch.setattr(train.Run, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    run, _ = open_tiny(train_tiny(tmp_path / "run", "--epochs", 1))
    pairs = {(name, dtype) for name, dtype in zip(heads, heads[1:]) if isinstance(name, str)}
    assert pairs == {("loss", torch.bfloat16), ("generate", torch.float32)}      # of near words bfloat16 would take either
    assert inside == {("loss", True), ("generate", True)} and {p.dtype for p in run.gpt.parameters()} == {torch.float32}


def test_bf16_is_a_gpus_that_is_able_to_unless_float32_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, enabled: (*args, enabled))
    for device, able, float32 in ("cuda", True, False), ("cuda", False, False), ("cuda", True, True), ("cpu", True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able and not including_emulation)
        gpt = Namespace(wte=Namespace(weight=Namespace(device=torch.device(device))))
        expected = device == "cuda" and able and not float32
        assert a_run(None, 0, gpt, float32=float32).autocast() == (device, torch.bfloat16, expected)


# What to add to conftest.TINY to see a difference; or two such lines, to be compared. All others: twice as much, or on for off.
FLAGS = {flag: f"--{flag} {2 * usual or 1}" if not isinstance(usual, bool) else f"--{flag}"
         for flag, usual in train.usual("quick", "prosqa").items() if not isinstance(usual, str) and flag != "float32"} | {
    "dataset": "--dataset prontoqa", "method": "--method no_thought", "setting": "--setting paper --init scratch",
    "stages": "--stages 2", "epochs": "--epochs 3", "epochs_first": "--epochs_first 1",
    "mix": ("--mix 0", "--mix 1"), "icot_per_epoch": ("--method icot", "--method icot --icot_per_epoch 4"),
    "decay": "--decay 0", "dropout": "--dropout 0.2", "batch_size": "--batch_size 8",
    "hops": ("--dataset prontoqa --hops 2", "--dataset prontoqa --hops 1"), "micro_batch": "--micro_batch 4", "nodes": "--nodes 10",
    "min_steps": "--min_steps 1", "max_steps": "--max_steps 4",
    "distractors": "--distractors 0.5", "n_head": "--n_head 4", "n_embd": "--n_embd 32"} | {f"{split}_size": f"--{split}_size 9" for split in data.SPLITS}


def outcome(out, flags, monkeypatch):
    if "prontoqa" in flags:
        monkeypatch.setattr(conftest, "TINY", "--train_size 60 --valid_size 8 --test_size 8 --epochs 1 --n_layer 1 --device cpu".split())
    train_tiny(out, *flags.split())
    return [r for r in records(out) if r["kind"] != "run"], torch.load(out / "last.pt", weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_a_run_changes_something(tmp_path, flag, monkeypatch):
    before, after = ("", FLAGS[flag]) if isinstance(FLAGS[flag], str) else FLAGS[flag]
    (log, model), (other_log, other_model) = (outcome(tmp_path / str(i), line, monkeypatch) for i, line in enumerate((before, after)))
    assert log != other_log or any(not torch.equal(model[k], other_model[k]) for k in model)


def test_every_setting_has_a_flag_a_default_and_a_try_here(capsys):
    assert {*FLAGS, "init", "float32"} == {*train.usual("quick", "prosqa")} | {"hops"}      # the two have tests of their own
    with pytest.raises(SystemExit, match="0"):
        train.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flag, value in train.usual("quick", "prosqa").items():
        assert f"--{flag} " in text.split("defaults:")[0] and train.as_flags({flag: value}) in text.split("defaults:")[1].replace("- ", "-"), flag


@pytest.mark.parametrize("flag, good, bad", [
    ("c", "1", "0"), ("stages", "0", "-1"), ("epochs", "1", "0"), ("mix", "1", "1.1"), ("dropout", "0.99", "1"), ("lr", "1e9", "inf"),
    ("lr", "0", "-1"), ("lr", "1", "nan"), ("lr", "1", "fast"), ("nodes", "55", "56"), ("hops", "6", "7"), ("parents", "20", "21"), ("batch_size", "1", "0"),
    ("method", "icot", "telepathy"), ("setting", "paper", "quickly"), ("seed", "20250101120000", "-1")])
def test_numbers_and_words_out_of_their_bounds_are_refused_and_those_on_them_are_not(flag, good, bad):
    assert str(train.parse([f"--{flag}={good}"])[0][flag]) in (good, str(float(good) if good[0].isdigit() else good))
    with pytest.raises(UserError, match=rf"argument --{flag}: .*{bad}"):
        train.parse([f"--{flag}={bad}"])
