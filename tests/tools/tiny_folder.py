"""A model folder without weights, for programs that run on the echo backend: every byte is a token."""

import json


def byte_characters():
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019, GPT-2's encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


TEMPLATE = (
    "{% for message in messages %}{{ '<|begin|>' + message['role'] + '\\n' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>assistant\\n' }}{% endif %}"
)


def make_tiny_folder(folder, max_tokens=2048):
    """vocab 258: bytes, <|begin|>, <|end|>. Returns the folder."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    special = [{"id": 256 + idx, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for idx, name in enumerate(["<|begin|>", "<|end|>"])]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": max_tokens, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257,
    }
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []},
    }
    tokenizer_config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE,
                        "clean_up_tokenization_spaces": False, "model_max_length": max_tokens}
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"config": config, "tokenizer": tokenizer, "tokenizer_config": tokenizer_config}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
