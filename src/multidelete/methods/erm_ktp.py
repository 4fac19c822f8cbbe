"""ERM-KTP: the channels that a mask gives to D_f are cut out, and what is left is taught anew to a fresh encoder."""

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
    r"""Knowledge transfer, prohibited where an entanglement-reduced mask says that it is about D_f [1]_.

    .. math:: L = Dis(F'(I_r), c \odot F(I_r)) + \lambda \, Dis(\bar{F'}_y(I_r), c \odot \bar{F}_y(I_r)),
       \qquad \bar{F}_y = \text{mean of the tokens of } M_y \odot F

    The original learned a mask M beside its task (:class:`ChannelMaskSettings`, ``[train.extra]`` in a recipe), which
    says how much each class uses each channel of the last visual feature map F. Classes are groups of examples; the
    last one is D_f. c is 0 for the channels that D_f uses more than any other class, and 1 elsewhere. The student is
    the original with a new vision encoder in which those channels stay closed, in training and afterwards; everything
    after F (the paper's head) keeps the original's weights. It learns F' from the original's feature maps of pictures
    of D_r, without texts and labels; y is the group of the picture's example. D_f is never read.

    F is what the fusion reads of a picture: the token states behind the adapter (albef), of the vision tower (blip) or
    of the patch embeddings (vilt), or the tower's pooled vector (clip). Only ``vision`` can be its scope.

    Ours, for a model of two modalities: contrastive embeddings, which branch off before F, are learned from the
    original's as a third term; each distance is a mean square over that of what is aimed at, so that maps of any scale
    weigh alike; the student takes as many steps as Retrain, by the settings that the original was trained with; and
    what M has learned of D_f does not stay in the model: it is as it was before training.

    Args:
        epochs_factor: Passes, as a multiple of the original's training.
        pooled_weight: Weight of the masked pooled feature.

    References:
        .. [1] Lin et al., "ERM-KTP: Knowledge-Level Machine Unlearning via Knowledge Transfer", CVPR 2023
    """

    name: ClassVar[str] = "erm_ktp"
    title: ClassVar[str] = "ERM-KTP"
    color: ClassVar[str] = "#56B4E9"
    requires: ClassVar[frozenset[str]] = frozenset({"vision", ChannelMaskSettings.name})
    scopes: ClassVar[tuple[str, ...]] = ("vision",)
    needs_training: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget",)

    scope: Scope = "vision"
    epochs_factor: float = Field(default=1.0, gt=0)
    pooled_weight: float = Field(default=1.0, ge=0)

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; there must be a mask for this request, and a feature map that can change."""
        super().check(model, request)
        if request is not None and (model.config.extra or {}).get("request") != request.hash:
            raise InputError(
                f"the mask of this {model.name} model was learned for another deletion than these "
                f"{len(request.forget):,} examples; train an original with [train.extra] for this one"
            )
        if not any(within(name, ("vision", "vision_adapter")) for name in model.parameters_of(self.scope)):
            raise InputError(
                f"erm_ktp: the visual feature map of this {model.name} model cannot change: its vision backbone is "
                "frozen and no adapter follows it; set model.vision.freeze = false, or another width of the fusion"
            )

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        mask = mask_of(original)
        classes = len(mask.weight)
        kept = (~mask.owned(classes - 1)).float()  # c, (K,)
        logger.info("%s: %d of %d visual channels belong to D_f", self.title, int((1 - kept).sum()), len(kept))
        self._renew(student, data.initial_model(original).to(engine.device), kept)
        inputs = frozen_inputs(engine, student, data.inputs, self.scope)
        encoded = encode_once(engine, original, data.inputs, "vision", what="encoding vision once")
        lessons = data.inputs if encoded is None else data.inputs.with_sources({"vision": encoded})
        pictures = EpochSampler(data.request.retain, data.seed, "retain")
        size = min(data.training.batch_size, len(data.request.retain))
        groups = torch.from_numpy(groups_of(data.request.dataset, classes)).to(engine.device)
        parameters = student.parameters_of(self.scope)
        embeds = any(within(name, ("vision_projection",)) for name in parameters)

        def pictures_of(given: PairInputs, model: Model, rows: Rows) -> Encoding:
            return model.encode_one("vision", given.sources["vision"].take(rows).to(engine.device))

        def losses(step: int) -> dict[str, Tensor]:
            rows = pictures.take(step * size, size)
            own = pictures_of(inputs, student, rows)
            with torch.no_grad():
                aim = mask.gated(pictures_of(lessons, original, rows), kept)
            seen = mask.weight[groups[rows]][:, None]  # (B, 1, K)
            mine, theirs = mask.feature_map(own), mask.feature_map(aim)  # (B, L, K)
            pooled = distance((mine * seen).mean(1), (theirs * seen).mean(1))
            terms = {"map": distance(mine, theirs), "pooled": self.pooled_weight * pooled}
            return {**terms, "embedding": distance(own.pooled, aim.pooled)} if embeds else terms

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
        return Unlearned(student, history, prepared, inputs)

    @torch.no_grad()
    def _renew(self, student: Model, fresh: Model, kept: Tensor) -> None:
        """Begin anew with everything in scope, running statistics and mask included, and close D_f's channels."""
        begun = fresh.state_dict()
        for name, tensor in student.state_dict().items():
            if within(name, (*student.parts[self.scope], EXTRA)):
                tensor.copy_(begun[name])
        mask_of(student).open.copy_(kept)


def distance(own: Tensor, aim: Tensor) -> Tensor:
    """Mean squared difference, as a share of the mean square of what is aimed at."""
    return F.mse_loss(own.float(), aim.float()) / aim.float().square().mean().clamp_min(1e-12)
