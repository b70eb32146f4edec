"""A small language model of Python's own sources, and what memories of other files make of it.

Run `python examples/language_model.py`, with `pip install 'residual-memory[transformers]'`; a
number behind it says how many steps to train (default 100, some seconds).
"""

import os
import sys
from pathlib import Path

import tokenizers
import torch
import transformers

import resmem
import resmem.transformers as rt

files = sorted(Path(os.__file__).parent.glob("*.py"))
sources = [file.read_text(encoding="utf-8", errors="replace")[:900] for file in files]
torch.manual_seed(0)
texts = [sources[at] for at in torch.randperm(len(sources))[:150]]
trained, known, validation, test = texts[:70], texts[70:110], texts[110:130], texts[130:]

bytes_pairs = tokenizers.ByteLevelBPETokenizer()
bytes_pairs.train_from_iterator(trained, vocab_size=600, show_progress=False)
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_pairs._tokenizer)

config = transformers.LlamaConfig(
    vocab_size=600, hidden_size=96, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128,
    bos_token_id=None, eos_token_id=None,
)  # fmt: skip
model = transformers.LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
ids = torch.cat([torch.tensor(tokenizer(text)["input_ids"]) for text in trained])
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
    batch = torch.stack([ids[at : at + 64] for at in torch.randint(len(ids) - 64, (16,))])
    optimizer.zero_grad()
    model(batch, labels=batch).loss.backward()
    optimizer.step()
model.eval()

# Rows of the memory are tokens of files that the model has not seen.
data = rt.collect(model, tokenizer, known, window=128, rows=10_000)
memory = resmem.Memory(k=32, base=data.base).fit(*data)

held = rt.collect(model, tokenizer, [text[:150] for text in validation], window=128)
settings = {"k": 32, "sigma": [0.5, 1.0, 2.0], "strength": [0.2, 0.4, 0.6], "methods": "targets"}
tuned = memory.tune(*held, temperature=1.0, groups=held.extra["document"], **settings)
print(tuned)
test = [text[:300] for text in test]
print(rt.evaluate_perplexity(model, memory, test, tokenizer, tuned=tuned, window=128))

better = rt.wrap(model, memory)  # as any model of transformers
prompt = tokenizer("import os\n", return_tensors="pt")
print(tokenizer.decode(better.generate(**prompt, max_new_tokens=20, do_sample=False)[0]))
