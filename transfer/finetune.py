"""The rivals: a network trained by backprop, after the published recipes of transfer learning.

One trainer; what differs between the recipes is data (`STRATEGIES`).
"""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from ..errors import AurevoirError, DataError, MissingPackageError, UsageError
from ..images.batches import ImageArray, ImageFiles

try:
    import torch
    from torch import nn

    from .network import Network, reinitialise
except ImportError as error:
    raise MissingPackageError(
        f"fine-tuning needs torch ({error}); install it with: pip install 'aurevoir[torch]'"
    ) from None

ImageSource = np.ndarray | ImageArray | ImageFiles
BATCH_SIZE = 32
_PARTS = 8  # the encoder's parts of one learning rate each, where rates differ by layer


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
        Epochs at the start in which the head alone is trained; None stands for all.
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
        Of ReduceLROnPlateau; None stands for a constant rate.
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
# mirrored images, at most 25 epochs; ReduceLROnPlateau and early stopping stand for its fixed steps.
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


@dataclass(frozen=True)
class Epoch:
    """One epoch: losses, accuracy on the validation images, the head's last learning rate, seconds."""

    train_loss: float
    valid_loss: float
    accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class FineTuned:
    """A trained network.

    Attributes
    ----------
    network : Network
        With the weights of the epoch of lowest validation loss.
    classes : array of shape (c,)
        The labels, in the order of the scores.
    strategy : Strategy
    history : list of Epoch
    best_epoch : int
        Counted from 0.
    """

    network: Network
    classes: np.ndarray
    strategy: Strategy
    history: list[Epoch]
    best_epoch: int

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all epochs, those before a resumption included."""
        return sum(epoch.seconds for epoch in self.history)

    def predict(self, images: ImageSource, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the label of each image.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        data = _Labelled.of(images)
        places, scores = _scores(self.network, data, batch_size)
        if len(places) < len(data.places):
            raise DataError(f"{len(data.places) - len(places)} of {len(data.places)} files cannot be read; remove them")
        return self.classes[scores.argmax(1).numpy()]

    def accuracy(self, images: ImageSource, labels: Any, batch_size: int = BATCH_SIZE) -> float:
        """Return the share of the readable images that is labelled rightly."""
        data = _Labelled.of(images, _encode(labels, self.classes))
        places, scores = _scores(self.network, data, batch_size)
        return float((scores.argmax(1).numpy() == data.targets[places]).mean())


def finetune(
    module: Network,
    train_images: ImageSource,
    train_labels: Any,
    strategy: str | Strategy,
    *,
    valid: float | tuple[ImageSource, Any] = 0.15,
    epochs: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | str | None = None,
    channels_last: bool = True,
    verbose: bool = False,
) -> FineTuned:
    """Train a copy of a network by backprop; the weights of lowest validation loss are kept.

    Parameters
    ----------
    module : Network
        From `truncated_with_head` or `with_new_head`.
    train_images : uint8 array of shape (n, height, width, 3), ImageArray or ImageFiles
        Files are decoded anew each epoch, and unreadable ones set aside in their ``skipped``.
    train_labels : array-like of shape (n,)
    strategy : str or Strategy
        A name in `STRATEGIES`, or a strategy.
    valid : float or (images, labels)
        Share of the training images, each class alike, or other images, that early stopping looks at.
    epochs : int, optional
        At most; None stands for the strategy's own.
    batch_size : int
    seed : int
        Of the split, the order of the images, mirroring and dropout: on the CPU the same seed gives the same weights.
    device : str
    checkpoint : path, optional
        Written after each epoch. If it exists, training goes on from it, to the same weights as without
        the interruption.
    channels_last : bool
        The memory layout; as a rule the faster one.
    verbose : bool
        Whether to show progress on stderr.

    Raises
    ------
    UsageError
        If a parameter is not one of its choices, or the network has another number of outputs than
        there are classes.
    DataError
        If images and labels do not match, or there are too few to train and validate on.
    AurevoirError
        If the checkpoint is damaged, or of another run.
    """
    strategy = _strategy(strategy)
    if not isinstance(module, Network):
        raise UsageError(
            f"{type(module).__name__} is not a Network; make one with truncated_with_head or with_new_head"
        )
    limit = strategy.max_epochs if epochs is None else epochs
    for name, value in (("epochs", limit), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} {value} is below 1")
    classes = _classes(train_labels)
    train, held_out = _split(train_images, _encode(train_labels, classes), classes, valid, seed)
    network = copy.deepcopy(module)
    network.memory_format = torch.channels_last if channels_last else torch.contiguous_format
    _check_outputs(network, train, len(classes))
    run = _Run(network, strategy, train, held_out, batch_size, seed, verbose)
    path = None if checkpoint is None else Path(checkpoint)
    identity = {} if path is None else run.identity(limit, channels_last)
    if not strategy.pretrained:
        reinitialise(network, seed)
    network.to(device).to(memory_format=network.memory_format)
    with torch.random.fork_rng():
        if path is not None and path.exists():
            run.load(_read_checkpoint(path, identity, device))
        while len(run.history) < limit and run.stale() < strategy.patience:
            run.epoch(limit)
            if path is not None:
                _write_checkpoint(path, {"identity": identity, **run.state()})
    network.load_state_dict(run.best)
    network.eval().requires_grad_(True)
    return FineTuned(network, classes, strategy, run.history, run.best_epoch())


class _Run:
    """A training run between two epochs.

    All that is random is drawn from the seed and the epoch's number: these are the state of every generator.
    """

    def __init__(
        self,
        network: Network,
        strategy: Strategy,
        train: "_Labelled",
        valid: "_Labelled",
        batch_size: int,
        seed: int,
        verbose: bool,
    ) -> None:
        self.network, self.strategy = network, strategy
        self.train, self.valid = train, valid
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}

    def best_epoch(self) -> int:
        return int(np.argmin([epoch.valid_loss for epoch in self.history]))

    def stale(self) -> int:
        """Return the epochs since the lowest loss; those before the encoder is trained do not count."""
        losses = [epoch.valid_loss for epoch in self.history[self.strategy.frozen_epochs or 0 :]]
        return len(losses) - 1 - int(np.argmin(losses)) if losses else 0

    def epoch(self, limit: int) -> None:
        number = len(self.history)
        if number in (0, self.strategy.frozen_epochs):
            self._start_stage(number)
        start = time.perf_counter()
        name = f"epoch {number + 1}/{limit}"
        with tqdm(total=len(self.train.places), desc=name, unit="img", disable=not self.verbose) as bar:
            train_loss = self._train(np.random.default_rng([self.seed, number]), bar)
            valid_loss, accuracy = _evaluate(self.network, self.valid, self.batch_size)
            bar.set_postfix(train_loss=train_loss, valid_loss=valid_loss, accuracy=accuracy)
        rate = self.optimizer.param_groups[-1]["lr"]
        if self.plateau is not None and not self._warming():
            self.plateau.step(valid_loss)
        self.history.append(Epoch(train_loss, valid_loss, accuracy, rate, time.perf_counter() - start))
        if self.best_epoch() == number:
            self.best = copy.deepcopy(self.network.state_dict())

    def _start_stage(self, number: int) -> None:
        """Choose what is trained from this epoch on, with a new optimizer and new schedulers."""
        chosen, frozen_epochs = self.strategy, self.strategy.frozen_epochs
        self.frozen = frozen_epochs is None or number < frozen_epochs
        self.network.requires_grad_(not self.frozen)
        self.network.head.requires_grad_(True)
        rate = chosen.learning_rate * (chosen.unfrozen_rate if frozen_epochs and not self.frozen else 1)
        groups = _parameter_groups(self.network, rate, chosen.first_layer_rate)
        if chosen.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, weight_decay=chosen.weight_decay)
        else:
            self.optimizer = torch.optim.SGD(groups, momentum=chosen.momentum, weight_decay=chosen.weight_decay)
        steps = chosen.warmup_epochs * math.ceil(len(self.train.places) / self.batch_size)
        self.warmup = None
        if steps > 1:
            self.warmup = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / steps, total_iters=steps - 1)
        self.plateau = None
        if chosen.plateau_patience is not None:
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self.optimizer, factor=chosen.plateau_factor, patience=chosen.plateau_patience
            )

    def _warming(self) -> bool:
        return self.warmup is not None and self.warmup.last_epoch < self.warmup.total_iters

    def _train(self, random: np.random.Generator, bar: tqdm) -> float:
        torch.manual_seed(int(random.integers(2**63)))
        self._train_mode()
        device = self.network.mean.device
        total, count = torch.zeros((), device=device), 0
        for places, pixels in self.train.batches(self.batch_size, random.permutation(len(self.train.places))):
            bar.update(len(places))
            if len(places) == 1 < self.batch_size:
                continue  # a batch norm has no variance of one value; the next epoch's order is another
            if self.strategy.flip:
                mirrored = random.random(len(places)) < 0.5
                pixels[mirrored] = pixels[mirrored, :, ::-1]
            self.optimizer.zero_grad()
            scores = self.network(torch.from_numpy(pixels).to(device))
            loss = nn.functional.cross_entropy(scores, torch.from_numpy(self.train.targets[places]).to(device))
            loss.backward()
            self.optimizer.step()
            if self.warmup is not None and self._warming():
                self.warmup.step()
            total += loss.detach() * len(places)
            count += len(places)
        if not count:
            raise DataError(f"none of the {len(self.train.places)} training images can be read")
        return float(total) / count

    def _train_mode(self) -> None:
        self.network.train()
        if self.frozen or self.strategy.batch_norm == "inference":
            for layer in self.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def identity(self, limit: int, channels_last: bool) -> dict[str, Any]:
        """Return what a checkpoint has to agree with for its run to be this one."""
        return {
            "strategy": asdict(self.strategy),
            "data": f"{self.train.digest()} {self.valid.digest()}",
            "network": _digest(*(_bytes(tensor) for tensor in self.network.state_dict().values())),
            "settings": [limit, self.batch_size, self.seed, channels_last],
        }

    def state(self) -> dict[str, Any]:
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "warmup": self.warmup and self.warmup.state_dict(),
            "plateau": self.plateau and self.plateau.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self._start_stage(len(self.history) - 1)
        self.network.load_state_dict(state["network"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        for scheduler, saved in ((self.warmup, state["warmup"]), (self.plateau, state["plateau"])):
            if scheduler is not None:
                scheduler.load_state_dict(saved)


def _parameter_groups(network: Network, rate: float, first: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups from the first layers to the head, which is the last group."""
    encoder = network.encoder_parameters()
    parts = 1 if first == 1 else min(_PARTS, len(encoder))
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": rate * first ** (1 - part / parts)} for part in range(parts if encoder else 0)
    ]
    for place, parameter in enumerate(encoder):
        groups[place * parts // len(encoder)]["params"].append(parameter)
    return [*groups, {"params": list(network.head.parameters()), "lr": rate}]


@dataclass(frozen=True)
class _Labelled:
    """Some of the images, by their places, with the class numbers of all."""

    images: np.ndarray | ImageFiles
    targets: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, images: ImageSource, targets: np.ndarray | None = None) -> "_Labelled":
        pixels = images.pixels if isinstance(images, ImageArray) else images
        if not isinstance(pixels, ImageFiles):
            found = f"{getattr(pixels, 'dtype', type(pixels).__name__)} of shape {np.shape(pixels)}"
            if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[3:] != (3,):
                raise UsageError(f"images are {found}; give ImageFiles or uint8 of shape (n, height, width, 3)")
        if targets is not None and len(targets) != len(pixels):
            raise DataError(f"{len(pixels)} images and {len(targets)} labels; give one label an image")
        if not len(pixels):
            raise DataError("there are no images (0 given); give at least one")
        return cls(pixels, np.empty(0, "int64") if targets is None else targets, np.arange(len(pixels)))

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places and pixels, which are the caller's own; what cannot be read is left out."""
        places = self.places if order is None else self.places[order]
        if isinstance(self.images, np.ndarray):
            for start in range(0, len(places), size):
                chosen = places[start : start + size]
                yield chosen, self.images[chosen]
            return
        files = replace(self.images, paths=[self.images.paths[place] for place in places], description=None)
        for where, pixels in files.batches(size):
            yield places[where], pixels

    def digest(self) -> str:
        if isinstance(self.images, np.ndarray):
            content: Any = np.ascontiguousarray(self.images).data
        else:
            named = [(str(path), Path(path).stat().st_size) for path in self.images.paths]
            content = repr((named, self.images.size, self.images.resize)).encode()
        return _digest(content, self.targets.tobytes(), self.places.tobytes())


