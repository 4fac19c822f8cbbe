"""MultiDelete: decouple the modalities of deleted pairs, retain everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from multidelete.data.batches import PairInputs
from multidelete.data.requests import Request
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.base import LossMethod, UnlearningData
from multidelete.methods.pairs import label_log_odds
from multidelete.methods.teacher import Teacher
from multidelete.methods.unseen import Unseen
from multidelete.models.base import Model
from multidelete.models.image_text import cosines_of, hard_negatives, similarities
from multidelete.models.inputs import Batch, Encoding
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError

KEPT = 1000  # kept pairs whose signals are compared with those of validation pairs
UNFIT = -1000.0  # criterion below which no checkpoint that is fit can be
BISECTIONS = 20
FULL_RATE = 16  # batches of D_f from which on the learning rate is taken as it is
HARD = 0.5  # share of the kept pairs of a step whose hard negatives are kept too


class MultiDelete(LossMethod):
    r"""Modality decoupling with multimodal and unimodal knowledge retention [1]_.

    .. math:: L = \alpha L_{MD} + \beta L_{MKR} + \gamma L_{UKR}

    - :math:`L_{MD}`: the fused representation of a deleted pair becomes that of a mismatched pair of D_r,
      :math:`Dis(f'(I_i, T_i), f(I_p, T_q))`, with p and q from two different examples;
    - :math:`L_{MKR}`: kept pairs keep their fused representation, :math:`Dis(f'(I_r, T_r), f(I_r, T_r))`;
    - :math:`L_{UKR}`: both encoders keep their token states on deleted pairs.

    Dis is the mean squared error. With scope ``fusion`` (MultiDelete-F) the encoders do not change and
    :math:`L_{UKR}` is 0 by construction, so it is left out. A weight of 0 is the ablation "− MD", "− MKR", "− UKR".

    Retrieval relates the modalities in a second space, the contrastive similarities s of all pictures with all texts of
    a step. The paper defines the terms on fused representations, its released code on similarities; ``space`` selects
    one or both. There L_MD is the squared error of the deleted pairs, and L_MKR that of the kept pairs plus that of all
    wrong partners, of kept and of deleted pairs, in both directions. With both, L_MKR also keeps the fused
    representation of hard negatives (ours): pictures with a wrong text that the original finds similar, and texts with
    a wrong picture. A ranking depends on them as much as on the true pairs.

    ``stop`` sets how far to unlearn. The paper goes as far as possible (``"lowest"``), but deleted pairs that score
    lower than any unseen pair are conspicuous too. By default (``"unseen"``, ours) each deleted pair goes only as far
    as an equally hard pair that was not trained on (:class:`Unseen`): the target of L_MD is on the line from its own
    fused representation to the mismatched one, where the original's head gives it the score of that unseen pair, and
    the similarity of the unseen pair. Of the checkpoints that are fit, that with the highest utility minus the points
    by which a signal still distinguishes deleted pairs from unseen ones is kept. The original is the first checkpoint:
    it is left as it is if it never distinguished them, and if no checkpoint is fit.

    Args:
        alpha: Weight of L_MD.
        beta: Weight of L_MKR.
        gamma: Weight of L_UKR.
        space: ``fused`` (paper), ``similarity`` (released code), or ``both`` where the model has both.
        target: Target of L_MD: ``drawn``, one mismatched pair for each deleted pair and step (paper); ``mean``, their
            mean, which the squared error to draws pulls to as well, but with noise; ``undecided``, a mixture of class
            means for which the original's head cannot decide. Mismatched pairs belong to one class (a statement about
            other pictures is false), so the first two targets leave deleted pairs of that class correctly classified.
            The last two targets are ours.
        retain_mismatched: Share of mismatched pairs in the D_r batch, so that retention also covers pairs that do not
            match. Ours; 0 is the paper.
        stop: ``unseen`` goes until deleted pairs look unseen; with ``lowest``, ``forget_weight`` selects the
            checkpoint (the paper).
        tolerance: With ``unseen``, distance of a signal's AUC from its aim that does not count, in points.
        largest_drop: With ``unseen``, largest loss of utility on validation of a fit model, in points.

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
    space: Literal["both", "fused", "similarity"] = "both"
    target: Literal["drawn", "mean", "undecided"] = "mean"
    retain_mismatched: float = Field(default=0.0, ge=0, lt=1)
    stop: Literal["lowest", "unseen"] = "unseen"
    tolerance: float = Field(default=5.0, ge=0, lt=50)
    largest_drop: float = Field(default=1.0, ge=0, le=100)
    min_steps: int = Field(default=10, ge=1)
    evaluations: int = Field(default=10, ge=0)

    def model_post_init(self, _: Any) -> None:
        """Check that some loss term is active, and that there are checkpoints at which to stop."""
        if not (self.alpha or self.beta or (self.gamma and self.scope != "fusion")):
            raise ValueError("nothing to minimise: alpha or beta must be positive, or gamma outside scope fusion")

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; the model must have the space."""
        super().check(model, request)
        if self.space == "similarity" and not has_similarities(model):
            raise InputError(
                f"method.space = 'similarity' needs contrastive embeddings, which this {model.name} model does not "
                "have; leave it out"
            )

    def spaces(self, model: Model) -> tuple[bool, bool]:
        """Whether the terms act on fused representations, and on similarities.

        Without a matching head the fused representation of a dual encoder is the product of the embeddings, and the
        similarities are all there is.
        """
        similar = self.space != "fused" and has_similarities(model)
        return self.space == "fused" or (self.space == "both" and (model.matching or not similar)), similar

    def stops(self) -> bool:
        """Whether it stops where deleted pairs look unseen; without checkpoints it cannot."""
        return self.stop == "unseen" and self.evaluations > 0

    def needs_before(self) -> bool:
        """See :meth:`LossMethod.needs_before`; the original is the first checkpoint."""
        return self.stops()

    def unseen(
        self, student: Model, inputs: PairInputs, stream: ForgetRetainStream, data: UnlearningData, engine: Engine
    ) -> Unseen | None:
        """See :meth:`LossMethod.unseen`."""
        if not self.stops():
            return None
        rows = {**data.task.validation_pairs(data.request), "kept": stream.first_kept(KEPT)}
        found = {
            name: data.task.predict_pairs(student, inputs, texts, data.request, engine) for name, texts in rows.items()
        }
        fused, similar = self.spaces(student)
        return Unseen.of(**found, tolerance=self.tolerance, fused=fused, similarities=similar)

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """See :meth:`LossMethod.criterion`; with ``unseen``, utility minus the distance from looking unseen.

        Any fit model comes before an unfit one. The original is fit, so that it is kept if no other is.
        """
        if not self.stops():
            return super().criterion(metrics, before)
        drop = before["utility"] - metrics["utility"] - self.largest_drop
        if drop > 0:
            return UNFIT - drop
        return metrics["utility"] - max(metrics["distance"], 0.0)

    def peak_rate(self, data: UnlearningData) -> float:
        """See :meth:`LossMethod.peak_rate`; smaller for a small D_f, with the root of its size.

        A step of Adam is as large for one pair as for many, and takes a single pair far beyond its aim. From
        ``FULL_RATE`` batches on, ``learning_rate`` is taken as it is.
        """
        share = len(data.forget_pairs) / (FULL_RATE * self.batch_size) if self.stops() else 1.0
        return self.learning_rate * math.sqrt(min(1.0, share))

    def mismatched_share(self) -> float:
        """See :meth:`LossMethod.mismatched_share`."""
        return self.retain_mismatched

    def prepare(self, student: Model, teacher: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Cache the original's outputs for the mismatched pairs that the steps will draw."""
        if not self.spaces(student)[0]:
            return
        drawn = self.alpha and self.target == "drawn"
        sizes = {"retain": stream.num_mismatched, "target": stream.forget_size if drawn else 0}
        teacher.remember(
            [stream.mismatched_rows(size, step, use) for step in range(steps) for use, size in sizes.items()]
        )
        if self.alpha and not drawn:
            teacher.mismatched_mean(stream, by_class=self.target == "undecided")

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Weighted loss terms; those with weight 0 are not computed."""
        fused, similar = self.spaces(student)
        encoded = student.encode(forget)
        kept = student.encode(retain) if self.beta or similar else {}
        terms: dict[str, Tensor] = {}
        if self.alpha and fused:
            target = self._fused_target(teacher, forget, retain)
            terms["md"] = self.alpha * F.mse_loss(student.fuse(encoded).float(), target)
        if self.beta and fused:
            terms["mkr"] = self.beta * F.mse_loss(student.fuse(kept).float(), teacher.fused(retain).float())
        moving = [modality for modality in student.modalities if encoded[modality].tokens.requires_grad]
        before = teacher.encode(forget) if similar or (self.gamma and moving) else {}
        if self.gamma and moving:
            drift = [token_drift(encoded[modality], before[modality]) for modality in student.modalities]
            terms["ukr"] = self.gamma * torch.stack(drift).mean()
        if similar:
            kept_before = teacher.encode(retain)
            with torch.no_grad():
                cosines = table(teacher.model, (before, kept_before))
            if (
                self.beta
                and fused
                and (hard := hard_pairs(teacher.model, cosines[len(forget) :, len(forget) :], retain))
            ):
                with torch.no_grad():
                    known = teacher.model.fuse_pairs(kept_before, hard).float()
                terms["mkr_hard"] = self.beta * F.mse_loss(student.fuse_pairs(kept, hard).float(), known)
            terms |= self._similarity_terms(teacher, (forget, retain), table(student, (encoded, kept)), cosines)
        if not terms:
            raise InputError("nothing to minimise: the encoders are frozen, so alpha or beta must be positive")
        return terms

    @torch.no_grad()
    def _fused_target(self, teacher: Teacher, forget: Batch, retain: RetainBatch) -> Tensor:
        """Target of L_MD on fused representations, ``(B_f, D)``."""
        # The paper draws the mismatched pairs from D_r; its released code re-pairs D_f. We follow the paper.
        if self.target == "drawn":
            mismatched = teacher.fused(retain.mismatched(len(forget))).float()
        else:
            assert retain.stream is not None
            mean = teacher.mismatched_mean(retain.stream, by_class=self.target == "undecided").float()
            mismatched = mean.expand(len(forget), -1)
        if teacher.unseen is None:
            return mismatched
        own, head = teacher.fused(forget).float(), teacher.model.head

        def score(fused: Tensor) -> Tensor:
            return label_log_odds(teacher.model, head(fused), forget)

        return part_of_the_way(own, mismatched, score, lowered(teacher.unseen, "score", score(own)))

    def _similarity_terms(
        self, teacher: Teacher, batches: tuple[Batch, RetainBatch], now: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """L_MD and L_MKR on the similarities of all pictures with all texts of a step, those of D_f first.

        Args:
            teacher: The original.
            batches: Pairs of D_f and of D_r.
            now: Similarities under the student, ``(B, B)``; there are no terms if the scope does not move them.
            target: The same under the original.
        """
        forget, retain = batches
        if not now.requires_grad:
            if not self.spaces(teacher.model)[0]:
                raise InputError(
                    f"the loss depends on no parameter of this scope: '{self.scope}' does not move the contrastive "
                    "embeddings of this model; choose another scope"
                )
            return {}
        with torch.no_grad():
            own = target.diagonal()[: len(forget)]
            if teacher.unseen is not None:
                aim = lowered(teacher.unseen, "cosine", own)
            elif self.target == "drawn":
                mismatched = retain.mismatched(len(forget))
                aim = similarities(teacher.model, teacher.encode(mismatched)).diagonal()
            else:
                aim = target[len(forget) :, len(forget) :][~true_pairs(retain, retain)].mean().expand(len(forget))
        count = len(forget)
        deleted, matched = (torch.cat([true_pairs(each, texts) for each in batches]) for texts in batches)
        drift = (now - target).square()
        md = (now[:, :count] - aim)[deleted].square().mean()
        # The few true pairs that are kept weigh as much as the many wrong ones: else they are what is lost.
        mkr = drift[:, count:][matched].mean() + drift[~torch.cat([deleted, matched], dim=1)].mean()
        weighted = {"md_similarity": (self.alpha, md), "mkr_similarity": (self.beta, mkr)}
        return {name: weight * term for name, (weight, term) in weighted.items() if weight}


def has_similarities(model: Model) -> bool:
    """Whether the task of the model relates the modalities by contrastive similarities."""
    return model.contrastive and not model.config.labels


def table(model: Model, encoded: tuple[Mapping[str, Encoding], ...]) -> Tensor:
    """Cosines of all pictures with all texts of several batches, ``(B, B)``."""
    vision, text = (
        torch.cat([model.embedding(modality, each[modality]).float() for each in encoded])
        for modality in ("vision", "text")
    )
    return cosines_of(vision, text)


def hard_pairs(model: Model, cosines: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Rows of wrong pairs of a batch that the model finds similar, ``(2 · HARD · B,)`` each; empty for one example.

    For some of the pictures a wrong text, and for their texts a wrong picture, drawn as in training.

    Args:
        model: The model.
        cosines: Its similarities of all pictures with all texts of the batch, ``(B, B)``.
        batch: The pairs.
    """
    own = torch.arange(max(1, round(HARD * len(batch))))
    similarity, same = model.contrastive_scale() * cosines, true_pairs(batch, batch)
    text, vision = (
        hard_negatives(values[own], known[own], batch.generator)
        for values, known in ((similarity, same), (similarity.T, same.T))
    )
    if text is None or vision is None:
        return {}
    own = own.to(text.device)
    return {"vision": torch.cat([own, vision]), "text": torch.cat([text, own])}


