"""Writes goldens/smollm2_greedy.json: greedy continuations by transformers on the dequantised weights of a GGUF file.

    python make_smollm2_golden.py FOLDER_OF_GGUF FILE.gguf OUT.json      (torch, transformers, gguf)
"""
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
folder, name, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager")
model.eval()
PROMPTS = [
    "Name three weaknesses of a paper that reports only absolute error.",
    "What is the intraclass correlation?",
    "Write one sentence about gradient descent.",
    "Summarise: We train a small decoder on reviews and find that its scores follow the length of the paper.",
    "List the sections of a scientific paper.",
    "Rate this abstract from 1 to 10: We propose a new method.",
    "Write Python that adds two numbers.",
    "Translate to French: The reviewers disagree.",
    "Explain top-p sampling to a student, with numbers such as 0.95 and 12.5%.",
    "1, 1, 2, 3, 5, 8,",
]
rows = []
for prompt in PROMPTS:
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    new, gaps, seen = [], [], torch.tensor([ids])
    past = None
    with torch.no_grad():
        step = seen
        for _ in range(64):
            result = model(step, past_key_values=past, use_cache=True)
            past = result.past_key_values
            top = result.logits[0, -1].topk(2)
            new.append(int(top.indices[0]))
            gaps.append(round(float(top.values[0] - top.values[1]), 6))
            step = top.indices[:1].view(1, 1)
    rows.append({"prompt": prompt, "text": text, "ids": ids, "new_ids": new, "gaps": gaps})
    print(prompt, "->", tokenizer.decode(new)[:80].replace("\n", " "), flush=True)
json.dump({"model": name, "note": "greedy, end of sequence ignored; gaps are between the two best logits", "rows": rows}, open(out, "w"))
