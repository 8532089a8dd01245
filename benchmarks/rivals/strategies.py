"""Published recipes of transfer learning by backprop, as data."""

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import UsageError


@dataclass(frozen=True)
class Strategy:
    """How a network is trained.

    Attributes
    ----------
    optimizer : {"sgd", "adam"}
    learning_rate : float
        Of the head.
    momentum, weight_decay : float
        Adam has no momentum of its own to set.
    batch_norm : {"train", "inference"}
        Whether batch norms use the batch's statistics, and update their own, while the encoder is
        trained. A frozen encoder's never do.
    frozen_epochs : int, optional
        Epochs at the start in which the head alone is trained; None means all.
    unfrozen_rate : float
        Factor on the learning rate once the encoder is no longer frozen.
    first_layer_rate : float
        Learning rate of the encoder's first layers as a share of the head's; between the two it grows
        geometrically with depth.
    warmup_epochs : int
        Epochs over which the learning rate grows linearly, step by step.
    pretrained : bool
        Whether to start from the weights given, or to draw them anew.
    flip : bool
        Whether half of the training images, drawn anew each epoch, are mirrored.
    max_epochs : int
    patience : int
        Epochs without a lower validation loss after which training ends.
    plateau_patience : int, optional
        Of ReduceLROnPlateau; None means a constant rate.
    plateau_factor : float
        What ReduceLROnPlateau multiplies the rate by.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_norm: Literal["train", "inference"] = "train"
    frozen_epochs: int | None = 0
    unfrozen_rate: float = 1.0
    first_layer_rate: float = 1.0
    warmup_epochs: int = 0
    pretrained: bool = True
    flip: bool = True
    max_epochs: int = 25
    patience: int = 5
    plateau_patience: int | None = 2
    plateau_factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("optimizer", "batch_norm"):
            value, choices = getattr(self, name), get_args(type(self).__annotations__[name])
            if value not in choices:
                raise UsageError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}")
        for name in ("learning_rate", "first_layer_rate", "unfrozen_rate", "max_epochs", "patience"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} {getattr(self, name)!r} is not above 0")


# The common recipe is that of PyTorch's "Transfer Learning for Computer Vision Tutorial": SGD at 1e-3, momentum 0.9,
# mirrored images, at most 25 epochs; ReduceLROnPlateau and early stopping replace its fixed steps.
STRATEGIES = {
    # The same tutorial's "ConvNet as fixed feature extractor".
    "frozen": Strategy(frozen_epochs=None),
    # The same tutorial's "Finetuning the ConvNet".
    "naive": Strategy(),
    # Keras's guide "Transfer learning & fine-tuning": `base_model(inputs, training=False)`.
    "naive-bn-inference": Strategy(batch_norm="inference"),
    # The same guide: the head until it has settled, then everything at a low rate; a tenth, as in the notes of CS231n.
    "freeze-then-tune": Strategy(batch_norm="inference", frozen_epochs=5, unfrozen_rate=0.1),
    # Howard & Ruder 2018, "Universal Language Model Fine-tuning"; the span of 100 is that of fastai's `fine_tune`.
    "layer-wise": Strategy(first_layer_rate=0.01),
    # Goyal et al. 2017, "Accurate, Large Minibatch SGD": five epochs of linear warm-up.
    "warm-up": Strategy(warmup_epochs=5),
    # The common recipe, with the weight decay of He et al. 2016 and the patience that random weights need.
    "scratch": Strategy(pretrained=False, weight_decay=1e-4, max_epochs=100, patience=20, plateau_patience=8),
    # LightOn's "Au revoir backprop" (transfer-learning-opu, scripts/backprop_training.py): all layers of the truncated
    # network and a linear layer on its flattened features, Adam, at most 5 epochs.
    "lighton": Strategy(
        optimizer="adam", learning_rate=1e-4, flip=False, max_epochs=5, patience=1, plateau_patience=None
    ),
}
"""The named strategies; ``lighton`` is meant for `truncated_with_head(..., head="flatten")`.

No one learning rate is right for every network: `dataclasses.replace` gives a strategy another.
"""


def named_strategy(strategy: str | Strategy) -> Strategy:
    """Return a strategy by its name, or the one given.

    Raises
    ------
    UsageError
        If the name is not in `STRATEGIES`.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r} is not known; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]
