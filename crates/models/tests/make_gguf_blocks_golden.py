"""Writes goldens/gguf_blocks.json: bytes of quantised blocks and their values by gguf-py's reference dequantiser.

    python make_gguf_blocks_golden.py OUT.json      (numpy, gguf)
"""
import json, sys
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from gguf.constants import GGML_QUANT_SIZES

rng = np.random.default_rng(7)
rows = []
for kind in [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q4_K, T.Q5_K, T.Q6_K]:
    block, size = GGML_QUANT_SIZES[kind]
    n = 256 // block
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)
    # Scales are halves at the places the formats put them: keep them finite and small.
    halves = {T.F16: [0], T.BF16: [], T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}[kind]
    for at in halves:
        data[:, at:at + 2] = rng.uniform(-0.1, 0.1, n).astype(np.float16).view(np.uint8).reshape(n, 2)
    if kind == T.BF16:
        data = (rng.normal(size=n).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(n, 2)
    values = dequantize(data.reshape(1, -1), kind).astype(np.float32).reshape(-1)
    bits = values.view(np.uint32)
    rows.append({"type": int(kind), "name": kind.name, "hex": data.tobytes().hex(), "bits": [int(b) for b in bits]})
json.dump({"note": "bits are the f32 values' bit patterns", "rows": rows}, open(sys.argv[1], "w"))
