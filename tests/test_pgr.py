from __future__ import annotations

import re
from pathlib import Path

import pytest

from multidelete.data.readers import detect, read
from multidelete.data.readers.pgr import COLUMNS, pgr
from multidelete.utils.errors import InputError

NODES = """\
NCBI:1\tgene\tEPS8
NCBI:2\tgene\tOTX2
HP:0000001\tphenotype\tAll
HP:0002664\tphenotype\tNeoplasm
HP:0001250\tphenotype\tSeizure
"""
EDGES = """\
HP:0002664\tis_a\tHP:0000001
HP:0001250\tis_a\tHP:0000001
NCBI:1\tannotated\tHP:0000001
"""
GENES = {"EPS8": "1", "OTX2": "2", "GONE1": "9"}
PHENOTYPES = {"cancer": "HP_0002664", "tumor": "HP_0002664", "seizures": "HP_0001250", "heterogeneous": "HP_0001425"}


def row(article: str, sentence: str, gene: str, phenotype: str, label: str = "True", **changes: str) -> str:
    """A line of the dataset; positions are those of the first mentions."""
    positions = []
    for mention in (gene, phenotype):
        start = max(sentence.find(mention), 0)
        positions += [str(start), str(start + len(mention))]
    fields = [article, sentence, gene, phenotype, GENES.get(gene, ""), PHENOTYPES.get(phenotype, ""), *positions, label]
    return "\t".join({**dict(zip(COLUMNS, fields, strict=True)), **changes}.values())


OLD = [
    row("11", "EPS8 does not cause cancer.", "EPS8", "cancer", "False"),
    row("12", "OTX2 in “severe” seizures", "OTX2", "seizures"),
    row("13", "OTX2 and cancer, EPS8 and tumor.", "OTX2", "cancer", "False"),
    row("13", "OTX2 and cancer, EPS8 and tumor.", "OTX2", "tumor", "False"),
]
NEW = [
    row("12", "OTX2 in “severe” seizures", "OTX2", "seizures", "False"),
    row("12", "seizures with OTX2.", "OTX2", "seizures", "False"),
    row("14", "Is EPS8 cancer?", "EPS8", "cancer"),
    row("15", "EPS8 is heterogeneous.", "EPS8", "heterogeneous"),
]


def write_rows(path: Path, *rows: str, header: str = "\t".join(COLUMNS)) -> None:
    path.write_text("".join(one + "\n" for one in (header, *rows)), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "nodes.tsv").write_text(NODES)
    (tmp_path / "edges.tsv").write_text(EDGES)
    write_rows(tmp_path / "train.tsv", *OLD)
    write_rows(tmp_path / "train_2019.tsv", *NEW)
    return tmp_path


def test_official_layout(root: Path) -> None:
    assert detect(root) == "pgr"
    dataset = read("pgr", root=root)
    assert {example.id: (example.texts, example.labels) for example in dataset.examples} == {
        # Read once, with the newer label; the article's other sentence belongs to the same relation.
        "12:NCBI:2:HP:0001250": (("@gene@ in “severe” @phenotype@", "@phenotype@ with @gene@."), ("false", "false")),
        "14:NCBI:1:HP:0002664": (("Is @gene@ @phenotype@?",), ("true",)),
        # The label of the newer release, from article 14.
        "11:NCBI:1:HP:0002664": (("@gene@ does not cause @phenotype@.",), ("true",)),
        "13:NCBI:2:HP:0002664": (
            ("@gene@ and @phenotype@, EPS8 and tumor.", "@gene@ and cancer, EPS8 and @phenotype@."),
            ("false", "false"),
        ),
    }
    assert dataset.examples[0].nodes == ("NCBI:2", "HP:0001250")
    assert dataset.graph is not None
    assert len(dataset.graph) == 5
    assert dataset.modalities == ("graph", "text")
    assert dataset.classes == ("false", "true")


