"""Base class of tasks: predictions and their metrics, independent of methods and training loops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit

from multidelete.data.clusters import clusters
from multidelete.metrics.forgetting import forget_auc
from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.metrics.probes import probes
from multidelete.metrics.registry import computed
from multidelete.metrics.signals import check_signals
from multidelete.tasks.features import unimodal
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive

if TYPE_CHECKING:
    from multidelete.data.batches import PairInputs
    from multidelete.data.dataset import Dataset, Rows
    from multidelete.data.requests import Request
    from multidelete.models.base import Model
    from multidelete.training.engine import Engine

Predictions = dict[str, dict[str, NDArray[Any]]]

SCORE_KEYS = {
    "forget": "forget_score",
    "retain": "retain_score",
    "near_miss": "near_miss_score",
    "validation": "valid_score",
    "test": "test_score",
    **{name: f"{name}_score" for name in HOLDOUTS},
}


class Task(BaseModel, ABC):
    """Base class of tasks; the fields are the settings.

    Predictions are ``{split: {name: array}}`` with splits forget, retain, near_miss, validation, test and holdouts,
    without empty ones. Each pair has its ``example``, its ``text`` within it, its ``cluster``, and ``score``: s(x) as
    log-odds, which order pairs as probabilities do but do not saturate. Retain and test also hold samples for probes,
    see :func:`unimodal`.

    Args:
        probed: Maximum number of examples of D_r to fit unimodal probes on, and of test to apply them to; 0 disables
            probes.
        sample_retain: Maximum number of pairs of D_r that are evaluated, of a seeded sample of its examples.
        validation_sample: Maximum number of examples of validation and of D_f that are read while a method runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, str]] = ("vision", "text")
    labelled: ClassVar[bool] = False  # whether the task predicts labels
    classes: ClassVar[frozenset[str]] = frozenset()  # labels that the dataset must have
    needs: ClassVar[frozenset[str]] = frozenset()  # what else a model must provide: "ranking", "several_images"
    affirms: ClassVar[str] = ""  # label of texts that are true of their example; "" if all are

    probed: int = Field(default=500, ge=0)
    sample_retain: int = Field(default=10_000, ge=2)
    validation_sample: int = Field(default=500, ge=2)

    @classmethod
    def provides(cls) -> frozenset[str]:
        """What models of this task must provide, and methods may therefore require."""
        return cls.needs | {*cls.modalities, *(["labels"] if cls.labelled else [])}

    def check(self, dataset: Dataset, model: type[Model] | None = None) -> None:
        """Check that the dataset and the model fit this task, before anything slow starts.

        Raises:
            InputError: The dataset has other modalities or labels, or the model does not support the task.
        """
        missing = self.provides() - model.provides if model is not None else ()
        if missing:
            raise InputError(
                f"a model of kind '{model.name}' does not support the task '{self.name}', "  # type: ignore[union-attr]
                f"which needs {', '.join(sorted(missing))}"
            )
        if dataset.modalities != self.modalities:
            raise InputError(
                f"the task '{self.name}' is about {' and '.join(self.modalities)}, "
                f"but dataset '{dataset.name}' holds {' and '.join(dataset.modalities)}"
            )
        if self.labelled and set(dataset.classes) != self.classes:
            given = ", ".join(dataset.classes) or "none"
            raise InputError(
                f"the task '{self.name}' needs the labels {', '.join(sorted(self.classes))}; "
                f"dataset '{dataset.name}' has {given}"
            )
        if not self.labelled and dataset.images_per_example != 1:
            raise InputError(
                f"the task '{self.name}' is about single images; "
                f"dataset '{dataset.name}' has {dataset.images_per_example} in an example"
            )

    def splits(self, request: Request) -> dict[str, Rows]:
        """Text rows of the pairs that are evaluated: :meth:`Request.splits`, of D_r at most ``sample_retain`` pairs."""
        result = request.splits()
        pairs = result.get("retain", request.retain_pairs)
        if len(pairs) > self.sample_retain:
            owners = request.dataset.text_examples[pairs]
            examples, counts = np.unique(owners, return_counts=True)
            order = np.random.default_rng(derive(len(examples), "sample of D_r")).permutation(len(examples))
            kept = order[np.cumsum(counts[order]) <= self.sample_retain]
            result["retain"] = pairs[np.isin(owners, examples[kept])]
        return result

    @abstractmethod
    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """Predict everything that metrics need, one pass per split."""

    def scores_only(self) -> Self:
        """Copy of the task whose :meth:`predict` reads only true pairs, which may be too little for :meth:`metrics`.

        Used for shadow and reference models, whose task metrics are not reported.
        """
        return self.model_copy(update={"probed": 0})

    @abstractmethod
    def predict_pairs(
        self, model: Model, inputs: PairInputs, texts: Rows, request: Request, engine: Engine
    ) -> dict[str, NDArray[Any]]:
        """Predictions of true pairs, by their text rows, with the signals of validation and without ranking."""

    @abstractmethod
    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Metrics of one model's predictions: ``test_score``, ``retain_score``, ``forget_auc`` ..."""

    def contributions(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """What each row of a split contributes to its score: values whose mean is the score, and their clusters.

        None if the split is not scored; without them, verdicts on scores have no interval.
        """
        return None

    @final
    def metrics(self, predictions: Predictions, original: Predictions | None = None) -> dict[str, float]:
        """All metrics of one model: :meth:`scores`, registered metrics, and probes.

        Args:
            predictions: Predictions of the model.
            original: Predictions of the original for the same request; without them there are no probes.
        """
        probed = {} if original is None else probes(predictions, original)
        return {**self.scores(predictions), **computed(predictions, original), **probed}

    def with_features(
        self, predictions: Predictions, model: Model, inputs: PairInputs, request: Request, engine: Engine
    ) -> Predictions:
        """Predictions extended by the unimodal features that :meth:`metrics` needs for probes."""
        if not self.probed:
            return predictions
        alone = unimodal(model, inputs, self.splits(request), engine, count=self.probed, affirms=self.affirms)
        return {split: arrays | alone.get(split, {}) for split, arrays in predictions.items()}

    def validation_pairs(self, request: Request) -> dict[str, Rows]:
        """Text rows of the pairs of validation and D_f that :meth:`validation_metrics` reads."""
        return {split: request.first(split, self.validation_sample) for split in ("validation", "forget")}

    @abstractmethod
    def validation_metrics(
        self, model: Model, inputs: PairInputs, request: Request, engine: Engine
    ) -> dict[str, float]:
        """Utility on validation and forgetting, in points, for checkpoint selection; never reads test.

        Returns:
            ``utility`` (validation score); ``forget_auc`` (D_f against validation: do deleted pairs look unseen?) and
            the same AUC of other signals, ``forget_auc_certainty`` and, with contrastive embeddings,
            ``forget_auc_cosine``, ``forget_auc_i2t`` and ``forget_auc_t2i``; mean probabilities of the true label (or
            of a match), ``confidence_forget`` and ``confidence_validation``; and mean cosines, ``cosine_forget`` and
            ``cosine_validation``.
        """

    @staticmethod
    def validation_metrics_of(predictions: Predictions, utility: float) -> dict[str, float]:
        """Result of :meth:`validation_metrics`, from predictions of validation and D_f."""
        forget, validation = (check_signals(predictions[split]) for split in ("forget", "validation"))
        aucs = {f"forget_auc_{name}": forget_auc(forget[name], validation[name]) for name in forget}
        means: dict[str, float] = {}
        for name, each in (("forget", forget), ("validation", validation)):
            means[f"confidence_{name}"] = float(100 * expit(each["score"].astype(np.float64)).mean())
            if "cosine" in each:
                means[f"cosine_{name}"] = float(each["cosine"].mean(dtype=np.float64))
        return {"utility": utility, "forget_auc": aucs.pop("forget_auc_score"), **aucs, **means}


def true_pairs(dataset: Dataset, texts: Rows) -> tuple[Rows, Rows, dict[str, NDArray[Any]]]:
    """The examples of true pairs.

    Args:
        dataset: The dataset.
        texts: Text rows of the pairs, ``(P,)``.

    Returns:
        Rows of their examples, ``(E,)``; for each pair the index into these, ``(P,)``; and for the predictions
        ``example`` (id), ``text`` (index within the example) and ``cluster`` (see :func:`clusters`) of each pair.
    """
    examples, of_pairs = dataset.example_rows(texts), dataset.text_examples[texts]
    index = np.empty(len(dataset), dtype=np.int64)
    index[examples] = np.arange(len(examples))
    named = {
        "example": np.array([dataset.examples[row].id for row in of_pairs]),
        "text": (texts - dataset.text_starts[of_pairs]).astype(np.int32),
        "cluster": clusters(dataset, examples)[index[of_pairs]].astype(np.int32),
    }
    return examples, index[of_pairs], named
