"""Visual reasoning: is a statement true of the pictures of an example?"""

from __future__ import annotations

from typing import ClassVar

from multidelete.tasks.classification import Classification


class Reasoning(Classification):
    """Two classes, true and false, over n pictures that are looked at together [1]_.

    NLVR2 has two pictures, NLVR three boxes or one image: n is a property of the data. A deletion example is a set of
    pictures with all its statements.

    References:
        .. [1] Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019 (NLVR2);
           Suhr et al., "A Corpus of Natural Language for Visual Reasoning", ACL 2017 (NLVR)
    """

    name: ClassVar[str] = "reasoning"
    needs: ClassVar[frozenset[str]] = frozenset({"several_images"})
    classes: ClassVar[frozenset[str]] = frozenset({"false", "true"})
    affirms: ClassVar[str] = "true"
