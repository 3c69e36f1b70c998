"""Writes goldens/minilm.json: sentence vectors by transformers (mean over tokens, length 1), 256 tokens at most.

    python make_minilm_golden.py FOLDER OUT.json      (torch, transformers)
"""
import json, sys
import torch
from transformers import AutoModel, AutoTokenizer

torch.set_num_threads(1)
folder, out = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
TEXTS = [
    "Group-relative policy optimization for small reviewers",
    "Naïve Bayes — it’s β-carotene, 机器学习 & <tags>!",
    "The quick brown fox jumps over the lazy dog. " * 40,
]
rows = []
for text in TEXTS:
    whole = tokenizer(text, truncation=False)["input_ids"]
    ids = whole if len(whole) <= 256 else whole[:255] + whole[-1:]
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
    vector = torch.nn.functional.normalize(hidden.mean(0), dim=0)
    rows.append({"text": text, "ids": ids, "cut": len(whole) > 256, "vector": [round(float(x), 7) for x in vector]})
json.dump({"rows": rows}, open(out, "w"), ensure_ascii=False)