def true_pairs(pictures: Batch, texts: Batch) -> Tensor:
    """Whether each text belongs to the example of each picture, ``(B_p, B_t)``."""
    return pictures.examples["vision"][:, None] == texts.examples["text"][None, :]


def lowered(unseen: Unseen, name: str, values: Tensor) -> Tensor:
    """:meth:`Unseen.lowered` of a tensor."""
    found = unseen.lowered(name, values.double().cpu().numpy())
    return torch.from_numpy(found).to(values.device, values.dtype)


def part_of_the_way(own: Tensor, other: Tensor, score: Callable[[Tensor], Tensor], aim: Tensor) -> Tensor:
    """The point on the line from ``own`` to ``other`` whose score is the aim, ``(B, D)``, by bisection.

    The other end where none is found, and ``own`` where it scores no more than the aim.

    Args:
        own: Fused representations, ``(B, D)``.
        other: Fused representations, ``(B, D)``.
        score: Function from representations to scores, ``(B,)``.
        aim: Scores, ``(B,)``.
    """
    low, high = torch.zeros_like(aim), torch.ones_like(aim)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = score(torch.lerp(own, other, middle[:, None])) > aim
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    share = torch.where(score(own) > aim, high, torch.zeros_like(high))
    return torch.lerp(own, other, share[:, None])


def token_drift(now: Encoding, before: Encoding) -> Tensor:
    """Mean squared difference of token states, a scalar; padding is ignored."""
    difference = (now.tokens.float() - before.tokens.float()).square().mean(-1)  # (B, L)
    return (difference * now.mask).sum() / now.mask.sum()