def test_one_release(root: Path) -> None:
    (root / "train_2019.tsv").unlink()
    message = r"has no file 'train_2019\.tsv'; release='2018' or release='2019' reads one file alone"
    with pytest.raises(InputError, match=message):
        pgr(root)
    dataset = pgr(root, release="2018")
    assert [example.id[:2] for example in dataset.examples] == ["11", "12", "13"]
    assert dataset.examples[1].labels == ("true",)


def test_plain_sentences(root: Path) -> None:
    dataset = pgr(root, mark="plain")
    texts = {example.id: example.texts for example in dataset.examples}
    assert texts["13:NCBI:2:HP:0002664"] == ("OTX2 and cancer, EPS8 and tumor.",)  # once, though it has two mentions
    assert texts["14:NCBI:1:HP:0002664"] == ("Is EPS8 cancer?",)


def test_split_by_article(root: Path) -> None:
    rows = [row(str(number), f"EPS8 and seizures, {k}", "EPS8", "seizures") for number in range(500) for k in range(2)]
    write_rows(root / "train.tsv", *rows)
    first = {example.id: example.split for example in pgr(root, release="2018").examples}
    counts = [list(first.values()).count(split) for split in ("train", "validation", "test")]
    assert sum(counts) == 500
    assert 370 < counts[0] < 430
    assert 30 < counts[1] < 70
    write_rows(root / "train.tsv", *rows[::-3])
    assert all(first[example.id] == example.split for example in pgr(root, release="2018").examples)
    other = pgr(root, release="2018", seed=1).examples
    assert any(first[example.id] != example.split for example in other)


def test_mention_elsewhere(root: Path) -> None:
    wrong = {"GENE_START_POSITION": "3", "GENE_END_POSITION": "7"}
    sentence = "seizures, eps8 and EPS8"
    write_rows(
        root / "train.tsv",
        *OLD,
        row("21", sentence, "EPS8", "seizures", **wrong),
        row("22", "seizures, eps8", "EPS8", "seizures", **wrong),
        row("23", sentence, "EPS8", "seizures", GENE_START_POSITION="900", GENE_END_POSITION="904"),
    )
    texts = [example.texts[0] for example in pgr(root, release="2018").examples[3:]]
    assert texts == ["@phenotype@, eps8 and @gene@", "@phenotype@, @gene@", "@phenotype@, eps8 and @gene@"]


def test_unusable_lines_of_the_official_files_are_left_out(root: Path) -> None:
    tagged = row("21", "carcinoma and seizures", "AA", "seizures", GENE_ID="7003")
    write_rows(root / "train.tsv", *OLD, tagged)
    assert len(pgr(root)) == 4
    with (root / "nodes.tsv").open("a") as nodes:
        nodes.write("HP:0001425\tphenotype\tHeterogeneous\n")
    assert len(pgr(root)) == 5  # a term that this graph has is used


UNUSABLE = [
    (
        row("21", "EPS8 and seizures", "EPS8", "seizures", PHENOTYPE_ID="HP_0002665"),
        "node 'HP:0002665' is not in the graph; did you mean 'HP:0002664'?",
    ),
    (row("21", "GONE1 and seizures", "GONE1", "seizures"), "node 'NCBI:9' is not in the graph"),
    (
        row("21", "OTX2 and seizures", "EPS8", "seizures", GENE_START_POSITION="0", GENE_END_POSITION="4"),
        "the sentence does not mention 'EPS8', neither at the given position nor elsewhere",
    ),
    (
        row("21", "EPS8 cancer", "EPS8", "EPS8 cancer", PHENOTYPE_ID="HP_0002664"),
        "the mentions 'EPS8' and 'EPS8 cancer' overlap in the sentence",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), UNUSABLE)
