"""Registry of methods; other packages add methods with the entry point ``multidelete.methods``."""

from multidelete.methods.bad_teacher import BadTeacher
from multidelete.methods.base import LossMethod, Method, Unlearned, UnlearningData
from multidelete.methods.descent_to_delete import DescentToDelete
from multidelete.methods.erm_ktp import ErmKtp
from multidelete.methods.finetune import FineTune
from multidelete.methods.knowledge_unlearning import KnowledgeUnlearning
from multidelete.methods.l1_sparse import L1Sparse
from multidelete.methods.lcodec import Lcodec
from multidelete.methods.multidelete import MultiDelete
from multidelete.methods.neggrad import NegGrad
from multidelete.methods.neggrad_plus import NegGradPlus
from multidelete.methods.npo import NPO
from multidelete.methods.original import Original
from multidelete.methods.random_label import RandomLabel
from multidelete.methods.retrain import Retrain, Retrained
from multidelete.methods.salun import SalUn
from multidelete.methods.scrub import Scrub
from multidelete.methods.ssd import SSD
from multidelete.methods.teacher import Teacher
from multidelete.methods.unimodal import Unimodal
from multidelete.utils.registry import with_entry_points

METHODS: dict[str, type[Method]] = with_entry_points(
    "multidelete.methods",
    {
        "retrain": Retrain,
        "unimodal": Unimodal,
        "multidelete": MultiDelete,
        "finetune": FineTune,
        "neggrad": NegGrad,
        "knowledge_unlearning": KnowledgeUnlearning,
        "neggrad_plus": NegGradPlus,
        "scrub": Scrub,
        "bad_teacher": BadTeacher,
        "salun": SalUn,
        "ssd": SSD,
        "npo": NPO,
        "l1_sparse": L1Sparse,
        "random_label": RandomLabel,
        "erm_ktp": ErmKtp,
        "descent_to_delete": DescentToDelete,
        "lcodec": Lcodec,
    },
)

__all__ = [
    "METHODS",
    "NPO",
    "SSD",
    "BadTeacher",
    "DescentToDelete",
    "ErmKtp",
    "FineTune",
    "KnowledgeUnlearning",
    "L1Sparse",
    "Lcodec",
    "LossMethod",
    "Method",
    "MultiDelete",
    "NegGrad",
    "NegGradPlus",
    "Original",
    "RandomLabel",
    "Retrain",
    "Retrained",
    "SalUn",
    "Scrub",
    "Teacher",
    "Unimodal",
    "Unlearned",
    "UnlearningData",
]
