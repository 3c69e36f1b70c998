#!/usr/bin/env python3
"""`cycle train` beside TRL 1.16 + PEFT on the CPU: tokens per second and peak memory, one after the other in one run.

    python compare.py --cycle target/release/cycle --data DIR [--threads 2] [--only smollm2-sft-512,...] [--out FILE.md]

DIR holds what make_checkpoints.py and rows.py write: smollm2/, smollm2-bf16/, random4/, rows49k/, rows32k/. The interpreter
that runs this script runs TRL too (requirements.txt). Each case: LoRA r 16 on the seven linear projections, the same rows in
the same order, batch, threads, learning rate and AdamW; the first step is a warm-up and not counted. TRL runs in float32 and
bfloat16, both without gradient checkpointing (its faster setting); the peer of a case is the faster of the two. `cycle` runs
with dtype = "bf16" and its defaults. Tokens are counted alike: every token of every sequence a row stands for, so a prompt
shared by two answers counts twice on both sides. Peak memory is ru_maxrss of the process.

Prints a Markdown table: speed and memory of both, and `ours / peer`; misses are marked.

    python compare.py --cycle target/release/cycle --data DIR --memory

runs no TRL: two steps of `cycle` on each of a set of cases (LoRA and all parameters, bf16 and f32, long rows, pairs, a
reward model), the peak memory beside what `cycle train --dry-run` predicts (wide/ and rows128k/ too).
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CASES = [  # name, method, model folder, rows folder, rows, batch, steps, required ratio
    ("smollm2-sft-512", "sft", "smollm2", "rows49k", "sft-512", 2, 4, 1.0),
    ("smollm2-sft-2048", "sft", "smollm2", "rows49k", "sft-2048", 1, 3, 1.0),
    ("smollm2-dpo-512", "dpo", "smollm2", "rows49k", "dpo-512", 2, 4, 1.0),
    ("smollm2-dpo-2048", "dpo", "smollm2", "rows49k", "dpo-2048", 1, 3, 1.0),
    ("random4-sft-512", "sft", "random4", "rows32k", "sft-512", 2, 4, 1.0),
    ("random4-sft-2048", "sft", "random4", "rows32k", "sft-2048", 1, 3, 1.0),
    ("random4-dpo-512", "dpo", "random4", "rows32k", "dpo-512", 2, 4, 1.0),
    ("random4-dpo-2048", "dpo", "random4", "rows32k", "dpo-2048", 1, 3, 1.0),
    ("random4-dpo-shared", "dpo", "random4", "rows32k", "dpo-shared", 1, 3, 1.6),
    ("smollm2-dpo-shared", "dpo", "smollm2", "rows49k", "dpo-shared", 1, 3, 1.6),
]


def measured(command, env):
    """Output, peak memory in MB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        err.seek(0)
        if status:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{err.read()[-3000:]}")
        return out.read(), usage.ru_maxrss / 1024


MEMORY = [  # name, method, model folder, rows folder, rows, batch, dtype, LoRA
    ("smollm2-sft-512", "sft", "smollm2", "rows49k", "sft-512", 1, "bf16", True),
    ("smollm2-sft-512-f32", "sft", "smollm2", "rows49k", "sft-512", 1, "f32", True),
    ("smollm2-sft-512-full", "sft", "smollm2", "rows49k", "sft-512", 1, "bf16", False),
    ("smollm2-sft-512-full-f32", "sft", "smollm2", "rows49k", "sft-512", 1, "f32", False),
    ("smollm2-dpo-2048", "dpo", "smollm2", "rows49k", "dpo-2048", 1, "bf16", True),
    ("smollm2-sft-8192", "sft", "smollm2", "rows49k", "sft-8192", 1, "bf16", True),
    ("random4-sft-512", "sft", "random4", "rows32k", "sft-512", 8, "bf16", True),
    ("random4-sft-2048-full", "sft", "random4", "rows32k", "sft-2048", 2, "bf16", False),
    ("random4-dpo-2048-f32", "dpo", "random4", "rows32k", "dpo-2048", 1, "f32", True),
    ("random4-dpo-2048-full-f32", "dpo", "random4", "rows32k", "dpo-2048", 1, "f32", False),
    ("random4-reward-2048", "reward", "random4", "rows32k", "dpo-2048", 1, "bf16", True),
    ("wide-dpo-16384", "dpo", "wide", "rows128k", "dpo-16384", 1, "bf16", True),
]


