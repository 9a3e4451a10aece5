"""Qwen2's tokenizer with a small vocabulary: the same files, pre-tokenisation and added tokens."""

import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

import data

# The template of diffusers' QwenImagePipeline, and the number of its tokens that the pipeline drops. The vocabulary
# must hold every word of the template whole, so that as many tokens are dropped as with the real tokenizer.
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
DROPPED = 34
# The edit pipelines' template (64 tokens dropped) is in the vocabulary too, so that an edit model can follow.
EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new "
    "image that meets the user's requirements while maintaining consistency with the original input where "
    "appropriate.<|im_end|>\n<|im_start|>user\nPicture 1: Picture 2: Picture 3: {}<|im_end|>\n<|im_start|>assistant\n"
)
VOCAB_SIZE = 2400  # an upper bound: pairs seen once are not merged

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
ADDED_NOT_SPECIAL = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build(folder):
    """Trains on the captions of every subject in glyphs.tsv, including untrained ones, and writes `folder`."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tok.decoder = decoders.ByteLevel()
    templates = [re.sub(r"<\|im_\w+\|>", "\n", text.replace("{}", "")) for text in (TEMPLATE, EDIT_TEMPLATE)]
    captions = [words for _, words in data.draw_many(3000, list(data.glyphs()), "tokenizer")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, min_frequency=2, special_tokens=[], show_progress=False, initial_alphabet=alphabet
    )
    tok.train_from_iterator(templates * 200 + captions, trainer)
    save(json.loads(tok.to_str())["model"], Path(folder))


def load(folder):
    """Loads the tokenizer in `folder`, and checks how many template tokens are dropped."""
    tok = Qwen2Tokenizer.from_pretrained(folder)
    cut = len(tok(TEMPLATE.split("{}")[0])["input_ids"])
    assert cut == DROPPED, f"{folder} cuts the template at {cut}, not {DROPPED}"
    return tok


def added_tokens(folder):
    """The ids of the added tokens, by their text."""
    return json.loads((Path(folder) / "added_tokens.json").read_text(encoding="utf-8"))


def vocab_size(folder):
    """The number of tokens, including the added ones."""
    return max(added_tokens(folder).values()) + 1


def save(model, folder):
    """Writes the files that Qwen/Qwen-Image ships: vocab.json and merges.txt, no tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = model["vocab"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    added = {text: len(vocab) + index for index, text in enumerate(SPECIAL + ADDED_NOT_SPECIAL)}
    decoder = {
        str(index): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": text in SPECIAL,
        }
        for text, index in added.items()
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    special = {key: config[key] for key in ("additional_special_tokens", "eos_token", "pad_token")}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in ["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
