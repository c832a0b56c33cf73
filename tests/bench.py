"""How fast is it, and how near to what the machine can do?

    python tests/bench.py                   the small model, on a GPU the large one too: some minutes
    python tests/bench.py --model gpt2      only one of the two models
    python tests/bench.py --float32         float32 on a GPU too (default: bfloat16 autocast there)

Random ids in the shape of ProsQA in GPT-2's vocabulary: questions of 357 tokens, 4 steps of 10, an answer of 9;
stage 6 has 6 thoughts and no step. "cached" is what training and sampling do (cached_forward), "explicit" the
definition that recomputes all in every pass, in the same run (on 4 to 8 problems: it keeps all passes' activations).
Training is with the paper's dropout of 0.1. What does not fit into a GPU's memory gets a line, and the next follows.

FLOPs that the method needs for an example: each of its T = question + thoughts + language positions goes once
through the blocks, 24 L C^2 multiply-adds' worth of FLOPs, and looks at those before it, 4 L C a pair; each
predicted token goes through the head, 2 V C. Backward costs twice the forward. Utilisation is that, over the
time, over the peak: what a large square matrix product reaches here in the same number format.
"""

import argparse
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

import coconut
import data
import train
from gpt import GPT, GPTConfig

V, QUESTION, STEPS, STEP, ANSWER = 50304, 357, 4, 10, 9
WORDS = SimpleNamespace(bot=50257, eot=50258, pause=50259, eos=50256)
LINUX = Path("/proc/self/clear_refs").exists()
MODELS = {"small": dict(n_layer=2, n_head=2, n_embd=128), "gpt2": dict(n_layer=12, n_head=12, n_embd=768)}


def tokens(rng, spread=0):
    """The ids of a problem, drawn at random; `spread` is the standard deviation of the question's length (ProsQA's: 57)."""
    def ids(n):
        return [rng.randrange(50000) for _ in range(n)]
    return ids(max(200, round(rng.gauss(QUESTION, spread)))), [ids(STEP) for _ in range(STEPS)], ids(ANSWER)


def batch_of(size, stage, device, n=None):
    """`size` problems at a stage with n thoughts (as many as the stage has, unless given)."""
    rng, rows = random.Random(0), []
    for _ in range(size):
        question, steps, answer = tokens(rng)
        rows.append(data.sequence(question, steps[stage:], answer, WORDS, "thought", stage if n is None else n))
    return data.collate(rows).to(device)


def flops(config, batch):
    """FLOPs of one forward and backward of the batch: see above."""
    L, C, B = config.n_layer, config.n_embd, len(batch.question)
    T = batch.question.size(1) + batch.n + batch.language.size(1)
    return 3 * B * (24 * L * C ** 2 * T + 4 * L * C * T * (T + 1) / 2 + 2 * V * C * batch.language.size(1))


