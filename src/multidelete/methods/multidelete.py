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
from multidelete.models.inputs import Batch, Encoding
from multidelete.utils.errors import InputError


class MultiDelete(LossMethod):
    r"""Modality decoupling with multimodal and unimodal knowledge retention [1]_.

    .. math:: L = \alpha L_{MD} + \beta L_{MKR} + \gamma L_{UKR}

    - :math:`L_{MD}`: the fused representation of a deleted pair becomes that of a mismatched pair of D_r,
      :math:`Dis(f'(I_i, T_i), f(I_p, T_q))`, with p and q from two different examples;
    - :math:`L_{MKR}`: kept pairs keep theirs, :math:`Dis(f'(I_r, T_r), f(I_r, T_r))`;
    - :math:`L_{UKR}`: the token states of both encoders on deleted pairs stay where they were.

    Dis is the mean squared error. With scope ``fusion`` (MultiDelete-F) the encoders do not move and
    :math:`L_{UKR}` is 0 by construction, so it is left out. A weight of 0 is the ablation "− MD", "− MKR", "− UKR".

    None of these reaches the contrastive embeddings, by whose cosine a deleted pair is still told where the original
    memorised it. ``similarity`` (ours) is the weight of two more terms. With s the cosine of a pair,

    .. math:: \overline{(s'(D_f) - (s(D_f) - \bar s(D_f) + \bar s(D_{validation})))^2} + \overline{(s'(D_r) - s(D_r))^2}

    take from deleted pairs what they have in similarity before unseen ones, the same of each, and leave that of every
    picture with every text in the batch of kept pairs as it was.

    How far to go is a choice of its own. The paper goes as low as it can (``stop="lowest"``), and deleted pairs then
    score below every pair that was never seen: that alone can tell which they were. ``stop="unseen"`` (ours) ends as
    soon as they look like unseen pairs, neither remembered nor conspicuous: on validation none of the signals that a
    membership attack could read tells D_f from unseen pairs, in either direction. The signals are the pair score, the
    certainty of the head (rightly or wrongly sure) and, where the scope moves it, the contrastive cosine. Nor does it
    end before retention has made up for what the first steps cost (``largest_drop``). Where it never comes so far, the
    checkpoint that came closest is kept, of equals the more useful one.
    What unseen pairs look like is taken from validation. So D_f must be drawn like validation: where deleted pairs are
    easier or harder by nature, Retrain is not at 50 either, and Retrain's value, not 50, would be the right one. Where
    the original memorised nothing, its deleted pairs look unseen from the start and the first checkpoint that has kept
    utility ends it.

    Args:
        alpha: Weight of modality decoupling.
        beta: Weight of multimodal knowledge retention.
        gamma: Weight of unimodal knowledge retention.
        target: What deleted pairs become: ``drawn``, one mismatched pair each, fresh at every step (the paper);
            ``mean``, the mean of many mismatched pairs, which the squared error of drawn ones pulls to as well, only
            with noise; ``undecided``, the means of the classes mixed so that the head cannot decide. Mismatched
            pairs of a task with classes mostly belong to one of them (a statement about other pictures is false), and
            what becomes like them is then not forgotten but decided: right, for deleted pairs of that class. The last
            two are ours.
        retain_mismatched: Share of the D_r batch taken as mismatched pairs, so that retention also covers what "not
            matching" looks like. Ours; 0 is the paper.
        similarity: Weight of both terms on contrastive embeddings; 0 is the paper. Where the scope does not move them
            it is refused.
        stop: ``lowest``, all steps are taken and ``forget_weight`` chooses the checkpoint (the paper); ``unseen``, it
            ends where deleted pairs look unseen. How finely that is met depends on ``evaluations``.
        tolerance: With ``unseen``, how far from 50 the AUC of a signal may be, in points. By chance alone it lies
            within 100 · √((1/F + 1/V) / 3) of 50 for F deleted and V validation pairs, 19 times out of 20.
        largest_drop: With ``unseen``, points of utility on validation that it may have cost where it ends.

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
        """Refuse weights with which there is nothing to minimise, and a stop that nothing would bring about."""
        if not (self.alpha or self.beta or (self.gamma and self.scope != "fusion")):
            raise ValueError("nothing to minimise: alpha or beta must be positive, or gamma outside scope fusion")
        if self.stop == "unseen" and not self.evaluations:
            raise ValueError("stop = 'unseen' is decided at checkpoints, but evaluations = 0; set it to 10 or so")

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; without contrastive embeddings there is no similarity to take away."""
        super().check(model, request)
        if not self.similarity:
            return
        if not model.contrastive:
            raise InputError(
                f"method.similarity is about contrastive embeddings, which this {model.name} model does not have; "
                "leave it out"
            )
        if request is not None and not len(request.validation):
            raise InputError(
                f"dataset '{request.dataset.name}' has no validation split, "
                "from which method.similarity takes how similar unseen pairs are; add one, or leave it out"
            )

    def needs_before(self) -> bool:
        """See :meth:`LossMethod.needs_before`; it has the mean similarities, and the utility that is to be kept."""
        return self.similarity > 0 or self.stop == "unseen"

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """See :meth:`LossMethod.criterion`; with ``unseen``, how far signals and utility are within their bounds."""
        if self.stop == "lowest":
            return super().criterion(metrics, before)
        # In scope fusion the contrastive embeddings stand still, or (clip) order pairs as the score does.
        signals = {name for name in metrics if name.startswith("forget_auc")}
        signals -= {"forget_auc_cosine"} if self.scope == "fusion" else set()
        distance = max(abs(metrics[name] - 50) for name in signals)
        beyond = max(distance - self.tolerance, before["utility"] - metrics["utility"] - self.largest_drop)
        return 1e-6 * metrics["utility"] - beyond  # utility decides between equals

    def stop_at(self) -> float:
        """See :meth:`LossMethod.stop_at`."""
        return 0.0 if self.stop == "unseen" else super().stop_at()

    def mismatched_share(self) -> float:
        """See :meth:`LossMethod.mismatched_share`."""
        return self.retain_mismatched

    def prepare(self, student: Model, original: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Compute the original's view of the mismatched pairs that the steps will draw."""
        drawn = self.alpha and self.target == "drawn"
        sizes = {"retain": stream.num_mismatched, "target": stream.forget_size if drawn else 0}
        original.remember(
            [stream.mismatched_rows(size, step, use) for step in range(steps) for use, size in sizes.items()]
        )
        if self.alpha and not drawn:
            original.mismatched_mean(stream, by_class=self.target == "undecided")

    def losses(self, student: Model, original: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """The three terms, weighted; a term of weight 0 is not computed."""
        encoded = student.encode(forget)
        terms: dict[str, Tensor] = {}
        if self.alpha:
            # The paper draws the mismatched pairs from D_r; its released code re-pairs D_f. We follow the paper.
            if self.target == "drawn":
                target = original.fused(retain.mismatched(len(forget)))  # (B_f, D)
            else:
                assert retain.stream is not None
                mean = original.mismatched_mean(retain.stream, by_class=self.target == "undecided")
                target = mean.expand(len(forget), -1)
            terms["md"] = self.alpha * F.mse_loss(student.fuse(encoded).float(), target.float())
        kept = student.encode(retain) if self.beta or self.similarity else {}
        if self.beta:
            terms["mkr"] = self.beta * F.mse_loss(student.fuse(kept).float(), original.fused(retain).float())
        moving = [modality for modality in student.modalities if encoded[modality].tokens.requires_grad]
        before = original.encode(forget) if self.similarity or (self.gamma and moving) else {}
        if self.gamma and moving:
            drift = [token_drift(encoded[modality], before[modality]) for modality in student.modalities]
            terms["ukr"] = self.gamma * torch.stack(drift).mean()
        if self.similarity:
            own = similarities(student, encoded).diagonal()
            known = similarities(original.model, before).diagonal()
            if not own.requires_grad:
                raise InputError(
                    f"method.similarity has no effect in scope '{self.scope}', which does not move the contrastive "
                    "embeddings of this model; leave it out or choose scope all"
                )
            gap = original.validation_metrics["cosine_forget"] - original.validation_metrics["cosine_validation"]
            terms["md_similarity"] = self.similarity * F.mse_loss(own, known - gap)
            terms["mkr_similarity"] = self.similarity * F.mse_loss(
                similarities(student, kept), similarities(original.model, original.encode(retain))
            )
        if not terms:
            raise InputError("nothing to minimise: the encoders are frozen, so alpha or beta must be positive")
        return terms


def similarities(model: Model, encoded: Mapping[str, Encoding]) -> Tensor:
    """Cosines of every picture (or graph) with every text, ``(B, B)``."""
    one, text = (model.embedding(modality, encoded[modality]).float() for modality in model.modalities)
    return one @ text.T


def token_drift(now: Encoding, before: Encoding) -> Tensor:
    """Mean squared difference of token states over real tokens, a scalar; padding does not count."""
    difference = (now.tokens.float() - before.tokens.float()).square().mean(-1)  # (B, L)
    return (difference * now.mask).sum() / now.mask.sum()
