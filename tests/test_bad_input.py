"""Every kind of bad input ends in one sentence for each mistake, exit code 2, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny
from conftest import Ended

Terminal = Callable[[str], Ended]

RECIPE = """\
task = {name = "retrieval", rerank = 4, sample = 10}
retrain = false
precision = "fp32"
data = {reader = "scenes", train = 40, validation = 12, test = 12, size = 24}
forget = {count = 3}
train = {epochs = 1, batch_size = 32}
membership = {shadow = false}

[model]
name = "albef"
image_size = 24
embedding_width = 8
fusion = {layers = 1, width = 16, heads = 2}

[model.vision]
config.model_type = "vit"
config.hidden_size = 16
config.num_hidden_layers = 1
config.num_attention_heads = 2
config.intermediate_size = 16
config.image_size = 24
config.patch_size = 8

[model.text]
config.model_type = "bert"
config.hidden_size = 16
config.num_hidden_layers = 1
config.num_attention_heads = 2
config.intermediate_size = 16
config.max_position_embeddings = 64

[method]
name = "multidelete"
scope = "fusion"
epochs = 1
evaluations = 1
stop = "lowest"
"""
BERT = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 16, "num_attention_heads": 2}


# -- what is wrong ------------------------------------------------------------------------------------------------


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def remove(name: str) -> Callable[[Path], None]:
    return lambda here: (here / name).unlink()


def truncate(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        content = (here / name).read_bytes()
        (here / name).write_bytes(content[: int(share * len(content))])

    return prepare


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        content = (here / name).read_text()
        assert old in content
        (here / name).write_text(content.replace(old, new))

    return prepare


def without_split(split: str) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        lines = (here / "photos/manifest.jsonl").read_text().splitlines(keepends=True)
        (here / "photos/manifest.jsonl").write_text("".join(line for line in lines if f'"{split}"' not in line))

    return prepare


def every_id(here: Path) -> None:
    names = [example.id for example in tiny.dataset().examples if example.split == "train"]
    (here / "ids.txt").write_text("\n".join(names))


def weights_that_are_not_finite(here: Path) -> None:
    weights = load_file(here / "model/model.safetensors")
    weights["log_scale"] = np.full_like(weights["log_scale"], np.nan)
    save_file(weights, here / "model/model.safetensors")


def foreign_pretrained(here: Path) -> None:
    write("bert/config.json", json.dumps(BERT))(here)
    write("bert/model.safetensors", b"no weights")(here)


def damaged_tokenizer(here: Path) -> None:
    write("model/tokenizer.json", "{")(here)


@dataclass(frozen=True)
class Bad:
    """One kind of bad input: the command, what its message holds, and what is made wrong before."""

    command: str
    fragments: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda here: None
    mistakes: int = 1


DUAL = """
data = {reader = "scenes", train = 20, validation = 5, test = 5}
model = {name = "dual_encoder", freeze = ["vision"]}
forget = {count = 3}
method = {name = "multidelete", scope = "vision"}
"""
BRING = "unlearn --model model --data photos --forget ids.txt --no-retrain --out out"
RUN = "unlearn recipe.toml --out out"

CASES: dict[str, Bad] = {
    # the recipe as a file
    "recipe-missing": Bad("unlearn recpie.toml --out out", ("'recpie.toml' does not exist", "mean 'recipe.toml'?")),
    "recipe-is-a-folder": Bad("unlearn photos --out out", ("recipe 'photos' is a folder",)),
    "recipe-not-toml": Bad(RUN, ("recipe.toml is not TOML", "line 1"), write("recipe.toml", "task retrieval")),
    "recipe-binary": Bad(RUN, ("recipe.toml is not TOML", "UTF-8"), write("recipe.toml", b"\x89PNG\xff\x00")),
    "recipe-empty": Bad(
        RUN, ("needs one of ids, group, where, rows, count, fraction, pairs; none is given",), write("recipe.toml", "")
    ),
    "train-recipe-missing": Bad("train recpie.toml --out out", ("'recpie.toml' does not exist",)),
    "check-recipe-missing": Bad("check recpie.toml", ("'recpie.toml' does not exist",)),
    # names
    "unknown-key": Bad(f"{RUN} retrian=false", ("no setting 'retrian'", "mean 'retrain'?")),
    "unknown-table": Bad(f"{RUN} trian.epochs=1", ("no setting 'trian'", "mean 'train'?")),
    "unknown-method": Bad(f"{RUN} method=multidelet", ("'multidelet' is not a method", "mean 'multidelete'?")),
    "unknown-method-option": Bad(f"{BRING} --method negrad", ("'negrad' is not a method", "mean 'neggrad'?")),
    "unknown-compared": Bad(f"{RUN} 'compare=[\"retrian\"]'", ("'retrian' is not a method", "mean 'retrain'?")),
    "unknown-model": Bad(f"{RUN} model.name=albeff", ("'albeff' is not a model", "mean 'albef'?")),
    "unknown-task": Bad(f"{RUN} task=retrival", ("'retrival' is not a task", "mean 'retrieval'?")),
    "unknown-reader": Bad(f"{RUN} data.reader=scene", ("'scene' is not a reader", "mean 'scenes'?")),
    "unknown-reader-option": Bad("check --reader scene", ("'scene' is not a reader", "mean 'scenes'?")),
    "unknown-demo": Bad("demo --task retrival --out out", ("'retrival' is not a task of the demo", "'retrieval'?")),
    "unknown-setting": Bad(
        f"{RUN} method.larning_rate=1e-4",
        ("method 'multidelete' has no setting 'larning_rate'; did you mean 'learning_rate'?",),
    ),
    "unknown-data-setting": Bad(f"{RUN} data.trian=9", ("reader 'scenes' has no option 'trian'", "mean 'train'?")),
    "unknown-model-setting": Bad(f"{RUN} model.fusion.layer=1", ("'model.fusion' has no setting 'layer'", "'layers'?")),
    "unknown-list": Bad("list nonsense", ("'nonsense' is not a list", "methods, models, tasks, metrics, readers")),
    # values
    "wrong-type": Bad(f"{RUN} train.epochs=three", ("'train.epochs' should be a valid number", "got 'three'")),
    "wrong-type-of-data": Bad(f"{RUN} data.size=big", ("expects int for 'size', got 'big'",)),
    "wrong-table": Bad(f"{RUN} train=5", ("'train' must be a table, not 5",)),
    "negative-weight": Bad(f"{RUN} method.alpha=-1", ("'method.alpha'", "greater than or equal to 0", "got -1")),
    "no-epochs": Bad(f"{RUN} method.epochs=0", ("'method.epochs'", "greater than 0", "got 0")),
    "endless-epochs": Bad(f"{RUN} train.epochs=inf", ("'train.epochs'", "finite number, got inf")),
    "scope-typo": Bad(f"{RUN} method.scope=fussion", ("'method.scope'", "got 'fussion'; did you mean 'fusion'?")),
    "scope-option-typo": Bad(f"{BRING} --scope fussion", ("'method.scope'", "did you mean 'fusion'?")),
    "precision": Bad(f"{RUN} --precision fp64", ("'precision' should be 'auto', 'fp32' or 'bf16', got 'fp64'",)),
    "negative-seed": Bad(f"{RUN} --seed -1", ("'seed' should be greater than or equal to 0, got -1",)),
    "nothing-to-minimise": Bad(f"{RUN} method.alpha=0 method.beta=0", ("'method': nothing to minimise",)),
    "heads": Bad(f"{RUN} model.fusion.heads=3", ("'model.fusion'", "width of 16", "3 heads")),
    "several-mistakes": Bad(
        f"{RUN} method.alpha=-1 method.larning_rate=1 train.epochs=0 retrian=1 data.trian=1 model.image_size=0",
        ("alpha", "larning_rate", "train.epochs", "retrian", "trian", "model.image_size"),
        mistakes=6,
    ),
    "no-equals-sign": Bad(f"{RUN} method.alpha", ("'method.alpha' is not a setting; expected key=value",)),
    "no-key": Bad(f"{RUN} =3", ("'=3' is not a setting; expected key=value",)),
    # encoders
    "pretrained-missing": Bad(f"{RUN} model.text.pretrained=./nowhere", ("model.text.pretrained", "'./nowhere'")),
    "pretrained-damaged": Bad(
        f"{RUN} model.vision.pretrained=./bert", ("model.vision.pretrained", "could not be loaded"), foreign_pretrained
    ),
    "pretrained-not-a-model": Bad(f"{RUN} model.vision.pretrained=photos", ("'photos' could not be loaded",)),
    "unknown-model-type": Bad(
        f"{RUN} model.vision.config.model_type=vitt",
        ("model_type 'vitt' is not one that transformers knows", "mean 'vit'?"),
    ),
    "unknown-config-field": Bad(
        f"{RUN} model.vision.config.hiden_size=8", ("vit configuration has no field 'hiden_size'", "'hidden_size'?")
    ),
    "wrong-config-field": Bad(
        f"{RUN} model.text.config.hidden_size=wide", ("model.text.config", "'hidden_size'", "'wide'")
    ),
    "image-size": Bad(f"{RUN} model.image_size=32", ("model.vision", "image_size = 32", "24")),
    "text-length": Bad(f"{RUN} model.max_text_tokens=99", ("model.text", "max_text_tokens = 99", "64")),
    "frozen-scope": Bad(
        "unlearn dual.toml --out out",
        ("scope 'vision' of this dual_encoder model is frozen",),
        write("dual.toml", DUAL),
    ),
    # the deletion request
    "nothing-to-forget": Bad("unlearn --model model --data photos --out out", ("without a recipe, --forget must be",)),
    "two-requests": Bad(f"{RUN} forget.count=3 forget.fraction=0.5", ("count and fraction are given",)),
    "count-0": Bad(f"{RUN} forget.count=0", ("'forget.count'", "greater than or equal to 1", "got 0")),
    "count-too-large": Bad(f"{RUN} forget.count=41", ("count = 41 is too large; the training split has 40 examples",)),
    "count-is-all": Bad(f"{RUN} forget.count=40", ("40 of 40", "nothing would be left to retain")),
    "fraction-too-large": Bad(f"{RUN} forget.fraction=1.5", ("'forget.fraction'", "less than 1", "got 1.5")),
    "fraction-option": Bad("check --data photos --forget 1.5", ("fraction = 1.5 is not between 0 and 1",)),
    "ids-missing": Bad(f"{BRING} --forget idz.txt", ("there is no file idz.txt", "one id per line")),
    "ids-is-a-folder": Bad(f"{BRING} --forget photos", ("photos is a folder; expected a text file",)),
    "ids-empty": Bad(BRING, ("ids.txt names no ids",), write("ids.txt", "# nobody\n")),
    "ids-unknown": Bad(
        BRING,
        ("ids.txt, line 2: 'train-0002' is not in the training split", "did you mean 'train-0"),
        write("ids.txt", "train-00001\ntrain-0002\n"),
    ),
    "ids-of-test": Bad(BRING, ("line 1: 'test-00001' is in the test split",), write("ids.txt", "test-00001\n")),
    "ids-all": Bad(BRING, ("ids.txt names 40 of 40", "nothing would be left to retain"), every_id),
    # the model
    "model-missing": Bad(f"{BRING} --model modell", ("there is no model folder 'modell'",)),
    "model-foreign-folder": Bad(f"{BRING} --model photos", ("'photos' is not a model folder", "config.json")),
    "model-foreign-config": Bad(
        BRING, ("holds a BertModel, which is not supported", "CLIPModel"), write("model/config.json", json.dumps(BERT))
    ),
    "model-config-cut": Bad(BRING, ("config.json is damaged",), truncate("model/config.json")),
    "model-config-changed": Bad(
        BRING,
        ("config.json", "'hidden_size'"),
        replace("model/config.json", '"hidden_size": 16', '"hidden_size": "wide"'),
    ),
    "model-weights-cut": Bad(BRING, ("model.safetensors is damaged",), truncate("model/model.safetensors")),
    "model-weights-missing": Bad(BRING, ("has no model.safetensors",), remove("model/model.safetensors")),
    "model-weights-of-another": Bad(
        BRING,
        ("model.safetensors does not fit its config.json", "another shape"),
        replace("model/config.json", '"embedding_width": 8', '"embedding_width": 4'),
    ),
    "model-weights-not-finite": Bad(BRING, ("'log_scale'", "not finite"), weights_that_are_not_finite),
    "model-without-tokenizer": Bad(BRING, ("has no tokenizer.json",), remove("model/tokenizer.json")),
    "model-tokenizer-damaged": Bad(BRING, ("the tokenizer in 'model' cannot be used",), damaged_tokenizer),
    "evaluate-model-missing": Bad("evaluate modell --data photos", ("there is no model folder 'modell'",)),
    "evaluate-without-data": Bad("evaluate model", ("evaluate needs --data",)),
    "evaluate-setting": Bad("evaluate model --data photos --set rerank=0", ("'task.rerank'", "got 0")),
    "train-brought-model": Bad("train recipe.toml original=model --out out", ("nothing to train",)),
    # the data
    "data-missing": Bad(f"{BRING} --data fotos", ("fotos does not exist; expected a folder or file with data",)),
    "data-is-a-file": Bad(f"{BRING} --data ids.txt", ("ids.txt, line 1: expected a header with the names of columns",)),
    "data-foreign-folder": Bad(f"{BRING} --data model", ("model holds no data in a known layout",)),
    "data-no-manifest": Bad(
        f"{BRING} --reader manifest", ("photos has no manifest.jsonl",), remove("photos/manifest.jsonl")
    ),
    "data-line-cut": Bad(
        BRING, ("manifest.jsonl, line 64", "was the line cut off?"), truncate("photos/manifest.jsonl", 0.998)
    ),
    "data-image-missing": Bad(
        BRING,
        ("manifest.jsonl, line 3", "'images/train-00002.png' is not a file"),
        remove("photos/images/train-00002.png"),
    ),
    "data-image-corrupt": Bad(
        BRING,
        ("image photos/images/train-00002.png of example 'train-00002' cannot be decoded",),
        truncate("photos/images/train-00002.png"),
    ),
    "check-nothing": Bad("check", ("check needs a recipe, or --data",)),
    # the output
    "out-is-a-file": Bad(f"{BRING} --out ids.txt", ("--out 'ids.txt' is a file",)),
    "out-below-a-file": Bad(f"{BRING} --out ids.txt/out", ("--out 'ids.txt/out' cannot be made", "is a file")),
    "out-foreign-folder": Bad(f"{BRING} --out photos", ("'photos' is not empty and holds no run",)),
    "out-foreign-run": Bad(BRING, ("'out' is not empty and holds no run",), write("out/run.json", '{"mine": 1}')),
    "train-out-foreign": Bad("train recipe.toml --out photos", ("--out 'photos' is not empty",)),
    "demo-out-foreign": Bad("demo --out photos", ("'photos' is not empty and holds no run",)),
    # reports
    "report-missing": Bad("report ouut", ("ouut is not a folder of a run",)),
    "report-foreign-folder": Bad("report photos", ("photos has no results.json",)),
    "report-damaged": Bad("report out", ("results.json is not JSON",), write("out/results.json", "{")),
    "report-format": Bad("report out --format xml", ("--format must be text, markdown, csv, not 'xml'",)),
}


@pytest.fixture
def here(tmp_path: Path, tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe, a model, data and a list of ids."""
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "ids.txt").write_text("train-00001\ntrain-00003\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file; folders too, so that an empty one that was left behind is seen."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def test_the_table_is_not_empty() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, here: Path, terminal: Terminal) -> None:
    bad = CASES[name]
    bad.prepare(here)
    before = contents(here)
    ended = terminal(bad.command)
    assert ended.code == 2, ended
    assert len(ended.errors) == bad.mistakes, ended.err
    for fragment in bad.fragments:
        assert fragment in "\n".join(ended.errors), ended.err
    assert "Traceback" not in ended.err + ended.out
    assert contents(here) == before


