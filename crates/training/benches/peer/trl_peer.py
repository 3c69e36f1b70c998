#!/usr/bin/env python3
"""The peer of the training benchmarks: TRL's SFTTrainer or DPOTrainer with PEFT, on the CPU, over rows of ids.

    python trl_peer.py sft|dpo --model DIR --rows FILE.jsonl --batch 2 --steps 4 --threads 2 [--dtype float32|bfloat16]
        [--lr 1e-4] [--no-checkpointing] [--precompute-ref] [--no-autocast] [--full] [--init ADAPTER | --save-init DIR]

Prints one JSON line on stdout (TRL's own output goes to stderr):

    losses, grad_norms      one per step
    seconds                 of each step, from the end of the one before to its own end (data loading, forward, backward,
                            clipping and AdamW); the first is a warm-up
    seconds_per_step        mean without the first
    tokens_per_step         every token that is no padding; DPO: prompt + answer, for each of the two answers
    tokens_per_second       of those, mean without the first step
    precompute_seconds      with --precompute-ref: what all reference log-probs of these steps took before the first step
                            (not in seconds; tokens_per_second_all counts it)
    peak_rss_mb             ru_maxrss at the end; rss_imported_mb: after the imports, before anything is loaded
    settings, versions

What is TRL's own default and stays so: gradient checkpointing on (--no-checkpointing switches it off: the faster of the
two is the fair peer), sdpa attention, no packing, the loss without full logits. Changed, and for both sides the same: rows
in file order (wrapping), no truncation, learning rate constant, AdamW without weight decay, clipping at 1.
float32: no mixed precision. bfloat16: base weights in bfloat16, adapters in float32 (PEFT's default), and TRL's default
`bf16=True`, which is autocast; --no-autocast leaves that out.
LoRA: r 16, alpha 32, dropout 0, the seven linear projections. --save-init writes the adapter as it was before the first
step, --init starts from one, so that another engine can start from the same numbers.
"""
import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import warnings


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["sft", "dpo"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--loss-type", help="of TRL's configuration; default: TRL's")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--no-autocast", action="store_true")
    parser.add_argument("--precompute-ref", action="store_true")
    parser.add_argument("--full", action="store_true", help="all parameters instead of LoRA")
    parser.add_argument("--attention", help="attn_implementation; default: transformers'")
    parser.add_argument("--init")
    parser.add_argument("--save-init")
    parser.add_argument("--save-final")
    return parser.parse_args()


ARGS = arguments()
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1",
    CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    OMP_NUM_THREADS=str(ARGS.threads), MKL_NUM_THREADS=str(ARGS.threads),
)
warnings.filterwarnings("ignore")
import torch

torch.set_num_threads(ARGS.threads)
import datasets
import peft
import safetensors.torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

transformers.logging.set_verbosity_error()
datasets.disable_progress_bars()


