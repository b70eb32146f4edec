"""The kinds of models that are told apart, and which token or example each of their rows is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers

IGNORED = -100  # the label of tokens that are no rows, as in transformers


@dataclass(frozen=True)
class Kind:
    """What a model predicts.

    ``of_tokens``: a row is a token, otherwise an example. ``shift``: how many tokens a label lies
    behind the row that predicts it.
    """

    name: str
    mapping: str  # in transformers: the model classes of this kind, by configuration
    of_tokens: bool
    shift: int = 0

    def targets(self, labels: Any) -> Any:
        """Return the target of each row of a batch: labels (batch, tokens), each moved ``shift``
        to the left, or (batch,)."""
        if not self.shift:
            return labels
        moved = labels.new_full(labels.shape, IGNORED)
        moved[:, : -self.shift] = labels[:, self.shift :]
        return moved


KINDS = (
    Kind("causal", "MODEL_FOR_CAUSAL_LM_MAPPING", of_tokens=True, shift=1),
    Kind("masked", "MODEL_FOR_MASKED_LM_MAPPING", of_tokens=True),
    Kind("seq2seq", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", of_tokens=True),
    Kind("sequence", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", of_tokens=False),
    Kind("image", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", of_tokens=False),
)


def kind_of(model: Any) -> Kind:
    """Return the kind of a model; TypeError if it is none of these.

    Sequence classifiers of several labels at once are refused with a ValueError.
    """
    config = getattr(model, "config", None)
    for kind in KINDS:
        classes = getattr(transformers, kind.mapping).get(type(config), ())
        if isinstance(model, classes):
            if getattr(config, "problem_type", None) == "multi_label_classification":
                raise ValueError(
                    "the model predicts several labels at once, which a memory cannot correct; "
                    "make a memory of one label with resmem.torch"
                )
            return kind
    raise TypeError(
        f"{type(model).__name__} is no causal, masked or seq2seq language model of transformers, "
        "and no sequence or image classifier; resmem.torch takes any torch.nn.Module"
    )


def is_regression(model: Any) -> bool:
    """Tell whether a classifier of transformers predicts a value, as its own losses decide."""
    config = model.config
    problem = getattr(config, "problem_type", None)
    return problem == "regression" or (problem is None and config.num_labels == 1)
