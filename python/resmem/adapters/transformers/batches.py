"""Batches of what a model reads, made of texts, data sets or another's batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from resmem.adapters.torch.weights import digest_of
from resmem.adapters.transformers.kinds import IGNORED, Kind

_USUAL_WINDOW = 1024  # tokens read together, where the model could take more


@dataclass(frozen=True)
class Batch:
    """What the model is called with, the labels of its rows, and the document of each example."""

    inputs: dict[str, Any]
    labels: torch.Tensor | None  # (batch, tokens) or (batch,), as the model's kind has them
    documents: torch.Tensor  # (batch,)


@dataclass(frozen=True)
class Reading:
    """How examples are read: names of columns, and sizes in tokens and examples."""

    window: int
    stride: int
    batch_size: int
    text: str = "text"
    label: str = "label"
    seed: int = 0  # of the tokens that a masked model must guess
    shift: int = 0  # how many tokens before its label a row lies

    def __post_init__(self) -> None:
        most = self.window - self.shift
        if not 1 <= self.stride <= most:
            raise ValueError(
                f"stride must lie between 1 and {most}, so that windows of {self.window} tokens "
                f"leave out no label, got {self.stride}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def usual_window(model: Any, processor: Any) -> int:
    """Return the default number of tokens that are read together."""
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    most = getattr(text, "max_position_embeddings", None) or _USUAL_WINDOW
    return min(_USUAL_WINDOW, most, getattr(processor, "model_max_length", most))


def batches(
    model: Any, kind: Kind, processor: Any, dataset: Any, reading: Reading
) -> Iterator[Batch]:
    """Yield the batches of a data set, always the same ones in the same order."""
    if isinstance(dataset, (str, bytes, Mapping)) or not isinstance(dataset, Iterable):
        raise TypeError(
            "dataset must be a list of texts, a data set of rows, or an iterable of batches, got "
            f"{type(dataset).__name__}"
        )
    if isinstance(dataset, torch.utils.data.DataLoader):
        yield from _given(kind, dataset)
        return
    if processor is None and kind.name not in ("causal", "image"):
        raise ValueError("rows need their tokenizer, which pads them: give it as processor")
    groups = _grouped(_examples(model, kind, processor, dataset, reading), reading.batch_size)
    collate = _collator(model, kind, processor, reading)
    for group in groups:
        documents = torch.tensor([example.pop("document") for example in group])
        yield _batch(kind, collate(group), documents)


def example_count(dataset: Any) -> int | None:
    """Return the number of examples or batches, if that is known beforehand."""
    return len(dataset) if hasattr(dataset, "__len__") else None


def fingerprint(dataset: Any) -> str | None:
    """Return what tells one data set from another; None if only reading it would."""
    known = getattr(dataset, "_fingerprint", None)
    if isinstance(known, str):  # a datasets.Dataset
        return known
    if not isinstance(dataset, Sequence):
        return None
    sums = hashlib.sha256()
    for row in dataset:
        if isinstance(row, str):
            sums.update(len(row).to_bytes(8, "little") + row.encode("utf-8", "surrogatepass"))
        else:
            parts = row.items() if isinstance(row, Mapping) else [("row", row)]
            digest_of({name: _plain(part) for name, part in parts}, sums, "data")
    return sums.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return lists of numbers as a tensor, which is hashed at once and not number by number."""
    if not isinstance(value, (list, tuple)):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return value
    return torch.from_numpy(array) if array.dtype.kind in "bif" else value


# ---------------------------------------------------------------------- examples


def _examples(
    model: Any, kind: Kind, processor: Any, dataset: Any, reading: Reading
) -> Iterator[dict[str, Any]]:
    """Yield what one call of the processor gives for each example, or each window of a text."""
    for number, row in enumerate(dataset):
        columns = {reading.text: row} if isinstance(row, str) else dict(row)
        if not kind.of_tokens and isinstance(columns.get(reading.label), str):
            columns[reading.label] = _number_of(model, columns[reading.label])
        for example in _of_row(kind, processor, columns, reading):
            yield {**example, "document": number}


