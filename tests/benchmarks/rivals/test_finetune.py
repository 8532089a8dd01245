"""Backprop's recipes: what each trains, that a killed run goes on as if it had not been, and what is refused."""

import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from aurevoir.benchmarks.rivals.finetune import finetune
from aurevoir.benchmarks.rivals.network import Network, truncated_with_head, with_new_head
from aurevoir.benchmarks.rivals.strategies import STRATEGIES, Strategy
from aurevoir.benchmarks.rivals.training_images import split
from aurevoir.errors import AurevoirError, DataError, UsageError
from aurevoir.images.batches import ImageArray, ImageFiles, collect
from aurevoir.images.sources import class_folders

QUICK = Strategy(learning_rate=0.05, max_epochs=4, patience=4)


def tiny(classes=3, seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, classes))
    return Network(nn.Sequential(OrderedDict(encoder=encoder, head=head)), "head")


def colours(n=60, seed=0):
    """Images of three classes, told apart by colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = random.integers(0, 150, size=(n, 14, 14, 3), dtype="uint8")
    for place, label in enumerate(labels):
        images[place, ..., label] += 60
    return images, np.array(["red", "green", "blue"])[labels]


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, after, *, ending=""):
    return {name for name in before if name.endswith(ending) and not torch.equal(before[name], after[name])}


def same(one, other):
    assert [replace(epoch, seconds=0) for epoch in one.history] == [
        replace(epoch, seconds=0) for epoch in other.history
    ]
    assert not changed(one.network.state_dict(), other.network.state_dict())


@pytest.fixture
def optimizers(monkeypatch):
    """The optimizers that are made, and the learning rates of each of their steps."""
    made = []
    for kind in (torch.optim.SGD, torch.optim.Adam):

        class Watched(kind):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.rates = []
                made.append(self)

            def step(self, *args, **kwargs):
                self.rates.append([group["lr"] for group in self.param_groups])
                return super().step(*args, **kwargs)

        monkeypatch.setattr(torch.optim, kind.__name__, Watched)
    return made


def test_colours_are_learnt_and_the_best_weights_are_kept():
    images, labels = colours()
    tuned = finetune(tiny(), images, labels, replace(QUICK, max_epochs=12, patience=12))
    fresh = colours(30, seed=1)
    assert tuned.accuracy(*fresh) > 0.9
    assert (tuned.predict(fresh[0]) == fresh[1]).mean() == tuned.accuracy(*fresh)
    assert tuned.classes.tolist() == ["blue", "green", "red"]
    assert tuned.best_epoch == np.argmin([epoch.valid_loss for epoch in tuned.history])
    assert tuned.history[-1].train_loss < tuned.history[0].train_loss
    assert tuned.seconds == pytest.approx(sum(epoch.seconds for epoch in tuned.history)) and tuned.seconds > 0


def test_the_returned_weights_are_those_of_the_best_epoch():
    images, labels = colours()
    valid = colours(30, seed=2)
    # A rate that grows the weights beyond all bounds: later epochs are worse than the first.
    tuned = finetune(tiny(), images, labels, replace(QUICK, learning_rate=5.0, plateau_patience=None), valid=valid)
    best = tuned.history[tuned.best_epoch]
    assert tuned.best_epoch < len(tuned.history) - 1
    with torch.inference_mode():
        scores = tuned.network(torch.from_numpy(valid[0]))
    targets = torch.from_numpy(np.searchsorted(tuned.classes, valid[1]))
    assert float(nn.functional.cross_entropy(scores, targets)) == pytest.approx(best.valid_loss, rel=1e-4)
    assert tuned.accuracy(*valid) == pytest.approx(best.accuracy)


def test_normalisation_is_inside_and_the_callers_network_is_left_alone():
    images, labels = colours()
    network = tiny()
    before = weights(network)
    finetune(network, images, labels, QUICK, epochs=1)
    assert not changed(before, network.state_dict())
    pixels = (images[:4] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    direct = network.eval().body(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype("float32")))
    torch.testing.assert_close(network(torch.from_numpy(images[:4])), direct)


def test_a_frozen_encoder_is_unchanged_and_its_head_is_not():
    images, labels = colours()
    network = tiny()
    before = weights(network)
    tuned = finetune(network, images, labels, "frozen", epochs=3)
    moved = changed(before, tuned.network.state_dict())
    assert moved == {"body.head.3.weight", "body.head.3.bias"}


@pytest.mark.parametrize(("mode", "moves"), [("train", True), ("inference", False)])
def test_batch_norms_update_their_statistics_in_training_mode_only(mode, moves):
    images, labels = colours()
    network = tiny()
    before = weights(network)
    after = finetune(network, images, labels, replace(QUICK, batch_norm=mode), epochs=2).network.state_dict()
    for statistic in ("running_mean", "running_var"):
        assert bool(changed(before, after, ending=statistic)) == moves
    assert changed(before, after, ending="encoder.1.weight") and changed(before, after, ending="encoder.0.weight")


def test_freeze_then_tune_trains_the_head_first_and_then_everything_slower(optimizers):
    images, labels = colours()
    network, valid = tiny(), colours(9, seed=3)
    strategy = replace(STRATEGIES["freeze-then-tune"], frozen_epochs=2, plateau_patience=None)
    before = weights(network)
    first = finetune(network, images, labels, strategy, valid=valid, epochs=2)
    assert all("head" in name for name in changed(before, first.network.state_dict()))
    del optimizers[:]
    both = finetune(network, images, labels, replace(strategy, learning_rate=1e-2), valid=valid, epochs=3)
    assert [optimizer.rates[0][-1] for optimizer in optimizers] == pytest.approx([1e-2, 1e-3])
    assert [len(optimizer.rates) for optimizer in optimizers] == [4, 2]
    assert [epoch.train_loss for epoch in both.history][2] < both.history[0].train_loss
    encoder = optimizers[1].param_groups[0]["params"][0]
    assert not torch.equal(encoder, network.body.encoder[0].weight)


def test_early_stopping_counts_anew_once_the_encoder_is_trained():
    # At this rate no weight moves and the validation loss stays as it is.
    still = Strategy(learning_rate=1e-30, batch_norm="inference", frozen_epochs=4, patience=2)
    tuned = finetune(tiny(), *colours(30), still)
    assert len(tuned.history) == 4 + 3 and tuned.best_epoch == 0
    assert len(finetune(tiny(), *colours(30), replace(still, frozen_epochs=None)).history) == 3


def test_layer_wise_rates_grow_from_the_first_layers_to_the_head(optimizers):
    images, labels = colours()
    finetune(tiny(), images, labels, replace(STRATEGIES["layer-wise"], learning_rate=0.1), epochs=1)
    (optimizer,) = optimizers
    rates = optimizer.rates[0]
    assert rates[0] == pytest.approx(0.001) and rates[-1] == 0.1
    assert np.diff(np.log(rates)) == pytest.approx(np.full(len(rates) - 1, np.log(100) / (len(rates) - 1)))
    first, last = optimizer.param_groups[0]["params"], optimizer.param_groups[-1]["params"]
    assert first[0].shape == (6, 3, 3, 3) and last[0].shape == (3, 8)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 10


def test_warm_up_grows_linearly_to_the_rate_and_stays(optimizers):
    images, labels = colours(64)
    strategy = replace(STRATEGIES["warm-up"], learning_rate=0.08, warmup_epochs=2, plateau_patience=None)
    finetune(tiny(), images, labels, strategy, valid=colours(9), batch_size=16, epochs=3)
    head = [rates[-1] for rates in optimizers[0].rates]
    assert head == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.08, 0.08, 0.08, 0.08])


def test_a_plateau_of_the_validation_loss_reduces_every_rate(optimizers):
    # The loss moves by less than ReduceLROnPlateau counts.
    slow = Strategy(learning_rate=1e-6, batch_norm="inference", plateau_patience=1, plateau_factor=0.5, patience=9)
    tuned = finetune(tiny(), *colours(30), replace(slow, first_layer_rate=0.1), epochs=6)
    expected = np.array([1, 1, 1, 0.5, 0.5, 0.25])
    assert [epoch.learning_rate for epoch in tuned.history] == pytest.approx(1e-6 * expected)
    assert [rates[0] for rates in optimizers[0].rates] == pytest.approx(1e-7 * expected)


def test_from_scratch_forgets_the_weights_given():
    images, labels = colours()
    scratch = replace(STRATEGIES["scratch"], max_epochs=1)
    one, other = (finetune(tiny(seed=seed), images, labels, scratch).network.state_dict() for seed in (0, 1))
    assert not changed(one, other)
    kept = [finetune(tiny(seed=seed), images, labels, QUICK, epochs=1).network.state_dict() for seed in (0, 1)]
    assert changed(*kept)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.head = nn.Linear(14 * 14 * 3, 3)

        def forward(self, x):
            return self.head(self.scale * x.flatten(1))

    with pytest.raises(UsageError, match=r"body \(Scaled\) has no reset_parameters"):
        finetune(Network(Scaled(), "head"), images, labels, scratch)


def test_scratch_draws_convolutions_for_what_they_feed():
    convolution = nn.Conv2d(3, 64, 3)
    network = Network(nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)), "3")
    still = replace(STRATEGIES["scratch"], learning_rate=1e-30, max_epochs=1)
    drawn = finetune(network, *colours(), still).network.body[0].weight
    assert float(drawn.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_reaches_its_optimizer(optimizers, name):
    chosen = STRATEGIES[name]
    finetune(tiny(), *colours(), name, epochs=1)
    for group in optimizers[0].param_groups:
        assert group["weight_decay"] == chosen.weight_decay
        assert group.get("momentum", 0.9) == chosen.momentum


def test_lightons_baseline_is_adam_on_all_layers_for_at_most_five_epochs(optimizers):
    images, labels = colours()
    network = truncated_with_head(tiny().body.encoder, 3, "3", head="flatten", size=14)
    assert network.head[-1].in_features == 8 * 2 * 2
    tuned = finetune(network, images, labels, "lighton")
    assert len(tuned.history) <= 5
    (optimizer,) = optimizers
    assert isinstance(optimizer, torch.optim.Adam) and {rate for step in optimizer.rates for rate in step} == {1e-4}
    assert changed(network.state_dict(), tuned.network.state_dict(), ending="weight") == {
        name for name in network.state_dict() if name.endswith("weight")
    }


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 0.3, 0.7), (False, 1, 1)])
def test_half_of_the_images_are_mirrored_if_asked_for(flip, least, most):
    images, labels = colours()
    images[:, :, :7] //= 3
    batches = []
    network = tiny()
    network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].numpy().copy()))
    given = images.copy()
    finetune(network, images, labels, replace(QUICK, flip=flip), epochs=1, valid=(images[:3], labels[:3]))
    trained = np.concatenate([batch for batch in batches if len(batch) > 3])
    upright = trained[:, :, :7].mean(axis=(1, 2, 3)) < trained[:, :, 7:].mean(axis=(1, 2, 3))
    assert len(trained) == 60 and least <= upright.mean() <= most
    np.testing.assert_array_equal(images, given)


def test_the_seed_decides_everything_and_the_global_generator_is_left_alone():
    one = finetune(tiny(), *colours(), QUICK)
    torch.manual_seed(8)
    network, state = tiny(), torch.get_rng_state()
    same(finetune(network, *colours(), QUICK), one)
    assert torch.equal(torch.get_rng_state(), state)
    assert changed(one.network.state_dict(), finetune(tiny(), *colours(), QUICK, seed=1).network.state_dict())


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_layout_is_as_asked_for(channels_last):
    layouts = []
    network = tiny()
    network.body.register_forward_pre_hook(lambda _, inputs: layouts.append(inputs[0].stride()))
    tuned = finetune(network, *colours(), QUICK, epochs=1, channels_last=channels_last)
    assert {stride[1] for stride in layouts} == {1 if channels_last else 14 * 14}
    assert tuned.network.body.encoder[3].weight.is_contiguous() != channels_last


def test_files_train_as_arrays_do(class_folder, tmp_path):
    labelled = class_folders(class_folder)
    files = ImageFiles(labelled.paths, (14, 14))
    pixels = collect(files)[1]
    by_file = finetune(tiny(), files, labelled.labels, QUICK, checkpoint=tmp_path / "run.pt")
    same(by_file, finetune(tiny(), ImageArray(pixels), labelled.labels, QUICK))
    np.testing.assert_array_equal(by_file.predict(files), by_file.predict(pixels))
    with pytest.raises(AurevoirError, match="another data"):
        finetune(tiny(), replace(files, size=(15, 15)), labelled.labels, QUICK, checkpoint=tmp_path / "run.pt")


def test_unreadable_files_are_set_aside(class_folder):
    labelled = class_folders(class_folder)
    order = np.random.default_rng(0).permutation(30)
    paths, labels = [labelled.paths[place] for place in order], np.array(labelled.labels)[order]
    bad = paths[2:20:6]
    for path in bad:
        path.write_bytes(b"no image")
    files = ImageFiles(paths, (14, 14))
    tuned = finetune(tiny(), files, labels, replace(QUICK, max_epochs=15, patience=15))
    assert sorted(files.skipped) == sorted(str(path) for path in bad)
    assert tuned.accuracy(files, labels) > 0.9
    with pytest.raises(DataError, match="3 of 30 files"):
        tuned.predict(files)


def test_a_last_batch_of_one_image_is_left_out():
    # The second batch norm of 7 x 7 images has one value of each image.
    images, labels = colours(33)
    tuned = finetune(tiny(), images[:, ::2, ::2], labels, QUICK, valid=(images[:9, ::2, ::2], labels[:9]), epochs=2)
    assert len(tuned.history) == 2


def test_validation_images_are_of_each_class_alike():
    labels = np.repeat([0, 1, 2], [80, 12, 8])
    images = np.zeros((100, 4, 4, 3), "uint8")
    train, valid = split(images, labels, np.arange(3), 0.25, 0)
    assert np.bincount(labels[valid.indices]).tolist() == [20, 3, 2]
    assert sorted([*train.indices, *valid.indices]) == list(range(100))


# Stages, warm-up, dropout, mirroring and a plateau: all that a checkpoint has to carry.
FULL = Strategy(
    learning_rate=0.5,
    frozen_epochs=1,
    warmup_epochs=1,
    first_layer_rate=0.1,
    plateau_patience=0,
    max_epochs=6,
    patience=6,
)


@pytest.mark.parametrize("strategy", [FULL, replace(STRATEGIES["lighton"], patience=5)], ids=["sgd", "adam"])
@pytest.mark.parametrize("steps", [4, 6, 10])
def test_a_run_that_broke_off_goes_on_to_the_same_weights(tmp_path, monkeypatch, strategy, steps):
    images, labels = colours()
    whole = finetune(tiny(), images, labels, strategy)
    loss, calls = nn.functional.cross_entropy, []

    def breaks(*args):
        calls.append(0)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return loss(*args)

    path = tmp_path / "deep" / "run.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nn.functional, "cross_entropy", breaks)
        finetune(tiny(), images, labels, strategy, checkpoint=path)
    done = len(torch.load(path, weights_only=True)["history"])
    assert 0 < done < len(whole.history)
    same(finetune(tiny(), images, labels, strategy, checkpoint=path), whole)
    # Once it is done, the checkpoint is the result.
    again = finetune(tiny(), images, labels, strategy, checkpoint=path)
    same(again, whole)
    assert again.seconds == sum(epoch["seconds"] for epoch in torch.load(path, weights_only=True)["history"])


KILLED = """
import os, signal, sys, torch
from torch.optim.optimizer import register_optimizer_step_post_hook
sys.path.insert(0, {here!r})
import test_finetune as here
steps = []
def die(optimizer, *args):
    steps.append(0)
    if len(steps) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(die)
