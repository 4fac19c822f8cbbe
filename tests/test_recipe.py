"""Recipes: merging of values, defaults, and messages about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multidelete.methods import METHODS, FineTune, MultiDelete, NegGrad, Retrain
from multidelete.models import MODELS, Albef
from multidelete.recipe import Recipe, as_values, load, merged, validate
from multidelete.tasks import Retrieval
from multidelete.training.original import TrainSettings
from multidelete.utils.errors import InputError

REQUEST: dict[str, Any] = {"forget": {"count": 3}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        "seed = 3\n"
        'data = {reader = "scenes", train = 50}\n'
        "forget = {count = 5, seed = 7}\n"
        'model = {name = "albef", embedding_width = 8}\n'
        'method = {name = "multidelete", scope = "fusion", alpha = 0.5}\n'
        '[[compare]]\nname = "neggrad"\nepochs = 2\n'
        '[[compare]]\nname = "finetune"\n'
    )
    return path


# -- merged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "over", "expected"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": 2, "b": 3}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": {"z": 1}}}, {"a": {"x": {"w": 2}}}, {"a": {"x": {"z": 1, "w": 2}}}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ],
)
def test_merged_table_by_table(values: dict[str, Any], over: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr((values, over))
    assert merged(values, over) == expected
    assert repr((values, over)) == before, "what is given must not be changed"


@pytest.mark.parametrize(
    ("values", "over", "expected"),
    [
        # the same name goes on, another name begins anew
        (
            {"name": "neggrad", "epochs": 2},
            {"name": "neggrad", "clip": 3.0},
            {"name": "neggrad", "epochs": 2, "clip": 3.0},
        ),
        ({"name": "neggrad", "epochs": 2}, {"name": "finetune"}, {"name": "finetune"}),
        ({"name": "neggrad", "epochs": 2}, {"epochs": 3}, {"name": "neggrad", "epochs": 3}),
        # a bare name is a table with that name
        ({"name": "neggrad", "epochs": 2}, "finetune", {"name": "finetune"}),
        ({"name": "neggrad", "epochs": 2}, "neggrad", {"name": "neggrad", "epochs": 2}),
        ("neggrad", {"epochs": 2}, {"name": "neggrad", "epochs": 2}),
        ("neggrad", "finetune", {"name": "finetune"}),
    ],
)
def test_another_name_replaces_a_table(values: Any, over: Any, expected: dict[str, Any]) -> None:
    assert merged({"method": values}, {"method": over}) == {"method": expected}


def test_another_reader_replaces_the_data() -> None:
    values = {"data": {"reader": "scenes", "train": 50}}
    assert merged(values, {"data": {"reader": "manifest", "root": "x"}}) == {
        "data": {"reader": "manifest", "root": "x"}
    }
    assert merged(values, {"data": {"train": 60}}) == {"data": {"reader": "scenes", "train": 60}}


# -- overrides ------------------------------------------------------------------------------------------------------


def test_overrides_are_toml_values_or_bare_words(recipe: Path) -> None:
    loaded = load(
        recipe,
        [
            "method.scope=all",  # a bare word
            'method.alpha = "0.25"',  # spaces and a quoted number, as pydantic reads numbers
            "retrain=false",
            "train.learning_rate=1e-3",
            "model.image_mean=[0.1, 0.2, 0.3]",
            "seed=8",
            "compare=[{name = 'retrain', scope = 'fusion'}, 'neggrad']",
        ],
    )
    assert isinstance(loaded.method, MultiDelete)
    assert (loaded.method.scope, loaded.method.alpha) == ("all", 0.25)
    assert loaded.retrain is False
    assert loaded.train.learning_rate == 1e-3
    assert loaded.model is not None
    assert loaded.model[1].image_mean == (0.1, 0.2, 0.3)
    assert loaded.seed == 8
    assert loaded.compare == (Retrain(scope="fusion"), NegGrad())


def test_a_later_override_counts(recipe: Path) -> None:
    assert load(recipe, ["seed=1", "seed=2"]).seed == 2


def test_an_override_of_the_method_replaces_its_settings(recipe: Path) -> None:
    assert load(recipe, ["method=neggrad", "method.epochs=4"]).method == NegGrad(epochs=4)
    assert load(recipe, ["method.name=neggrad"]).method == NegGrad()
    assert load(recipe, ["method=multidelete"]).method == MultiDelete(scope="fusion", alpha=0.5)


@pytest.mark.parametrize("override", ["forget.fraction=0.1", "forget.ids=ids.txt", "forget.count=9"])
def test_one_request_replaces_another(override: str, recipe: Path) -> None:
    key, _, value = override.removeprefix("forget.").partition("=")
    forget = load(recipe, [override]).forget
    given = {name: each for name, each in forget.model_dump().items() if each is not None and name != "seed"}
    assert {name: str(each) for name, each in given.items()} == {key: value}
    assert forget.seed == 7
    assert load(recipe, options={"forget": {key: given[key]}}).forget == forget


def test_two_requests_on_the_command_line_are_refused(recipe: Path) -> None:
    with pytest.raises(InputError, match="count and fraction are given"):
        load(recipe, ["forget.count=3", "forget.fraction=0.5"])


def test_a_given_model_replaces_that_of_the_recipe(recipe: Path) -> None:
    for loaded in (load(recipe, ["original=models/mine"]), load(recipe, options={"original": "models/mine"})):
        assert (loaded.original, loaded.model) == ("models/mine", None)
    with pytest.raises(InputError, match="'original' is a trained model"):
        load(recipe, ["original=models/mine", "model.name=blip"])


@pytest.mark.parametrize("word", ["method.alpha", "=3", ".a=3", "a.=3", "a..b=3", ""])
def test_what_is_no_override(word: str) -> None:
    with pytest.raises(InputError, match=r"is not a setting; expected key=value, as in method\.scope=fusion"):
        load(None, [word], REQUEST)


# -- values ---------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    loaded = validate(REQUEST, "here")
    assert loaded.task == Retrieval()
    assert loaded.data == {"reader": "scenes"}
    assert loaded.model is not None
    assert loaded.model == ("albef", Albef.config_class())
    assert loaded.architecture() is Albef
    assert loaded.train == TrainSettings()
    assert loaded.method == MultiDelete()
    assert (loaded.compare, loaded.retrain, loaded.seed, loaded.precision) == ((), True, 0, "auto")
    assert loaded.original is None


def test_the_request_has_the_recipes_seed_unless_it_has_its_own() -> None:
    data = {"data": {"reader": "scenes", "train": 30, "validation": 2, "test": 2, "size": 16}}

    def ids(**values: Any) -> tuple[str, ...]:
        loaded = validate({**data, **values}, "here")
        return loaded.request(loaded.dataset()).ids

    of_four = ids(seed=4, forget={"count": 5})
    assert of_four == ids(seed=9, forget={"count": 5, "seed": 4})
    assert of_four != ids(seed=9, forget={"count": 5})
    assert ids(seed=4, forget={"count": 5, "seed": 0}) == ids(seed=0, forget={"count": 5})


def test_methods_of_a_run(recipe: Path) -> None:
    loaded = load(recipe)
    assert loaded.compare == (NegGrad(epochs=2), FineTune())
    assert loaded.methods() == [Retrain(), MultiDelete(scope="fusion", alpha=0.5), NegGrad(epochs=2), FineTune()]
    assert load(recipe, ["retrain=false", "compare=[]"]).methods() == [MultiDelete(scope="fusion", alpha=0.5)]


def equal(one: Recipe, other: Recipe) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in Recipe.model_fields)


def test_as_values_round_trips(recipe: Path) -> None:
    brought = load(recipe, ["original=models/mine", "forget.ids=['a', 'b']", "precision=bf16"])
    for loaded in (load(recipe), brought, validate(REQUEST, "here")):
        again = validate(as_values(loaded), "again")
        assert equal(again, loaded)
        assert as_values(again) == as_values(loaded)


def test_as_values_round_trips_for_every_entry() -> None:
    assert METHODS
    assert MODELS
    for method in METHODS:
        for model in MODELS:
            masked = "channel_mask" in METHODS[method].requires
            task = "entailment" if "labels" in METHODS[method].requires else "retrieval"
            if masked and "vision" not in MODELS[model].modalities:
                continue
            values = {**REQUEST, "task": task, "method": method, "compare": [method], "model": model}
            values |= {"train": {"extra": "channel_mask"}} if masked else {}
            loaded = validate(values, "here")
            assert equal(validate(as_values(loaded), "again"), loaded)


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once() -> None:
    values = {
        "sead": 1,
        "seed": -1,
        "precision": "fp64",
        "retrain": "no",
        "task": {"name": "retrieval", "rerank": 0},
        "data": {"reader": "scenes", "trian": 5, "size": "big"},
        "model": {"name": "albef", "fusion": {"heads": 5, "layer": 1}},
        "train": {"epochs": "three", "batch_size": 0},
        "forget": {"count": 3, "fraction": 0.5},
        "method": {"name": "multidelete", "scope": "fussion", "larning_rate": 1},
        "compare": [{"name": "negrad"}, {"name": "neggrad", "epochs": 0}],
    }
    with pytest.raises(InputError) as raised:
        validate(values, "r.toml")
    lines = str(raised.value).splitlines()
    assert sorted(lines) == sorted(
        f"r.toml: {line}"
        for line in [
            "there is no setting 'sead'; did you mean 'seed'?",
            "'seed' should be greater than or equal to 0, got -1",
            "'precision' should be 'auto', 'fp32' or 'bf16', got 'fp64'",
            "'retrain' should be true, false, or the folder or hub id of a model, got 'no'",
            "'task.rerank' should be greater than or equal to 1, got 0",
            "reader 'scenes' has no option 'trian'; did you mean 'train'?",
            "reader 'scenes' expects int for 'size', got 'big'",
            "'model.fusion' has no setting 'layer'; did you mean 'layers'?",
            "'train.epochs' should be a valid number, unable to parse string as a number, got 'three'",
            "'train.batch_size' should be greater than or equal to 2, got 0",
            "'forget' needs one of ids, group, where, rows, count, fraction, pairs; count and fraction are given",
            "'method.scope' should be 'all', 'fusion', 'vision', 'graph' or 'text', got 'fussion'; did you mean 'fusion'?",  # noqa: E501
            "method 'multidelete' has no setting 'larning_rate'; did you mean 'learning_rate'?",
            f"'negrad' is not a method (there are {', '.join(METHODS)}); did you mean 'neggrad'?",
            "'compare[1].epochs' should be greater than 0, got 0",
        ]
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"forget": {"ids": 5}}, "'forget.ids' should be a valid string or a valid list, got 5"),
        ({"forget": {"ids": ["a", 5]}}, "'forget.ids' should be a valid string or a valid tuple, got "),
        ({"forget": {"count": True}}, "'forget.count' should be a valid integer, got True"),
        ({**REQUEST, "model": {"name": "albef", "image_mean": [0.5]}}, "'model.image_mean' has too few values"),
        ({**REQUEST, "model": {"name": "albef", "text": {}}}, "'model.text': an encoder needs 'pretrained'"),
        ({**REQUEST, "model": 5}, f"'model' needs a name, one of {', '.join(MODELS)}"),
        ({**REQUEST, "method": {"epochs": 2}}, "'method' needs a name, one of"),
        ({**REQUEST, "compare": "neggrad"}, "'compare' must be a list of tables"),
        ({**REQUEST, "data": {"train": 5}}, "'data' needs a reader, one of manifest, karpathy, snli_ve"),
        ({**REQUEST, "data": "karpathy"}, "reader 'karpathy' needs the option 'root', which was not given"),
        ({**REQUEST, "seed": True}, "'seed' should be a valid integer, got True"),
        ({**REQUEST, "train": {"learning_rate": float("inf")}}, "'train.learning_rate' should be a finite number"),
    ],
)
def test_a_mistake_is_reported_once(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        validate(values, "r.toml")
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"r.toml: {sentence}"), line
