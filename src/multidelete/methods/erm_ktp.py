"""ERM-KTP: removes the channels that a mask assigns to D_f, and distils the others into a new encoder."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.requests import Request
from multidelete.data.samplers import EpochSampler, TrainStream
from multidelete.methods.base import Method, Scope, Unlearned, UnlearningData
from multidelete.methods.channel_mask import ChannelMaskSettings, groups_of, mask_of
from multidelete.models.base import Model
from multidelete.models.extras import EXTRA
from multidelete.models.inputs import Encoding, within
from multidelete.training.engine import Engine
from multidelete.training.features import encode_once, frozen_inputs
from multidelete.training.loop import FitSettings, fit
from multidelete.utils.errors import InputError

logger = logging.getLogger(__name__)


class ErmKtp(Method):
    r"""Knowledge transfer that excludes the channels assigned to D_f by an entanglement-reduced mask [1]_.

    .. math:: L = Dis(F'(I_r), F(I_r)) + \lambda \, Dis(\bar{F'}_y(I_r), \bar{F}_y(I_r)),
       \qquad \bar{F}_y = \text{mean of the tokens of } M_y \odot F

    The original is trained with a mask M (:class:`ChannelMaskSettings`, ``[train.extra]`` in a recipe), which measures
    how much each class uses each channel of the last visual feature map F. Classes are groups of examples; the last one
    is D_f. The student is the original with a new vision encoder; everything after F (the paper's head) keeps the
    original's weights. It learns F' from the original's feature maps of images of D_r, without texts and labels; y is
    the group of the example. Then the channels that D_f uses, those with M > ``least``, are closed: always 0. D_f is
    never read.

    F is what the fusion reads of an image: the token states after the adapter (albef), of the vision tower (blip) or
    of the patch embeddings (vilt), or the tower's pooled vector (dual_encoder). The only scope is ``vision``.

    Ours, for models of two modalities: a third term for contrastive embeddings, which branch off before F; distances
    are mean squared errors relative to the mean square of the target, to balance the terms; the student takes as many
    steps as Retrain, with the original's training settings; and M is reset to its initial values, to remove what it
    learned about D_f.

    Args:
        epochs_factor: Number of epochs, relative to the original's training.
        pooled_weight: Weight of the masked pooled feature.
        least: Entry of M above which a channel is used; what all classes use belongs to none. The authors' is 0, for
            masks that many epochs have made sparse; after some hundred steps nearly all entries are a little above it.

    References:
        .. [1] Lin et al., "ERM-KTP: Knowledge-Level Machine Unlearning via Knowledge Transfer", CVPR 2023
    """

    name: ClassVar[str] = "erm_ktp"
    title: ClassVar[str] = "ERM-KTP"
    color: ClassVar[str] = "#56B4E9"
    requires: ClassVar[frozenset[str]] = frozenset({"vision", ChannelMaskSettings.name})
    scopes: ClassVar[tuple[str, ...]] = ("vision",)
    needs_training: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget",)

    scope: Scope = "vision"
    epochs_factor: float = Field(default=1.0, gt=0)
    pooled_weight: float = Field(default=1.0, ge=0)
    least: float = Field(default=0.9, ge=0, lt=1)

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; there must be a mask for this request, and a trainable feature map."""
        super().check(model, request)
        if request is not None and not request.complete:
            raise InputError("ERM-KTP deletes complete examples; the request names single texts of pictures that stay")
        if request is not None and (model.config.extra or {}).get("request") != request.hash:
            raise InputError(
                f"the mask of this {model.name} model was trained for another deletion than these "
                f"{len(request.forget):,} examples; train an original with [train.extra] for this one"
            )

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        mask = mask_of(original)
        classes = len(mask.weight)
        closed = mask.used(classes - 1, self.least)
        logger.info("%s: %d of %d visual channels belong to D_f", self.title, int(closed.sum()), len(closed))
        if closed.all():
            raise InputError(
                "D_f uses every visual channel of the mask, so that closing them would leave nothing; raise "
                "method.least, or train the original longer so that the mask becomes sparse"
            )
        self._renew(student, data.initial_model(original).to(engine.device))
        inputs = frozen_inputs(engine, student, data.inputs, self.scope)
        encoded = encode_once(engine, original, data.inputs, "vision", what="encoding vision")
        lessons = data.inputs if encoded is None else data.inputs.with_sources({"vision": encoded})
        pictures = EpochSampler(data.request.retain, data.seed, "retain")
        size = min(data.training.batch_size, len(data.request.retain))
        groups = torch.from_numpy(groups_of(data.request.dataset, classes)).to(engine.device)
        parameters = student.parameters_of(self.scope)
        embeds = student.contrastive and not mask.pooled

        def pictures_of(given: PairInputs, model: Model, rows: Rows) -> Encoding:
            return model.encode_one("vision", given.sources["vision"].take(rows).to(engine.device))

        def losses(step: int) -> dict[str, Tensor]:
            rows = pictures.take(step * size, size)
            own = pictures_of(inputs, student, rows)
            with torch.no_grad():
                aim = pictures_of(lessons, original, rows)
            seen = mask.weight[groups[rows]][:, None]  # (B, 1, K)
            mine, theirs = mask.feature_map(own), mask.feature_map(aim)  # (B, L, K)
            pooled = distance((mine * seen).mean(1), (theirs * seen).mean(1))
            terms = {"map": distance(mine, theirs), "pooled": self.pooled_weight * pooled}
            if not embeds:
                return terms
            # The contrastive embeddings are not computed from the feature map.
            embedded, target = student.embedding("vision", own), original.embedding("vision", aim)
            return {**terms, "embedding": distance(embedded, target)}

        fit_settings = FitSettings(
            steps=TrainStream(inputs, data.retain_pairs, size, data.seed).steps(
                self.epochs_factor * data.training.epochs
            ),
            seed=data.seed,
            **data.training.model_dump(include={"learning_rate", "weight_decay", "warmup", "clip"}),
        )
        prepared = time.perf_counter() - began
        history = fit(
            engine,
            student,
            parameters,
            losses,
            fit_settings,
            what=f"{self.title} ({self.scope})",
            training=True,
            folder=data.folder,
        )
        mask_of(student).open.copy_(~closed)
        return Unlearned(student, history, prepared, inputs)

    @torch.no_grad()
    def _renew(self, student: Model, fresh: Model) -> None:
        """Reset everything in scope, including running statistics and mask."""
        begun = fresh.state_dict()
        for name, tensor in student.state_dict().items():
            if within(name, (*student.parts[self.scope], EXTRA)):
                tensor.copy_(begun[name])


def distance(own: Tensor, aim: Tensor) -> Tensor:
    """Mean squared error relative to the mean square of the target."""
    return F.mse_loss(own.float(), aim.float()) / aim.float().square().mean().clamp_min(1e-12)