torch.set_num_threads({threads})
here.finetune(here.tiny(), *here.colours(), here.FULL, checkpoint={path!r})
"""


def test_a_killed_process_is_taken_up_by_another(tmp_path):
    path = tmp_path / "run.pt"
    script = KILLED.format(here=str(Path(__file__).parent), path=str(path), threads=torch.get_num_threads())
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert len(torch.load(path, weights_only=True)["history"]) == 3
    same(finetune(tiny(), *colours(), FULL, checkpoint=path), finetune(tiny(), *colours(), FULL))


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    images, labels = colours()
    path = tmp_path / "run.pt"
    finetune(tiny(), images, labels, QUICK, epochs=1, checkpoint=path)
    other = {
        "strategy": (tiny(), images, labels, "frozen", {}),
        "network": (tiny(seed=1), images, labels, QUICK, {}),
        "data": (tiny(), 255 - images, labels, QUICK, {}),
        "settings": (tiny(), images, labels, QUICK, {"batch_size": 16}),
    }
    for what, (network, pixels, names, strategy, more) in other.items():
        with pytest.raises(AurevoirError, match=f"another {what}; remove it"):
            finetune(network, pixels, names, strategy, epochs=1, checkpoint=path, **more)
    with pytest.raises(AurevoirError, match="another data"):
        finetune(tiny(), images, labels[::-1], QUICK, epochs=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AurevoirError, match="not a checkpoint"):
        finetune(tiny(), images, labels, QUICK, epochs=1, checkpoint=path)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "run.pt"
    torch.save({"identity": Harmful(tmp_path / "harm")}, path)
    with pytest.raises(AurevoirError, match="not a checkpoint"):
        finetune(tiny(), *colours(), QUICK, checkpoint=path)
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fsync, calls = os.fsync, []

    def fails(descriptor):
        calls.append(0)
        if len(calls) == 2:
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise OSError("no space left")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "fsync", fails)
        finetune(tiny(), *colours(), QUICK, checkpoint=path)
    same(finetune(tiny(), *colours(), QUICK, checkpoint=path), finetune(tiny(), *colours(), QUICK))


def test_progress_is_shown_on_stderr_when_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    finetune(tiny(), *colours(), QUICK, epochs=2)
    assert capsys.readouterr() == ("", "")
    finetune(tiny(), *colours(), QUICK, epochs=2, verbose=True)
    out, err = capsys.readouterr()
    assert not out and "epoch 2/2" in err and "valid_loss" in err


# Every family of torchvision's classifiers; the last layer of SqueezeNet is a convolution.
FAMILIES = {
    "alexnet": ("classifier.6", 64),
    "vgg11_bn": ("classifier.6", 32),
    "resnet18": ("fc", 32),
    "densenet121": ("classifier", 32),
    "inception_v3": ("fc", 75),
    "googlenet": ("fc", 32),
    "squeezenet1_1": ("classifier.1", 32),
    "mobilenet_v2": ("classifier.1", 32),
    "mobilenet_v3_small": ("classifier.3", 32),
    "efficientnet_b0": ("classifier.1", 32),
    "convnext_tiny": ("classifier.2", 32),
    "shufflenet_v2_x0_5": ("fc", 32),
    "vit_b_32": ("heads.head", 224),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_of_every_family_is_replaced(name):
    path, size = FAMILIES[name]
    # Without storage: the networks are large, and only shapes are asked for.
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
        images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    old = model.get_submodule(path)
    network = with_new_head(model, 5).to("meta")
    assert network.head is network.body.get_submodule(path) and type(network.head) is type(old)
    assert model.get_submodule(path) is old
    for mode in (True, False):
        assert network.train(mode)(images).shape == (2, 5)
    auxiliary = [key for key in network.state_dict() if "aux" in key.lower()]
    assert not auxiliary


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "resnet18"])
def test_whole_networks_of_the_zoo_are_trained(name):
    torch.manual_seed(0)
    network = with_new_head(torchvision.models.get_model(name, weights=None), 3)
    images = colours(12)[0].repeat(3, axis=1).repeat(3, axis=2)
    tuned = finetune(network, images, colours(12)[1], "naive", epochs=1, batch_size=4)
    before, after = network.state_dict(), tuned.network.state_dict()
    assert changed(before, after, ending="weight") == {key for key in before if key.endswith("weight")}


def test_a_cut_network_has_the_engines_features_behind_its_head(data):
    file = data("backbones/squeezenet1_1.pth")
    network = truncated_with_head("squeezenet1_1", 4, "features.7", weights=file, size=64)
    whole = torchvision.models.squeezenet1_1(weights=None)
    whole.load_state_dict(torch.load(file, weights_only=True))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network.body.encoder(pixels), whole.features[:8](pixels))
    assert [type(layer) for layer in network.head] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    assert network.head[-1].in_features == 256


@pytest.fixture(scope="module")
def ants_and_bees(data):
    sets = []
    for part in ("train", "val"):
        labelled = class_folders(data(f"hymenoptera/{part}"))
        pixels = collect(ImageFiles(labelled.paths, (96, 96)))[1]
        sets.append((pixels, np.array(labelled.labels)))
    return sets


@pytest.mark.parametrize(("name", "epochs", "head"), [("frozen", 2, "pool"), ("lighton", 3, "flatten")])
def test_real_weights_learn_real_photographs(data, ants_and_bees, name, epochs, head):
    (images, labels), test = ants_and_bees
    file = data("backbones/squeezenet1_1.pth")
    network = truncated_with_head("squeezenet1_1", 2, weights=file, size=96, head=head)
    tuned = finetune(network, images, labels, name, epochs=epochs)
    # Chance is 0.54, with a standard error of 0.04.
    assert tuned.accuracy(*test) > 0.66


@pytest.mark.gpu
def test_a_gpu_trains_too(tmp_path):
    images, labels = colours()
    strategy = replace(QUICK, max_epochs=12, patience=12)
    tuned = finetune(tiny(), images, labels, strategy, device="cuda", checkpoint=tmp_path / "run.pt")
    assert tuned.accuracy(*colours(30, seed=1)) > 0.9
    assert next(tuned.network.parameters()).is_cuda
    same(finetune(tiny(), images, labels, strategy, device="cuda", checkpoint=tmp_path / "run.pt"), tuned)


def refused(network=None, images=None, labels=None, strategy=QUICK, **settings):
    pixels, names = colours()
    network = tiny() if network is None else network
    return finetune(
        network, pixels if images is None else images, names if labels is None else labels, strategy, **settings
    )


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (UsageError, "strategy 'magic' is not known; choose one of frozen, naive", {"strategy": "magic"}),
        (UsageError, "Linear is not a Network", {"network": nn.Linear(2, 3)}),
        (DataError, "60 images and 59 labels", {"labels": colours()[1][:-1]}),
        (DataError, "only one class, red", {"labels": np.full(60, "red")}),
        (DataError, "no label is", {"images": colours()[0][:0], "labels": []}),
        (DataError, "labels have the shape", {"labels": np.zeros((60, 2))}),
        (DataError, "class pink has one image", {"labels": np.array(["red", "green"] * 29 + ["pink", "red"])}),
        (DataError, "4 images are too few", {"images": colours()[0][:4], "labels": [0, 1, 0, 1], "valid": 0.7}),
        (
            DataError,
            "class mauve is not one of the training labels: blue, green, red",
            {"valid": (colours()[0][:2], ["red", "mauve"])},
        ),
        (DataError, "there are no images", {"valid": (colours()[0][:0], [])}),
        (UsageError, "valid 1.5 is not a share", {"valid": 1.5}),
        (UsageError, "epochs 0 is below 1", {"epochs": 0}),
        (UsageError, "batch_size 0 is below 1", {"batch_size": 0}),
        (UsageError, r"float64 of shape \(60, 14, 14, 3\)", {"images": colours()[0] / 255}),
        (UsageError, r"uint8 of shape \(60, 14, 14\)", {"images": colours()[0][..., 0]}),
        (UsageError, r"scores of shape \(1, 5\).*3 classes", {"network": tiny(5)}),
    ],
)
def test_what_cannot_be_trained_on_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        refused(**call)


def test_unknown_choices_are_refused(tiny_onnx, tmp_path):
    with pytest.raises(UsageError, match="optimizer 'lion' is not known; choose one of sgd, adam"):
        Strategy(optimizer="lion")
    with pytest.raises(UsageError, match="learning_rate 0 is not above 0"):
        Strategy(learning_rate=0)
    with pytest.raises(UsageError, match="head 'deep' is not known; choose one of pool, flatten"):
        truncated_with_head("resnet18", 2, head="deep")
    with pytest.raises(UsageError, match="cannot be trained"):
        truncated_with_head(tiny_onnx, 2)
    with pytest.raises(UsageError, match="cannot be pooled"):
        truncated_with_head(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), 2, "1", size=8)
    with pytest.raises(UsageError, match="ReLU has no linear layer or convolution"):
        with_new_head(nn.ReLU(), 2)
    paths = [tmp_path / f"{place}.png" for place in range(4)]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the . training images can be read"):
        refused(images=ImageFiles(paths, (14, 14)), labels=[0, 1, 0, 1])