def _strategy(strategy: str | Strategy) -> Strategy:
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r} is not known; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]


def _classes(labels: Any) -> np.ndarray:
    values = np.asarray(labels)
    if values.ndim != 1:
        raise DataError(f"labels have the shape {values.shape}; give one label an image")
    classes = np.unique(values)
    if len(classes) < 2:
        found = f"only one class, {classes[0]!s}, is" if len(classes) else "no label is"
        raise DataError(f"{found} in the training labels; a classifier needs two classes or more")
    return classes


def _encode(labels: Any, classes: np.ndarray) -> np.ndarray:
    values = np.asarray(labels)
    strange = np.setdiff1d(values, classes)
    if len(strange):
        raise DataError(f"class {strange[0]!s} is not one of the training labels: {', '.join(map(str, classes))}")
    return np.searchsorted(classes, values)


def _split(
    images: ImageSource, targets: np.ndarray, classes: np.ndarray, valid: float | tuple[ImageSource, Any], seed: int
) -> tuple[_Labelled, _Labelled]:
    data = _Labelled.of(images, targets)
    if isinstance(valid, tuple):
        return data, _Labelled.of(valid[0], _encode(valid[1], classes))
    if not 0 < valid < 1:
        raise UsageError(f"valid {valid!r} is not a share between 0 and 1; give one, or (images, labels)")
    counts = np.bincount(targets)
    if counts.min() < 2:
        raise DataError(
            f"class {classes[counts.argmin()]!s} has one image; to split off validation images it needs two, "
            "or give valid=(images, labels)"
        )
    held = max(round(valid * len(targets)), len(classes))
    if len(targets) - held < len(classes):
        raise DataError(
            f"{len(targets)} images are too few to split {held} off for {len(classes)} classes; "
            "give more, or valid=(images, labels)"
        )
    train, rest = train_test_split(data.places, test_size=held, stratify=targets, random_state=seed)
    return replace(data, places=train), replace(data, places=rest)


