"""Engine, projection and ridge as one classifier; `estimator` makes a scikit-learn estimator of it."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..cache import user_cache
from ..calibration.placement import Placement
from ..calibration.quantize import ActivationDtype
from ..calibration.thresholds import Method, check_method
from ..cluster.connection import connected
from ..cluster.spec import Cluster, as_cluster
from ..engine.build import EngineBuilder
from ..engine.child import end_child
from ..engine.engine import Engine
from ..engine.feature_map import FeatureMap, feature_map
from ..engine.load import load_engine
from ..engine.runtimes.base import Precision, RuntimeName
from ..engine.spec import CALIBRATION_IMAGES, Auto, CalibrationSpec, EngineSpec, NetworkSpec, PlanSpec
from ..errors import BudgetError, DataError, UsageError
from ..images.batches import ImageFiles, Images, ImageStream
from ..images.decode import Resize, check_resize
from ..images.decoded import DecodedImages, Decoder
from ..images.labelled import labelled_images
from ..kernels.arrays import on_device
from ..kernels.backends.numba.ahead import Kernel, compile_ahead
from ..kernels.bits import pack_signs
from ..kernels.camera import Camera
from ..kernels.familiarity import Familiarity, Neighbours
from ..kernels.fitting import fit_readout, kernel_paths
from ..kernels.memory import block_length, blocks, memory_budget
from ..kernels.probability import fit_temperature, probabilities
from ..kernels.readout import PROJECTIONS, Readout, SpeckleReadout, path_on_host, readout_on, rows_of_call
from ..kernels.ridge import SEARCHES, RidgePath
from ..kernels.ridge.form import POOLED, RADIAL
from ..kernels.ridge.inputs import checked_alphas
from ..kernels.stopwatch import Stopwatch
from ..work import Work
from .capacity import Expected, output_types, reads_pooled, require_disk, require_ridge
from .clustered_rows import sharing
from .copies import Compared, find_copies, find_shared, reduced
from .cut_choice import AUTO_CUT, Chosen, choose_cut, choosing_search
from .cut_scores import CutChoice
from .embed import Pace, embed, embed_blocks
from .evaluate import evaluate
from .inputs import (
    as_images,
    as_inputs,
    as_labels,
    check_lengths,
    checked_features,
    checked_weights,
    column_names,
    images_and_labels,
    is_count,
    is_features,
    is_indicator,
    is_path,
    is_sets,
    resolve_seed,
)
from .kept_bits import KeptBits
from .model import StoredModel, read, write
from .multilabel import indicator, named_indicator
from .opu import OPUS, opu_projector, require_opu
from .prediction_sets import PredictionSets, checked_coverage
from .review import KERNELS, POOLED_KERNELS, Review, averaged, named, suspects
from .rows import row_bytes
from .training import Training, find
from .whole import classifier_engine

_STORED = ("projection", "n_components", "alpha_search", "calibration_images", "method", "resize")
"""Parameters of a model folder, as they are; those of the engine are in its manifest."""
_LARGEST_WEIGHT = 1e100
"""Class weights beyond would overflow in sums of squares."""


class Classifier:
    """What `estimator.OpticalClassifier` is besides a scikit-learn estimator; its parameters and attributes are there.

    Commands use it as it is, on images: importing scikit-learn, which checks features, takes longer than the ridge of
    a thousand images.
    """

    feature_names_in_: np.ndarray

    def __init__(
        self,
        backbone: Any = "densenet169",
        *,
        cut: str | None = None,
        weights: str | Path = "default",
        precision: Precision = "fp32",
        runtime: RuntimeName | Auto = "auto",
        device: str | None = None,
        activation_dtype: ActivationDtype | Auto = "auto",
        placement: Placement = "conv-inputs",
        min_sign_agreement: float | None = None,
        prefer_faster: bool = False,
        smoke: bool = True,
        engine: Engine | Path | str | None = None,
        projection: str = "auto",
        n_components: int | None = None,
        alphas: Any = None,
        alpha_search: str = "auto",
        class_weight: Any = None,
        calibration: Any = None,
        calibration_images: int = CALIBRATION_IMAGES,
        method: Method = "percentile",
        normalization: Any = "auto",
        size: int | None = None,
        resize: Resize = "stretch",
        pool_layers: bool = False,
        ridge_device: str = "cpu",
        memory_budget: int | str | None = None,
        random_state: Any = 0,
        verbose: bool = False,
        work: Path | str | None = None,
        cluster: Cluster | str | None = None,
    ) -> None:
        self.backbone = backbone
        self.cut = cut
        self.weights = weights
        self.precision = precision
        self.runtime = runtime
        self.device = device
        self.activation_dtype = activation_dtype
        self.placement = placement
        self.min_sign_agreement = min_sign_agreement
        self.prefer_faster = prefer_faster
        self.smoke = smoke
        self.engine = engine
        self.projection = projection
        self.n_components = n_components
        self.alphas = alphas
        self.alpha_search = alpha_search
        self.class_weight = class_weight
        self.calibration = calibration
        self.calibration_images = calibration_images
        self.method = method
        self.normalization = normalization
        self.size = size
        self.resize = resize
        self.pool_layers = pool_layers
        self.ridge_device = ridge_device
        self.memory_budget = memory_budget
        self.random_state = random_state
        self.verbose = verbose
        self.work = work
        self.cluster = cluster

    @property
    def _expected(self) -> Expected:
        found: Expected = self.__dict__.get("_expects", Expected())
        return found

    def expect(self, images: int, refits: bool = False, out: Path | str | None = None) -> "Classifier":
        """Say what follows `fit`, which then refuses before its work what would not fit memory or disk after it.

        Parameters
        ----------
        images : int
            That `embed_labelled` is given.
        refits : bool
            Whether `refit_on` is given them besides the training images.
        out : path, optional
            Where the model is saved.

        Returns
        -------
        self
        """
        self._expects = Expected(images, refits, out)
        return self

    @contextmanager
    def _unchanged_by_failure(self) -> Iterator[None]:
        """Restore every attribute if the block raises."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _check_fitted(self) -> None:
        if not hasattr(self, "readout_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call `fit` first")

    @property
    def training_(self) -> Training:
        """What the classifier has learnt from."""
        self._check_fitted()
        if self._training is not None:
            return self._training
        if self._read_training is None:
            raise UsageError(
                "the model does not hold the bits of its training images, which this needs: it was saved without them, "
                "or by an earlier version; fit a new one on all images"
            )
        training, loo_scores = self._read_training()
        self._keep(training, self._read_training)
        self._set_path(replace(self.path_, loo_scores=loo_scores))
        return training

    @property
    def keeps_training(self) -> bool:
        """Whether `training_` is there."""
        self._check_fitted()
        return self._training is not None or self._read_training is not None

    @property
    def loo_scores_(self) -> np.ndarray:
        """Leave-one-out scores of the training images, float32 of shape (n, c)."""
        self.training_  # noqa: B018
        assert self.path_.loo_scores is not None
        return self.path_.loo_scores

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "Classifier":
        """Fit the classifier.

        Parameters
        ----------
        X : path, sequence of paths, or array
            A folder of class folders; image files, in any container of str or Path; images as uint8 of shape
            (n, height, width, 3); or features as floats of shape (n, m), which need no engine.
        y : array-like of shape (n,) or (n, c)
            Class labels; or for several labels an image a tuple or set of their names each, such as
            ``[("cat", "sofa"), ("dog",), ()]``, or an indicator matrix, of which a data frame's columns are the names.
            May be None if X is a folder, a table or archives, which then give the labels; see
            `images.labelled.labelled_images`. With labels, a folder is the files under it, sorted by name.
        sample_weight : array-like of shape (n,), optional
            Weights of the images; images of weight 0 are ignored.

        Returns
        -------
        self

        Raises
        ------
        UsageError
            If a parameter or X is invalid.
        DataError
            If labels are invalid or missing, there are fewer than two classes, or no image of a class is usable.

        Notes
        -----
        If it raises, an earlier fit stays as it was.
        """
        watch = Stopwatch(self.ridge_device, report=self.verbose)
        self._check_choices()
        cluster = as_cluster(self.cluster)
        with self._unchanged_by_failure(), _opened(self.work, self.verbose) as work, connected(cluster):
            names = column_names(y)
            X, y, weighted = images_and_labels(X, y)
            sample_weight = weighted if sample_weight is None else sample_weight
            if is_sets(y):
                y, names = named_indicator(y)
            if is_features(X):
                if cluster is not None:
                    raise UsageError(f"cluster {cluster.address!r} embeds images, and X holds features; leave it out")
                X, y = checked_features(self, X, y, multi_output=is_indicator(y))
            check_lengths(X, y)
            labels, weights = self._encode(y, names), checked_weights(sample_weight, len(y))
            self._class_weights(labels)
            self._seed = resolve_seed(self.random_state)
            self.skipped_: dict[str, str] = {}
            compile_ahead(self._kernels(X), self.verbose)
            self.pace_ = Pace()
            counted = int((weights > 0).sum())
            with DecodedImages(self.memory_budget, ahead=cluster is None) as decoded:
                chosen = self._set_engine(X, labels, weights, watch, work, decoded, counted)
                end_child()
                training = self._embed(X, labels, weights, watch, work, chosen, decoded, self.pace_)
            self._fit_readout(training, self.projection, None, watch)
            self.__dict__.pop("_expects", None)
        return self

    def refit(
        self,
        X: Any = None,
        y: Any = None,
        sample_weight: Any = None,
        *,
        remove: Iterable[int | str | Path] | None = None,
        relabel: Mapping[Any, Any] | None = None,
    ) -> "Classifier":
        """Change the training images and refit; the bits of those that stay are reused.

        Parameters
        ----------
        X, y, sample_weight
            Images to add, as in `fit`; all labels must have occurred before.
        remove : iterable of int or path, optional
            Training images to leave out, by index or file; see `training_`.
        relabel : mapping of int or path to label, optional
            Training images and the labels that they get; for multilabel targets rows of zeros and ones.

        Returns
        -------
        self

        Raises
        ------
        UsageError
            If the classifier was loaded from a folder without the bits of its training images, or one of the images to
            leave out or relabel is not among them.
        DataError
            If a label is new, or no image of a class would be left.

        Notes
        -----
        The engine is kept. Where images are only added, projection and camera are kept too, and alpha is selected
        again: the result equals a fit on all images with that camera. With `remove` or `relabel`, even if they are
        empty, what the first fit chose of the images is chosen again, the kernel and the camera's exposure too: the
        result equals a fit with this engine that never saw the images, or the labels, that are gone.
        """
        self._check_fitted()
        earlier, watch = self.training_, Stopwatch(self.ridge_device)
        with self._unchanged_by_failure():
            training = self._amended(earlier, () if remove is None else remove, {} if relabel is None else relabel)
            if X is not None:
                X, y, weighted = images_and_labels(X, y)
                sample_weight = weighted if sample_weight is None else sample_weight
                if is_features(X):
                    X = checked_features(self, X, reset=False)
                channels = None if training.pooled is None else training.pooled.shape[1]
                added = remove is None and relabel is None
                kind = self.projection_ if added else self.projection
                self._require_ridge([len(training) + len(y)], self.n_bits_, channels, kind)
                training += self._embed(X, self._encode_known(y), checked_weights(sample_weight, len(y)), watch)
            projection, camera = self.projection, None
            if remove is None and relabel is None:
                projection = self.projection_
                camera = self.readout_.camera if isinstance(self.readout_, SpeckleReadout) else None
            self._fit_readout(training, projection, camera, watch)
        return self

    def embed_labelled(
        self, paths: Sequence[Path | str], y: Any, sample_weight: Any = None, work: Path | str | None = None
    ) -> Training:
        """Return what `refit_on` learns from, of the readable ones of some files.

        Parameters
        ----------
        paths : sequence of paths
        y, sample_weight
            As in `fit`; all labels must have occurred there, and weights are positive.
        work : path, optional
            A work folder that keeps it; see `score_images`.

        Raises
        ------
        DataError
            If a label is new.
        """
        images, engine, labels = self.image_files(paths), self._required_engine(), self._encode_known(as_labels(y))
        check_lengths(paths, labels)
        weights = checked_weights(sample_weight, len(paths))
        outputs = self._outputs(engine)
        with _opened(work, self.verbose) as opened:
            kept = None if opened is None else KeptBits(opened, "test", engine, images, outputs)
            indices, values = embed(
                engine, images, outputs, kept=kept, budget=self.memory_budget, cluster=as_cluster(self.cluster)
            )
        self.skipped_ = {**self.skipped_, **images.skipped}
        files = tuple(str(paths[row]) for row in indices.tolist())
        return Training(labels=labels[indices], weights=weights[indices], paths=files, **values)

    def score_training(self, training: Training) -> np.ndarray:
        """Return the scores of every class, of what `embed_labelled` returns; see `scores`."""
        self._check_fitted()
        each = row_bytes(output_types(self.n_bits_, None if training.pooled is None else training.pooled.shape[1]))
        found = [np.empty((0, len(self.classes_)))]
        for which in blocks(len(training), block_length(2 * each, memory_budget(self.memory_budget) // 4, 1 << 20)):
            pooled = None if training.pooled is None else training.pooled[which]
            found.append(self.readout_.scores(training.bits[which], self.memory_budget, pooled))
        return np.concatenate(found)

    def refit_on(self, training: Training) -> "Classifier":
        """Fit again with the engine that is there, to images that it has seen: nothing is embedded.

        Parameters
        ----------
        training : Training
            Such as ``classifier.training_ + classifier.embed_labelled(paths, y)``, or some of these.

        Returns
        -------
        self

        Notes
        -----
        The kernel stays; exposure and alpha are chosen again: the result equals `fit` with this engine and
        ``projection_`` on these images.
        """
        self._check_fitted()
        watch = Stopwatch(self.ridge_device, report=self.verbose)
        with self._unchanged_by_failure():
            self._fit_readout(training, self.projection_, None, watch)
        return self

    def _amended(self, training: Training, remove: Iterable[int | str | Path], relabel: Mapping[Any, Any]) -> Training:
        """Return the training images with other labels, and without some of them."""
        labels, kept = training.labels.copy(), np.ones(len(training), bool)
        if relabel:
            encoded = self._encode_known(as_labels(list(relabel.values())))
            for rows, label in zip(_required_rows(training, relabel), encoded, strict=True):
                labels[rows] = label
        for rows in _required_rows(training, remove):
            kept[rows] = False
        amended = replace(training, labels=labels).only(kept)
        if not self._multilabel and len(emptied := np.setdiff1d(np.arange(len(self.classes_)), amended.labels)):
            raise DataError(
                f"no training image of class {self.classes_[emptied[0]]!s} would be left; leave it one, or fit a new "
                "model without the class"
            )
        return amended

    def review(self, test: Any = None) -> Review:
        """Return which training images to look at again: contradicted labels, and copies.

        Parameters
        ----------
        test : path, sequence of paths or images, optional
            Images that are not to be copies of training images, as in `predict`: of a folder every file under it.

        Returns
        -------
        Review

        Raises
        ------
        UsageError
            If the classifier was loaded from a folder without the bits of its training images.

        Notes
        -----
        A label is contradicted where the leave-one-out score of another class is higher, on average over the kernels
        ``none``, ``exact`` and, if pooled features are kept, ``rbf``; where their systems do not fit the memory budget,
        for the classifier's own. Copies are found by the Hamming distance of the bits, mirrored ones too, and confirmed
        by the files' pixels; see `transfer.copies`. Where files cannot be read, only copies that differ in few bits
        are found, and no mirrored ones.
        """
        training, scores = self.training_, self._review_scores()
        names = list(map(str, range(len(training)))) if training.paths is None else training.paths
        labels, classes = training.labels, self.classes_.tolist()
        own = [named(row, classes) if self._multilabel else classes[row] for row in labels]
        weights = training.weights * self._class_weights(labels)
        known = Compared(training.bits, None if training.paths is None else reduced(training.paths, self.memory_budget))
        places = None if self.engine_ is None else feature_map(self.engine_)
        same, other = find_copies(known, labels, places, self.memory_budget)
        found = Review(tuple(names), own, suspects(scores, labels, weights, classes), other, same)
        return found if test is None else self._with_leaks(found, test, known, places)

    def _review_scores(self) -> np.ndarray:
        """Return the leave-one-out scores by which labels are reviewed."""
        training = self.training_
        device, kinds = self.ridge_device, KERNELS if training.pooled is None else POOLED_KERNELS
        try:
            paths = kernel_paths(
                on_device(training.bits, device),
                self.n_bits_,
                on_device(training.labels, device),
                len(self.classes_),
                kinds,
                self.memory_budget,
                on_device(training.weights * self._class_weights(training.labels), device),
                self.alpha_search,
                None if training.pooled is None else on_device(training.pooled, device),
                self._layers,
            )
        except BudgetError:
            return self.loo_scores_.astype("float64")
        return averaged(list(map(path_on_host, paths.values())))

    def _with_leaks(self, found: Review, test: Any, known: Compared, places: FeatureMap | None) -> Review:
        X = as_inputs(test)
        images = None if is_features(X) else self._images(X, "test")
        if images is None:
            tested, bits = np.arange(len(X)), pack_signs(checked_features(self, X, reset=False))
        else:
            tested, values = embed(
                self._required_engine(),
                images,
                ("bits",),
                budget=self.memory_budget,
                cluster=as_cluster(self.cluster),
            )
            bits = values["bits"]
        names = [str(X[index]) if isinstance(X, list) else str(index) for index in tested]
        compared = Compared(bits, reduced(names, self.memory_budget) if isinstance(images, ImageFiles) else None)
        leaks = find_shared(compared, known, places, self.memory_budget)
        return replace(found, tested=tuple(names), leaks=leaks, skipped={} if images is None else dict(images.skipped))

    def _encode(self, y: Any, names: np.ndarray | None = None) -> np.ndarray:
        """Set `classes_` and return labels as indices into it, or as an indicator matrix."""
        self._multilabel = is_indicator(y)
        if self._multilabel:
            self.classes_ = np.arange(y.shape[1]) if names is None else names
            return np.asarray(y, dtype="int64")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"only one class, {self.classes_.tolist()[0]!r}, is in the labels; give two or more")
        return labels

    def _encode_known(self, y: Any) -> np.ndarray:
        if is_sets(y) and not self._multilabel:
            raise DataError("y gives images several labels, and the classifier one; give one label an image")
        if self._multilabel:
            by_name = y if is_indicator(y) else indicator(y.tolist(), self.classes_.tolist())
            labels = np.asarray(by_name, dtype="int64")
            if labels.shape[1:] != self.classes_.shape:
                raise DataError(f"labels of shape {labels.shape} must have {len(self.classes_)} columns, as in `fit`")
            return labels
        known = set(self.classes_.tolist())
        new = [label for label in np.unique(y).tolist() if label not in known]
        if new:
            raise DataError(f"label {new[0]!s} was not among those before; fit a new classifier on all images")
        indices: np.ndarray = np.searchsorted(self.classes_, y)
        return indices

    @property
    def multilabel_(self) -> bool:
        """Whether an image may have several labels, so that `predict` returns an indicator matrix."""
        self._check_fitted()
        return self._multilabel

    def _fit_readout(self, training: Training, projection: str, camera: Camera | None, watch: Stopwatch) -> None:
        self._keep(training, None)
        labels = training.labels
        weights = training.weights * self._class_weights(labels)
        self.readout_, path = self._solved(
            training, self.n_bits_, weights, projection, camera, watch, self.alpha_search, self._layers
        )
        self._set_path(path)
        assert self.path_.loo_scores is not None
        self.temperature_: float | None = fit_temperature(self.path_.loo_scores, labels, weights)
        self.timings_ = watch.total()

    @property
    def _layers(self) -> tuple[int, ...]:
        """The channels at each of several cuts that the engine pools."""
        return () if self.engine_ is None else self.engine_.manifest.pooled_layers

    def _keep(self, training: Training | None, read: Callable[[], tuple[Training, np.ndarray]] | None) -> None:
        """Set what `training_` returns, or what reads it."""
        self._training: Training | None = training
        self._read_training: Callable[[], tuple[Training, np.ndarray]] | None = read

    def _solved(
        self,
        training: Training,
        m: int,
        weights: np.ndarray,
        projection: str,
        camera: Camera | None,
        watch: Stopwatch,
        search: str,
        layers: tuple[int, ...],
    ) -> tuple[Readout, RidgePath]:
        labels, components = training.labels, None if self.n_components is None else int(self.n_components)
        if camera is not None and isinstance(self.readout_, SpeckleReadout):
            # Of the projection that is kept, which by default depends on the number of images.
            components = self.readout_.projection.k
        with sharing(as_cluster(self.cluster), len(training), self.verbose, self.memory_budget) as share:
            readout, path = fit_readout(
                on_device(training.bits, self.ridge_device),
                m,
                on_device(labels, self.ridge_device),
                len(self.classes_),
                opu_projector(projection, self.memory_budget) if projection in OPUS else projection,
                components,
                self.alphas,
                self._seed,
                self.memory_budget,
                on_device(weights, self.ridge_device),
                search,
                camera,
                watch,
                None if training.pooled is None else on_device(training.pooled, self.ridge_device),
                share,
                layers,
            )
        return readout_on(readout, "cpu"), path_on_host(path)

    def _set_path(self, path: RidgePath) -> None:
        self.path_: RidgePath = path
        self.alpha_, self.loo_accuracy_ = path.alpha, path.loo_accuracy
        self.projection_ = self.readout_.kind

    def _class_weights(self, labels: np.ndarray) -> np.ndarray | float:
        if self.class_weight is None:
            return 1.0
        if self._multilabel:
            raise UsageError("class_weight does not support multilabel targets; give sample_weight to `fit`")
        given = self.class_weight.values() if isinstance(self.class_weight, dict) else ()
        if not all(isinstance(weight, Real) for weight in given):
            raise UsageError(f"class_weight {self.class_weight!r} must be positive finite numbers; give one a class")
        from sklearn.utils.class_weight import compute_sample_weight

        try:
            weights: np.ndarray = compute_sample_weight(self.class_weight, self.classes_[labels])
        except ValueError as error:
            raise UsageError(
                f"class_weight {self.class_weight!r} is invalid; give 'balanced' or a dict of a weight a class"
            ) from error
        if weights.dtype.kind not in "fiu" or not ((weights <= _LARGEST_WEIGHT) & (weights > 0)).all():
            raise UsageError(
                f"class_weight {self.class_weight!r} must be positive numbers up to {_LARGEST_WEIGHT:g}; leave out the "
                "images of a class that shall not count"
            )
        return weights

    def _check_choices(self) -> None:
        known = (*PROJECTIONS, *POOLED, *OPUS)
        if self.projection not in known:
            raise UsageError(f"projection {self.projection!r} is not known; choose one of {', '.join(known)}")
        if self.projection in OPUS:
            require_opu(self.projection)
        if self.engine is not None and not (isinstance(self.engine, Engine) or is_path(self.engine)):
            raise UsageError(f"engine {self.engine!r} is not an engine; give an Engine or the path of an engine file")
        if self.engine is not None and self.cut == AUTO_CUT:
            raise UsageError("cut 'auto' chooses where to cut a backbone, and a built engine is cut; leave one out")
        if self.projection == "layers" and self.engine is None and not self.pool_layers:
            raise UsageError("projection 'layers' needs pool_layers=True (--pool-layers); give it, or choose 'rbf'")
        if not (self.n_components is None or is_count(self.n_components)):
            raise UsageError(f"n_components {self.n_components!r} is not an integer; give one from 1 up, or None")
        checked_alphas(self.alphas, 1.0)
        if self.alpha_search not in SEARCHES:
            raise UsageError(f"alpha_search {self.alpha_search!r} is not known; choose one of {', '.join(SEARCHES)}")
        if not is_count(self.calibration_images) or self.calibration_images < 0:
            raise UsageError(f"calibration_images {self.calibration_images!r} is not a number of images")
        check_method(self.method)
        check_resize(self.resize)
        on_device(np.zeros(0), self.ridge_device)
        memory_budget(self.memory_budget)

    def _kernels(self, X: Any) -> list[Kernel]:
        """Return the kernels of the CPU that a fit needs, the first one first."""
        built = self.engine is None and not is_features(X)
        needed: list[Kernel] = ["magnitudes"] if built and self.precision == "int8" else []
        if self.ridge_device == "cpu" and self.projection not in ("pooled", *RADIAL):
            random: dict[str, Kernel] = {"hadamard": "hadamard", "dense": "dense", "dense-signs": "dense"}
            needed += [random[self.projection], "products"] if self.projection in random else ["products"]
        return needed

    def _set_engine(
        self,
        X: Any,
        labels: np.ndarray,
        weights: np.ndarray,
        watch: Stopwatch,
        work: Work | None,
        decoded: DecodedImages,
        counted: int,
    ) -> Chosen | None:
        """Set the engine; return the choice of its cut, if it was to be chosen.

        What will not fit, with so many images that count, is refused as soon as the number of features is known.
        """
        chosen = None
        self.cut_choice_: CutChoice | None = None
        if is_features(X):
            if self.cut == AUTO_CUT:
                raise UsageError("cut 'auto' compares cuts of a backbone on images, and X holds features; leave it out")
            self.engine_, self.n_bits_ = None, X.shape[1]
            self._require_ridge([counted], X.shape[1], None, self.projection)
            return None
        if self.cut == AUTO_CUT:
            chosen = self._chosen_cut(X, labels, weights, watch, work, decoded)
            self.cut_choice_ = chosen.choice
        self.engine_ = (
            self._build(X, watch, work, decoded, counted)
            if chosen is None
            else chosen.builder.build(self._engine_spec(), self._wanted)
        )
        self.n_bits_ = self.n_features_in_ = self.engine_.features
        self._require_capacity(counted, self.n_bits_, self.engine_.manifest.pooled or None, work)
        # An earlier fit on features may have left the names of their columns.
        self.__dict__.pop("feature_names_in_", None)
        return chosen

    def _build(self, X: Any, watch: Stopwatch, work: Work | None, decoded: DecodedImages, counted: int) -> Engine:
        """Return the given engine, or build one from the parameters and the training images."""
        if self.engine is not None:
            given = self.engine if isinstance(self.engine, Engine) else load_engine(self.engine)
            if self.projection == "layers" and not given.manifest.pooled_layers:
                raise UsageError(
                    "projection 'layers' needs an engine that pools layers; build one with pool_layers=True "
                    "(--pool-layers), or choose 'rbf'"
                )
            return given
        builder, spec = self._builder(X, watch, work, decoded), self._engine_spec()
        if (kept := builder.kept(spec)) is not None:
            return kept
        if not builder.needs_images:
            self._require_capacity(counted, builder.exported.features, builder.exported.pooled or None, work)
        return builder.build(spec, self._wanted)

    def _require_capacity(self, images: int, features: int, channels: int | None, work: Work | None = None) -> None:
        """Refuse what will not fit the memory budget, or the disk."""
        channels, expected = self._channels_read(channels), self._expected
        refitted = [images + expected.images] if expected.refits else []
        self._require_ridge([images, *refitted], features, channels, self.projection)
        folder, kept = (None, 0) if work is None else (work.folder, work.size_of("train", "test"))
        require_disk(images, output_types(features, channels), expected, self.memory_budget, folder, kept)

    def _channels_read(self, channels: int | None) -> int | None:
        """Return the number of pooled features if the projection may read them."""
        return channels if self._reads_pooled else None

    def _require_ridge(self, images: Sequence[int], features: int, channels: int | None, projection: str) -> None:
        budget = memory_budget(self.memory_budget, on_device(np.zeros(0), self.ridge_device))
        # One below 1 is refused by the readout.
        components = None if self.n_components is None else max(1, int(self.n_components))
        classes, on_gpu = len(self.classes_), self.ridge_device != "cpu"
        require_ridge(images, features, channels, classes, projection, components, budget, on_gpu)

    def _builder(self, X: Any, watch: Stopwatch, work: Work | None, decoded: DecodedImages) -> EngineBuilder:
        own = self._parameters_of(NetworkSpec) | {"cut": None if self.cut == AUTO_CUT else self.cut}
        network = NetworkSpec(**own, seed=self._seed)
        calibration = CalibrationSpec(data=self.calibration, images=self.calibration_images, method=self.method)
        options: dict[str, Any] = {"stages": watch, "progress": self.verbose, "work": work, "decoded": decoded}
        return EngineBuilder(network, calibration, data=X, **options, cache=user_cache(self.verbose))

    def _engine_spec(self) -> EngineSpec:
        # How fast it is, the training images tell.
        return EngineSpec(**self._parameters_of(EngineSpec), compare_speed=False)

    def _chosen_cut(
        self,
        X: Any,
        labels: np.ndarray,
        weights: np.ndarray,
        watch: Stopwatch,
        work: Work | None,
        decoded: DecodedImages,
    ) -> Chosen:
        weights = weights * self._class_weights(labels)

        def solve(
            bits: np.ndarray,
            m: int,
            pooled: np.ndarray,
            layers: tuple[int, ...],
            rows: np.ndarray,
            kernels: Sequence[str],
        ) -> tuple[str, RidgePath]:
            training = Training(bits, labels[rows], weights[rows], pooled)
            search = choosing_search(len(rows), self.alpha_search)
            paths = [
                self._solved(training, m, weights[rows], kernel, None, watch, search, layers)[1] for kernel in kernels
            ]
            return max(zip(kernels, paths, strict=True), key=lambda each: each[1].loo_accuracy)

        return choose_cut(
            self._builder(X, watch, work, decoded),
            self._engine_spec(),
            X,
            labels,
            weights,
            solve,
            projection=self.projection,
            seed=self._seed,
            budget=self.memory_budget,
            watch=watch,
            work=work,
            progress=self.verbose,
            decoded=decoded,
        )

    def _parameters_of(self, spec: type) -> dict[str, Any]:
        """Return the parameters that a spec shares with this classifier."""
        return {each.name: getattr(self, each.name) for each in fields(spec) if hasattr(self, each.name)}

    def _embed(
        self,
        X: Any,
        labels: np.ndarray,
        weights: np.ndarray,
        watch: Stopwatch,
        work: Work | None = None,
        chosen: Chosen | None = None,
        decoded: DecodedImages | None = None,
        pace: Pace | None = None,
    ) -> Training:
        """Return bits, labels and weights of the readable images of positive weight."""
        check_lengths(X, labels)
        if is_features(X):
            indices, values = np.arange(len(X)), {"bits": pack_signs(X)}
            paths = None
        else:
            decoder = None if decoded is None else decoded.take
            images, engine = self._images(X, "train", decoder), self._required_engine()
            outputs = self._outputs(engine)
            known = None if chosen is None else chosen.values_of(engine, images, outputs)
            if known is None:
                kept = None if work is None else KeptBits(work, "train", engine, images, outputs)
                known = embed(engine, images, outputs, watch, kept, pace, self.memory_budget, as_cluster(self.cluster))
            indices, values = known
            self.skipped_ = {**self.skipped_, **images.skipped}
            paths = (
                tuple(str(images.paths[row]) for row in indices.tolist()) if isinstance(images, ImageFiles) else None
            )
        self._refuse_emptied_classes(labels, labels[indices])
        counted = weights[indices] > 0
        if not self._multilabel and len(weightless := np.setdiff1d(labels[indices], labels[indices][counted])):
            raise DataError(
                f"sample_weight is 0 for every image of class {self.classes_[weightless[0]]!s}, which could never be "
                "predicted; give one of them a positive weight, or leave the class out"
            )
        training = Training(labels=labels[indices], weights=weights[indices], paths=paths, **values)
        return training if counted.all() else training.only(counted)

    @property
    def _reads_pooled(self) -> bool:
        return reads_pooled(self.projection)

    @property
    def _wanted(self) -> tuple[str, ...]:
        """The outputs of an engine built today that the projection may read."""
        return ("bits", "pooled") if self._reads_pooled else ("bits",)

    def _outputs(self, engine: Engine) -> tuple[str, ...]:
        """Return the outputs of the engine that the projection may read."""
        if set(self._wanted) <= set(engine.outputs):
            return self._wanted
        if self.projection != "auto":
            raise UsageError(
                f"projection {self.projection!r} needs the output pooled, which an engine of an earlier version lacks; "
                "build it again"
            )
        return ("bits",)

    def _refuse_emptied_classes(self, labels: np.ndarray, kept: np.ndarray) -> None:
        if self._multilabel:
            labels, kept = labels.nonzero()[1], kept.nonzero()[1]
        emptied = np.setdiff1d(labels, kept)
        if len(emptied):
            path, reason = next(iter(self.skipped_.items()), (None, None))
            first = f", the first {path}: {reason}" if path else ""
            what = (
                f"class {self.classes_[emptied[0]]!s} has no readable image left" if len(kept) else "no image is left"
            )
            raise DataError(f"{what}; {len(self.skipped_)} files could not be read{first}")

    def _required_engine(self) -> Engine:
        if self.engine_ is None:
            raise UsageError("this classifier was trained on features and has no engine; pass features to `scores`")
        return self.engine_

    def _images(self, X: Any, description: str, decoder: Decoder | None = None) -> Images:
        made = self._required_engine().manifest
        return as_images(X, made.input_shape, made.resize, description if self.verbose else None, decoder)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ridge scores; the class with the highest score is predicted.

        Parameters
        ----------
        X : path, sequence of paths, or array
            As in `fit`; a folder is every file under it, sorted by name.

        Returns
        -------
        scores : float64 array of shape (n, c), or for two classes (n,), the scores of the second
            For multilabel targets always of shape (n, c).
        """
        scores = self.scores(X)
        return scores[:, 1] if len(self.classes_) == 2 and not self._multilabel else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of each image or row of features, or for multilabel targets an indicator matrix.

        Its columns are those of ``classes_``.

        Parameters
        ----------
        X : path, sequence of paths, or array
            As in `fit`; a folder is every file under it, sorted by name.

        Returns
        -------
        labels : array of shape (n,) of the dtype of ``classes_``, or int64 of shape (n, c)

        Raises
        ------
        DataError
            If a file cannot be read; `score_images` skips such files.
        """
        return self.labels(self.scores(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X
            As in `predict`.

        Returns
        -------
        probabilities : float64 array of shape (n, c)
            Columns ordered as in ``classes_``. For multilabel targets each label has its own.

        Raises
        ------
        UsageError
            If the classifier was loaded and saved by a version without probabilities.

        Notes
        -----
        Scores over one temperature, which has the smallest log-loss of the training images' leave-one-out scores; see
        `kernels.probability`. They hold for images like those: one of no class at all has probabilities too.
        """
        return self.probabilities(self.scores(X))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores of shape (n, c) to probabilities of the same shape; see `predict_proba`."""
        self._check_fitted()
        return probabilities(scores, self._required_temperature(), self._multilabel)

    def _required_temperature(self) -> float:
        if self.temperature_ is None:
            raise UsageError("the model was saved by a version without probabilities; fit it again")
        return self.temperature_

    def prediction_sets(self, X: Any, coverage: float = 0.95, by_class: bool = False) -> np.ndarray:
        """Return for each image the classes that cannot be ruled out.

        Parameters
        ----------
        X
            As in `predict`.
        coverage : float
            The share of images whose set has the true class, between 0 and 1.
        by_class : bool
            Whether the guarantee is to hold for the images of each class alone, in exchange for larger sets.

        Returns
        -------
        sets : bool array of shape (n, c)
            Columns ordered as in ``classes_``. A row has several classes, one, or none, where the image is unlike the
            training images of every class.

        Raises
        ------
        UsageError
            If the model was saved without its training images, the projection has no kernel between images (those of
            `kernels.training_kernel.KINDS` have), or labels are multilabel targets.
        BudgetError
            If the inverse of the n x n ridge system does not fit the memory budget.

        Notes
        -----
        Full conformal prediction with exact leave-one-out scores, see `kernels.ridge.conformal`: for images that are
        exchangeable with the training images, and one kernel, alpha and temperature, a set misses the true class with
        probability at most ``1 - coverage``. What selecting these on the training images costs is measured in the
        results.
        """
        error, sets = 1 - checked_coverage(coverage), self.set_predictor(by_class)
        found = [sets.p_values(values) > error for values in self._values(X)]
        return np.concatenate([np.empty((0, len(self.classes_)), bool), *found])

    def set_predictor(self, by_class: bool = False) -> PredictionSets:
        """Return what gives the p-value of each class for images in blocks; see `prediction_sets`."""
        training = self.training_
        return PredictionSets(
            training,
            training.weights * self._class_weights(training.labels),
            self.projection_,
            len(self.classes_),
            self.alpha_,
            self._required_temperature(),
            by_class,
            self.memory_budget,
            self._layers,
        )

    def familiarity(self, X: Any) -> Familiarity:
        """Return how familiar images are: their nearest training image, and a p-value.

        Parameters
        ----------
        X
            As in `predict`.

        Returns
        -------
        Familiarity
            Flag images of ``p_values`` up to 0.01, and at most 1 % of images like the training images are flagged. See
            `kernels.familiarity`.

        Raises
        ------
        UsageError
            If the model was saved without its training images.
        """
        neighbours = self.neighbours()
        return neighbours(np.concatenate([self.training_.bits[:0], *(values["bits"] for values in self._values(X))]))

    def neighbours(self) -> Neighbours:
        """Return what gives the familiarity of bits in blocks; see `familiarity`."""
        return Neighbours(self.training_.bits, self.memory_budget)

    def _values(self, X: Any) -> Iterator[dict[str, np.ndarray]]:
        """Yield what `scores_of` takes, block by block; raise DataError at the end if a file cannot be read."""
        self._check_fitted()
        X = as_inputs(X)
        if self.engine_ is None:
            if not is_features(X):
                raise UsageError("the classifier was trained on features; give floats of shape (n, m), not images")
            yield {"bits": pack_signs(checked_features(self, X, reset=False))}
            return
        images = self._images(X, "predict")
        yield from (values for _, values in self.iter_values(images))
        if images.skipped:
            path, reason = next(iter(images.skipped.items()))
            raise DataError(f"{len(images.skipped)} of {len(X)} files cannot be read; first: {path}: {reason}")

    def labels(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores of shape (n, c) to labels, or for multilabel targets to an indicator matrix."""
        return (scores > 0).astype("int64") if self._multilabel else self.classes_[scores.argmax(axis=1)]

    def scores(self, X: Any) -> np.ndarray:
        """Return the scores of every class as float64 of shape (n, c), columns ordered as in ``classes_``."""
        found = [self.scores_of(values) for values in self._values(X)]
        return np.concatenate([np.empty((0, len(self.classes_))), *found])

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy on labelled images.

        Parameters
        ----------
        X : path, sequence of paths, or array
            As in `fit`.
        y : array-like of shape (n,) or (n, c)
            Labels. May be None if X is a folder of class folders: files there that cannot be read are skipped,
            with a warning.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        accuracy : float
            For multilabel targets, the share of images with all their labels right.

        Raises
        ------
        DataError
            If a class folder is unknown to the classifier, or a file of a list cannot be read.
        """
        self._check_fitted()
        if is_path(X) and y is None:
            if sample_weight is not None:
                raise UsageError("sample_weight needs an order of the images; give a list of files and y, not a folder")
            tested = evaluate(self, labelled_images(X, "test"))
            if tested.skipped:
                path, reason = next(iter(tested.skipped.items()))
                warnings.warn(f"{len(tested.skipped)} files cannot be read; first: {path}: {reason}", stacklevel=2)
            return tested.accuracy
        X, y, _ = images_and_labels(X, y)
        check_lengths(X, y)
        if self._multilabel or is_sets(y):
            y = self._encode_known(y)
        from sklearn.metrics import accuracy_score

        weights = None if sample_weight is None else checked_weights(sample_weight, len(y))
        return float(accuracy_score(y, self.predict(X), sample_weight=weights))

    def iter_scores(self, images: Images | ImageStream) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Score the readable images as they come, some batches of the engine at a time.

        Parameters
        ----------
        images : ImageFiles, ImageArray or ImageStream

        Yields
        ------
        indices : int64 array of shape (n,)
            Indices of the scored images; of none where a stream has only files that cannot be read for long.
        scores : float64 array of shape (n, c)
            Those of `score_images`.
        """
        return ((indices, self.scores_of(values)) for indices, values in self.iter_values(images))

    def iter_values(
        self, images: Images | ImageStream
    ) -> Generator[tuple[np.ndarray, dict[str, np.ndarray]], None, None]:
        """Yield indices as `iter_scores` does, and the outputs of the engine that `scores_of` takes."""
        self._check_fitted()
        engine, outputs, rows = self._required_engine(), self._read_outputs(), self.rows_at_once()
        return embed_blocks(engine, images, outputs, rows, as_cluster(self.cluster))

    def scores_of(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores of the ``bits`` of images, and of their ``pooled`` features where the readout reads them."""
        return self.readout_.scores(values["bits"], self.memory_budget, values.get("pooled"))

    def rows_at_once(self) -> int:
        """Return the readable images after which `iter_scores` yields: full batches of the engine."""
        batch = self._required_engine().batch_size
        return -(-rows_of_call(self.readout_) // batch) * batch

    def _read_outputs(self) -> tuple[str, ...]:
        """Return the outputs of the engine that the readout reads."""
        return ("bits", "pooled") if self.readout_.uses_pooled else ("bits",)

    def score_images(self, images: Images, work: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Score the readable images.

        Parameters
        ----------
        images : ImageFiles or ImageArray
        work : path, optional
            A work folder that keeps their bits, as that of `fit` keeps those of the training images.

        Returns
        -------
        indices : int64 array of shape (n,)
            Indices of the scored images; the others are in ``images.skipped``.
        scores : float64 array of shape (n, c)
        """
        self._check_fitted()
        engine, none = self._required_engine(), (np.empty(0, "int64"), np.empty((0, len(self.classes_))))
        if work is None:
            found = [none, *self.iter_scores(images)]
        else:
            with _opened(work, self.verbose) as opened:
                assert opened is not None
                outputs = self._read_outputs()
                kept = KeptBits(opened, "test", engine, images, outputs)
                indices, values = embed(
                    engine, images, outputs, kept=kept, budget=self.memory_budget, cluster=as_cluster(self.cluster)
                )
            # In the same blocks: a product of other shape may be rounded otherwise.
            slices = blocks(len(indices), self.rows_at_once())
            parts = ({name: value[which] for name, value in values.items()} for which in slices)
            found = [none, *((indices[which], self.scores_of(part)) for which, part in zip(slices, parts, strict=True))]
        return np.concatenate([each for each, _ in found]), np.concatenate([scores for _, scores in found])

    def image_files(self, paths: Sequence[Path | str]) -> ImageFiles:
        """Return files with the size and resize mode of this classifier's engine."""
        made, description = self._required_engine().manifest, "images" if self.verbose else None
        height, width, channels = made.input_shape
        return ImageFiles(paths, (height, width), made.resize, description=description, channels=channels)

    def image_stream(self, paths: Iterable[Path | str]) -> ImageStream:
        """Return files of any number, read as they are needed, with the size and resize mode of the engine."""
        made = self._required_engine().manifest
        height, width, channels = made.input_shape
        return ImageStream(paths, (height, width), made.resize, channels=channels)

    def to_engine(
        self,
        runtime: RuntimeName | Auto = "auto",
        *,
        precision: Precision | None = None,
        device: str | None = None,
        target: str | None = None,
        workspace: int | None = None,
        timing_cache: str | Path | None = None,
        batches: tuple[int, int, int] = PlanSpec.batches,
        smoke: bool = True,
        progress: bool = False,
    ) -> Engine:
        """Return the whole classifier as one engine: from images to scores, probabilities and label.

        Parameters
        ----------
        runtime : {"auto", "openvino", "onnxruntime", "torch", "triton", "tensorrt", "tensorrt-rtx"}
            ``auto`` is the runtime of the classifier's engine.
        precision : {"fp32", "fp16", "bf16"}, optional
            Of the network, by default that of the classifier's engine; an engine in fp32 or bf16 can be made one of
            another float precision. What follows the features is computed in float32 and integers in every precision.
        device, target, workspace, timing_cache, batches, smoke, progress
            As in `aurevoir.build_engine`.

        Returns
        -------
        Engine
            Its outputs are ``scores``, ``probabilities`` and ``label``; see `Engine.classify`. ``manifest.labels`` are
            the classes as text.

        Raises
        ------
        UsageError
            If the classifier was trained on features, its projection is optical hardware or its simulator, the training
            bits or the random matrix are too large for a graph, weights are beyond float32, two classes are the same as
            text, or the runtime does not take the engine's graph.

        Notes
        -----
        Scores differ from those of `scores` by some 1e-6 of the largest. With a projection of fewer than 16 features
        intensities lie often just between two levels of the camera, and a level may differ.
        """
        self._check_fitted()
        return classifier_engine(
            self._required_engine(),
            self.readout_,
            tuple(map(str, self.classes_.tolist())),
            self._required_temperature(),
            self._multilabel,
            precision=precision,
            runtime=runtime,
            device=device,
            plan=PlanSpec(target=target, workspace=workspace, timing_cache=timing_cache, batches=batches),
            smoke=smoke,
            progress=progress,
        )

    def save(self, folder: Path | str, training: bool = True) -> None:
        """Write the model folder; see `aurevoir.load`.

        Parameters
        ----------
        folder : path
        training : bool
            Whether to keep the bits and pooled features of the training images, by which a loaded model is refitted and
            reviewed, in a file of its own that predictions do not read.

        An existing model is replaced by one call: at every moment the old or the new one is there, whole. Its card,
        `README.md`, is written anew.

        Raises
        ------
        UsageError
            If the folder exists and is not a model folder, or holds other files as well.
        SaveError
            If it cannot be written; what was there is unchanged.
        """
        self._check_fitted()
        kept = training and self.keeps_training
        stored = StoredModel(
            classes=self.classes_,
            multilabel=self._multilabel,
            features=self.n_bits_,
            feature_names=self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None,
            seed=self._seed,
            parameters={**{name: getattr(self, name) for name in _STORED}, **self._solving()},
            path=self.path_,
            temperature=self.temperature_,
            readout=self.readout_,
            engine=self.engine_,
            training=(lambda: (self.training_, self.loo_scores_)) if kept else None,
        )
        write(stored, Path(folder))

    @classmethod
    def loaded(cls, folder: Path | str, rebuild: bool = False) -> Self:
        """Return the classifier in a model folder; see `estimator.load`."""
        stored = read(Path(folder), rebuild)
        parameters = dict(stored.parameters)
        if isinstance(weights := parameters.get("class_weight"), list):
            parameters["class_weight"] = dict(zip(stored.classes.tolist(), weights, strict=True))
        if stored.engine is not None:
            made = stored.engine.manifest
            parameters |= {"engine": stored.engine, "backbone": made.backbone, "cut": made.cut}
            parameters |= {"precision": made.precision, "runtime": made.runtime}
        classifier = cls(**parameters, random_state=stored.seed)
        classifier._multilabel, classifier._seed = stored.multilabel, stored.seed
        classifier.classes_, classifier.engine_ = stored.classes, stored.engine
        classifier.n_bits_ = classifier.n_features_in_ = stored.features
        if stored.feature_names is not None:
            classifier.feature_names_in_ = np.array(stored.feature_names, dtype=object)
        classifier.readout_, classifier.skipped_, classifier.cut_choice_ = stored.readout, {}, None
        classifier.pace_ = Pace()
        classifier.temperature_ = stored.temperature
        classifier._keep(None, stored.training)
        classifier._set_path(stored.path)
        return classifier

    def _solving(self) -> dict[str, Any]:
        """Return the parameters besides that a refit needs, as a model folder holds them."""
        weights = self.class_weight
        if isinstance(weights, dict):
            weights = [float(weights.get(label, 1)) for label in self.classes_.tolist()]
        return {"alphas": None if self.alphas is None else np.asarray(self.alphas).tolist(), "class_weight": weights}


def _required_rows(training: Training, images: Iterable[Any]) -> list[np.ndarray]:
    rows, missing = find(training, images)
    if missing:
        raise UsageError(
            f"{missing[0]!s} is not one of the {len(training):,d} training images; give the index or path of one "
            "(`training_.paths`)"
        )
    return rows


def _opened(work: Path | str | None, report: bool) -> AbstractContextManager[Work | None]:
    return nullcontext() if work is None else Work(work, report)


def load(folder: Path | str, rebuild: bool = False) -> Classifier:
    """Load a model folder for commands, which need no estimator; see `estimator.load`."""
    return Classifier.loaded(folder, rebuild)
