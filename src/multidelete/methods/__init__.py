"""Methods: the table is the registry, and packages add to it by the entry point ``multidelete.methods``."""

from multidelete.methods.base import LossMethod, Method, Teacher, Unlearned, UnlearningData
from multidelete.methods.finetune import FineTune
from multidelete.methods.multidelete import MultiDelete
from multidelete.methods.neggrad import NegGrad
from multidelete.methods.retrain import Retrain
from multidelete.methods.unimodal import Unimodal
from multidelete.registry import with_entry_points

METHODS: dict[str, type[Method]] = with_entry_points(
    "multidelete.methods",
    {
        "retrain": Retrain,
        "unimodal": Unimodal,
        "multidelete": MultiDelete,
        "finetune": FineTune,
        "neggrad": NegGrad,
    },
)

__all__ = [
    "METHODS",
    "FineTune",
    "LossMethod",
    "Method",
    "MultiDelete",
    "NegGrad",
    "Retrain",
    "Teacher",
    "Unimodal",
    "Unlearned",
    "UnlearningData",
]