@torch.inference_mode()
def _scores(network: Network, data: _Labelled, batch_size: int) -> tuple[np.ndarray, torch.Tensor]:
    """Return the places of what could be read, and its scores, on the CPU."""
    network.eval()
    found, scores = [], []
    for places, pixels in data.batches(batch_size):
        found.append(places)
        scores.append(network(torch.from_numpy(pixels).to(network.mean.device)).float().cpu())
    if not found:
        raise DataError(f"none of the {len(data.places)} images can be read")
    return np.concatenate(found), torch.cat(scores)


def _evaluate(network: Network, data: _Labelled, batch_size: int) -> tuple[float, float]:
    places, scores = _scores(network, data, batch_size)
    targets = torch.from_numpy(data.targets[places])
    loss = float(nn.functional.cross_entropy(scores, targets))
    accuracy = float((scores.argmax(1) == targets).double().mean())
    return loss if math.isfinite(loss) else math.inf, accuracy


def _check_outputs(network: Network, data: _Labelled, classes: int) -> None:
    _, pixels = next(data.batches(1), (None, None))
    if pixels is None:
        raise DataError(f"none of the {len(data.places)} training images can be read")
    outputs = _scores(network, _Labelled.of(pixels), 1)[1].shape
    if tuple(outputs) != (1, classes):
        raise UsageError(
            f"the network gives scores of shape {tuple(outputs)} for an image; {classes} classes need (1, {classes})"
        )


def _read_checkpoint(path: Path, identity: dict[str, Any], device: str) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["identity"]
        other = [name for name, value in identity.items() if found[name] != value]
    except Exception as error:  # unpickling, zip and file errors share no base class
        reason = str(error).partition("\n")[0]
        raise AurevoirError(f"{path} is not a checkpoint of this trainer ({reason}); remove it to train anew") from None
    if other:
        raise AurevoirError(
            f"{path} is the checkpoint of a run with another {' and '.join(other)}; remove it or name another file"
        )
    return state


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(state, partial)
    partial.replace(path)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