def peak_mb():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def read_rows():
    with open(ARGS.rows, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    need = ARGS.batch * ARGS.accumulate * ARGS.steps
    return [rows[i % len(rows)] for i in range(need)]


def tokens_of(row):
    if ARGS.method == "sft":
        return len(row["input_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


class Clock(TrainerCallback):
    """When each step ended, what it logged."""

    def __init__(self):
        self.ends, self.losses, self.norms = [], [], []

    def on_train_begin(self, *_, **__):
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(float(logs["grad_norm"]))


class IdsDPOTrainer(trl.DPOTrainer):
    """TRL's DPO tokenises always; ids go to its collator as they are."""

    precompute_seconds = 0.0

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset

    def _precompute_ref_logps(self, *args, **kwargs):
        begin = time.perf_counter()
        out = super()._precompute_ref_logps(*args, **kwargs)
        self.precompute_seconds = time.perf_counter() - begin
        return out



def configuration(folder):
    autocast = ARGS.dtype == "bfloat16" and not ARGS.no_autocast
    shared = dict(
        output_dir=folder, use_cpu=True, bf16=autocast, per_device_train_batch_size=ARGS.batch,
        gradient_accumulation_steps=ARGS.accumulate, max_steps=ARGS.steps, learning_rate=ARGS.lr,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, logging_steps=1,
        save_strategy="no", report_to="none", train_sampling_strategy="sequential", max_length=None, seed=0,
        dataloader_pin_memory=False, disable_tqdm=True,
    )
    if ARGS.no_checkpointing:
        shared["gradient_checkpointing"] = False
    if ARGS.loss_type:
        shared["loss_type"] = ARGS.loss_type if ARGS.method == "sft" else [ARGS.loss_type]
    if ARGS.method == "sft":
        return trl.SFTConfig(**shared)
    return trl.DPOConfig(**shared, beta=ARGS.beta, precompute_ref_log_probs=ARGS.precompute_ref)


def build(rows, folder):
    extra = {"attn_implementation": ARGS.attention} if ARGS.attention else {}
    model = AutoModelForCausalLM.from_pretrained(ARGS.model, dtype=getattr(torch, ARGS.dtype), **extra)
    lora = None if ARGS.full else peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    if ARGS.method == "sft":
        rows = [{"input_ids": r["input_ids"],
                 "labels": [i if m else -100 for i, m in zip(r["input_ids"], r["mask"])]} for r in rows]
    kind = trl.SFTTrainer if ARGS.method == "sft" else IdsDPOTrainer
    trainer = kind(
        model=model, args=configuration(folder), train_dataset=datasets.Dataset.from_list(rows), peft_config=lora,
        processing_class=AutoTokenizer.from_pretrained(ARGS.model), callbacks=[clock := Clock()],
    )
    if ARGS.init:
        tensors = safetensors.torch.load_file(os.path.join(ARGS.init, "adapter_model.safetensors"))
        peft.set_peft_model_state_dict(trainer.model, tensors)
    if ARGS.save_init:
        trainer.model.save_pretrained(ARGS.save_init)
    return trainer, clock


def main():
    imported = peak_mb()
    rows = read_rows()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer, clock = build(rows, folder)
        loaded = peak_mb()
        trainer.train()
        if ARGS.save_final:
            trainer.save_model(ARGS.save_final)
    seconds = [b - a for a, b in zip(clock.ends, clock.ends[1:])]
    per_step = ARGS.batch * ARGS.accumulate
    tokens = [sum(map(tokens_of, rows[i * per_step:(i + 1) * per_step])) for i in range(ARGS.steps)]
    timed, counted = (seconds[1:], tokens[1:]) if len(seconds) > 1 else (seconds, tokens)
    result = {
        "peer": "trl", "method": ARGS.method, "losses": clock.losses, "grad_norms": clock.norms,
        "seconds": [round(s, 4) for s in seconds], "seconds_per_step": round(sum(timed) / len(timed), 4),
        "tokens_per_step": tokens, "tokens_per_second": round(sum(counted) / sum(timed), 2),
        "warmed_up": len(seconds) > 1,
    }
    if ARGS.precompute_ref:
        before = trainer.precompute_seconds
        result["precompute_seconds"] = round(before, 4)
        whole = sum(timed) + before * len(timed) / ARGS.steps
        result["tokens_per_second_all"] = round(sum(counted) / whole, 2)
    result |= {
        "peak_rss_mb": peak_mb(), "rss_imported_mb": imported, "rss_built_mb": loaded,
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "settings": {
            "dtype": ARGS.dtype, "autocast": trainer.args.bf16, "batch": ARGS.batch, "accumulate": ARGS.accumulate,
            "threads": torch.get_num_threads(), "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "precompute_ref": ARGS.precompute_ref, "lora": not ARGS.full, "loss_type": trainer.args.loss_type,
            "attention": trainer.model.config._attn_implementation, "learning_rate": ARGS.lr,
        },
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl, peft, datasets)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
