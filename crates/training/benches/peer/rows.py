#!/usr/bin/env python3
"""Makes the row files of the training benchmarks: rows of ids, drawn with a fixed seed. Standard library only.

    python rows.py --vocab 32768 --rows 8 --out DIR [--only NAME …]

    sft-512, sft-2048, sft-8192   {"input_ids": […], "mask": […]}: the second half counts (mask 1)
    dpo-512, dpo-2048, dpo-16384  {"prompt_ids", "chosen_ids", "rejected_ids"}: half prompt, half answer, so that each
                                  of the two sequences has that length
    dpo-shared                    a prompt of 3,500 tokens shared by two answers of 500
    sft-mixed, dpo-mixed          lengths spread evenly between 64 and 2,048 tokens per sequence, as real data is: what
                                  padding costs shows here

Ids are even over 32 … vocab-1 (below are the special tokens of the checkpoints used); the first is 1, the last of every
answer 2. The same arguments give the same bytes.
"""
import argparse
import json
import pathlib
import random

FIRST, BOS, EOS = 32, 1, 2


def ids(rng, vocab, count):
    return [rng.randrange(FIRST, vocab) for _ in range(count)]


def sft(rng, vocab, length):
    prompt = length // 2
    return {"input_ids": [BOS, *ids(rng, vocab, length - 2), EOS], "mask": [0] * prompt + [1] * (length - prompt)}


def dpo(rng, vocab, prompt, chosen, rejected):
    return {
        "prompt_ids": [BOS, *ids(rng, vocab, prompt - 1)],
        "chosen_ids": [*ids(rng, vocab, chosen - 1), EOS],
        "rejected_ids": [*ids(rng, vocab, rejected - 1), EOS],
    }


def makers():
    table = {f"sft-{n}": lambda rng, v, n=n: sft(rng, v, n) for n in (512, 2048, 8192)}
    table |= {f"dpo-{n}": lambda rng, v, n=n: dpo(rng, v, n // 2, n // 2, n // 2) for n in (512, 2048, 16384)}
    table["dpo-shared"] = lambda rng, v: dpo(rng, v, 3500, 500, 500)
    table["sft-mixed"] = lambda rng, v: sft(rng, v, rng.randrange(64, 2049))
    table["dpo-mixed"] = lambda rng, v: dpo(rng, v, *(rng.randrange(32, 1025) for _ in range(3)))
    return table


def main():
    table = makers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(table), default=list(table))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        rng = random.Random(f"{args.seed} {name}")
        with open(args.out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for _ in range(args.rows):
                file.write(json.dumps(table[name](rng, args.vocab), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
