"""``evaluate_perplexity``: a language model and its corrections on the same tokens."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import resmem
from resmem.adapters.collection import Collected
from resmem.adapters.progress import bar
from resmem.adapters.transformers.chains import Chains, Searches
from resmem.adapters.transformers.collecting import collect
from resmem.adapters.transformers.correction import tap_of
from resmem.adapters.transformers.kinds import kind_of

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_BLOCK = 256  # tokens whose logits are held at a time
_DRAWS, _SEED = 4_000, 0  # of documents, for intervals
_PUBLISHED_SHARE = 0.25  # lambda of the paper on kNN-LM


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PerplexityResult:
    """How a method predicted the tokens.

    Attributes
    ----------
    perplexity : Interval
        The exponential of the mean loss of a token.
    ratio : Interval
        The perplexity as a part of the base's; below 1 is better. Document by document both are
        compared, so that this interval is narrower than those of the perplexities.
    bits_per_byte : float
        Of causal models, the sum of losses in bits over the bytes of the texts (UTF-8); NaN where
        these are not known, or not read to their end.
    tokens_per_second : float
        Of the method as a whole: the model's call (unless the texts were collected before), its
        last layer, the search and the sum.
    settings : resmem.Settings
    searches : Searches or None
        With ``chains``.
    """

    perplexity: Interval
    ratio: Interval
    bits_per_byte: float
    tokens_per_second: float
    settings: resmem.Settings
    searches: Searches | None = None


@dataclass(frozen=True, eq=False)
class Perplexities:
    """What ``evaluate_perplexity`` returns. Printed, it is a table.

    Attributes
    ----------
    methods : dict of PerplexityResult
        "base" (and at the temperature of the memory, or of the tuning), "kNN-LM", "ResMem" (as
        published), "memory" (as it is) and those asked for.
    losses : dict of float64 arrays (n,)
        The negative log-likelihood of each token by each method, in nats.
    documents : int array (n,)
        The document of each token, by which intervals are drawn.
    bytes_per_token : float
        Of the memory: what it holds, over its rows.
    """

    methods: dict[str, PerplexityResult]
    losses: dict[str, F64]
    documents: I64
    bytes_per_token: float

    def __repr__(self) -> str:
        head = ["method", "perplexity (95 %)", "over base (95 %)", "bits/byte", "tokens/s"]
        rows = [head, *([name, *_cells(each)] for name, each in self.methods.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        about = (
            f"{len(self.documents):,} tokens of {len(set(self.documents.tolist()))} documents; the "
            f"memory has {self.bytes_per_token:,.0f} bytes a token"
        )
        for name, each in self.methods.items():
            if each.searches is not None:
                about += f"\n{name}: {each.searches.saved:.1%} of searches skipped"
        return "\n".join([*(line.rstrip() for line in lines), about])


def evaluate_perplexity(
    model: Any,
    memory: resmem.Memory,
    texts: Any,
    processor: Any = None,
    *,
    tuned: resmem.TuneResult | None = None,
    methods: dict[str, resmem.Settings] | None = None,
    chains: int | Sequence[int] = (),
    threads: int | None = None,
    progress: bool = True,
    **reading: Any,
) -> Perplexities:
    """Compare a language model with its corrections by a memory, on the same tokens.

    Texts are read in strided windows, as ``collect`` does, so that each token is predicted once.
    They should be neither texts of the memory nor texts that it was tuned on.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal, masked or seq2seq language model.
    memory : resmem.Memory
    texts : as ``dataset`` of ``collect``, or what it returned
    processor : tokenizer
        As for ``collect``.
    tuned : TuneResult, optional
        Gives the settings of kNN-LM and of ResMem as published. Default: the memory's k and sigma;
        lambda is then its strength, or 0.25 where this is not between 0 and 1.
    methods : dict of Settings, optional
        More methods, by name.
    chains : int or list
        For each m one more method, "chains m": the memory as ``wrap(chains=m)`` skips searches.
    threads : int, optional
        As for ``Memory.correct``.
    progress : bool
        Draw progress bars.
    **reading
        Other arguments of ``collect``: ``layer``, ``window``, ``stride``, ``batch_size``, ``out``.

    Returns
    -------
    Perplexities
        Intervals are those between the 2.5 % and 97.5 % quantiles over 4,000 draws of as many
        documents as there are, with a fixed seed (bootstrap). They are too narrow where documents
        are few, below some 20; of one document nothing is known (NaN).
    """
    if not kind_of(model).of_tokens:
        raise TypeError(f"{type(model).__name__} is no language model; memory.evaluate scores it")
    several = (chains,) if isinstance(chains, int) else tuple(chains)
    if several and kind_of(model).name == "masked":
        raise ValueError(f"chains need a model that writes, got {type(model).__name__}")
    tap = tap_of(model, memory, reading.pop("layer", None), check=True)
    began = time.perf_counter()
    given = isinstance(texts, Collected)
    data = texts
    if given:
        _check_alike(memory, texts)
    else:
        reading = {**reading, "layer": tap.place.name, "progress": progress}
        data = collect(model, processor, texts, **reading)
    if data.outputs is None:
        raise ValueError("texts that were collected with outputs=False have no base to compare")
    seconds = 0.0 if given else time.perf_counter() - began
    found = _Losses(memory, data, threads, progress)
    found.add_base("base", 1.0)
    temperatures = {memory.temperature, tuned.base.temperature if tuned else 1.0} - {1.0}
    for temperature in sorted(temperatures):
        found.add_base(f"base, T={temperature:.4g}", temperature)
    for name, settings in {**_usual(memory, tuned), **(methods or {})}.items():
        found.add(name, settings)
    for least in several:
        found.add_chains(f"chains {least}", least)
    whole = not given and reading.get("rows") is None and tap.kind.name == "causal"
    size = _bytes_of(texts, reading.get("text", "text")) if whole else math.nan
    return found.results(seconds, size)


def _check_alike(memory: resmem.Memory, texts: Collected) -> None:
    """Raise ValueError where texts were collected from another model or layer than the memory."""
    told = memory.base if isinstance(memory.base, dict) else {}
    differ = [
        f"{name} {texts.base[name]!r}, not {told[name]!r}"
        for name in ("layer", "fingerprint")
        if name in texts.base and name in told and texts.base[name] != told[name]
    ]
    if differ:
        raise ValueError(
            f"the texts were collected with another {' and '.join(differ)}, as the memory's rows "
            "were; collect them again as these"
        )


def _usual(memory: resmem.Memory, tuned: Any) -> dict[str, resmem.Settings]:
    """Return the settings of the methods that are always compared."""
    own = memory.settings
    share = own.strength if 0 < own.strength < 1 else _PUBLISHED_SHARE
    plain = replace(own, sigma=memory.sigma_, probability_map="clip", gate="none")
    knn = tuned.interpolation if tuned else None
    published = tuned.published if tuned else None
    return {
        "kNN-LM": knn or replace(plain, strength=share, method="targets"),
        "ResMem": published or replace(plain, strength=1.0, method="residual"),
        "memory": own,
    }


@dataclass
class _Losses:
    """The losses of all tokens, method by method."""

    memory: resmem.Memory
    data: Collected
    threads: int | None
    progress: bool
    losses: dict[str, F64] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    settings: dict[str, resmem.Settings] = field(default_factory=dict)
    searches: dict[str, Searches] = field(default_factory=dict)
    reading: float = 0.0  # seconds that the last pass took to compute logits

    def add_base(self, name: str, temperature: float) -> None:
        """Add the model itself, at a temperature."""
        loss, began = np.empty(len(self)), time.perf_counter()
        for block, _, outputs, targets in self._blocks(name):
            logits = torch.from_numpy(np.asarray(outputs, dtype=np.float64)) / temperature
            each = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(targets), reduction="none"
            )
            loss[block] = each.numpy()
        seconds = time.perf_counter() - began - self.reading
        self._keep(name, loss, seconds, resmem.Settings(1, 1.0, temperature, 0.0))

    def add(self, name: str, settings: resmem.Settings) -> None:
        """Add the memory with some settings."""
        memory = self.memory
        if settings != memory.settings:
            memory = copy.copy(memory).use(settings)
        loss, seconds = np.empty(len(self)), 0.0
        for block, embeddings, outputs, targets in self._blocks(name):
            began = time.perf_counter()
            chances = memory.predict_proba(
                embeddings, outputs, threads=self.threads, columns=targets[:, None]
            )
            seconds += time.perf_counter() - began
            loss[block] = _loss(chances)
        self._keep(name, loss, seconds, settings)

    def add_chains(self, name: str, least: int) -> None:
        """Add the memory as it follows chains, document by document."""
        chains, loss, seconds = Chains(self.memory, least), np.empty(len(self)), 0.0
        ids = np.empty(0, np.int64)
        documents, last = self._documents, -1
        for block, embeddings, outputs, targets in self._blocks(name):
            began = time.perf_counter()
            for step, row in enumerate(range(block.start, block.stop)):
                goes_on = row > 0 and documents[row] == documents[row - 1]
                ids = chains.followed(ids, last) if goes_on else ids[:0]
                asked, last = targets[step : step + 1], int(targets[step])
                chances, ids = chains.corrected(embeddings[step], outputs[step], ids, asked)
                loss[row] = _loss(chances)
            seconds += time.perf_counter() - began
        self._keep(name, loss, seconds, self.memory.settings)
        self.searches[name] = chains.searches

    def results(self, seconds: float, size: float) -> Perplexities:
        """Return the table; ``seconds`` that the model took, and the bytes of the texts."""
        sums = {name: self._by_document(loss) for name, loss in self.losses.items()}
        counts = self._by_document(np.ones(len(self)))
        rng = np.random.default_rng(_SEED)
        drawn = rng.integers(0, len(counts), (_DRAWS, len(counts)))
        made = {
            name: PerplexityResult(
                _interval(total, counts, drawn),
                _interval(total - sums["base"], counts, drawn),
                float(total.sum() / math.log(2) / size),
                len(self) / (seconds + self.seconds[name]),
                self.settings[name],
                self.searches.get(name),
            )
            for name, total in sums.items()
        }
        size_of_row = self.memory.nbytes / len(self.memory)
        return Perplexities(made, self.losses, self._documents, size_of_row)

    def __len__(self) -> int:
        return len(self.data.embeddings)

    @property
    def _documents(self) -> I64:
        return np.asarray(self.data.extra.get("document", np.arange(len(self))))

    def _by_document(self, values: F64) -> F64:
        _, numbers = np.unique(self._documents, return_inverse=True)
        sums: F64 = np.bincount(numbers, values).astype(np.float64)
        return sums

    def _blocks(self, name: str) -> Iterator[tuple[slice, F32, Any, I64]]:
        """Yield blocks of tokens: their rows, embeddings, logits and targets."""
        data = self.data
        assert data.outputs is not None
        assert data.targets is not None
        self.reading = 0.0
        with bar(name, len(self), "token", self.progress) as step:
            for start in range(0, len(self), _BLOCK):
                block = slice(start, min(start + _BLOCK, len(self)))
                targets = np.asarray(data.targets[block], dtype=np.int64)
                began = time.perf_counter()
                outputs = data.outputs[block]
                self.reading += time.perf_counter() - began
                yield block, np.asarray(data.embeddings[block]), outputs, targets
                step(block.stop - block.start)

    def _keep(self, name: str, loss: F64, seconds: float, settings: resmem.Settings) -> None:
        self.losses[name], self.settings[name] = loss, settings
        self.seconds[name] = seconds + self.reading


def _loss(chances: Any) -> F64:
    with np.errstate(divide="ignore"):
        loss: F64 = -np.log(np.asarray(chances)[..., 0])
    return loss


def _interval(sums: F64, counts: F64, drawn: I64) -> Interval:
    """Return the exponential of the mean over all tokens, and its interval over documents."""
    means = np.sort(sums[drawn].sum(1) / counts[drawn].sum(1))
    low = high = np.nan
    if len(counts) > 1:
        low, high = np.interp((0.025, 0.975), np.linspace(0, 1, len(means)), means)
    return Interval(*(float(np.exp(value)) for value in (sums.sum() / counts.sum(), low, high)))


def _bytes_of(texts: Any, column: str) -> float:
    """Return the bytes of all texts; NaN if they are given as tokens."""
    total = 0
    for row in texts:
        text = row if isinstance(row, str) else row.get(column)
        if not isinstance(text, str):
            return math.nan
        total += len(text.encode("utf-8", "surrogatepass"))
    return float(total) if total else math.nan  # such as of an iterator that was read


def _cells(each: PerplexityResult) -> list[str]:
    whole, ratio = each.perplexity, each.ratio
    return [
        f"{whole.value:.4g} [{whole.low:.4g}, {whole.high:.4g}]",
        f"{ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]",
        "" if math.isnan(each.bits_per_byte) else f"{each.bits_per_byte:.4f}",
        f"{each.tokens_per_second:,.0f}",
    ]
