"""Checks that every unlearning method must pass; ``check_method`` runs them on a method of any package.

    from multidelete.testing import check_method

    check_method(MyMethod)
    check_method(MyMethod, task="graph_text", scope="fusion", strength=0.5)

They take seconds: the model is tiny, the data are generated, and the quality of forgetting is not checked. The
``properties`` of a method are checked too.
"""

from multidelete.testing.case import Case, CheckError, Trial, trial, trial_for
from multidelete.testing.checks import CHECKS, PROPERTIES, check_method, check_outcome, check_scope

__all__ = [
    "CHECKS",
    "PROPERTIES",
    "Case",
    "CheckError",
    "Trial",
    "check_method",
    "check_outcome",
    "check_scope",
    "trial",
    "trial_for",
]
