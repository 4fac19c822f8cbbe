"""Examples as columns: a fifth of the memory that as many objects take."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, repeat
from typing import Any, overload

import numpy as np

from multidelete.data.examples import NO_METADATA, Example, Value
from multidelete.data.images import ImageFacts

_ABSENT = object()  # metadata that an example does not have
_LISTS = ("texts", "images", "labels", "nodes", "text_ids", "aliases")
_WORDS = ("id", "split", "group", "source")
DIGEST = 32  # bytes of SHA-256
INTERNED = 10_000  # different values of the metadata of which one object each is kept


class Strings(Sequence[str]):
    """Strings that are never changed, in one buffer.

    Args:
        strings: The strings.
    """

    __slots__ = ("_content", "_ends")

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._content: bytearray | bytes = bytearray()
        self._ends = array("q", [0])
        for each in strings:
            self.append(each)

    def append(self, string: str) -> None:
        """Add a string; only while this is built."""
        self._content += string.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))

    def freeze(self) -> None:
        """Free what was kept for further strings."""
        self._content = bytes(self._content)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        number = range(len(self))[index]  # negative, or out of range
        return self._content[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        content = self._content
        return (content[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(self._ends))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self._ends == other._ends and self._content == other._content
        return isinstance(other, Sequence) and not isinstance(other, str) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self)) if len(self) <= 10 else f"<{len(self):,} strings>"


class _Lists:
    """Several strings of each example."""

    def __init__(self) -> None:
        self.flat = Strings()
        self.ends = array("q", [0])

    def append(self, strings: Iterable[str]) -> None:
        for each in strings:
            self.flat.append(each)
        self.ends.append(len(self.flat))

    def __getitem__(self, row: int) -> tuple[str, ...]:
        return self.flat[self.ends[row] : self.ends[row + 1]] if len(self.flat) else ()

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        if not len(self.flat):
            return repeat((), len(self.ends) - 1)
        strings = iter(self.flat)
        return (tuple(islice(strings, end - start)) for start, end in pairwise(self.ends))


class _Words:
    """A string of each example; those that many examples share are stored once."""

    def __init__(self) -> None:
        self.numbers = array("l")
        self.known: dict[str, int] = {}
        self.words = Strings()

    def append(self, word: str) -> None:
        number = self.known.get(word)
        if number is None:
            number = len(self.words)
            if number < INTERNED:
                self.known[word] = number
            self.words.append(word)
        self.numbers.append(number)

    def __getitem__(self, row: int) -> str:
        return self.words[self.numbers[row]]

    def __iter__(self) -> Iterator[str]:
        return map(self.words.__getitem__, self.numbers) if len(self.words) > 1 else repeat(self.words[0], len(self))

    def __len__(self) -> int:
        return len(self.numbers)


class Facts(Sequence[ImageFacts]):
    """What is known of image files.

    Args:
        facts: One of each file.
    """

    def __init__(self, facts: Iterable[ImageFacts]) -> None:
        self._digests = bytearray()
        self._fingerprints = array("Q")
        self._changes: dict[int, tuple[str, ...]] = {}
        for number, each in enumerate(facts):
            self._digests += bytes.fromhex(each.digest)
            self._fingerprints.append(each.fingerprint)
            if each.changes:
                self._changes[number] = each.changes

    def __len__(self) -> int:
        return len(self._fingerprints)

    @overload
    def __getitem__(self, index: int) -> ImageFacts: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageFacts]: ...
    def __getitem__(self, index: int | slice) -> ImageFacts | list[ImageFacts]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        digest = self._digests[DIGEST * number : DIGEST * (number + 1)].hex()
        return ImageFacts(digest, self._changes.get(number, ()), self._fingerprints[number])


class Examples(Sequence[Example]):
    """Examples in a fixed order, kept as columns; each is made when it is asked for.

    Args:
        examples: The examples.

    Attributes:
        texts: All texts in the order of the examples.
        text_ends: Number of texts up to and with each example, from 0, ``(N + 1,)``.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._words = {name: _Words() for name in _WORDS}
        self._lists = {name: _Lists() for name in _LISTS}
        self._panels = array("l")
        self._positions = array("q")
        self._position_ends = array("q", [0])
        self._metadata: dict[str, list[Any]] = {}
        interned: dict[Any, Any] = {}
        for row, example in enumerate(examples):
            for name, words in self._words.items():
                words.append(getattr(example, name))
            for name, lists in self._lists.items():
                lists.append(getattr(example, name))
            self._panels.append(example.panels)
            self._positions.extend(example.positions)
            self._position_ends.append(len(self._positions))
            for name, value in example.metadata.items():
                column = self._metadata.setdefault(name, [])
                column.extend([_ABSENT] * (row - len(column)))
                key = (type(value), value)
                column.append(interned.setdefault(key, value) if len(interned) < INTERNED else interned.get(key, value))
        for words in self._words.values():
            words.known.clear()
            words.words.freeze()
        for lists in self._lists.values():
            lists.flat.freeze()

    @property
    def texts(self) -> Strings:
        """All texts."""
        return self._lists["texts"].flat

    @property
    def text_ends(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """See the class."""
        return np.array(self._lists["texts"].ends, dtype=np.int64)

    def column(self, name: str) -> Iterator[str]:
        """A field of all examples that is one string: ``id``, ``split``, ``group`` or ``source``."""
        return iter(self._words[name])

    def __len__(self) -> int:
        return len(self._panels)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        row = range(len(self))[index]
        fields: dict[str, Any] = {name: words[row] for name, words in self._words.items()}
        fields |= {name: lists[row] for name, lists in self._lists.items()}
        positions = tuple(self._positions[self._position_ends[row] : self._position_ends[row + 1]])
        return Example(**fields, panels=self._panels[row], positions=positions, metadata=self._metadata_of(row))

    def __iter__(self) -> Iterator[Example]:
        """All examples, much faster than one by one."""
        words = zip(*self._words.values(), strict=True)
        lists = zip(*self._lists.values(), strict=True)
        ends = pairwise(self._position_ends)
        for row, (own, several, panels, (start, end)) in enumerate(zip(words, lists, self._panels, ends, strict=True)):
            fields: dict[str, Any] = {**dict(zip(_WORDS, own, strict=True)), **dict(zip(_LISTS, several, strict=True))}
            positions = tuple(self._positions[start:end])
            yield Example(**fields, panels=panels, positions=positions, metadata=self._metadata_of(row))

    def _metadata_of(self, row: int) -> Mapping[str, Value | tuple[Value, ...]]:
        if not self._metadata:
            return NO_METADATA
        return {
            name: column[row]
            for name, column in self._metadata.items()
            if row < len(column) and column[row] is not _ABSENT
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Example.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]
