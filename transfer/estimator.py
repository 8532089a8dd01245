"""OpticalClassifier: engine, projection and ridge as one scikit-learn estimator."""

from pathlib import Path

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags

from .classifier import Classifier


class OpticalClassifier(Classifier, ClassifierMixin, BaseEstimator):
    """Classify images by the sign bits of a truncated network's features, without gradients.

    The bits pass through an optical random projection, or its exact kernel, to a ridge classifier
    solved in closed form. Leave-one-out on the training images selects the ridge's alpha, and for
    ``projection="auto"`` the kernel.

    Parameters
    ----------
    backbone : str, path or torch.nn.Module
        A torchvision name, ``efficientnet_lite0`` (or 1, 2), ``timm:NAME``, an ONNX file, or a module.
    cut : str, optional
        Where to truncate the network; by default the backbone's default cut. ``auto`` compares a few cuts up to that by
        leave-one-out on at most 2,000 of the training images, and takes the cheapest that is within half a
        standard error of the best; see `transfer.cut_choice`. With projection ``auto`` it also compares the default cut
        as `pool_layers` makes it.
    weights : {"default", "random"} or path
    precision : {"fp32", "fp16", "bf16", "int8"}
    runtime : {"auto", "openvino", "onnxruntime", "torch", "triton", "tensorrt", "tensorrt-rtx"}
    device : str, optional
        Device of the engine, as the runtime names it; by default the runtime's first.
    activation_dtype, placement, min_sign_agreement, prefer_faster, smoke
        Options of the engine; see `build_engine`. Only `prefer_faster` times it against its peer.
    engine : Engine or path, optional
        A built engine; the parameters above and `calibration` to `pool_layers` are then ignored. Clones share it.
    projection : str
        ``none`` is ridge on the bits, ``exact`` the kernel of infinitely many optical components. ``pooled`` is ridge
        on the channels' means, which are standardized on the training images, ``rbf`` a radial kernel of them,
        ``layers`` one of those of several layers, for which `pool_layers` is, and ``bits+rbf`` and ``exact+rbf`` are
        sums of two kernels in equal parts. ``auto`` selects by leave-one-out, on at most 4,096 images, among all but
        ``exact+rbf`` of these, and ``layers`` where the engine has them; trained on features it has no channels, and
        selects between ``none`` and ``exact``. A kernel whose n x n system does not fit the memory budget is solved on
        landmarks, some of the images. ``opu`` is LightOn's hardware, ``opu-simulated`` its simulator.
    n_components : int, optional
        Number of outputs k of ``hadamard``, ``dense`` and the OPU; by default half the number of features, or as many
        as the memory budget holds if images outnumber them.
    alphas : array-like, optional
        Ridge penalties to choose from; by default 15 values scaled to the data.
    alpha_search : {"auto", "all", "halving"}
        ``all`` scores every alpha by leave-one-out on all images; ``halving`` scores successively fewer
        alphas on a quarter, half and all of the images; ``auto`` uses it from 2048 images on. See
        `kernels.ridge.dual_path`.
    class_weight : dict, "balanced" or None
        Class weights, multiplied by the sample weights.
    calibration : path, list of paths, uint8 array, or calibration table, optional
        Images for int8 thresholds, or a calibration table; by default the training images.
    calibration_images : int
        Number of calibration images.
    method : {"percentile", "entropy", "mse", "max", "sign", "native"}
        Calibration method.
    normalization : str, (mean, std) or (mean, std, channel order)
        As in `aurevoir.build_engine`.
    size : int, optional
        Input height and width of the engine; by default the backbone's.
    resize : {"stretch", "crop"}
    pool_layers : bool
        Whether to average the channels of layers before the cut too, for the kernel ``layers``; see
        `aurevoir.build_engine`.
    ridge_device : {"cpu", "cuda"}
        Device for the projection, Gram and ridge in `fit`; ``cuda`` is the current NVIDIA GPU, through CuPy.
    memory_budget : int or str, optional
        Memory limit of the projection and the ridge, in bytes or as a string such as ``"4GiB"``.
    random_state : int, RandomState or None
        Seed for random weights, the choice of calibration images, and the projection.
    verbose : bool
        Whether to show progress on stderr.
    work : path, optional
        A folder in which `fit` keeps what its stages make, as they come: calibration table, engine, and the bits of the
        images, about 512 at a time. A fit that was interrupted, run again, takes over what is there of the same
        inputs, and gives the same model. See the documentation of ``aurevoir fit --work``.
    cluster : Cluster or str, optional
        Whose workers embed images, in `fit` and after it, and compute the ridge's passes over more than 16,384 of them:
        ``auto``, ``local``, HOST:PORT or a `Cluster`. All else is done here, and the model is the one of this machine
        alone where the runtime gives an image the same bits in every batch, as OpenVINO does. By default all is done
        here.

    Attributes
    ----------
    classes_ : array of shape (c,)
    alpha_ : float
    loo_accuracy_ : float
        Leave-one-out accuracy on the training images.
    path_ : RidgePath
        Leave-one-out accuracy and error at every alpha that was scored on all images.
    temperature_ : float or None
        Of the probabilities, by leave-one-out; None of a model that an earlier version saved.
    projection_ : str
        The projection in use; for ``auto`` the selected one.
    engine_ : Engine or None
        None if trained on features.
    cut_choice_ : CutChoice or None
        For ``cut="auto"`` what each cut scored, and why the chosen one was taken; else, and once loaded, None.
    readout_ : Readout
    training_ : Training
        Bits, labels and weights of the training images; of a loaded model read when they are first asked for.
    n_bits_ : int
        m, the number of features whose signs are used.
    skipped_ : dict
        Reason for each training file that could not be read.
    timings_ : dict
        Wall-clock seconds of each stage and in total.
    pace_ : Pace
        How fast `fit` sent the training images through the engine, and of no image once loaded; see
        `transfer.embed`.
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Only the signs of features are used, which is too little for the few columns of scikit-learn's checks.
        tags.classifier_tags.poor_score = True
        tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "readout_")


def load(folder: Path | str, rebuild: bool = False) -> OpticalClassifier:
    """Load a model folder.

    Parameters
    ----------
    folder : path
    rebuild : bool
        Rebuild the engine's plan if it is for another GPU or version; see `load_engine`.

    Returns
    -------
    OpticalClassifier
        Fitted; its predictions equal those of the saved classifier.

    Raises
    ------
    UsageError
        If the folder is not a model folder.
    AurevoirError
        If a file in it is corrupted or missing, or its schema is not supported.
    """
    return OpticalClassifier.loaded(folder, rebuild)