@pytest.mark.parametrize(
    ("command", "fragment"),
    [
        ("unlern recipe.toml", "unlern"),
        ("unlearn recipe.toml --outt out", "--outt"),
        ("list --all", "--all"),
        ("demo --seed one", "--seed"),
        ("train", "recipe"),
        ("report", "runs"),
        ("evaluate", "model"),
    ],
)
def test_words_that_are_no_command(command: str, fragment: str, here: Path, terminal: Terminal) -> None:
    before = contents(here)
    ended = terminal(command)
    assert ended.code == 2
    assert fragment in ended.err
    assert "Traceback" not in ended.err
    assert contents(here) == before


@pytest.mark.parametrize(
    ("command", "fragment"),
    [
        ("unlearn recipe.toml method.larning_rate=1", "did you mean 'learning_rate'?"),
        ("evaluate photos --data photos", "'photos' is not a model folder"),
        ("unlearn recipe.toml model.vision.pretrained=nobody/nothing", "'nobody/nothing' could not be loaded"),
        ("unlern recipe.toml", "No such command"),
    ],
)
def test_in_a_process_of_its_own(command: str, fragment: str, here: Path) -> None:
    words = [sys.executable, "-c", "from multidelete.cli.app import main; main()", *command.split()]
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 2
    assert fragment in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_only_an_error_of_ours_shows_its_traceback(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("multidelete.utils.registry.choose", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        terminal("list methods")


def test_selection_needs_no_valid_split_where_the_last_checkpoint_is_taken(here: Path, terminal: Terminal) -> None:
    without_split("validation")(here)
    ended = terminal(f"{BRING} method.evaluations=0 method.epochs=1 method.min_steps=2")
    assert ended.code == 0, ended.err
    assert (here / "out/results.json").is_file()


def test_a_run_is_continued_only_as_it_was(here: Path, terminal: Terminal) -> None:
    short = f"{BRING} method.epochs=1 method.evaluations=0 method.min_steps=2"
    assert terminal(short).code == 0
    before = contents(here)
    for command, fragment in [
        (short, "'out' already holds a run; continue it with --resume, or choose another --out"),
        (f"{short} --resume method.alpha=0.5 seed=1", "holds a run with another 'method.alpha' and 'seed'"),
        (f"{short} --resume --forget 3", "holds a run with another 'forget.ids', 'forget.count' and deletion request"),
        (f"{short.replace('unlearn', 'demo', 1).split()[0]} --out out", "'out' already holds a run"),
    ]:
        ended = terminal(command)
        assert ended.code == 2, ended.err
        assert len(ended.errors) == 1
        assert fragment in ended.errors[0]
        assert contents(here) == before
    write("ids.txt", "train-00004\n")(here)  # the same recipe, another content of the file
    (error,) = terminal(f"{short} --resume").errors
    assert "holds a run with another deletion request;" in error
    write("ids.txt", "train-00001\ntrain-00003\n")(here)
    assert terminal(f"{short} --resume").code == 0


def test_one_process_at_a_time_writes_to_a_folder(here: Path, terminal: Terminal) -> None:
    holds = "import sys; from pathlib import Path; from multidelete.utils.files import locked"
    holds += "\nwith locked(Path('out')): print('here', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "here\n"
    short = f"{BRING} method.epochs=1 method.evaluations=0 method.min_steps=2"
    for command in (short, f"{short} --resume", "bench recipe.toml --methods neggrad --seeds 0 --out out"):
        (error,) = terminal(command).errors
        assert error.endswith("another process is writing to 'out'; wait until it ends, or choose another --out")
    other.kill()
    other.communicate()
    assert terminal(short).code == 0


def test_what_a_killed_write_left_is_no_content(here: Path, terminal: Terminal) -> None:
    """A process may be killed between the first byte of a file under its temporary name and its rename."""

    for writing in ("new_file(Path('out/identity.json'))", "write_atomically(Path('out/model'))"):
        code = f"import os\nfrom multidelete.utils.files import *\nwith {writing}: os._exit(9)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    left = [path.name for path in (here / "out").rglob(".*.part")]
    assert len(left) == 2
    assert terminal(f"{BRING} method.epochs=1 method.evaluations=0 method.min_steps=2").code == 0
    assert not list((here / "out").rglob(".*.part"))
    assert terminal("verify out").code == 0


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ("train.learning_rate=1e30 train.warmup=0", ("training the original (retrieval): the loss became", "at step")),
        ("method.learning_rate=1e30 method.warmup=0", ("MultiDelete (fusion): the loss became", "at step")),
    ],
)
def test_a_loss_that_is_not_finite(settings: str, fragments: tuple[str, ...], here: Path, terminal: Terminal) -> None:
    ended = terminal(f"{RUN} {settings}")
    assert ended.code == 2
    (error,) = ended.errors
    assert all(fragment in error for fragment in fragments), error
    assert "a smaller learning rate or fewer epochs usually helps" in error
    assert not (here / "out/results.json").exists()
    assert not (here / "out/model").exists()
    # What was written before stays, and goes on where it stopped: at the same step, with the same sentence.
    assert terminal(f"{RUN} {settings} --resume").errors == [error]


def test_weights_that_are_lost_in_the_last_step(here: Path, terminal: Terminal) -> None:
    """The loss of a step is looked at before the step: the last one needs a look at the weights, or at the scores."""
    (error,) = terminal(f"{RUN} train.learning_rate=1e36 train.warmup=0 train.epochs=0.1").errors
    assert "not finite" in error
    assert not (here / "out/results.json").exists()