def recipe(folder, method, model, rows, batch, steps, dtype="bf16", lora=True):
    """Kind of training, and the file of a recipe below the folder."""
    kind = {"sft": "sft", "dpo": "preference", "reward": "reward"}[method]
    objective = {"dpo": '[objective]\nname = "sigmoid"\nbeta = 0.1\n', "reward": '[objective]\nname = "bt"\n'}.get(method, "")
    lora = "[lora]\nr = 16\nlora_alpha = 32\n" if lora else ""
    (folder / "recipe.toml").write_text(
        f'kind = "{kind}"\nmodel = "{model}"\nout = "{folder}/out"\ndtype = "{dtype}"\n[data]\ntrain = "{rows}"\n'
        f'shuffle = false\nmax_length = 40000\n{objective}{lora}[optimizer]\n'
        f'learning_rate = 1e-4\nlr_scheduler_type = "constant"\nbatch_size = {batch}\nmax_steps = {steps}\n'
        f"[save]\nevery = {steps}\n"
    )
    return kind, folder / "recipe.toml"


def ours(args, method, model, rows, batch, steps, **more):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        kind, file = recipe(folder, method, model, rows, batch, steps, **more)
        env = dict(os.environ, CYCLE_HOME=str(folder / "home"), RAYON_NUM_THREADS=str(args.threads))
        _, peak = measured([args.cycle, "train", kind, "--config", file, "--quiet"], env)
        lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "tokens_per_second" in line][1:]
        tokens = sum(line["tokens"] for line in lines)
        seconds = sum(line["tokens"] / line["tokens_per_second"] for line in lines)
        return tokens / seconds if lines else None, peak


def predicted(args, method, model, rows, batch, steps, **more):
    with tempfile.TemporaryDirectory() as folder:
        kind, file = recipe(pathlib.Path(folder), method, model, rows, batch, steps, **more)
        out, _ = measured([args.cycle, "train", kind, "--config", file, "--dry-run", "--format", "json"], dict(os.environ))
        return json.loads(out)["plan"]["memory"]["peak"] / 2**20


def memory_table(args):
    print("| case | predicted MB | measured MB | ratio | |\n|---|---|---|---|---|", flush=True)
    for name, method, model, rows_folder, rows, batch, dtype, lora in MEMORY:
        if args.only and name not in args.only.split(","):
            continue
        case = (args, method, args.data / model, args.data / rows_folder / f"{rows}.jsonl", batch, 2)
        plan = predicted(*case, dtype=dtype, lora=lora)
        _, peak = ours(*case, dtype=dtype, lora=lora)
        off = "" if abs(plan / peak - 1) <= 0.15 else "**miss**"
        print(f"| {name} | {plan:.0f} | {peak:.0f} | {plan / peak:.2f} | {off} |", flush=True)


def peer(args, method, model, rows, batch, steps, dtype):
    command = [sys.executable, HERE / "trl_peer.py", method, "--model", model, "--rows", rows, "--batch", str(batch),
               "--steps", str(steps), "--threads", str(args.threads), "--dtype", dtype, "--no-checkpointing"]
    out, peak = measured(command, dict(os.environ))
    report = json.loads(out.splitlines()[-1])
    return report["tokens_per_second"], peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycle", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only")
    parser.add_argument("--memory", action="store_true", help="peak memory of long rows, and its prediction")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    if args.memory:
        return memory_table(args)
    lines = ["| case | cycle tokens/s | TRL f32 | TRL bf16 | speed ratio | cycle MB | peer MB | memory ratio | |",
             "|---|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for name, method, model, rows_folder, rows, batch, steps, wanted in CASES:
        if args.only and name not in args.only.split(","):
            continue
        rows = args.data / rows_folder / f"{rows}.jsonl"
        speed, peak = ours(args, method, args.data / model, rows, batch, steps)
        f32 = peer(args, method, args.data / model, rows, batch, steps, "float32")
        bf16_model = args.data / f"{model}-bf16"
        bf16 = peer(args, method, bf16_model if bf16_model.exists() else args.data / model, rows, batch, steps, "bfloat16")
        best = max(f32, bf16)
        ratio, memory = speed / best[0], peak / best[1]
        verdict = "" if ratio >= wanted and memory <= 0.5 else "**miss**"
        line = (f"| {name} | {speed:.0f} | {f32[0]:.0f} | {bf16[0]:.0f} | {ratio:.2f} | {peak:.0f} | {best[1]:.0f} | "
                f"{memory:.2f} | {verdict} |")
        lines.append(line)
        print(line, flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
