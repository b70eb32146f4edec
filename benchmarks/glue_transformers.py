"""The lines that the perplexity of a corrected language model needs, by hand and with resmem.

    pip install '.[transformers]'
    python benchmarks/glue_transformers.py  # some seconds

Both ways read files of Python's library in windows that overlap, fit a memory to the tokens, and
score base, kNN-LM and the published sum on other files, with intervals over files. The model is a
small one with random weights. The program fails unless both give the same figures, and counts their
lines without blank ones.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

import resmem
import resmem.transformers as rt

WINDOW, STRIDE, DRAWS = 128, 64, 4_000


# ---- By hand -------------------------------------------------------------------------------------


def rows_by_hand(model, tokenizer, texts):
    kept = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    embeddings, outputs, targets, documents = [], [], [], []
    training = model.training
    model.eval()
    try:
        for number, text in enumerate(texts):
            ids = tokenizer(text)["input_ids"]
            seen = 1
            for start in range(0, len(ids), STRIDE):
                end = min(start + WINDOW, len(ids))
                with torch.inference_mode():
                    logits = model(torch.tensor([ids[start:end]], device=model.device)).logits[0]
                part = slice(seen - 1 - start, end - 1 - start)
                embeddings.append(kept.pop()[0, part].float().cpu().numpy())
                outputs.append(logits[part].float().cpu().numpy())
                targets += ids[seen:end]
                documents += [number] * (end - seen)
                seen = end
                if end == len(ids):
                    break
    finally:
        hook.remove()
        model.train(training)
    return np.concatenate(embeddings), np.concatenate(outputs), np.array(targets), documents


def interval(losses, documents, drawn):
    sums, counts = np.bincount(documents, losses), np.bincount(documents)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return np.exp([losses.mean(), *np.quantile(means, (0.025, 0.975))])


def by_hand(model, tokenizer, known, new):
    embeddings, outputs, targets, _ = rows_by_hand(model, tokenizer, known)
    memory = resmem.Memory(k=8).fit(embeddings, outputs, targets)
    embeddings, outputs, targets, documents = rows_by_hand(model, tokenizer, new)
    logits = torch.from_numpy(outputs).double()
    losses = {"base": -logits.log_softmax(1).numpy()[np.arange(len(targets)), targets]}
    for name, method, strength in (("kNN-LM", "targets", 0.25), ("ResMem", "residual", 1.0)):
        memory.method, memory.strength = method, strength
        chances = memory.predict_proba(embeddings, outputs, columns=targets[:, None])
        losses[name] = -np.log(chances[:, 0])
    drawn = np.random.default_rng(0).integers(0, len(new), (DRAWS, len(new)))
    return {name: interval(loss, documents, drawn) for name, loss in losses.items()}


# ---- With resmem.transformers --------------------------------------------------------------------


def with_resmem(model, tokenizer, known, new):
    data = rt.collect(model, tokenizer, known, window=WINDOW)
    memory = resmem.Memory(k=8, base=data.base).fit(*data)
    return rt.evaluate_perplexity(model, memory, new, tokenizer, window=WINDOW)


# ---- Both ----------------------------------------------------------------------------------------


def made(texts):
    """Return a small model with random weights, and a tokenizer of the texts."""
    torch.manual_seed(0)
    pairs = tokenizers.ByteLevelBPETokenizer()
    pairs.train_from_iterator(texts, vocab_size=500, show_progress=False)
    config = transformers.GPT2Config(
        vocab_size=500, n_embd=64, n_layer=2, n_head=2, n_positions=WINDOW,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pairs._tokenizer)
    return transformers.GPT2LMHeadModel(config).eval(), tokenizer


def count(*functions):
    lines = "".join(map(inspect.getsource, functions)).splitlines()
    return sum(bool(line.strip()) for line in lines)


def main():
    """Run both ways, compare them and count their lines."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))[:30]
    texts = [file.read_text(encoding="utf-8", errors="replace")[:1500] for file in files]
    model, tokenizer = made(texts)
    hand = by_hand(model, tokenizer, texts[:18], texts[18:])
    found = with_resmem(model, tokenizer, texts[:18], texts[18:])
    for name, figures in hand.items():
        np.testing.assert_allclose(figures, found.methods[name].perplexity, rtol=1e-4)
    print(found)
    print(f"by hand: {count(rows_by_hand, interval, by_hand)} lines")
    print(f"with resmem.transformers: {count(with_resmem)} lines")


if __name__ == "__main__":
    main()
