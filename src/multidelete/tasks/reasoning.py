"""Visual reasoning: is a statement true of the pictures of an example?"""

from __future__ import annotations

from typing import ClassVar

from multidelete.tasks.classification import Classification


class Reasoning(Classification):
    """Two classes, true and false; an example has n pictures and its statements [1]_.

    NLVR2 has two pictures, NLVR three boxes or one image: n depends on the dataset.

    References:
        .. [1] Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019 (NLVR2);
           Suhr et al., "A Corpus of Natural Language for Visual Reasoning", ACL 2017 (NLVR)
    """

    name: ClassVar[str] = "reasoning"
    needs: ClassVar[frozenset[str]] = frozenset({"several_images"})
    classes: ClassVar[frozenset[str]] = frozenset({"false", "true"})
    affirms: ClassVar[str] = "true"
