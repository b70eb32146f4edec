"""Models of transformers with random weights, a few layers and tiny widths, and their data."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT_OF_WORDS = "the a cat dog owl sat ran saw on under mat tree house and then again slowly . ,"
WORDS = TEXT_OF_WORDS.split()
SPECIAL = ["[UNK]", "[PAD]", "[MASK]", "[CLS]", "[SEP]"]
TEXTS = [
    "the cat sat on the mat and then the dog ran under the tree .",
    "a dog saw the owl , and the owl saw a dog .",
    "the owl sat on a house .",
    "then the cat ran , slowly , and again the cat sat on the mat .",
]


def tokenizer(ends: bool = False):
    """Return a tokenizer of words; with ``ends`` it adds [CLS] and [SEP], as BERT's does."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]",
        cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 1,
         "vocab_size": len(SPECIAL + WORDS)}  # fmt: skip
CLASSES = {"num_labels": 3}


def made(name: str, **changes):
    """Return a model by its name here, always with the same weights."""
    torch.manual_seed(0)
    sizes = {**SIZES, **changes}
    t5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2,
          "decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 4,
          "vocab_size": sizes["vocab_size"], "initializer_factor": 3.0, **changes}  # fmt: skip
    image = {"image_size": 8, "patch_size": 4, "num_channels": 1, **CLASSES}
    models = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=sizes["vocab_size"],
            pad_token_id=1, bos_token_id=3, eos_token_id=4, initializer_range=0.2, **changes)),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
            **sizes, num_key_value_heads=1, initializer_range=0.2, eos_token_id=4, bos_token_id=3)),
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes)),
        "bert classes": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(**{**sizes, **CLASSES, **changes})),
        "llama classes": lambda: transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(**sizes, **CLASSES, num_key_value_heads=1)),
        "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
        "vit": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(**{**SIZES, **image})),
    }  # fmt: skip
    return models[name]().eval()


def labelled(count: int = 8) -> list[dict[str, object]]:
    """Return texts with one of three classes each."""
    return [{"text": TEXTS[at % 4], "label": at % 3} for at in range(count)]


def pairs() -> list[dict[str, str]]:
    """Return texts and what is to be written for each."""
    return [{"text": text, "label": " ".join(text.split()[:5])} for text in TEXTS]


def images(count: int = 7) -> list[dict[str, object]]:
    pixels = np.random.default_rng(0).normal(size=(count, 1, 8, 8)).astype(np.float32)
    return [{"pixel_values": each, "label": at % 3} for at, each in enumerate(pixels)]
