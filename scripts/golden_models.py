"""What Hugging Face transformers computes for tiny models of every variant, for scripts/make-goldens (section `models`).

Weights are not stored: element i of a tensor is a published function of the tensor's name and i (weight() below), which
tests/model/variants_test.cpp computes too. A golden holds config.json as transformers saves it, the same in the notation
of older files, token ids, and the log-probability of each id after those before it, in float32 on the CPU.
"""

import json
import math
import tempfile
import pathlib

NUM_TOKENS = 112  # seven windows of 16
VOCAB, DIM, LAYERS, FFN = 64, 32, 3, 48
SHAPE = dict(vocab_size=VOCAB, hidden_size=DIM, num_hidden_layers=LAYERS, intermediate_size=FFN, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
WINDOW = 16
MASK = (1 << 64) - 1


def rope(kind="default", theta=1000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


# name: (architecture, what differs from SHAPE, context lengths that are computed each by itself)
VARIANTS = {
    "llama-tied": ("LlamaForCausalLM", dict(tie_word_embeddings=True, num_key_value_heads=4), [NUM_TOKENS]),
    "llama-linear": ("LlamaForCausalLM", dict(rope_parameters=rope("linear", factor=4.0)), [NUM_TOKENS]),
    # Within the trained 64 positions nothing is stretched; a prompt of 112 in one forward has frequencies for 112.
    "llama-dynamic": ("LlamaForCausalLM", dict(rope_parameters=rope("dynamic", factor=4.0), max_position_embeddings=64), [64, NUM_TOKENS]),
    "llama-llama3": ("LlamaForCausalLM", dict(rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                                   original_max_position_embeddings=32)), [NUM_TOKENS]),
    "llama-yarn": ("LlamaForCausalLM", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)), [NUM_TOKENS]),
    "llama-yarn-mscale": ("LlamaForCausalLM", dict(head_dim=16, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16, beta_slow=2, mscale=1.0, mscale_all_dim=0.5,
        truncate=False)), [NUM_TOKENS]),
    "mistral-window": ("MistralForCausalLM", dict(sliding_window=WINDOW, head_dim=16), [NUM_TOKENS]),
    "ministral-mixed": ("MinistralForCausalLM", dict(
        sliding_window=WINDOW, head_dim=16, layer_types=["full_attention", "sliding_attention", "sliding_attention"]), [NUM_TOKENS]),
    "qwen2": ("Qwen2ForCausalLM", dict(sliding_window=WINDOW, use_sliding_window=False, tie_word_embeddings=True), [NUM_TOKENS]),
    "qwen2-window": ("Qwen2ForCausalLM", dict(sliding_window=WINDOW, use_sliding_window=True, max_window_layers=1), [NUM_TOKENS]),
    "qwen2-yarn": ("Qwen2ForCausalLM", dict(rope_parameters=rope("yarn", theta=1e6, factor=4.0, original_max_position_embeddings=32)),
                   [NUM_TOKENS]),
    "qwen3": ("Qwen3ForCausalLM", dict(head_dim=16, tie_word_embeddings=True), [NUM_TOKENS]),
    "qwen3-window": ("Qwen3ForCausalLM", dict(head_dim=24, num_key_value_heads=4, sliding_window=11, use_sliding_window=True, max_window_layers=2,
                                              rope_parameters=rope("linear", theta=3e5, factor=1.7)), [NUM_TOKENS]),
    # Odd numbers: a factor that is no power of two, a temperature that is given, a trained context that is no multiple of anything.
    "mistral-yarn-odd": ("MistralForCausalLM", dict(sliding_window=37, head_dim=20, max_position_embeddings=333, rope_parameters=rope(
        "yarn", theta=54321.0, factor=3.7, original_max_position_embeddings=90, beta_fast=21.5, beta_slow=1.25, attention_factor=1.3)), [NUM_TOKENS]),
    "qwen2-dynamic-odd": ("Qwen2ForCausalLM", dict(max_position_embeddings=45, num_key_value_heads=1,
                                                   rope_parameters=rope("dynamic", theta=777.0, factor=2.6)), [45, 46, NUM_TOKENS]),
    "qwen3-untied": ("Qwen3ForCausalLM", dict(head_dim=8, num_key_value_heads=1, rope_parameters=rope(theta=1e6)), [NUM_TOKENS]),
}


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def uniform(name, count):
    """Numbers in [-1, 1), exact in float32: SplitMix64 of the name's hash and the index, its upper 24 bits."""
    import numpy
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(fnv1a(name)) + (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    return (z >> numpy.uint64(40)).astype(numpy.float64) * 2.0**-23 - 1.0


def weight(name, shape):
    """Norms near 1, biases up to 0.5, matrices with rows of length about 1.5; all rounded to bfloat16."""
    import torch
    count = math.prod(shape)
    values = torch.from_numpy(uniform(name, count))
    if name.endswith("norm.weight"):
        values = 1 + 0.3 * values
    elif len(shape) == 1:
        values = 0.5 * values
    else:
        values = values * (1.5 * math.sqrt(3 / shape[-1]))
    return values.to(torch.float32).to(torch.bfloat16).to(torch.float32).reshape(shape)


def older(config):
    """The same config as files before transformers 5 say it."""
    out = dict(config)
    parameters = dict(out.pop("rope_parameters"))
    out["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    out["rope_scaling"] = None if kind == "default" else {"type": kind, **parameters}
    out["torch_dtype"] = out.pop("dtype")
    return out


def make_model(architecture, changes):
    import torch
    import transformers
    kind = getattr(transformers, architecture)
    changes = {"rope_parameters": rope(), **changes}
    config = kind.config_class(**{**SHAPE, **changes}, dtype="float32", attn_implementation="eager", architectures=[architecture])
    model = kind(config).to(torch.float32).eval()
    tied = config.tie_word_embeddings
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not (tied and name == "lm_head.weight"):
                tensor.copy_(weight(name, tuple(tensor.shape)))
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        saved = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return model, saved


def logprobs(model, ids):
    import torch
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return [round(scores[i, ids[i + 1]].item(), 7) for i in range(len(ids) - 1)]


def make(folder):
    import torch
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (architecture, changes, lengths) in VARIANTS.items():
        model, config = make_model(architecture, changes)
        ids = [int((u + 1) * VOCAB / 2) for u in uniform("ids of " + name, NUM_TOKENS)]
        cases = [{"num_tokens": n, "logprobs": logprobs(model, ids[:n])} for n in lengths]
        golden = {"config": config, "config_older": older(config), "ids": ids, "cases": cases}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
        (folder / f"{name}.json").write_text("{" + lines + "}\n")