class Bench:
    def __init__(self, device, bf16):
        self.device, self.bf16 = device, bf16
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        size = 8192 if device == "cuda" else 2048
        a = torch.randn(size, size, dtype=self.dtype, device=device)
        self.peak = 2 * size ** 3 / self.timed(lambda: a @ a, 5)[0]

    def autocast(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def timed(self, run, times):
        """(median seconds, peak GiB) of run(), after one run to warm up."""
        run()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif LINUX:
            Path("/proc/self/clear_refs").write_text("5")       # begin a new peak of resident memory
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        if self.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
        elif not LINUX:
            peak = float("nan")
        else:
            status = Path("/proc/self/status").read_text()
            peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        return statistics.median(seconds), peak / 2 ** 30

    def model(self, shape):
        torch.manual_seed(0)
        gpt = GPT(GPTConfig(vocab_size=V, **shape)).to(self.device)
        return gpt, torch.optim.AdamW(gpt.parameters(), lr=1e-4, fused=True)

    def step(self, gpt, optimizer, batch, explicit=False):
        def run():
            with self.autocast():
                if explicit:
                    logits = coconut.explicit_forward(gpt, batch.question, batch.n, batch.language)
                    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.target.flatten())
                else:
                    loss = coconut.loss(gpt, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return run

    def training(self, shape, size, times):
        gpt, optimizer = self.model(shape)
        for stage, explicit in ((6, True), (0, False), (6, False)):
            some = min(size, 8) if explicit else size
            batch = batch_of(some, stage, self.device)
            seconds, peak = self.timed(self.step(gpt, optimizer, batch, explicit), 1 if explicit else times)
            places = batch.question.size(1) + stage + batch.language.size(1)
            print(f"  training, stage {stage}, {'explicit' if explicit else 'cached':8} batch {some:3} {some / seconds:9.2f} examples/s"
                  f" {some * places / seconds:10,.0f} tokens/s {flops(gpt.config, batch) / seconds / self.peak:6.1%} of peak"
                  f" {peak:6.1f} GiB", flush=True)

    @torch.no_grad()
    def generation(self, shape, size, questions, explicit_questions):
        """Questions a second, 10 tokens written for each (no <eos> comes from random weights)."""
        gpt, _ = self.model(shape)
        gpt.eval()
        batch = batch_of(size, 6, self.device)

        def cached():
            with self.autocast():
                for _ in range(questions // size):
                    coconut.generate(gpt, batch, -1, 10)

        def explicit():
            with self.autocast():
                for row in range(explicit_questions):
                    language = batch.language[row:row + 1, :1]
                    for _ in range(10):
                        logits = coconut.explicit_forward(gpt, batch.question[row:row + 1], 6, language)
                        language = torch.cat([language, logits[:, -1:].argmax(-1)], dim=1)
        print(f"  answering, cached, batches of {size:3}  {questions // size * size / self.timed(cached, 1)[0]:9.2f} questions/s")
        print(f"  answering, explicit, one by one {explicit_questions / self.timed(explicit, 1)[0]:9.2f} questions/s", flush=True)

    def cost_of_thoughts(self, shape, size, times):
        gpt, optimizer = self.model(shape)
        first = None
        for n in (0, 1, 2, 4, 6, 8, 16, 32):
            seconds, peak = self.timed(self.step(gpt, optimizer, batch_of(size, 6, self.device, n)), times)
            first = first or seconds
            print(f"  {n:2} thoughts {1000 * seconds:9.1f} ms a step = {seconds / first:5.2f} of none   {peak:6.1f} GiB", flush=True)

    def data_share(self, shape, size, problems):
        """Of an epoch in train.py on questions of ProsQA's spread: examples a second, share of making batches."""
        gpt, _ = self.model(shape)
        settings = train.settings_of(dict(dataset="prosqa", setting="paper", init="scratch", batch_size=size, micro_batch=size))
        settings.stages, settings.float32, rng = 6, not self.bf16, random.Random(0)
        run = train.Run(gpt, WORDS, settings, 6, 6)
        some, spent = [tokens(rng, 57) for _ in range(problems)], [0.0]

        def batches():
            made = train.batches(run, some, random.Random(0))
            while True:
                start = time.perf_counter()
                batch = next(made, None)
                spent[0] += time.perf_counter() - start
                if batch is None:
                    return
                yield batch

        def epoch():
            spent[0] = 0.0
            train.train_epoch(run, train.make_optimizers(run), batches(), 0, 1000)
        seconds, _ = self.timed(epoch, 1)
        print(f"  train.py at stage 6, lengths of ProsQA's spread: {problems / seconds:.1f} examples/s, making batches {spent[0] / seconds:.1%}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--float32", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    able = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    bench = Bench(device, able and not args.float32)
    print(f"{time.strftime('%Y-%m-%d')} torch {torch.__version__} Python {platform.python_version()} {where} "
          f"{'bfloat16 autocast' if bench.bf16 else 'float32'}, "
          f"peak {bench.peak / 1e12:.2f} TFLOP/s")
    for name, shape in MODELS.items():
        if name == (args.model or name):
            sizes = {("small", "cpu"): [32], ("gpt2", "cpu"): [4]}.get((name, device), [16, 32, 64, 128])
            large = name == "gpt2" and device == "cpu"
            print(f"{name}: {shape}, vocabulary {V:,}, batches of {sizes}")
            fits(bench.generation, shape, 4 if large else 100, 8 if large else 500, 1 if large else 4)
            if not large:
                fits(bench.cost_of_thoughts, shape, sizes[0], 5)
                fits(bench.data_share, shape, sizes[0], 20 * sizes[0])
            for size in sizes:
                fits(bench.training, shape, size, 2 if large else 5)


def fits(measure, *args):
    try:
        measure(*args)
    except torch.OutOfMemoryError:
        print(f"  {measure.__name__} {args}: out of memory", flush=True)


if __name__ == "__main__":
    main()