def _of_row(
    kind: Kind, processor: Any, row: dict[str, Any], reading: Reading
) -> Iterator[dict[str, Any]]:
    label = row.get("labels", row.get(reading.label))
    labelled = {} if label is None else {"labels": label}
    if kind.name == "image":
        pixels = row.get("pixel_values")
        if pixels is None:
            _needs(row, "image", "pixel_values")
            pixels = processor(images=row["image"], return_tensors="pt")["pixel_values"][0]
        yield {"pixel_values": torch.as_tensor(pixels), **labelled}
        return
    known = "input_ids" in row
    if not known:
        _needs(row, reading.text, "input_ids")
    if kind.name == "causal":
        if not known and processor is None:
            raise ValueError("texts need their tokenizer: give it as processor")
        read = row if known else processor(row[reading.text], verbose=False)
        yield from _windows(*_tokens_of(read), reading)
    elif known:
        kept = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")
        yield {**{name: row[name] for name in kept if name in row}, **labelled}
    elif kind.name == "masked":
        made = processor(
            row[reading.text], truncation=True, max_length=reading.window,
            stride=reading.window - reading.stride, return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        names = ("input_ids", "attention_mask", "special_tokens_mask")
        for number, parts in enumerate(zip(*(made[name] for name in names), strict=True)):
            window = dict(zip(names, parts, strict=True))
            if number:
                window["special_tokens_mask"] = _fresh_only(window["special_tokens_mask"], reading)
            if len(window["input_ids"]):
                yield window
    else:
        target = {"text_target": label} if kind.name == "seq2seq" else {}
        made = processor(row[reading.text], truncation=True, max_length=reading.window, **target)
        yield {**({} if target else labelled), **made}


def _tokens_of(read: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the tokens of a text and their labels, without padding on either side."""
    ids = list(read["input_ids"])
    given = read.get("labels")
    labels = ids if given is None else list(given)
    mask = read.get("attention_mask")
    kept = [1] * len(ids) if mask is None else list(mask)
    if not len(ids) == len(labels) == len(kept):
        raise ValueError(
            f"a text of {len(ids)} input_ids needs as many labels and as long an attention_mask, "
            f"got {len(labels)} and {len(kept)}"
        )
    there = [at for at, each in enumerate(kept) if each]
    return [int(ids[at]) for at in there], [int(labels[at]) for at in there]


def _fresh_only(special: list[int], reading: Reading) -> list[int]:
    """Mark the tokens that the window before has too, so that they are not guessed again."""
    overlap = [at for at, each in enumerate(special) if not each][: reading.window - reading.stride]
    return [1 if at in overlap else each for at, each in enumerate(special)]


def _windows(ids: list[int], labels: list[int], reading: Reading) -> Iterator[dict[str, Any]]:
    """Yield windows of a document; each label is one window's alone, and follows the others."""
    if len(ids) <= reading.shift:
        return  # an empty text, or a first token, which nothing predicts
    done = 0
    for start in range(0, len(ids), reading.stride):
        end = min(start + reading.window, len(ids))
        fresh = [IGNORED] * (done - start) + labels[max(done, start) : end]
        yield {"input_ids": ids[start:end], "labels": fresh}
        done = end
        if end == len(ids):
            return


def _number_of(model: Any, label: str) -> int:
    """Return the number of a class's name."""
    numbers = model.config.label2id
    if label not in numbers:
        raise ValueError(
            f"the model has no label {label!r}; those of model.config.label2id are "
            f"{', '.join(map(repr, numbers))}"
        )
    return int(numbers[label])


def _needs(row: dict[str, Any], *names: str) -> None:
    if not any(name in row for name in names):
        raise ValueError(
            f"an example needs a column {' or '.join(map(repr, names))}, got "
            f"{', '.join(map(repr, row))}; name the column of texts by text=.."
        )


def _grouped(examples: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for example in examples:
        group.append(example)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


# ---------------------------------------------------------------------- batches


def _collator(model: Any, kind: Kind, processor: Any, reading: Reading) -> Any:
    """Return what makes a batch of examples: transformers' own collators."""
    if kind.name == "image":
        return transformers.default_data_collator
    if kind.name == "causal":
        return _PadRight(getattr(model.config, "pad_token_id", None) or 0)
    if kind.name == "seq2seq":
        return transformers.DataCollatorForSeq2Seq(processor, model=model)
    if kind.name == "sequence":
        return transformers.DataCollatorWithPadding(processor)
    # A masked model guesses tokens, unless labels say which ones.
    masks = transformers.DataCollatorForLanguageModeling(processor, seed=reading.seed)
    keeps = transformers.DataCollatorForTokenClassification(processor)
    return lambda group: (keeps if group[0].get("labels") is not None else masks)(group)


class _PadRight:
    """Pads tokens on the right. A causal model's tokens do not see what comes behind them."""

    def __init__(self, padding: int) -> None:
        self._padding = padding

    def __call__(self, group: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        def padded(rows: list[list[int]], value: int) -> torch.Tensor:
            tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        ids = [example["input_ids"] for example in group]
        return {
            "input_ids": padded(ids, self._padding),
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
            "labels": padded([example["labels"] for example in group], IGNORED),
        }


def _batch(kind: Kind, made: Mapping[str, Any], documents: torch.Tensor) -> Batch:
    """Return a batch with its labels; a causal model's are its tokens, where none are given."""
    inputs = dict(made)
    labels = inputs.pop("labels", None)
    if labels is None and kind.name == "causal":
        labels = inputs["input_ids"]
        if "attention_mask" in inputs:
            labels = labels.masked_fill(inputs["attention_mask"] == 0, IGNORED)
    if kind.name == "seq2seq" and labels is not None and "decoder_input_ids" not in inputs:
        inputs["labels"] = labels  # the model makes its decoder's inputs of them
    return Batch(inputs, labels, documents)


def _given(kind: Kind, loader: Iterable[Any]) -> Iterator[Batch]:
    """Yield batches that a caller's loader makes; each example is a document."""
    done = 0
    for made in loader:
        if not isinstance(made, Mapping):
            raise TypeError(
                "the loader's batches must be dicts of what the model takes, got "
                f"{type(made).__name__}; resmem.torch.collect takes others"
            )
        count = len(next(iter(made.values())))
        yield _batch(kind, made, torch.arange(done, done + count))
        done += count
