"""Writes goldens/pairs.parquet and goldens/pairs.jsonl: the same rows, as `datasets` writes both.

    python crates/training/tests/make_parquet_golden.py
"""
from pathlib import Path

from datasets import Dataset

here = Path(__file__).parent / "goldens"
turn = lambda role, text: {"role": role, "content": text}
rows = [
    {
        "prompt": [turn("user", f"Review: search for {task}")],
        "chosen": [turn("assistant", f"Table {n} shows that search helps {task}.")],
        "rejected": [turn("assistant", "I feel that search is odd – naïvely.")],
        "margin": n / 4 if n % 2 else None,
        "p_chosen": 0.75,
        "year": 2020 + n,
    }
    for n, task in enumerate(["parsing", "ranking", "tagging"], 1)
]
data = Dataset.from_list(rows)
data.to_parquet(here / "pairs.parquet")
data.to_json(here / "pairs.jsonl")
