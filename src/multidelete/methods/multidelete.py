"""MultiDelete: decouple the modalities of deleted pairs, retain everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from multidelete.data.requests import Request
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.image_text import similarities
from multidelete.models.inputs import Batch, Encoding
from multidelete.utils.errors import InputError


class MultiDelete(LossMethod):
    r"""Modality decoupling with multimodal and unimodal knowledge retention [1]_.

    .. math:: L = \alpha L_{MD} + \beta L_{MKR} + \gamma L_{UKR}

    - :math:`L_{MD}`: the fused representation of a deleted pair becomes that of a mismatched pair of D_r,
      :math:`Dis(f'(I_i, T_i), f(I_p, T_q))`, with p and q from two different examples;
    - :math:`L_{MKR}`: kept pairs keep their fused representation, :math:`Dis(f'(I_r, T_r), f(I_r, T_r))`;
    - :math:`L_{UKR}`: both encoders keep their token states on deleted pairs.

    Dis is the mean squared error. With scope ``fusion`` (MultiDelete-F) the encoders do not change and
    :math:`L_{UKR}` is 0 by construction, so it is left out. A weight of 0 is the ablation "− MD", "− MKR", "− UKR".

    These terms do not constrain the contrastive embeddings of ALBEF and BLIP, whose cosine still reveals deleted pairs
    that the original memorised. ``similarity`` (ours) is the weight of two more terms. With s the cosine of a pair,
    they are

    .. math:: \overline{(s'(D_f) - (s(D_f) - \bar s(D_f) + \bar s(D_{validation})))^2} + \overline{(s'(D_r) - s(D_r))^2}

    The first lowers the similarity of all deleted pairs by the mean gap to unseen pairs. The second keeps the
    similarity of every picture with every text in the D_r batch.

    ``stop`` sets how far to unlearn. The paper goes as far as possible (``"lowest"``), but deleted pairs that score
    below all unseen pairs can be identified by that. ``"unseen"`` (ours) stops as soon as deleted pairs look like
    unseen pairs: on validation, no signal available to a membership attack distinguishes D_f from unseen pairs, in
    either direction. The signals are the pair score, the certainty of the head and, if a term changes it, the
    contrastive cosine. Utility must also have recovered from the first steps (``largest_drop``). If no checkpoint meets
    these criteria, the closest one is kept; ties go to the higher utility.
    Unseen pairs are those of validation, so D_f must follow the same distribution: if deleted pairs are inherently
    easier or harder, Retrain's AUC is not 50 either, and its value would be the right target. If the original memorised
    nothing, training stops at the first checkpoint with sufficient utility.

    Args:
        alpha: Weight of modality decoupling.
        beta: Weight of multimodal knowledge retention.
        gamma: Weight of unimodal knowledge retention.
        target: Target of the fused representation of deleted pairs: ``drawn``, one mismatched pair each, drawn at every
            step (the paper); ``mean``, the mean of many mismatched pairs, which drawn ones approximate with noise;
            ``undecided``, a mix of class means for which the head is undecided. In tasks with classes most mismatched
            pairs belong to one class (a statement about other pictures is false), so the first two targets leave
            deleted pairs of that class correctly classified. The last two targets are ours.
        retain_mismatched: Share of mismatched pairs in the D_r batch, so that retention also covers pairs that do not
            match. Ours; 0 is the paper.
        similarity: Weight of both terms on contrastive embeddings; 0 is the paper. An error if the scope does not
            change them.
        stop: ``lowest`` takes all steps, and ``forget_weight`` selects the checkpoint (the paper); ``unseen`` stops
            when deleted pairs look unseen, checked ``evaluations`` times.
        tolerance: With ``unseen``, allowed distance of a signal's AUC from 50, in points. By chance it is within
            100 · √((1/F + 1/V) / 3) of 50 for F deleted and V validation pairs, with 95 % probability.
        largest_drop: With ``unseen``, allowed loss of utility on validation, in points.

    References:
        .. [1] Cheng and Amiri, "MultiDelete for Multimodal Machine Unlearning", ECCV 2024, arXiv 2311.12047
    """

    name: ClassVar[str] = "multidelete"
    title: ClassVar[str] = "MultiDelete"
    color: ClassVar[str] = "#0072B2"
    needs_teacher: ClassVar[bool] = True

    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=1.0, ge=0)
    similarity: float = Field(default=0.0, ge=0)
    target: Literal["drawn", "mean", "undecided"] = "drawn"
    retain_mismatched: float = Field(default=0.0, ge=0, lt=1)
    stop: Literal["lowest", "unseen"] = "lowest"
    tolerance: float = Field(default=5.0, ge=0, lt=50)
    largest_drop: float = Field(default=1.0, ge=0, le=100)

    def model_post_init(self, _: Any) -> None:
        """Check that some loss term is active, and that there are checkpoints at which to stop."""
        if not (self.alpha or self.beta or (self.gamma and self.scope != "fusion")):
            raise ValueError("nothing to minimise: alpha or beta must be positive, or gamma outside scope fusion")
        if self.stop == "unseen" and not self.evaluations:
            raise ValueError("stop = 'unseen' is decided at checkpoints, but evaluations = 0; set it to 10 or so")

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; ``similarity`` needs contrastive embeddings and a validation split."""
        super().check(model, request)
        if not self.similarity:
            return
        if not model.contrastive:
            raise InputError(
                f"method.similarity needs contrastive embeddings, which this {model.name} model does not have; "
                "leave it out"
            )
        if request is not None and not len(request.validation):
            raise InputError(
                f"dataset '{request.dataset.name}' has no validation split, "
                "which method.similarity needs for the similarity of unseen pairs; add one, or leave it out"
            )

    def needs_before(self) -> bool:
        """See :meth:`LossMethod.needs_before`; needed for mean similarities and the utility before unlearning."""
        return self.similarity > 0 or self.stop == "unseen"

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """See :meth:`LossMethod.criterion`; with ``unseen``, the margin of signals and utility to their bounds."""
        if self.stop == "lowest":
            return super().criterion(metrics, before)
        # In scope fusion only similarity moves contrastive embeddings, unless the score is their cosine.
        signals = {name for name in metrics if name.startswith("forget_auc")}
        signals -= {"forget_auc_cosine"} if self.scope == "fusion" and not self.similarity else set()
        distance = max(abs(metrics[name] - 50) for name in signals)
        beyond = max(distance - self.tolerance, before["utility"] - metrics["utility"] - self.largest_drop)
        return 1e-6 * metrics["utility"] - beyond  # utility breaks ties

    def stop_at(self) -> float:
        """See :meth:`LossMethod.stop_at`."""
        return 0.0 if self.stop == "unseen" else super().stop_at()

    def mismatched_share(self) -> float:
        """See :meth:`LossMethod.mismatched_share`."""
        return self.retain_mismatched

    def prepare(self, student: Model, teacher: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Cache the original's outputs for the mismatched pairs that the steps will draw."""
        drawn = self.alpha and self.target == "drawn"
        sizes = {"retain": stream.num_mismatched, "target": stream.forget_size if drawn else 0}
        teacher.remember(
            [stream.mismatched_rows(size, step, use) for step in range(steps) for use, size in sizes.items()]
        )
        if self.alpha and not drawn:
            teacher.mismatched_mean(stream, by_class=self.target == "undecided")

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Weighted loss terms; those with weight 0 are not computed."""
        encoded = student.encode(forget)
        terms: dict[str, Tensor] = {}
        if self.alpha:
            # The paper draws the mismatched pairs from D_r; its released code re-pairs D_f. We follow the paper.
            if self.target == "drawn":
                target = teacher.fused(retain.mismatched(len(forget)))  # (B_f, D)
            else:
                assert retain.stream is not None
                mean = teacher.mismatched_mean(retain.stream, by_class=self.target == "undecided")
                target = mean.expand(len(forget), -1)
            terms["md"] = self.alpha * F.mse_loss(student.fuse(encoded).float(), target.float())
        kept = student.encode(retain) if self.beta or self.similarity else {}
        if self.beta:
            terms["mkr"] = self.beta * F.mse_loss(student.fuse(kept).float(), teacher.fused(retain).float())
        moving = [modality for modality in student.modalities if encoded[modality].tokens.requires_grad]
        before = teacher.encode(forget) if self.similarity or (self.gamma and moving) else {}
        if self.gamma and moving:
            drift = [token_drift(encoded[modality], before[modality]) for modality in student.modalities]
            terms["ukr"] = self.gamma * torch.stack(drift).mean()
        if self.similarity:
            own = similarities(student, encoded).diagonal()
            known = similarities(teacher.model, before).diagonal()
            if not own.requires_grad:
                raise InputError(
                    f"method.similarity has no effect in scope '{self.scope}', which does not move the contrastive "
                    "embeddings of this model; leave it out or choose scope all"
                )
            gap = teacher.validation_metrics["cosine_forget"] - teacher.validation_metrics["cosine_validation"]
            terms["md_similarity"] = self.similarity * F.mse_loss(own, known - gap)
            terms["mkr_similarity"] = self.similarity * F.mse_loss(
                similarities(student, kept), similarities(teacher.model, teacher.encode(retain))
            )
        if not terms:
            raise InputError("nothing to minimise: the encoders are frozen, so alpha or beta must be positive")
        return terms


def token_drift(now: Encoding, before: Encoding) -> Tensor:
    """Mean squared difference of token states, a scalar; padding is ignored."""
    difference = (now.tokens.float() - before.tokens.float()).square().mean(-1)  # (B, L)
    return (difference * now.mask).sum() / now.mask.sum()