def test_unusable_line(root: Path, wrong: str, message: str) -> None:
    path = root / "train.tsv"
    write_rows(path, OLD[0], wrong, *OLD[1:], wrong)
    with pytest.raises(InputError) as caught:
        pgr(root)
    assert str(caught.value).startswith(f"{path}, line 3: {message}")
    assert "; unusable='drop' leaves such lines out" in str(caught.value)
    assert re.search(rf"\(also line 7\)$|^{path}, line 7: ", str(caught.value), re.MULTILINE)
    dropped = pgr(root, unusable="drop")
    assert len(dropped) == 4
    assert dropped.notes[0].startswith(f"left out: {path}, line 3: {message}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (OLD[0].rpartition("\t")[0], "expected 11 columns as in the header, got 10; was the line cut off?"),
        ("11", "expected 11 columns as in the header, got 1"),
        (row("21", "EPS8, seizures", "EPS8", "seizures", "yes"), "unknown relation 'yes', expected 'True' or 'False'"),
        (row("", "EPS8, seizures", "EPS8", "seizures"), "the column 'FILE_ID' is blank"),
        (row("21", "EPS8, seizures", "EPS8", "seizures", GENE=" "), "the column 'GENE' is blank"),
        (
            row("21", "EPS8, seizures", "EPS8", "seizures", GENE_END_POSITION="x"),
            "'GENE_END_POSITION' must be an integer, got 'x'",
        ),
        (
            row("11", "EPS8 does not cause cancer.", "EPS8", "cancer", "True"),
            "the relation of NCBI:1 and HP:0002664 is 'true' here, but 'false' in",
        ),
    ],
)
def test_bad_line(root: Path, wrong: str, message: str) -> None:
    path = root / "train.tsv"
    write_rows(path, *OLD, wrong)
    for unusable in ("error", "drop"):
        with pytest.raises(InputError) as caught:
            pgr(root, unusable=unusable)
        assert str(caught.value).startswith(f"{path}, line 6: ")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.tsv", b"", r"train\.tsv is empty; expected one example per line"),
        ("train.tsv", b"FILE_ID\tSENTENCE\n", r"train\.tsv, line 1: the header has no column 'GENE'"),
        ("train.tsv", "\t".join(COLUMNS).encode(), r"train\.tsv has a header only; expected one example per line"),
        ("train.tsv", b"FILE_ID\n\xff", r"train\.tsv, line 2: is not UTF-8; save the file as UTF-8"),
        ("nodes.tsv", b"NCBI:1\tgene\n", r"nodes\.tsv, line 1: expected three fields"),
        (
            "edges.tsv",
            b"NCBI:1\tannotated\tHP:0009999\n",
            r"edges\.tsv, line 1: node 'HP:0009999' is not in nodes\.tsv",
        ),
    ],
)
def test_bad_file(root: Path, file: str, content: bytes, message: str) -> None:
    (root / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        pgr(root)


@pytest.mark.parametrize("file", ["train.tsv", "nodes.tsv", "edges.tsv"])
def test_missing_file(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(InputError, match=f"has no file '{file}'"):
        pgr(root)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"release": "2020"}, r"'2020' is not a release \(there are all, 2019, 2018\)"),
        ({"mark": "blnd"}, "'blnd' is not a way to mark the mentions .*; did you mean 'blind'"),
        ({"unusable": "keep"}, r"'keep' is not a way to treat unusable lines \(there are error, drop\)"),
    ],
)
def test_bad_option(root: Path, option: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read("pgr", root=root, **option)


def test_real_pgr(shared: Path) -> None:
    root = shared / "data" / "pgr"
    if not root.is_dir():
        pytest.skip(f"no PGR in {shared}")
    dataset = read(detect(root), root=root)
    assert dataset.graph is not None
    assert (len(dataset.graph.nodes), len(dataset.graph.edges)) == (12_996, 141_279)
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [5791, 702, 770]
    assert len(dataset.texts) == 9918
    articles = {
        split: {dataset.examples[row].id.split(":")[0] for row in dataset.rows(split)} for split in ("train", "test")
    }
    assert not articles["train"] & articles["test"]
    example = dataset.examples[dataset.row_of("19223546:NCBI:79574:HP:0002664")]
    assert "change P356S in @gene@, is a potential" in example.texts[0]
    assert example.labels == ("false",)
