"""The rivals: a network trained by backprop, after the published recipes of transfer learning.

One trainer; what differs between the recipes is data (`strategies.STRATEGIES`).
"""

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import DataError, MissingPackageError, UsageError
from ...progress import progress_bar
from .strategies import Strategy, named_strategy
from .training_images import ImageSource, LabelledImages, classes_of, digest_of, encode, split

try:
    import torch
    from torch import nn

    from .checkpoint import read_checkpoint, write_checkpoint
    from .network import Network, reinitialise
except ImportError as error:
    raise MissingPackageError(
        f"fine-tuning needs torch ({error}); install it with: pip install 'aurevoir[torch]'"
    ) from None

BATCH_SIZE = 32
_PARTS = 8  # the encoder's parts of one learning rate each, where rates differ by layer


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
        data = LabelledImages.of(images)
        indices, scores = _scores(self.network, data, batch_size)
        if len(indices) < len(data.indices):
            raise DataError(
                f"{len(data.indices) - len(indices)} of {len(data.indices)} files cannot be read; remove them"
            )
        labels: np.ndarray = self.classes[scores.argmax(1).numpy()]
        return labels

    def accuracy(self, images: ImageSource, labels: Any, batch_size: int = BATCH_SIZE) -> float:
        """Return the accuracy on the readable images."""
        data = LabelledImages.of(images, encode(labels, self.classes))
        indices, scores = _scores(self.network, data, batch_size)
        return float((scores.argmax(1).numpy() == data.targets[indices]).mean())


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
        Files are decoded anew each epoch, and unreadable ones skipped and listed in their ``skipped``.
    train_labels : array-like of shape (n,)
    strategy : str or Strategy
        A name in `strategies.STRATEGIES`, or a strategy.
    valid : float or (images, labels)
        Share of the training images, each class alike, or other images, that early stopping looks at.
    epochs : int, optional
        At most; None means the strategy's own.
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
    strategy = named_strategy(strategy)
    if not isinstance(module, Network):
        raise UsageError(
            f"{type(module).__name__} is not a Network; make one with truncated_with_head or with_new_head"
        )
    limit = strategy.max_epochs if epochs is None else epochs
    for name, value in (("epochs", limit), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} {value} is below 1")
    classes = classes_of(train_labels)
    train, held_out = split(train_images, encode(train_labels, classes), classes, valid, seed)
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
            run.load(read_checkpoint(path, identity, device))
        while len(run.history) < limit and run.stale() < strategy.patience:
            run.epoch(limit)
            if path is not None:
                write_checkpoint(path, {"identity": identity, **run.state()})
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
        train: LabelledImages,
        valid: LabelledImages,
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
        with progress_bar(total=len(self.train.indices), desc=name, unit="img", show=self.verbose) as bar:
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
        steps = chosen.warmup_epochs * math.ceil(len(self.train.indices) / self.batch_size)
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
        for indices, pixels in self.train.batches(self.batch_size, random.permutation(len(self.train.indices))):
            bar.update(len(indices))
            if len(indices) == 1 < self.batch_size:
                continue  # a batch norm has no variance of one value; the next epoch's order is another
            if self.strategy.flip:
                mirrored = random.random(len(indices)) < 0.5
                pixels[mirrored] = pixels[mirrored, :, ::-1]
            self.optimizer.zero_grad()
            scores = self.network(torch.from_numpy(pixels).to(device))
            loss = nn.functional.cross_entropy(scores, torch.from_numpy(self.train.targets[indices]).to(device))
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            self.optimizer.step()
            if self.warmup is not None and self._warming():
                self.warmup.step()
            total += loss.detach() * len(indices)
            count += len(indices)
        if not count:
            raise DataError(f"none of the {len(self.train.indices)} training images can be read")
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
            "network": digest_of(*(_bytes(tensor) for tensor in self.network.state_dict().values())),
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
    for index, parameter in enumerate(encoder):
        groups[index * parts // len(encoder)]["params"].append(parameter)
    return [*groups, {"params": list(network.head.parameters()), "lr": rate}]


@torch.inference_mode()
def _scores(network: Network, data: LabelledImages, batch_size: int) -> tuple[np.ndarray, torch.Tensor]:
    """Return the indices of what could be read, and its scores, on the CPU."""
    network.eval()
    found, scores = [], []
    for indices, pixels in data.batches(batch_size):
        found.append(indices)
        scores.append(network(torch.from_numpy(pixels).to(network.mean.device)).float().cpu())
    if not found:
        raise DataError(f"none of the {len(data.indices)} images can be read")
    return np.concatenate(found), torch.cat(scores)


def _evaluate(network: Network, data: LabelledImages, batch_size: int) -> tuple[float, float]:
    indices, scores = _scores(network, data, batch_size)
    targets = torch.from_numpy(data.targets[indices])
    loss = float(nn.functional.cross_entropy(scores, targets))
    accuracy = float((scores.argmax(1) == targets).double().mean())
    return loss if math.isfinite(loss) else math.inf, accuracy


def _check_outputs(network: Network, data: LabelledImages, classes: int) -> None:
    _, pixels = next(data.batches(1), (None, None))
    if pixels is None:
        raise DataError(f"none of the {len(data.indices)} training images can be read")
    outputs = _scores(network, LabelledImages.of(pixels), 1)[1].shape
    if tuple(outputs) != (1, classes):
        raise UsageError(
            f"the network gives scores of shape {tuple(outputs)} for an image; {classes} classes need (1, {classes})"
        )


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
