"""Ask a trained model, and look at what it thought.

Paper: "Understanding the Latent Reasoning in Coconut". A continuous thought is a hidden state that was never
turned into a word; but it lives where hidden states live, so the language model's head can be asked which
words it is close to.

    python sample.py RUN                    some test problems of the run, each thought in words
    python sample.py RUN --question "..."   a question of your own
    python sample.py RUN --thoughts 1       with another number of thoughts than the run was trained for
    python sample.py --init gpt2 --prompt "..."     no thoughts: the official GPT-2 continues a text
"""

import argparse
from pathlib import Path

import coconut
import data
import train


def ask(gpt, tokenizer, problem, run, stage, thoughts=None, top=5):
    """One problem to a trained model: the text it writes, and each thought's top (word, probability) pairs.

    thoughts: how many fillers; None takes as many as the run's schedule gives at that stage.
    """
    tokens = data.Tokens.of(problem, tokenizer)
    removed, _ = train.schedule(run, stage, list(map(len, tokens.steps)))
    n = train.schedule(run, stage, [0] * run.stages)[1] if thoughts is None else thoughts
    sequence = data.encode(tokens, tokenizer, train.METHODS[run.method][0], removed, n)
    batch = data.collate([sequence]).to(gpt.wte.weight.device)
    size, taken = gpt.config.block_size, len(sequence.question) + sequence.thoughts
    if taken >= size:
        raise ValueError(f"question and thoughts take {taken} positions, but the model has {size}")
    stop = run.stop == "classifier" and thoughts is None
    written, chain, number = coconut.generate(
        gpt, batch, tokenizer.eos, min(size - taken, run.max_new_tokens), stop)
    scores = gpt.logits(chain[0, :number[0]])[:, :tokenizer.vocab_size]         # chain[0] (N, C) -> (N, V)
    best = scores.softmax(-1).topk(top)                                         # (N, top)
    pairs = map(zip, best.indices.tolist(), best.values.tolist())   # per thought
    words = [[(tokenizer.decode([i]), p) for i, p in thought] for thought in pairs]
    return tokenizer.decode([i for i in written[0] if i != tokenizer.eos]), words


def continue_text(gpt, tokenizer, prompt, length):
    """What follows a text, the most probable token each time: the quickest check that weights are right."""
    ids = [tokenizer.eos] + tokenizer.encode(prompt)            # GPT-2 learned that a text follows <eos>
    if len(ids) + length > gpt.config.block_size:
        raise ValueError(f"the prompt has {len(ids):,} tokens, too many for the model's positions")
    batch = data.collate([data.Sequence(ids[:-1], 0, ids[-1:] + [tokenizer.eos])])
    written, _, _ = coconut.generate(gpt.eval(), batch.to(gpt.wte.weight.device), tokenizer.eos, length)
    return tokenizer.decode(written[0])


def main(argv=None):
    parser = data.Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="?", help="the run's folder (its best.pt is asked), or a checkpoint")
    parser.add_argument("--question", help="ask this instead of test problems")
    parser.add_argument("--thoughts", type=data.number(int, 0), help="thoughts to take (default: the run's)")
    parser.add_argument("--n", type=data.number(int, 1), default=3, help="test problems to ask (default: 3)")
    parser.add_argument("--init", help="in place of a run: gpt2 (-medium, -large, -xl), or a copy of it")
    parser.add_argument("--prompt", help="with --init: the text to continue, by 50 tokens")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    args = parser.parse_args(argv)
    device = train.pick_device(args.device)
    if bool(args.run) == bool(args.init) or bool(args.init) != bool(args.prompt):
        raise ValueError("name a run to ask, or --init gpt2 with a --prompt to continue")
    if args.init:
        gpt, tokenizer = train.pretrained(args.init)
        return print(args.prompt + continue_text(gpt.to(device), tokenizer, args.prompt, 50))
    gpt, tokenizer, run, stage, _ = train.open_run(args.run, device)
    if args.thoughts and train.METHODS[run.method][0] is None:
        raise ValueError(f"{args.run} was trained by {run.method}, without thoughts: leave --thoughts out")
    if args.question is not None:
        if not args.question.strip():
            raise ValueError("--question is empty: ask something")
        problems = [data.Problem(args.question, [], "")]
    else:
        problems = data.problem_sets(run, ("test",))["test"][:args.n]

    for problem in problems:
        text, thoughts = ask(gpt, tokenizer, problem, run, stage, args.thoughts)
        print(f"question  {problem.question}")
        for i, words in enumerate(thoughts, start=1):
            best = "".join(f"{data.visible(word.strip() or word):>12} {p:4.0%}" for word, p in words)
            print(f"thought {i} {best}")
        print(f"written   {data.visible(' / '.join(text.splitlines()))}")
        if problem.answer:
            print(f"truth     {problem.answer}   {'right' if data.grade(problem, text) else 'wrong'}")
        print()


if __name__ == "__main__":
    data.run_or_explain(main)
